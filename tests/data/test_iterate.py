"""Shuffled batches for a loop of one's own."""

import numpy as np
import pandas as pd
import pytest
import torch

from torchkeras.data import data_iter

X, Y = torch.arange(10.0)[:, None], torch.arange(10)


def test_every_sample_comes_once_with_its_own_label():
    torch.manual_seed(0)
    found = list(data_iter(X, Y, batch_size=4))
    assert [len(y) for _, y in found] == [4, 4, 2]
    assert all(torch.equal(x[:, 0].long(), y) for x, y in found)
    communicator = torch.cat([y for _, y in found])
    assert torch.equal(communicator.sort().values, Y)
    assert not torch.equal(communicator, Y)


def test_the_order_is_new_each_time_and_follows_the_seed():
    def order():
        return torch.cat([y for _, y in data_iter(X, Y, 3)]).tolist()

    torch.manual_seed(0)
    first, second = order(), order()
    torch.manual_seed(0)
    assert order() == first != second
    assert torch.equal(torch.cat([y for _, y in data_iter(X, Y, 3, shuffle=False)]), Y)


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, lambda one: pd.DataFrame(one.numpy()), torch.Tensor.tolist])
def test_arrays_frames_and_lists_become_tensors(convert):
    for x, y in data_iter(convert(X), Y.numpy(), 4):
        assert x.dtype == torch.float32
        assert torch.equal(x[:, 0].long(), y)


def test_a_loop_by_hand_finds_a_line():
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    x = 10 * torch.rand(400, 2, generator=g) - 5
    y = x @ torch.tensor([[2.0], [-3.0]]) + 10 + 2 * torch.randn(400, 1, generator=g)
    w, b = torch.zeros(2, 1), torch.zeros(1)
    for epoch in range(30):
        step = 0.04 / (1 + 0.5 * epoch)
        for a, truth in data_iter(x, y, batch_size=20):
            error = a @ w + b - truth
            w -= step * a.T @ error / len(a)
            b -= step * error.mean()
    assert torch.allclose(w.flatten(), torch.tensor([2.0, -3.0]), atol=0.15)
    assert b.item() == pytest.approx(10, abs=0.15)


def test_gradients_flow_to_what_was_given():
    x = X.clone().requires_grad_()
    sum(a.sum() for a, _ in data_iter(x, Y, 4)).backward()
    assert torch.equal(x.grad, torch.ones_like(X))


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda: data_iter(X, Y[:5]), ValueError, r"\['features'\] of length 10, data\['labels'\] of length 5"),
    (lambda: data_iter(X, Y, 0), ValueError, "batch_size: received 0"),
    (lambda: data_iter(X, Y, 2.5), TypeError, "batch_size: received 2.5"),
    (lambda: data_iter(np.array(["a"]), Y[:1]), TypeError, r"\['features'\]: received an array of type <U1")])
def test_mistakes_are_told_at_the_call(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
