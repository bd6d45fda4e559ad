"""What predict gives, scored by hand, is what evaluate measures, whatever the layout of batches and outputs; or the
call is refused in words that name the way out."""

import collections
import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

import torchkeras
from torchkeras import KerasModel, Model
from torchkeras.core.tree import leaves
from torchkeras.data.batch import split
from torchkeras.data.collected import OutputCollector
from torchkeras.data.joined import join

N, WIDTH = 7, 4
SIZES = (1, 3, N)
WAITING: set[str] = set()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y, IDS = drawn(N, WIDTH), drawn(N, 1, seed=1), [f"sample {number}" for number in range(N)]
IMAGES = [drawn(3, 2 + number, 3 + number % 3, seed=number) for number in range(N)]
BOXES = [{"boxes": drawn(1 + number % 3, 4, seed=number), "scores": drawn(1 + number % 3, seed=number)}
         for number in range(N)]
KEY = torch.arange(N)


class Of(nn.Module):
    """A linear layer, and what a function makes of its output and its inputs."""

    def __init__(self, make=lambda out, *inputs: out, read=lambda *inputs: inputs[0]):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.make, self.read = nn.Linear(WIDTH, 1), make, read

    def forward(self, *inputs):
        return self.make(self.layer(self.read(*inputs)), *inputs)


class OfX(Of):
    def forward(self, x):
        return super().forward(x)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Labelled(NamedTuple):
    features: torch.Tensor
    labels: torch.Tensor


@dataclasses.dataclass
class Record:
    features: torch.Tensor
    labels: torch.Tensor


@dataclasses.dataclass
class Output(OrderedDict):
    """Refuses what the outputs of transformers refuse."""

    logits: torch.Tensor
    states: tuple | None = None
    past_key_values: object = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                super().__setitem__(field.name, getattr(self, field.name))

    def update(self, *args, **kwargs):
        raise RuntimeError("You cannot use ``update`` on a Output instance.")


@dataclasses.dataclass(frozen=True)
class Two:
    mean: torch.Tensor
    spread: torch.Tensor


def batches_of(collate):
    """A list of batches made by ``collate`` from the numbers of their samples."""
    return lambda size: [collate(range(start, min(start + size, N))) for start in range(0, N, size)]


def pick(values, numbers):
    return values[list(numbers)] if isinstance(values, torch.Tensor) else [values[number] for number in numbers]


def squares(preds, labels):
    return (preds.reshape(N, -1) - labels.reshape(N, -1)).square().mean().item()


class Layout(NamedTuple):
    data: object  # batch size -> what predict and evaluate take
    net: object
    loss: object
    score: object  # (outputs, labels) -> the loss by hand
    parts: object = lambda step: {}  # further methods of the step, given StepRunner
    options: object = lambda size: {}


def pairs(net, loss="mse", score=squares, **more):
    return Layout(batches_of(lambda numbers: (pick(X, numbers), pick(Y, numbers))), net, loss, score, **more)


def unpacked(step):
    def forward(self, batch):
        features, (labels, names) = batch
        return self.net(features), labels
    return {"forward": forward}


def named_in_order(preds, labels):
    numbers, names = labels
    assert list(names) == IDS
    return squares(preds, numbers)


def anchored(step):
    def forward(self, batch):
        anchor, positive, negative = batch
        return (self.net(anchor), self.net(positive), self.net(negative)), None

    def loss(self, preds, labels, weights=None):
        return triplet(*preds).mean()
    return {"forward": forward, "loss": loss}


def triplet(anchor, positive, negative):
    return ((anchor - positive).abs() - (anchor - negative).abs() + 1).relu()


def restored(step):
    def forward(self, batch):
        return self.net(batch), batch
    return {"forward": forward}


def boxes_of(out, images):
    return [{"boxes": image.mean((1, 2)) + out[place] + drawn(image.shape[1] % 3 + 1, 3), "seen": image.sum()}
            for place, image in enumerate(images)]


def pooled(images, *_):
    return torch.stack([torch.cat([image.mean((1, 2)), image.amax((1, 2))[:1]]) for image in images])


def box_loss(preds, targets):
    return torch.stack([(one["boxes"].mean() - other["boxes"].mean()).square()
                        for one, other in zip(preds, targets, strict=True)]).mean()


def graph_batch(numbers):
    sizes = [2 + number % 3 for number in numbers]
    nodes = torch.cat([X[number].expand(size, WIDTH) for number, size in zip(numbers, sizes, strict=True)])
    return {"edges": torch.zeros(2, sum(sizes) + 5, dtype=torch.int64), "nodes": nodes,
            "graph": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)), "y": pick(Y, numbers)}


def tensordict(values, count):
    return pytest.importorskip("tensordict", reason="pip install tensordict").TensorDict(values, batch_size=[count])


class Graphs(Of):
    def forward(self, edges, nodes, graph):
        out = self.layer(nodes)
        return torch.zeros(int(graph.max()) + 1, 1).index_add(0, graph, out)


class OwnLoss(Of):
    def forward(self, x, labels=None):
        out = self.layer(x)
        return {"logits": out} if labels is None else {"loss": F.mse_loss(out, labels), "logits": out}


class Unlabelled(Of):
    def forward(self, x):
        out = self.layer(x)
        return {"loss": out.square().mean(), "out": out}


def told(part):
    return lambda preds, labels: squares(part(preds), labels)


LAYOUTS = {
    "arrays": Layout(lambda size: (X, Y), Of(), "mse", squares, options=lambda size: {"batch_size": size}),
    "a loader": Layout(lambda size: DataLoader(torch.utils.data.TensorDataset(X, Y), size), Of(), "mse", squares),
    "pairs": pairs(Of()),
    "dicts": Layout(batches_of(lambda at: {"x": pick(X, at), "y": pick(Y, at)}), OfX(), "mse", squares),
    "several inputs": Layout(batches_of(lambda at: ((pick(X, at), pick(X, at)), pick(Y, at))),
                             Of(lambda out, one, two: out + two.sum(1, keepdim=True)), "mse", squares),
    "sample weights": Layout(
        batches_of(lambda at: (pick(X, at), pick(Y, at), pick(KEY, at) + 1.0)), Of(), "mse",
        lambda preds, labels: ((preds - labels).square()[:, 0] * (KEY + 1)).mean().item()),
    "several outputs": pairs(Of(lambda out, x: (out, x * out)), lambda preds, y: F.mse_loss(preds[0], y),
                             told(lambda preds: preds[0] + 0 * preds[1][:, :1])),
    "as many outputs as samples": pairs(Of(lambda out, x: (out, x * out, x)), lambda preds, y: F.mse_loss(preds[0], y),
                                        told(lambda preds: preds[0] + 0 * (preds[2] - X).sum())),
    "dict outputs": pairs(Of(lambda out, x: {"out": out, "x": [x, {"again": x}]}),
                          lambda preds, y: F.mse_loss(preds["out"], y),
                          told(lambda preds: preds["out"] + (preds["x"][1]["again"] - X).abs().max())),
    "outputs of transformers": pairs(
        Of(lambda out, x: Output(out, (x, out), [len(x)])), "mse",
        told(lambda preds: preds.logits + (preds["states"][0] - X).abs().max())),
    "namedtuple outputs": pairs(Of(lambda out, x: Pair(out, x)), lambda preds, y: F.mse_loss(preds.first, y),
                                told(lambda preds: preds.first + (preds.second - X).abs().max())),
    "dataclass outputs": pairs(Of(lambda out, x: Two(out, x)), lambda preds, y: F.mse_loss(preds.mean, y),
                               told(lambda preds: preds.mean + (preds.spread - X).abs().max())),
    "dicts in another order": pairs(
        Of(lambda out, x: {"a": out, "b": x} if len(x) == 3 else {"b": x, "a": out}),
        lambda preds, y: F.mse_loss(preds["a"], y), told(lambda preds: preds["a"] + (preds["b"] - X).abs().max())),
    "a net that squeezes": pairs(Of(lambda out, x: out.squeeze()),
                                 lambda preds, y: F.mse_loss(preds.reshape(-1), y[:, 0]), squares),
    "a list for each sample": pairs(
        Of(lambda out, x: [row.repeat(2 + int(abs(row) * 3)) for row in out[:, 0]]),
        lambda preds, y: torch.stack([(one - label).square().mean() for one, label in zip(preds, y, strict=True)]
                                     ).mean(),
        lambda preds, y: torch.stack([(one - label).square().mean() for one, label in zip(preds, y, strict=True)]
                                     ).mean().item()),
    "nested tensors": pairs(
        Of(lambda out, x: torch.nested.nested_tensor([row.repeat(2) for row in out[:, 0]], layout=torch.jagged)),
        lambda preds, y: F.mse_loss(torch.stack(list(preds.unbind()))[:, :1], y),
        told(lambda preds: torch.stack(list(preds.unbind()))[:, :1])),
    "sparse tensors": pairs(Of(lambda out, x: out.to_sparse()), lambda preds, y: F.mse_loss(preds.to_dense(), y),
                            told(lambda preds: preds.to_dense())),
    "ids beside labels": Layout(batches_of(lambda at: (pick(X, at), (pick(Y, at), tuple(pick(IDS, at))))), Of(), "mse",
                                named_in_order, parts=unpacked),
    "triplets": Layout(batches_of(lambda at: (pick(X, at), pick(X + 1, at), pick(X.flip(1), at))), Of(), None,
                       lambda preds, labels: triplet(*preds).mean().item() + (0 if labels is None else 1),
                       parts=anchored),
    "an autoencoder": Layout(lambda size: DataLoader(list(X), size), Of(lambda out, x: x * out), "mse", squares,
                             parts=restored),
    "no labels at all": Layout(batches_of(lambda at: {"x": pick(X, at)}), Unlabelled(), None,
                               lambda preds, labels: preds["out"].square().mean().item() + 10 * ("loss" in preds)),
    "a net with a loss": Layout(batches_of(lambda at: {"x": pick(X, at), "labels": pick(Y, at)}), OwnLoss(), None,
                                lambda preds, labels: squares(preds["logits"], labels) + 10 * ("loss" in preds)),
    "lists of unlike images": Layout(batches_of(lambda at: ((pick(IMAGES, at),), pick(Y, at))),
                                     Of(read=pooled), "mse", squares),
    "detection": Layout(batches_of(lambda at: ((tuple(pick(IMAGES, at)),), tuple(pick(BOXES, at)))),
                        Of(boxes_of, read=pooled), box_loss,
                        lambda preds, labels: box_loss(preds, labels).item() + 10 * (len(labels) != N)),
    "time-major inputs": Layout(batches_of(lambda at: (pick(X, at).expand(5, -1, -1), pick(Y, at))),
                                Of(read=lambda x: x[-1]), "mse", squares),
    "namedtuples": Layout(batches_of(lambda at: Labelled(pick(X, at), pick(Y, at))), Of(), "mse", squares),
    "dataclasses": Layout(batches_of(lambda at: Record(pick(X, at), pick(Y, at))), Of(), "mse", squares),
    "TensorDicts": Layout(batches_of(lambda at: tensordict({"x": pick(X, at), "y": pick(Y, at)}, len(at))),
                          OfX(lambda out, x: tensordict({"out": out}, len(x))),
                          lambda preds, y: F.mse_loss(preds["out"], y), told(lambda preds: preds["out"])),
    "graphs": Layout(batches_of(graph_batch), Graphs(), "mse", squares),
}


def made(layout):
    model = KerasModel(layout.net, layout.loss)
    model.StepRunner = type("Step", (torchkeras.StepRunner,), layout.parts(torchkeras.StepRunner))
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xfail(strict=False)) if name in WAITING else name
                                  for name in LAYOUTS])
def test_predictions_scored_by_hand_are_what_evaluate_measures(name, size):
    layout = LAYOUTS[name]
    model, options = made(layout), layout.options(size)
    measured = model.evaluate(layout.data(size), **options)["val_loss"]
    preds, labels = model.predict(layout.data(size), with_labels=True, **options)
    assert layout.score(preds, labels) == pytest.approx(measured, rel=1e-5)
    whole = model.predict(layout.data(N), **layout.options(N))
    assert equal(preds, whole)
    with torch.no_grad():
        before = layout.net.layer.bias.clone()
        layout.net.layer.bias += 1
        assert not equal(preds, model.predict(layout.data(N), **layout.options(N)))  # control
        layout.net.layer.bias.copy_(before)


def equal(one, other):
    """Whether two outputs hold the same numbers in the same places."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        one, other = ((part.to_dense() if part.layout == torch.sparse_coo else torch.cat(part.unbind())
                       if part.is_nested else part) for part in (one, other))
        return one.shape == other.shape and torch.allclose(one, other, atol=1e-6)
    if isinstance(one, dict) or hasattr(one, "batch_size"):
        names = list(one.keys())  # a TensorDict goes through its rows
        return set(names) == set(other.keys()) and all(equal(one[name], other[name]) for name in names)
    if dataclasses.is_dataclass(one):
        return equal(vars(one), vars(other))
    return len(one) == len(other) and all(map(equal, one, other))


REFUSED = {
    "time-major outputs": (Of(lambda out, x: out.expand(5, *out.shape)), r"shape \(5, 3, 1\) for a batch of 3 samples"),
    "outputs of all steps": (Of(lambda out, x: out.repeat(2, 1)), r"shape \(6, 1\) for a batch of 3"),
    "one number a batch": (Of(lambda out, x: out.mean()), r"shape \(\) for a batch of 3"),
    "a distribution": (Of(lambda out, x: torch.distributions.Normal(out, 1.0)), "a Normal for a batch of 3"),
    "a categorical": (Of(lambda out, x: torch.distributions.Categorical(logits=out)), "a Categorical for a batch of 3"),
    "a distribution in a dict": (Of(lambda out, x: {"of": torch.distributions.Normal(out, 1.0)}), r"outputs\['of'\]"),
    "samples of unlike shapes": (Of(lambda out, x: out.expand(-1, 1 + len(x))), r"differ in shape: \(2,\) and \(4,\)"),
    "lists of unlike lengths": (Of(lambda out, x: [out] * (1 + len(x))), "lists of 4, 4, 2 items for batches of 3"),
    "rows of a compressed tensor": (Of(lambda out, x: out.to_sparse_csr()), "torch.cat refuses"),
    "other names": (Of(lambda out, x: {f"of {len(x)}": out}), r"a dict of \['of 3'\] and one of \['of 1'\]"),
    "now and then nothing": (Of(lambda out, x: out if len(x) == 3 else None), "None for some batches"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_a_sample_is_refused_and_comes_in_a_stream(name):
    net, words = REFUSED[name]
    model = KerasModel(net, "mse")
    with pytest.raises(ValueError, match=words) as error:
        model.predict(X, batch_size=3)
    assert "stream=True" in str(error.value)
    assert "StepRunner.predict" in str(error.value)
    assert len(list(model.predict(X, batch_size=3, stream=True))) == 3


def test_what_cannot_be_joined_is_refused_at_the_first_batch():
    seen = []
    model = KerasModel(Of(lambda out, x: seen.append(len(x)) or out.mean()), "mse")
    with pytest.raises(ValueError, match="for a batch of 1"):
        KerasModel(Of(lambda out, x: torch.distributions.Normal(out, 1.0)), "mse").predict(X, batch_size=1)
    with pytest.raises(ValueError):
        model.predict(X, batch_size=2)
    assert seen == [2]


# Lists that can be read in two ways

TWICE = 6
EVEN = drawn(TWICE, WIDTH, seed=3)


def test_lists_of_as_many_items_as_samples_are_read_as_the_first_sample_alone_tells():
    outputs = Of(lambda out, x: [out, x[:, :1], out + x[:, :1]])
    samples = Of(lambda out, x: [row.expand(3, 1) for row in out])
    both = {}
    for name, net in (("outputs", outputs), ("samples", samples)):
        before = torch.get_rng_state()
        found = KerasModel(net, "mse").predict([(EVEN[:3],), (EVEN[3:],)])
        assert torch.equal(torch.get_rng_state(), before)
        both[name] = [tuple(one.shape) for one in found]
    assert both == {"outputs": [(6, 1)] * 3, "samples": [(3, 1)] * 6}
    found = KerasModel(samples, "mse").predict(EVEN, batch_size=3)
    # a batch begins where a tensor of its own does, which a view of all samples may not: kernels round differently
    assert torch.equal(torch.stack(found)[:, 0], torch.cat([outputs(one.clone())[0] for one in EVEN.split(3)]))


def test_lists_of_one_item_are_read_as_two_samples_together_tell():
    outputs, samples = Of(lambda out, x: [out]), Of(lambda out, x: [row[None] for row in out])
    assert [one.shape for one in KerasModel(outputs, "mse").predict(EVEN, batch_size=1)] == [(6, 1)]
    assert [one.shape for one in KerasModel(samples, "mse").predict(EVEN, batch_size=1)] == [(1, 1)] * 6


def test_a_list_that_stays_open_is_refused():
    def of_three(out, x):
        if len(x) != 3:
            raise RuntimeError("three at a time")
        return [out, x, out]

    with pytest.raises(ValueError, match="can be one a sample or several.*another batch_size"):
        KerasModel(Of(of_three), "mse").predict(EVEN, batch_size=3)


def test_labels_that_can_be_read_in_two_ways_are_refused_and_others_kept_in_order():
    model = KerasModel(Of(), "mse")
    two = (EVEN, (torch.arange(6), torch.arange(6) + 10))
    _, labels = model.predict(two, batch_size=4, with_labels=True)
    assert [one.tolist() for one in labels] == [list(range(6)), list(range(10, 16))]
    with pytest.raises(ValueError, match="labels: received a .* of 2 items for 2 samples.*another batch_size"):
        model.predict(two, batch_size=2, with_labels=True)
    assert model.predict(two, batch_size=2).shape == (6, 1)


@pytest.mark.parametrize("size", SIZES)
def test_words_and_dicts_beside_predictions_come_back_in_order(size):
    class Rows(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, number):
            return X[number], {"id": IDS[number], "at": number, "more": (IDS[number], Y[number])}

    model = KerasModel(Of(), "mse")
    preds, labels = model.predict(DataLoader(Rows(), size), with_labels=True)
    assert torch.equal(preds, model.predict(X))
    assert labels["id"] == labels["more"][0] == IDS
    assert labels["at"].tolist() == list(range(N))
    assert torch.equal(labels["more"][1], Y)
    names = [(pick(X, at), pick(IDS, at)) for at in (range(0, 3), range(3, 6), range(6, 7))]
    assert model.predict(names, with_labels=True)[1] == IDS
    assert model.predict([(x, tuple(ids)) for x, ids in names], with_labels=True)[1] == IDS


# Batches without labels

class Doubling(torchkeras.StepRunner):
    def forward(self, batch):
        features, labels = batch
        return self.net(features * 2), labels


def doubling(**more):
    model = KerasModel(Of(), "mse", **more)
    model.StepRunner = Doubling
    return model


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_forward_that_takes_pairs_gets_a_pair_for_data_without_labels(count):
    x = X[:count]
    expected = Of()(x * 2).detach()
    for data in (x, (x,), [x], DataLoader(torch.utils.data.TensorDataset(x), 2), DataLoader(list(x), 2), x.numpy()):
        assert torch.allclose(doubling().predict(data), expected)
    assert torch.allclose(doubling().predict((x, Y[:count])), expected)
    assert not torch.allclose(Of()(x).detach(), expected)


class Restoring(torchkeras.StepRunner):
    def forward(self, batch):
        return self.net(batch), batch


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("trained", [False, True])
def test_a_forward_that_takes_bare_tensors_gets_them(count, trained):
    model = KerasModel(Of(lambda out, x: x * out), "mse")
    model.StepRunner = Restoring
    if trained:
        model.fit(X, epochs=1, ckpt_path=None, quiet=True)
    preds, labels = model.predict(X[:count], with_labels=True, batch_size=2)
    assert torch.equal(preds, model.net(X[:count]).detach())
    assert torch.equal(labels, X[:count])
    assert torch.equal(model.predict((X[:count],)), preds)


def test_a_forward_that_takes_lists_of_one_gets_them():
    class Single(torchkeras.StepRunner):
        def forward(self, batch):
            x, = batch
            return self.net(x), x

    model = KerasModel(Of(lambda out, x: x * out), "mse")
    model.StepRunner = Single
    for count in (1, 2, 3):
        assert torch.equal(model.predict(X[:count]), model.net(X[:count]).detach())


def test_a_forward_that_takes_dicts_gets_them_and_one_that_takes_pairs_of_dicts_a_pair():
    class Named(torchkeras.StepRunner):
        def forward(self, batch):
            return self.net(batch["a"] + batch["b"]), batch.get("y")

    class Both(torchkeras.StepRunner):
        def forward(self, batch):
            features, labels = batch
            return self.net(features["a"] + features["b"]), labels

    for kind in (Named, Both):
        model = KerasModel(Of(), "mse")
        model.StepRunner = kind
        assert torch.equal(model.predict({"a": X, "b": X}), model.net(X + X).detach())


def test_the_layout_of_training_is_remembered():
    class Third(torchkeras.StepRunner):
        def forward(self, batch):
            features, labels, weights = batch
            return self.net(features), labels

    model = KerasModel(Of(), "mse")
    model.StepRunner = Third
    model.evaluate((X, Y, torch.ones(N)))
    assert torch.equal(model.predict(X), model.net(X).detach())
    assert torch.equal(model.predict(X[:3]), model.net(X[:3]).detach())


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(("touch", "words"), [
    (lambda batch: (batch[0], batch[1].float()), "'NoneType' object has no attribute 'float'"),
    (lambda batch: (batch["x"], batch["y"]), "list indices must be integers"),
])
def test_a_forward_that_needs_labels_ends_in_words_that_name_predict(count, touch, words):
    class Needing(torchkeras.StepRunner):
        def forward(self, batch):
            features, labels = touch(batch)
            return self.net(features), labels

    class Able(Needing):
        def predict(self, batch):
            return self.net(batch[0] if isinstance(batch, list) else batch["x"])

    model = KerasModel(Of(), "mse")
    model.StepRunner = Needing
    for data in (X[:count], {"x": X[:count]}):
        with pytest.raises(ValueError, match=r"StepRunner\.predict\(batch\)") as error:
            model.predict(data)
        assert words in str(error.value) or "KeyError: 'y'" in str(error.value)
    model.StepRunner = Able
    assert torch.equal(model.predict(X[:count]), model.net(X[:count]).detach())


def test_two_samples_are_never_taken_for_features_and_labels():
    class Lenient(torchkeras.StepRunner):
        def forward(self, batch):
            features, labels = batch
            return self.net(features), labels.float()

    model = KerasModel(Of(), "mse")
    model.StepRunner = Lenient
    with pytest.raises(ValueError, match="NoneType"):
        model.predict(X[:2])


def test_trying_layouts_leaves_the_random_state_and_the_mode_alone():
    class Noisy(torchkeras.StepRunner):
        def forward(self, batch):
            noise = torch.randn(1)
            return self.net(batch + 0 * noise), batch

    model = KerasModel(Of(), "mse")
    model.StepRunner = Noisy
    torch.manual_seed(0)
    model.predict(part for part in X.split(4))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    for _ in range(2):
        torch.randn(1)
    assert torch.equal(torch.get_rng_state(), after)
    assert model.net.training


# Predictions of one's own, and everything else that predicts

def test_what_a_step_predicts_may_differ_from_what_it_learns_from():
    class Telling(torchkeras.StepRunner):
        def predict(self, batch):
            features, *_ = batch
            return [f"sample of {row[0]:.3f}" for row in self.net(features)]

    model = KerasModel(Of(), "mse")
    model.StepRunner = Telling
    expected = [f"sample of {row[0]:.3f}" for row in model.net(X)]
    for data in (X, (X, Y), (X[:2], Y[:2])):
        found, labels = model.predict(data, batch_size=2, with_labels=True)
        assert found == expected[:len(found)]
        assert (labels is None) == (data is X)
    assert model.evaluate((X, Y))["val_loss"] == pytest.approx(squares(model.net(X), Y))


class Halving(torchkeras.StepRunner):
    def forward(self, batch):
        features, labels = batch
        return self.net(features - 3), labels


def shifted():
    torch.manual_seed(0)
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        net.bias.zero_()
    model = KerasModel(net, "cross_entropy", ["accuracy"])
    model.StepRunner = Halving
    x = torch.linspace(0, 6, 40)[:, None]
    return model, (x, (x[:, 0] > 3).long())


def test_classes_and_probabilities_come_through_the_step():
    model, (x, y) = shifted()
    assert model.evaluate((x, y))["val_accuracy"] == 1
    assert (model.predict(x, output="classes") == y).all()
    assert (model.predict((x, y), output="probabilities").argmax(1) == y).all()
    assert (torch.cat(list(model.predict((x, y), output="classes", stream=True))) == y).all()
    assert (model.net(x).argmax(1) == y).float().mean() < 0.6  # control: past the step


def test_the_confusion_matrix_comes_through_the_step():
    from torchkeras.display.classes import judge

    model, (x, y) = shifted()
    assert judge(model, (x, y)).confusion.tolist() == [[20, 0], [0, 20]]

    class Turned(Halving):
        def forward(self, batch):
            preds, labels = super().forward(batch)
            return preds, 1 - labels

    model.StepRunner = Turned
    assert model.evaluate((x, y))["val_accuracy"] == 0
    assert judge(model, (x, y)).confusion.tolist() == [[0, 20], [20, 0]]


def test_the_samples_that_are_shown_are_whole_images_where_images_differ_in_size():
    from torchkeras.display.classes import at

    assert torch.equal(at(IMAGES, 1, N), IMAGES[1])
    assert torch.equal(at(tuple(IMAGES[:2]), 1, 2), IMAGES[1])
    assert torch.equal(at((X, X + 1), 2, N)[1], X[2] + 1)


def test_a_model_in_keras_words_predicts_through_its_step():
    model = Model(Of())
    model.compile(loss="mse")
    model.engine.StepRunner = Doubling
    expected = Of()(2 * X).detach().numpy()
    assert model.predict(X) == pytest.approx(expected)
    assert model.predict_on_batch(X) == pytest.approx(expected)
    assert model.predict_on_batch(X[:2]) == pytest.approx(expected[:2])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_lightmodel_predicts_what_its_parts_measure():
    pl = pytest.importorskip("pytorch_lightning", reason="needs pytorch_lightning: pip install pytorch-lightning")
    from torchkeras import LightModel

    data = batches_of(lambda at: {"x": pick(X, at), "labels": pick(Y, at)})(3)
    model = LightModel(OwnLoss(), None, quiet=True)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False)
    found = trainer.predict(model, DataLoader(data, batch_size=None))
    assert torch.equal(torch.cat([one["logits"] for one in found]), model.net(X)["logits"])


def test_a_net_that_gives_nothing_but_its_loss_predicts_without_labels():
    class OnlyLoss(Of):
        def forward(self, x, labels=None):
            out = self.layer(x)
            return {"logits": out} if labels is None else {"loss": F.mse_loss(out, labels)}

    model = KerasModel(OnlyLoss())
    data = batches_of(lambda at: {"x": pick(X, at), "labels": pick(Y, at)})(3)
    found, labels = model.predict(data, with_labels=True)
    assert torch.equal(found["logits"], model.net(X)["logits"].detach())
    assert torch.equal(labels, Y)
    assert model.evaluate(data)["val_loss"] == pytest.approx(squares(found["logits"], Y))


def test_predictions_within_a_run_of_half_precision_are_its_own_and_float32():
    found = []

    class Measuring(torchkeras.Callback):
        def on_train_epoch_end(self, model):
            found.append((model.predict(X), model.evaluate((X, Y))["val_loss"]))

    net = Of()
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True, mixed_precision="bf16", callbacks=[Measuring()])
    preds, loss = found[0]
    assert preds.dtype == torch.float32
    assert squares(preds, Y) == pytest.approx(loss, rel=1e-4)
    assert torch.equal(preds, preds.bfloat16().float())
    assert not torch.equal(preds, model.predict(X))  # control


def test_steps_of_the_older_kind_predict_as_they_did():
    class Old:
        def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None,
                     lr_scheduler=None):
            raise AssertionError("predict does not need it")

    model = KerasModel(Of(), "mse")
    model.StepRunner = Old
    preds, labels = model.predict((X, Y), with_labels=True)
    assert torch.equal(preds, model.net(X).detach())
    assert torch.equal(labels, Y)


def test_steps_takes_the_first_batches_only():
    preds, labels = KerasModel(Of(), "mse").predict((X, Y), batch_size=2, steps=2, with_labels=True)
    assert torch.equal(preds, Of()(X[:4]).detach())
    assert torch.equal(labels, Y[:4])


def test_categorical_logits_are_not_taken_for_those_of_a_net():
    from torchkeras.data.outputs import logits_of, loss_inputs

    found = torch.distributions.Categorical(logits=torch.zeros(3, 2))
    assert logits_of(found) is found
    assert loss_inputs(nn.CrossEntropyLoss(), found) is found
    with pytest.raises(ValueError, match="a Categorical as the net's output"):
        KerasModel(Of(lambda out, x: torch.distributions.Categorical(logits=out.expand(-1, 2))), "cross_entropy"
                   ).predict(X, output="classes")


def test_torchs_losses_take_the_logits_of_a_dict_and_a_function_the_dict():
    net = Of(lambda out, x: {"logits": out, "x": x})
    seen = []
    model = KerasModel(net, "mse", {"mae": "mae"})
    assert model.evaluate((X, Y))["val_loss"] == pytest.approx(squares(Of()(X), Y))
    model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True)
    KerasModel(net, lambda preds, y: seen.append(type(preds)) or F.mse_loss(preds["logits"], y)).evaluate((X, Y))
    KerasModel(Of(lambda out, x: Output(out)), lambda preds, y: seen.append(type(preds)) or F.mse_loss(preds, y)
               ).evaluate((X, Y))
    assert list(dict.fromkeys(seen)) == [dict, torch.Tensor]


# What is kept in memory

def test_memory_that_a_loader_uses_again_is_copied():
    def reusing():
        x, y = torch.empty(1, WIDTH), torch.empty(1, 1)
        for number in range(N):
            x.copy_(X[number])
            y.copy_(Y[number])
            yield x, y

    preds, labels = KerasModel(nn.Identity(), "mse").predict(reusing(), with_labels=True)
    assert torch.equal(preds, X)
    assert torch.equal(labels, Y)


def test_outputs_of_unlike_types_and_of_another_number_than_told_are_joined_as_before():
    class Fewer(torch.utils.data.Sampler):
        def __len__(self):
            return N

        def __iter__(self):
            return iter(range(self.count))

    rows = torch.utils.data.TensorDataset(X, Y)
    for count in (4, N, N + 2):
        sampler = Fewer()
        sampler.count = count
        long = torch.utils.data.TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])) if count > N else rows
        found = KerasModel(nn.Identity(), "mse").predict(DataLoader(long, 2, sampler=sampler))
        assert torch.equal(found, torch.cat([X, X])[:count])
    mixed = KerasModel(Of(lambda out, x: out.double() if len(x) == 1 else out), "mse").predict(X, batch_size=3)
    assert mixed.dtype == torch.float64
    assert torch.equal(mixed.float(), Of()(X).detach())


def tensors(node):
    return [leaf for leaf in leaves(node) if leaf is not None]


def alike(found, expected):
    """Whether two trees of tensors and None hold the same, bit by bit, in containers of the same types."""
    forms = [pytree.tree_flatten(node, is_leaf=lambda leaf: leaf is None)[1] for node in (found, expected)]
    return type(found) is type(expected) and forms[0] == forms[1] and all(
        one.dtype == other.dtype and one.equal(other)
        for one, other in zip(tensors(found), tensors(expected), strict=True))


FORMS = {
    "dict": lambda x, at: {"a": x, "b": x[:, 0] > 0},
    "nested": lambda x, at: OrderedDict(a=(x, {"b": [x.double()]}), c=None),
    "record": lambda x, at: Output(x),
    "namedtuple": lambda x, at: Two(x, -x),
    "empty": lambda x, at: {"a": x, "b": {}},
    "keys in another order": lambda x, at: {"b": -x, "a": x} if at else {"a": x, "b": -x},
    "another dtype": lambda x, at: {"a": x.double() if at == 2 else x, "b": x},
    "a type that changes": lambda x, at: {"a": x, "b": [x] if at == 2 else [x, x][:1]},
}
ODD = {
    "other keys": lambda x, at: {"a": x} if at < 2 else {"a": x, "b": x},
    "another shape": lambda x, at: {"a": x if at < 2 else x[:, :2]},
    "another number of items": lambda x, at: (x, x) if at < 2 else (x, x, x),
    "a part that is missing": lambda x, at: {"a": x, "b": x if at < 2 else None},
    "something else where nothing was": lambda x, at: {"a": x, "b": {} if at < 2 else (x, x)},
    "too few rows": lambda x, at: {"a": x, "b": x if at < 2 else x[:1]},
}


def gathered(make, sizes, total):
    parts = [make(part, at) for at, part in enumerate(drawn(sum(sizes), 3).split(sizes))]
    collected = OutputCollector("outputs", total)
    for part, size in zip(parts, sizes, strict=True):
        collected.add(part, size)
    return collected, parts


@pytest.mark.parametrize("sizes", [[4, 4, 4], [4, 4, 3], [4, 3, 4], [2, 2, 2, 2], [1, 1, 1], [12]], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_outputs_written_into_one_room_are_those_joined_at_the_end(form, sizes):
    for total in (sum(sizes), sum(sizes) + 2, sum(sizes) - 1, None):
        collected, parts = gathered(FORMS[form], sizes, total)
        assert alike(collected.result(), join(parts, sizes)), total
        if form in ("dict", "nested", "record") and sizes[0] == 4 and total and total >= sum(sizes):
            assert collected.parts == []  # control: they were not kept beside the room


@pytest.mark.parametrize("form", ODD)
def test_outputs_that_do_not_join_are_refused_in_the_same_words_with_room_or_without(form):
    words = []
    for total in (12, None):
        collected, _ = gathered(ODD[form], [4, 4, 4], total)
        with pytest.raises(ValueError, match="to join all batches") as found:
            collected.result()
        words.append(str(found.value))
    assert words[0] == words[1]


def test_a_tuple_of_as_many_items_as_samples_is_read_as_it_was():
    for single in (True, False):
        (collected, parts), (counts) = gathered(lambda x, at: (x, -x), [2, 2, 1], 5), [2, 2, 1]
        rule = lambda path, length, single=single: single  # noqa: E731
        assert alike(collected.result(rule), join(parts, counts, one_each=rule))
        collected, parts = gathered(lambda x, at: (x, -x), [2, 2], 4)
        assert len(collected.result(rule)) == (4 if single else 2)


def test_labels_that_nobody_asked_for_are_let_go():
    import weakref

    kept = []

    def watched():
        for number in range(N):
            label = Y[number:number + 1].clone()
            kept.append(weakref.ref(label))
            yield X[number:number + 1], label
            del label

    held = []

    class Looking(torchkeras.StepRunner):
        def forward(self, batch):
            held.append(sum(one() is not None for one in kept))
            return super().forward(batch)

    model = KerasModel(Of(), "mse")
    model.StepRunner = Looking
    model.predict(watched())
    assert max(held) <= 3
    held.clear(), kept.clear()
    model.predict([(x, y) for x, y in watched()])
    assert max(held) == N  # control


def test_containers_of_any_type_are_rebuilt_or_become_plain_ones():
    from torchkeras.core.tree import map_tree

    class Strict(dict):
        def __init__(self):
            super().__init__()

        def update(self, *args):
            raise RuntimeError

        def __delitem__(self, key):
            raise RuntimeError

    strict = Strict()
    dict.__setitem__(strict, "a", 1)
    shared = collections.UserDict(a=1)
    for node, expected in ((strict, {"a": 2}), (shared, {"a": 2}), (Output(1), {"logits": 2}), (Two(1, 2), Two(2, 3)),
                           (collections.defaultdict(list, a=1), {"a": 2}), (Pair(1, 2), (2, 3))):
        assert map_tree(lambda leaf: leaf + 1 if isinstance(leaf, int) else leaf, node) == expected
    assert strict == {"a": 1}
    assert shared == {"a": 1}
    assert type(map_tree(str, Output(1))) is Output
    assert split((X, Y))[0] is X
