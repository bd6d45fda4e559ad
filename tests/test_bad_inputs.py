"""What users really give: each is answered with an error that names it, before anything has changed."""

import os
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import KerasModel
from torchkeras.checks import label_checks

X, Y = torch.randn(33, 4, generator=torch.Generator().manual_seed(0)), torch.arange(33) % 3
REAL = X.sum(1, keepdim=True)


class Counted(torch.optim.SGD):
    """Counts its steps."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


@dataclass
class Given:
    """The parts of a call, all good until a case spoils one."""

    net: Any = field(default_factory=lambda: nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)))
    loss_fn: Any = field(default_factory=nn.CrossEntropyLoss)
    metrics: Any = None
    optimizer: Any = "own"
    scheduler: Any = None
    data: Any = (X[:32], Y[:32])
    val: Any = None
    parts: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    def run(self):
        if self.optimizer == "own":
            self.optimizer = Counted(self.net.parameters(), lr=0.1)
        scheduler = self.scheduler(self.optimizer) if callable(self.scheduler) else self.scheduler
        model = KerasModel(self.net, self.loss_fn, self.metrics, self.optimizer, scheduler, **self.parts)
        options = {"epochs": 1, "quiet": True, "batch_size": 16} | self.options
        if isinstance(self.data, DataLoader) and "batch_size" not in self.options:
            del options["batch_size"]
        return model.fit(self.data, self.val, **options)


def regression(**more):
    return {"net": nn.Linear(4, 1), "loss_fn": nn.MSELoss(), "data": (X, REAL)} | more


def vector(preds, labels):
    return preds.argmax(1)


def broken(preds, labels):
    raise ZeroDivisionError("in the metric")


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError


def poisoned(part):
    x, y = X.clone(), REAL.clone()
    (x if part == "features" else y)[3] = float("nan")
    return x, y


def other():
    return nn.Linear(4, 3)


CASES = {  # what is wrong: how the call differs from a good one, the error, and what it must say
    "a monitor that is misspelt": ({"val": (X, Y), "options": {"monitor": "val_los"}}, ValueError,
                                   ["monitor: received 'val_los'", "Did you mean 'val_loss'?"]),
    "a monitored metric that is misspelt": (
        {"metrics": ["accuracy"], "options": {"monitor": "train_acuracy"}}, ValueError, ["monitor", "train_accuracy"]),
    "a validation number without validation data": ({"options": {"monitor": "val_acc"}}, ValueError,
                                                    ["monitor: received 'val_acc'", "Pass val_data"]),
    "a mode that is misspelt": ({"options": {"mode": "maximize"}}, ValueError, ["mode: received 'maximize'", "'max'"]),
    "an empty dataset to train on": ({"data": Empty()}, ValueError, ["train_data", "0 samples", "at least one"]),
    "an empty list to train on": ({"data": []}, ValueError, ["train_data", "empty list"]),
    "an empty dataset to validate on": ({"val": Empty()}, ValueError, ["val_data", "0 samples"]),
    "drop_last that leaves no batch": ({"data": DataLoader(TensorDataset(X, Y), 64, drop_last=True)}, ValueError,
                                       ["train_data", "33 samples", "batch_size=64", "drop_last=True"]),
    "a batch of four things": ({"data": [(X, Y, Y, Y)], "options": {"batch_size": None}}, ValueError,
                               ["batch: received 4 items", "(x, y, sample_weight)", "StepRunner.forward"]),
    "a third thing that is no weight": ({"data": [(X, X, Y[:5])], "options": {"batch_size": None}}, ValueError,
                                        ["batch", "third item", "sample_weight"]),
    "keywords that the net does not take": ({"data": {"a": X, "b": X, "labels": Y}}, TypeError,
                                            ["features", "'a', 'b'", "StepRunner.forward"]),
    "a batch without labels": ({"data": X[:32]}, ValueError, ["labels", "(x, y)"]),
    "whole numbers for binary cross entropy": (regression(loss_fn=nn.BCEWithLogitsLoss(), data=(X, (REAL > 0).long())),
                                               ValueError, ["received labels of torch.int64", "labels.float()"]),
    "whole numbers for a squared error": (regression(data=(X, Y[:, None])), ValueError,
                                          ["received labels of torch.int64", "MSELoss", "labels.float()"]),
    "floats for cross entropy": ({"data": (X[:32], Y[:32].float())}, ValueError,
                                 ["received labels of torch.float32", "CrossEntropyLoss", "labels.long()"]),
    "a column of classes": ({"data": (X[:32], Y[:32, None])}, ValueError,
                            ["received labels of shape (16, 1)", "(16, 3)", "squeeze(1)"]),
    "a class that the net does not have": ({"data": (X[:32], Y[:32] + 1)}, ValueError,
                                           ["received labels with the class 3", "3 outputs", "0 to 2"]),
    "a negative class": ({"data": (X[:32], Y[:32] - 1)}, ValueError, ["received labels with the class -1", "0 to 2"]),
    "shapes that would be broadcast": (regression(data=(X, REAL[:, 0])), ValueError,
                                       ["train_data: received labels of shape (16,)", "(16, 1)", "broadcast",
                                        "squeeze(-1)"]),
    "logits for a loss of probabilities": (regression(loss_fn=nn.BCELoss(), data=(X, (REAL > 0).float())), ValueError,
                                           ["loss_fn", "BCELoss", "outside 0..1", "BCEWithLogitsLoss"]),
    "a loss of many numbers": ({"loss_fn": nn.CrossEntropyLoss(reduction="none")}, ValueError,
                               ["loss_fn: received a result of shape (16,)", "reduction='mean'"]),
    "a loss that is a float": (regression(loss_fn=lambda preds, labels: (preds - labels).mean().item()), TypeError,
                               ["loss_fn: received a result of type float", "no .item()"]),
    "a loss that is nothing": (regression(loss_fn=lambda preds, labels: None), TypeError, ["loss_fn", "NoneType"]),
    "a loss without a gradient": (
        regression(loss_fn=lambda preds, labels: (preds - labels).mean().detach()), ValueError,
                                  ["loss_fn", "without a gradient", ".detach()"]),
    "no loss at all": ({"loss_fn": None}, TypeError, ["loss_fn: received None"]),
    "a net that is frozen": ({"net": nn.Linear(4, 3).requires_grad_(False)}, ValueError,
                             ["net", "no parameter requires grad", "requires_grad_(True)"]),
    "another net's optimizer": ({"optimizer": Counted(other().parameters(), lr=0.1)}, ValueError,
                                ["optimizer", "none of the net's parameters", "net.parameters()"]),
    "a schedule that ends before the run": (
        {"scheduler": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1)}, ValueError,
        ["lr_scheduler", "1 of 1 steps left", "the 2 updates", "total_steps=2"]),
    "an optimizer that needs a closure, on parts of batches": (
        {"net": (closure_net := nn.Linear(4, 3)), "optimizer": torch.optim.LBFGS(closure_net.parameters()),
         "options": {"gradient_accumulation_steps": 2}}, ValueError,
        ["optimizer", "LBFGS", "gradient_accumulation_steps=2", "larger batches"]),
    "another optimizer's scheduler": (
        {"scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(other().parameters(), lr=1.0), 1)}, ValueError,
        ["lr_scheduler", "another optimizer", "StepLR("]),
    "a metric of many numbers": ({"metrics": {"acc": vector}}, ValueError, ["acc", "shape (16,)", "one number"]),
    "a metric that fails": ({"metrics": {"acc": broken}}, ZeroDivisionError, ["in the metric"]),
    "a metric named loss": ({"metrics": {"loss": "accuracy"}}, ValueError, ["metrics_dict", "'loss'", "another name"]),
    "a metric named lr": ({"metrics": {"lr": "accuracy"}}, ValueError, ["metrics_dict", "'lr'"]),
    "a metric that is a number": ({"metrics": {"acc": 3}}, TypeError, ["metrics_dict['acc']", "int"]),
    "a metric that is not in a dict": ({"metrics": vector}, TypeError, ["metrics_dict", "a dict of name to metric"]),
    "a last batch of one sample for BatchNorm": ({"data": (X, Y)}, ValueError,
        ["train_data", "a last batch of 1 sample", "BatchNorm1d", "drop_last"]),
    "NaN in the features": (regression(data=poisoned("features"), options={"batch_size": 33}), ValueError,
                            ["train_data", "a first loss of nan", "features of the batch hold"]),
    "NaN in the labels": (regression(data=poisoned("labels"), options={"batch_size": 33}), ValueError,
                          ["train_data", "a first loss of nan", "labels of the batch hold"]),
    "a path that cannot be written": ({"options": {"ckpt_path": "/proc/nope/best.pt"}}, ValueError,
                                      ["ckpt_path: received '/proc/nope/best.pt'", "cannot be written"]),
    "a path that is a folder": ({"options": {"ckpt_path": "."}}, ValueError, ["ckpt_path", "folder", "best.pt"]),
    "a path that is empty": ({"options": {"ckpt_path": ""}}, ValueError, ["ckpt_path", "empty"]),
    "a path that is a number": ({"options": {"ckpt_path": 3}}, TypeError, ["ckpt_path", "int"]),
    "no epochs": ({"options": {"epochs": 0}}, ValueError, ["epochs: received 0", "at least 1"]),
    "epochs below zero": ({"options": {"epochs": -1}}, ValueError, ["epochs: received -1"]),
    "half an epoch": ({"options": {"epochs": 1.5}}, TypeError, ["epochs: received 1.5 (float)"]),
    "no patience": ({"options": {"patience": 0}}, ValueError, ["patience: received 0", "or None"]),
    "more epochs behind than asked for": ({"options": {"initial_epoch": 5}}, ValueError, ["initial_epoch", "epochs=1"]),
    "arrays of unlike length": ({"data": (X, Y[:20])}, ValueError, ["train_data", "33", "20"]),
    "a net that is a class": (
        {"net": nn.Linear, "optimizer": None}, TypeError, ["net", "the class Linear", "Linear()"]),
    "a loss that is a class": ({"loss_fn": nn.MSELoss}, TypeError, ["loss_fn", "the class MSELoss", "MSELoss()"]),
    "an optimizer that is a class": ({"optimizer": torch.optim.Adam}, TypeError, ["optimizer", "the class Adam"]),
    "a metric that is a class": (
        {"metrics": {"acc": Counted}}, TypeError, ["metrics_dict['acc']", "the class Counted"]),
    "a callback that is a class": (
        {"options": {"callbacks": [Counted]}}, TypeError, ["callbacks", "the class Counted"]),
    "one callback instead of a list": ({"options": {"callbacks": print}}, TypeError, ["callbacks", "a list"]),
    "a callback that hears nothing": ({"options": {"callbacks": [object()]}}, TypeError, ["callbacks", "on_step_end"]),
    "a misspelt part": ({"parts": {"metric_dict": {}}}, TypeError, ["metric_dict", "Did you mean 'metrics_dict'?"]),
    "an unknown loss": ({"loss_fn": "cross_entrpy"}, ValueError, ["loss_fn", "Did you mean 'cross_entropy'?"]),
    "an unknown optimizer": ({"optimizer": "adm"}, ValueError, ["optimizer", "Did you mean 'adam"]),
    "an unknown metric": ({"metrics": ["acuracy"]}, ValueError, ["acuracy", "Did you mean 'accuracy'?"]),
    "no data": ({"data": None}, TypeError, ["train_data: received None"]),
    "a word as data": ({"data": "mnist"}, TypeError, ["train_data", "str"]),
    "a batch of no samples": ({"options": {"batch_size": 0}}, ValueError, ["batch_size: received 0"]),
    "batch_size for a DataLoader": ({"data": DataLoader(TensorDataset(X, Y)), "options": {"batch_size": 8}}, ValueError,
                                    ["batch_size: received 8", "DataLoader"]),
    "shuffle for a DataLoader": ({"data": DataLoader(TensorDataset(X, Y)), "options": {"shuffle": True,
                                                                                      "batch_size": None}}, ValueError,
                                 ["shuffle", "DataLoader"]),
    "more steps than batches": ({"options": {"steps_per_epoch": 9}}, ValueError, ["9 steps", "2 batches"]),
    "a validation share above one": ({"options": {"validation_split": 1.5}}, ValueError, ["validation_split", "1.5"]),
    "a validation share beside validation data": ({"val": (X, Y), "options": {"validation_split": 0.5}}, ValueError,
                                                  ["validation_split", "val_data"]),
    "class weights in a list": ({"options": {"class_weight": [1, 2]}}, TypeError, ["class_weight", "{0: 1.0, 1: 5.0}"]),
    "a class weight below zero": ({"options": {"class_weight": {0: -1.0}}}, ValueError, ["class_weight", "0: -1.0"]),
    "a clip below zero": ({"options": {"clip_grad_norm": -1}}, ValueError, ["clip_grad_norm: received -1"]),
    "an interval that is misspelt": ({"options": {"lr_interval": "batch"}}, ValueError, ["lr_interval", "'step'"]),
    "a precision of another library": (
        {"options": {"mixed_precision": "O1"}}, ValueError, ["mixed_precision", "'bf16'"]),
    "half precision without an accelerator": ({"options": {"mixed_precision": "fp16", "cpu": True}}, ValueError,
                                              ["mixed_precision", "fp16", "accelerator"]),
    "a seed below zero": ({"options": {"seed": -1}}, ValueError, ["seed: received -1"]),
    "a seed that numpy does not take": ({"options": {"seed": 2**32}}, ValueError, ["seed: received 4294967296"]),
    "a net with lazy layers": ({"net": nn.Sequential(nn.LazyLinear(3)), "optimizer": None}, ValueError,
                               ["net", "lazy layers", "net(features)"]),
}


def everything(given: Given) -> list[Any]:
    """Weights, buffers, gradients, modes, hooks, optimizer state, random states, files."""
    if not isinstance(given.net, nn.Module):
        return []
    lazy = nn.parameter.UninitializedParameter
    return [*[value.tolist() for value in given.net.state_dict().values() if not isinstance(value, lazy)],
            [weight.grad for weight in given.net.parameters()], [module.training for module in given.net.modules()],
            [len(module._forward_pre_hooks) for module in given.net.modules()],
            str(getattr(given.optimizer, "state", None)), random.getstate(), np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(), sorted(os.listdir())]


def spoiled(name: str) -> Given:
    return Given(**{key: dict(value) if isinstance(value, dict) and key != "data" else value
                    for key, value in CASES[name][0].items()})


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_before_anything_changes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, error, words = CASES[name]
    given = spoiled(name)
    if isinstance(given.net, nn.Module) and given.optimizer == "own":
        given.optimizer = Counted(given.net.parameters(), lr=0.1)
    before = everything(given)
    with pytest.raises(error) as found:
        given.run()
    text = str(found.value)
    assert [word for word in words if word not in text] == [], text
    assert everything(given) == before
    assert getattr(given.optimizer, "steps", 0) == 0


def test_control_a_good_call_passes_the_same_harness_and_changes_things(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Given()
    given.optimizer = Counted(given.net.parameters(), lr=0.1)
    before = everything(given)
    given.run()
    assert everything(given) != before
    assert given.optimizer.steps == 2
    assert os.listdir() == ["checkpoint"]


def test_control_without_the_check_a_bad_call_trains(monkeypatch):
    monkeypatch.setattr(label_checks, "check_labels", lambda *args: None)
    given = Given(**regression(data=(X[:32], REAL[:32, 0]), options={"ckpt_path": None}))
    with pytest.warns(UserWarning, match="broadcasting"):
        given.run()
    assert given.optimizer.steps == 2


def test_a_callback_that_raises_keeps_its_own_error():
    class Raises:
        def on_step_end(self, model):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Given(options={"callbacks": [Raises()], "ckpt_path": None}).run()


def test_without_validation_data_the_training_loss_is_watched():
    history = Given(options={"ckpt_path": None}).run()
    assert list(history.columns) == ["epoch", "train_loss", "lr"]


@pytest.mark.parametrize("patience", [None, 1])
def test_patience_none_is_patience_without_end(patience):
    history = Given(options={"patience": patience, "epochs": 3, "ckpt_path": None, "monitor": "train_said"},
                    metrics={"said": lambda preds, labels: 1.0}).run()
    assert len(history) == (3 if patience is None else 2)


@pytest.mark.parametrize("result", [1.0, np.float32(1.0), torch.tensor(1.0), torch.tensor([1.0]), np.array(1.0)])
def test_a_metric_may_give_any_kind_of_number(result):
    history = Given(metrics={"one": lambda preds, labels: result}, options={"ckpt_path": None}).run()
    assert history["train_one"].tolist() == [1.0]


def test_a_last_batch_of_one_sample_is_measured_like_any_other():
    net = nn.Linear(4, 3)
    model = KerasModel(net, "cross_entropy", ["accuracy"], Counted(net.parameters(), lr=0.0))
    one, all_at_once = (model.fit((X, Y), (X, Y), epochs=1, batch_size=size, ckpt_path=None, quiet=True)
                        for size in (32, 33))
    assert one["train_loss"][0] == pytest.approx(all_at_once["train_loss"][0], rel=1e-6)
    assert one["val_accuracy"][0] == all_at_once["val_accuracy"][0]
