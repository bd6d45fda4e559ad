"""Loaders that use memory again: a batch is read in time, and results do not change when the next one is read."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchkeras import KerasModel
from torchkeras.data.reuse import copy_batch, copy_leaf

X, Y = torch.randn(23, 5), torch.randint(0, 3, (23,))


class Preallocated:
    """Yields the same two tensors each time, with other numbers in them; of numpy if asked."""

    def __init__(self, numpy: bool = False) -> None:
        self.x, self.y = torch.empty(4, 5), torch.empty(4, dtype=torch.int64)
        if numpy:
            self.x, self.y = (torch.from_numpy(np.empty(one.shape, str(one.dtype)[6:])) for one in (self.x, self.y))

    def __iter__(self):
        for begin in range(0, 20, 4):
            self.x.copy_(X[begin:begin + 4])
            self.y.copy_(Y[begin:begin + 4])
            yield self.x, self.y


class Rows(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return X[index], Y[index]


class Collate:
    def __init__(self) -> None:
        self.x, self.y = torch.empty(4, 5), torch.empty(4, dtype=torch.int64)

    def __call__(self, samples):
        torch.stack([x for x, _ in samples], out=self.x)
        torch.stack([y for _, y in samples], out=self.y)
        return self.x, self.y


SOURCES = [Preallocated, lambda: Preallocated(numpy=True), lambda: DataLoader(Rows(), 4, collate_fn=Collate())]
READY = [(X[i:i + 4].clone(), Y[i:i + 4].clone()) for i in range(0, 20, 4)]


def net_of(kind=None):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 3))
    return net if kind is None else kind(net)


def trained(data, **options):
    net = net_of()
    KerasModel(net, "cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1)).fit(
        data, epochs=2, ckpt_path=None, quiet=True, plot=False, monitor="train_loss", **options)
    return net[0].weight


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_window_trains_on_its_own_batches(make, accumulation):
    expected = trained(READY, gradient_accumulation_steps=accumulation)
    assert torch.equal(trained(make(), gradient_accumulation_steps=accumulation), expected)
    assert not torch.equal(trained([READY[0]] * 5, gradient_accumulation_steps=accumulation), expected)


class Identity(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return x


class IntoABuffer(Identity):
    def forward(self, x):
        if not hasattr(self, "out"):
            self.out = torch.empty(4, 3)
        with torch.no_grad():
            return torch.mm(x, self.net[0].weight.t(), out=self.out)


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("kind", [Identity, IntoABuffer])
@pytest.mark.parametrize("stream", [False, True])
def test_predictions_and_labels_are_kept_as_they_were(make, kind, stream):
    model = KerasModel(net_of(kind), "mse")
    for as_numpy in (False, True):
        found = model.predict(make(), stream=stream, with_labels=True, as_numpy=as_numpy)
        preds, labels = found if not stream else map(list, zip(*found, strict=True))
        if stream:
            preds, labels = (torch.cat([torch.as_tensor(one) for one in part]) for part in (preds, labels))
        wanted = X[:20] if kind is Identity else X[:20] @ model.net.net[0].weight.detach().t()
        assert torch.allclose(torch.as_tensor(preds), wanted, atol=1e-6)
        assert torch.equal(torch.as_tensor(labels), Y[:20])


@pytest.mark.parametrize("make", SOURCES)
def test_batches_that_wait_until_their_labels_are_known_are_held(make):
    class Masked(nn.Module):
        def forward(self, preds, labels):
            mask = labels != 0
            return nn.functional.cross_entropy(preds[mask], labels[mask])

    def first_without(source):
        for number, (x, y) in enumerate(source):
            yield x, (y.zero_() if number < 2 else y)

    rows = []
    for source in (first_without((x, y.clone()) for x, y in READY), first_without(make())):
        net = net_of()
        model = KerasModel(net, Masked(), {"acc": "accuracy"}, torch.optim.SGD(net.parameters(), lr=0.1))
        rows.append(model.evaluate(source))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("tensor", [
    torch.randn(30)[3:17], torch.randn(6, 5)[:, 1:4], torch.randn(1, 5).expand(4, 5), torch.randn(5, 4).t(),
    torch.randn(()), torch.zeros(0, 3), torch.rand(7) > 0.5, torch.randn(7, dtype=torch.bfloat16)[1:]])
def test_a_copy_lies_as_the_original_does(tensor):
    found = copy_leaf(tensor)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()
    assert found.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() or not tensor.numel()
    assert found.data_ptr() % 64 == tensor.data_ptr() % 64 or not tensor.numel()


def test_objects_in_a_batch_are_copied_too():
    packed = nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    weights = np.ones(2)
    found = copy_batch({"seq": packed, "w": weights, "name": "a"})
    packed.data.zero_()
    weights[:] = 0
    assert found["seq"].data.sum() == 5
    assert found["w"].sum() == 2
    assert found["name"] == "a"
