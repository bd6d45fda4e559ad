"""Which parameters are decayed."""

import pytest
import torch
from torch import nn

from torchkeras.losses import decay_groups


class OwnRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


def net():
    return nn.ModuleDict({"embedding": nn.Embedding(5, 4), "conv": nn.Conv1d(4, 4, 1), "batch": nn.BatchNorm1d(4),
                          "layer": nn.LayerNorm(4), "own": OwnRMSNorm(), "lstm": nn.LSTM(4, 2)})


def names_of(model, group):
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for weight in group["params"]]


LSTM = ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
BIASES = {"conv.bias", "batch.bias", "layer.bias", "lstm.bias_ih_l0", "lstm.bias_hh_l0"}
SCALES = {"batch.weight", "batch.bias", "layer.weight", "layer.bias", "own.weight"}


@pytest.mark.parametrize(("no_decay", "left_alone"), [
    (("biases", "norms"), BIASES | SCALES), ("biases", BIASES), (["norms"], SCALES),
    (("embeddings",), {"embedding.weight"}), ((), set())])
def test_what_is_left_alone_is_as_asked(no_decay, left_alone):
    model = net()
    decayed, spared = decay_groups(model, 0.1, no_decay)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert set(names_of(model, spared)) == left_alone
    communicator = names_of(model, decayed) + names_of(model, spared)
    assert sorted(communicator) == sorted(name for name, _ in model.named_parameters())
    order = [name for name, _ in model.named_parameters() if name not in left_alone]
    assert names_of(model, decayed) == order


def test_by_default_weights_and_embeddings_decay():
    model = net()
    assert names_of(model, decay_groups(model, 0.1)[0]) == ["embedding.weight", "conv.weight", *LSTM]


def test_a_shared_weight_is_in_one_group():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    assert [len(group["params"]) for group in decay_groups(model, 0.1)] == [1, 0]
    assert [len(group["params"]) for group in decay_groups(model, 0.1, "embeddings")] == [0, 1]


def test_an_optimizer_decays_the_first_group_only():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.SGD(decay_groups(model, 0.5), lr=0.1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    after = list(model.parameters())
    assert torch.allclose(after[0], 0.95 * before[0])
    assert not torch.equal(after[0], before[0])
    assert all(torch.equal(new, old) for new, old in zip(after[1:], before[1:], strict=True))


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda: decay_groups(nn.Linear(1, 1), 0.1, ("bias",)), ValueError, "no_decay: received 'bias'.*mean 'biases'"),
    (lambda: decay_groups(nn.Linear(1, 1), -1), ValueError, "weight_decay: received -1"),
    (lambda: decay_groups([nn.Linear(1, 1)], 0.1), TypeError, "model: received list")])
def test_bad_input_is_refused_with_its_name(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
