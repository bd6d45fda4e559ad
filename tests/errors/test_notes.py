"""Errors of torch in a forward, a loss or a metric: their note says where, on what, and what mends it."""

import pytest
import torch
from torch import nn

from torchkeras import KerasModel, Model, StepRunner
from torchkeras.checks import explain
from torchkeras.core import tracebacks

X, Y = torch.randn(32, 4), torch.arange(32) % 3
IMAGES = torch.randn(32, 8, 8, 3)
QUIET = {"epochs": 1, "ckpt_path": None, "quiet": True, "batch_size": 16}


def mlp(width=4):
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, one, two):
        return self.inner(one + two)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.table(x).mean(dim=1))


class Reshaped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        x = self.inner(x)
        return x.view(-1, 2)


def own(preds, labels):
    return (preds - labels).square().mean()


def wide(preds, labels):
    return (preds * torch.zeros(7)).mean()


CASES = {  # net, loss, data, metrics; the type, words of torch's, and what the note must say
    "another width": (mlp(), "cross_entropy", (X[:, :3], Y), None, RuntimeError, "shapes cannot be multiplied", [
        "layer '0' of the net, Linear(in_features=4", "given float32 (16, 3)", "[float32 (16, 3), int64 (16,)]",
        "in_features=3"]),
    "images that are not flat": (nn.Linear(192, 3), "cross_entropy", (IMAGES, Y), None, RuntimeError, "multiplied", [
        "the net, Linear", "x.flatten(1) gives (N, 192)"]),
    "another type": (mlp(), "cross_entropy", (X.double(), Y), None, RuntimeError, "same dtype", [
        "float64 (16, 4)", "x.float()", "net.double()"]),
    "channels last": (nn.Conv2d(3, 2, 3), "cross_entropy", (IMAGES, Y), None, RuntimeError, "to have 3 channels", [
        "Conv2d(3, 2", "(16, 8, 8, 3)", "x.permute(0, 3, 1, 2)"]),
    "an input too few": (Two(), "cross_entropy", (X, Y), None, TypeError, "missing 1 required positional", [
        "the net, Two", "((x1, x2), y)"]),
    "an input too many": (mlp(), "cross_entropy", ((X, X), Y), None, TypeError, "must be Tensor, not tuple", [
        "((x1, x2), y)"]),
    "a word that is none": (Words(), "cross_entropy", (X.abs().long() + 7, Y), None, IndexError, "index out of range", [
        "layer 'table' of the net, Embedding(5, 4)", "int64 (16, 4)", "from 0 to 4", "num_embeddings="]),
    "words that are no numbers": (Words(), "cross_entropy", (X, Y), None, RuntimeError, "indices", ["x.long()"]),
    "samples that get lost": (Reshaped(), own, (X, Y.float()), None, RuntimeError, "must match the size", [
        "the loss own", "float32 (24, 2)", "float32 (16,)"]),
    "a loss of other sizes": (mlp(), own, (X, Y.float()), None, RuntimeError, "must match the size", [
        "the loss own", "output: float32 (16, 3); labels: float32 (16,)", "labels[:, None]"]),
    "a metric of other sizes": (mlp(), "cross_entropy", (X, Y), {"wide": wide}, RuntimeError, "must match", [
        "the metric 'wide'", "float32 (16, 3)"]),
    "another number of features for BatchNorm": (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(5)), "cross_entropy",
                                                 (X, Y), None, RuntimeError, "running_mean", [
        "layer '1' of the net, BatchNorm1d", "another number of features"]),
    "a dict where a tensor is wanted": (Two(), "cross_entropy", {"one": {"a": X}, "two": X, "labels": Y}, None,
                                        TypeError, "unsupported operand", ["the net, Two", "{'a': float32 (16, 4)}"]),
}


def note_of(error):
    (note,) = [one for one in error.__notes__ if one.startswith("Raised in ")]  # once
    return note


@pytest.mark.parametrize("name", CASES)
def test_the_note_names_the_layer_the_shapes_and_the_fix(name):
    net, loss, data, metrics, kind, text, words = CASES[name]
    with pytest.raises(kind, match=text) as found:
        KerasModel(net, loss, metrics).fit(data, **QUIET)
    assert type(found.value) is kind
    note = note_of(found.value)
    assert [word for word in words if word not in note] == [], note


@pytest.mark.parametrize("call", [
    lambda: KerasModel(mlp(), "cross_entropy").evaluate((X[:, :3], Y)),
    lambda: KerasModel(mlp(), "cross_entropy").predict(X[:, :3]),
    lambda: list(KerasModel(mlp(), "cross_entropy").predict(X[:, :3], stream=True)),
    lambda: Model(mlp()).predict(X[:, :3]),
    lambda: Model(mlp()).predict_on_batch(X[:, :3])])
def test_the_note_is_there_whoever_runs_the_net(call):
    with pytest.raises(RuntimeError, match="multiplied") as found:
        call()
    assert "layer '0' of the net" in note_of(found.value)
    assert "float32 (32, 3)" in note_of(found.value)


@pytest.mark.parametrize(("labels", "kind", "text", "words"), [
    (Y + 1, IndexError, "out of bounds", ["the loss CrossEntropyLoss", "labels go from 0 to 2"]),
    (Y.int(), RuntimeError, "expected", ["labels.long()"]),
    (Y[:, None].expand(32, 2), RuntimeError, "target", ["(32, 2)"])])
def test_labels_that_only_a_measuring_meets_are_explained(labels, kind, text, words, monkeypatch):
    model = KerasModel(mlp(), nn.CrossEntropyLoss())
    step = StepRunner(model.net, model.loss_fn, type("Plain", (), {"mixed_precision": "no"})(), "val")
    with pytest.raises(kind, match=text) as found, torch.no_grad():
        step.forward_and_loss((X, labels))
    assert [word for word in words if word not in note_of(found.value)] == [], note_of(found.value)


def test_what_this_library_says_itself_gets_no_note():
    with pytest.raises(ValueError, match="labels.long") as found:
        KerasModel(mlp(), "cross_entropy").fit((X, Y.float()), **QUIET)
    assert not hasattr(found.value, "__notes__")


@pytest.mark.parametrize(("file", "short"), [(tracebacks.LIBRARY + "engine/step.py", False), ("mine.py", True)])
def test_an_error_that_begins_in_this_library_is_shown_whole(file, short):
    with pytest.raises(AttributeError) as found:
        exec(compile("None.nothing", file, "exec"))
    explain.add_note(found.value, nn.Linear(4, 3))
    assert getattr(found.value, "user_mistake", False) is short


def test_a_net_of_many_layers_is_named_by_its_kind_alone():
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
    assert explain.described("", net) == "the net, Sequential"
    assert explain.described("3", net[3]).startswith("layer '3' of the net, Linear(")


@pytest.mark.parametrize(("value", "text"), [
    (torch.zeros(2, 3), "float32 (2, 3)"), ((X, Y), "(float32 (32, 4), int64 (32,))"), (["a"], "[a str]"),
    ({"a": X}, "{'a': float32 (32, 4)}"), (None, "None"), (3, "3"),
    ([1] * 9, "[1, 1, 1, 1, 1, 1, 1, 1, ... (9 in all)]")])
def test_shapes_are_written_in_the_containers_they_are_in(value, text):
    assert explain.shapes(value) == text
