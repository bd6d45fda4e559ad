"""What users' existing notebooks rely on, written in the shapes in which they write it.

Points 7 and 8 of the list (the Model and LightModel faces) wait for those faces.
"""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchkeras
from torchkeras import KerasModel

X = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1, keepdim=True) > 0).float()


def loader(size=16):
    return DataLoader(TensorDataset(X, Y), batch_size=size)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def model(face=KerasModel, **parts):
    made = net()
    parts = {"loss_fn": nn.BCEWithLogitsLoss(), "metrics_dict": {"acc": torchkeras.metrics.Accuracy()},
             "optimizer": torch.optim.SGD(made.parameters(), lr=0.1)} | parts
    return face(made, **parts)


class OldStep:
    """A step as notebooks write it: fixed names, no further keywords, numbers read at once."""

    def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None, lr_scheduler=None):
        self.net, self.loss_fn, self.metrics_dict, self.stage = net, loss_fn, metrics_dict, stage
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.accelerator = accelerator
        if self.stage == "train":
            self.net.train()
        else:
            self.net.eval()

    def __call__(self, batch):
        features, labels = batch
        with self.accelerator.autocast():
            preds = self.net(features)
            loss = self.loss_fn(preds, labels)
        if self.optimizer is not None and self.stage == "train":
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.net.parameters(), 100.0)
            self.optimizer.step()
            if self.lr_scheduler is not None:
                self.lr_scheduler.step()
            self.optimizer.zero_grad()
        all_loss = self.accelerator.gather(loss).sum()
        all_preds, all_labels = self.accelerator.gather(preds), self.accelerator.gather(labels)
        step_losses = {self.stage + "_loss": all_loss.item()}
        step_metrics = {self.stage + "_" + name: metric_fn(all_preds, all_labels).item()
                        for name, metric_fn in self.metrics_dict.items()}
        if self.stage == "train":
            step_metrics["lr"] = self.optimizer.state_dict()["param_groups"][0]["lr"] if self.optimizer else 0.0
        return step_losses, step_metrics


class OldEpoch:
    """A pass as notebooks write it, with a bar of its own."""

    def __init__(self, steprunner, quiet=False):
        self.steprunner = steprunner
        self.stage, self.accelerator = steprunner.stage, steprunner.accelerator
        self.net, self.metrics_dict = steprunner.net, steprunner.metrics_dict

    def __call__(self, dataloader):
        dataloader.agent = "mine"
        n = dataloader.size if hasattr(dataloader, "size") else len(dataloader)
        sums, step = {}, 0
        for step, batch in enumerate(dataloader, start=1):
            with self.accelerator.accumulate(self.net):
                losses, metrics = self.steprunner(batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            if step == n:
                break
        log = {name: value / step for name, value in sums.items()}
        for name, metric_fn in self.metrics_dict.items():
            log[f"{self.stage}_{name}"] = metric_fn.compute().item()
            metric_fn.reset()
        return log | ({"lr": metrics["lr"]} if self.stage == "train" else {})


def weights(face):
    return nn.utils.parameters_to_vector(face.net.parameters()).detach().clone()


@pytest.mark.parametrize("where", ["class", "subclass", "instance"])
def test_1_a_step_of_ones_own_works_on_the_class_a_subclass_and_an_instance(where, monkeypatch):
    ours = model()
    ours.fit(loader(), loader(), epochs=2, ckpt_path=None, quiet=True)
    if where == "class":
        monkeypatch.setattr(KerasModel, "StepRunner", OldStep)
    theirs = model(type("Mine", (KerasModel,), {"StepRunner": OldStep}) if where == "subclass" else KerasModel)
    if where == "instance":
        theirs.StepRunner = OldStep
    history = theirs.fit(loader(), loader(), epochs=2, ckpt_path=None, quiet=True)
    assert torch.equal(weights(theirs), weights(ours))
    assert not torch.equal(weights(theirs), weights(model()))
    pd.testing.assert_frame_equal(history, ours.history.to_frame())


def test_1_further_objects_reach_a_step_of_ones_own_in_fit_and_in_evaluate():
    seen = []

    class Named(OldStep):
        def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None,
                     lr_scheduler=None, teacher=None):
            super().__init__(net, loss_fn, accelerator, stage, metrics_dict, optimizer, lr_scheduler)
            seen.append((stage, teacher))

    theirs = model(teacher="mine")
    theirs.StepRunner = Named
    theirs.fit(loader(), loader(), epochs=1, ckpt_path=None, quiet=True)
    theirs.evaluate(loader())
    assert seen == [("train", "mine"), ("val", "mine"), ("val", "mine")]
    with pytest.raises(TypeError, match=r"KerasModel\(teacher=...\)"):  # control: OldStep has no such keyword
        model(teacher="mine", face=type("Mine", (KerasModel,), {"StepRunner": OldStep})).fit(
            loader(), ckpt_path=None, quiet=True)


@pytest.mark.parametrize("accumulation", [2, 3, 4])  # 5 batches, the last a short one: windows of 1, of 16 + 6, of 1
def test_1_a_step_of_ones_own_accumulates_as_ours_does_on_the_last_shorter_window_too(accumulation):
    ours, theirs, other = model(), model(), model()
    theirs.StepRunner = OldStep
    for face, steps in ((ours, accumulation), (theirs, accumulation), (other, 1)):
        face.fit(loader(), epochs=3, gradient_accumulation_steps=steps, ckpt_path=None, quiet=True)
    assert torch.allclose(weights(theirs), weights(ours), atol=1e-6)
    assert not torch.allclose(weights(theirs), weights(other), atol=1e-6)


@pytest.mark.parametrize(("scheduler", "moves"), [("OneCycleLR", 10), ("StepLR", 10)])
def test_1_a_step_of_ones_own_moves_the_scheduler_that_it_is_given(scheduler, moves):
    theirs = model()
    theirs.StepRunner = OldStep
    build = {"OneCycleLR": lambda it: torch.optim.lr_scheduler.OneCycleLR(it, 0.1, total_steps=20),
             "StepLR": lambda it: torch.optim.lr_scheduler.StepLR(it, 1)}[scheduler]
    theirs.lr_scheduler = build(theirs.optimizer)
    theirs.fit(loader(), epochs=2, ckpt_path=None, quiet=True)
    assert theirs.lr_scheduler.last_epoch == moves


def test_2_names_that_a_step_gives_are_the_columns():
    class Extra(OldStep):
        def __call__(self, batch):
            losses, metrics = super().__call__(batch)
            return losses | {self.stage + "_norm": 2.0}, metrics | {self.stage + "_last": 3.0}

    theirs = model()
    theirs.StepRunner = Extra
    history = theirs.fit(loader(), epochs=1, ckpt_path=None, quiet=True)
    assert list(history.columns) == ["epoch", "train_loss", "train_norm", "train_acc", "lr", "train_last"]
    assert (history["train_norm"][0], history["train_last"][0]) == (2.0, 3.0)


def test_3_a_pass_of_ones_own_feeds_the_step_and_our_listeners_hear_it():
    heard = []

    class Listener:
        def on_step_end(self, model):
            heard.append(model.run.step)

    theirs, data = model(), loader()
    theirs.EpochRunner = OldEpoch
    data.size = 3
    history = theirs.fit(data, epochs=1, ckpt_path=None, quiet=True, callbacks=[Listener()])
    assert heard == [1, 2, 3]
    assert list(history.columns) == ["epoch", "train_loss", "train_acc", "lr"]


@pytest.mark.parametrize("step", [OldStep, torchkeras.StepRunner])
@pytest.mark.parametrize("disturbed", ["", "by validation", "by evaluate in mid-window"])
@pytest.mark.parametrize(("accumulation", "updates"), [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [2, 4, 6, 7]), (3, [3, 6, 7]),
                                                       (7, [7])])
def test_3_a_pass_of_ones_own_begins_and_ends_its_windows_with_the_pass(accumulation, updates, disturbed, step):
    class Curious:
        def on_step_end(self, model):
            if disturbed == "by evaluate in mid-window" and model.run.stage == "train":
                model.evaluate(loader(10))

    theirs, counted = model(), []
    theirs.StepRunner, theirs.EpochRunner = step, OldEpoch
    theirs.optimizer.register_step_post_hook(lambda *args: counted.append((theirs.run.epoch, theirs.run.step + 1)))
    theirs.fit(loader(10), loader(10) if disturbed == "by validation" else None, epochs=2, ckpt_path=None, quiet=True,
               gradient_accumulation_steps=accumulation, callbacks=[Curious()])
    assert counted == [(epoch, batch) for epoch in (1, 2) for batch in updates]


def test_4_patched_save_and_load_are_how_the_best_is_kept(tmp_path, monkeypatch):
    calls = []

    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        calls.append("save")
        unwrapped = accelerator.unwrap_model(self.net)
        torch.save({"last": unwrapped[3].state_dict()}, ckpt_path)

    def load_ckpt(self, ckpt_path="checkpoint"):
        calls.append("load")
        self.net[3].load_state_dict(torch.load(ckpt_path)["last"])
        self.from_scratch = False

    monkeypatch.setattr(KerasModel, "save_ckpt", save_ckpt)
    monkeypatch.setattr(KerasModel, "load_ckpt", load_ckpt)
    theirs = model()
    theirs.fit(loader(), loader(), epochs=2, ckpt_path=tmp_path / "part", quiet=True)
    assert calls == ["save", "save", "load"]
    assert torch.equal(torch.load(tmp_path / "part")["last"]["weight"], theirs.net[3].weight)
    other = model()
    assert not torch.equal(other.net[3].weight, theirs.net[3].weight)
    other.load_ckpt(tmp_path / "part")
    assert torch.equal(other.net[3].weight, theirs.net[3].weight)
    assert other.fit(loader(), epochs=1, ckpt_path=None, quiet=True)["epoch"].tolist() == [0, 1]


def test_5_callbacks_read_the_model_and_its_history_under_the_old_names():
    seen = {}

    class Old:  # no base class, and not every moment
        def on_fit_start(self, model: "KerasModel"):
            seen["start"] = (model.epochs, model.monitor, model.mode, model.ckpt_path, str(model.accelerator.device))

        def on_train_epoch_end(self, model: "KerasModel"):
            seen["train"] = {name: list(column) for name, column in model.history.items()}

        def on_validation_epoch_end(self, model: "KerasModel"):
            seen["val"] = model.history["val_acc"][-1]
            assert model.net is not None

    theirs = model()
    history = theirs.fit(loader(), loader(), epochs=1, monitor="val_acc", mode="max", ckpt_path=None, quiet=True,
                         callbacks=[Old()])
    assert seen["start"] == (1, "val_acc", "max", None, "cpu")
    assert seen["train"]["epoch"] == [1]
    assert "val_acc" not in seen["train"]
    assert seen["val"] == history["val_acc"][0]


def test_6_the_accelerator_prepares_other_things_after_fit():
    theirs = model()
    theirs.fit(loader(), epochs=1, ckpt_path=None, quiet=True)
    other, data = theirs.accelerator.prepare(net(), loader())
    assert other(next(iter(data))[0]).shape == (16, 1)


def test_6_a_model_that_is_not_from_scratch_begins_with_an_epoch_that_only_measures():
    theirs = model()
    theirs.from_scratch = False
    before, statistics, seen = weights(theirs), theirs.net[1].running_mean.clone(), []

    class Look:
        def on_validation_epoch_end(self, model):
            seen.append((torch.equal(weights(model), before), torch.equal(model.net[1].running_mean, statistics)))

    measured = theirs.evaluate(loader())
    history = theirs.fit(loader(), loader(), epochs=2, ckpt_path=None, quiet=True, callbacks=[Look()])
    assert history["epoch"].tolist() == [0, 1, 2]
    assert seen[0] == (True, True)
    assert seen[1] == (False, False)
    assert history["train_loss"][0] == pytest.approx(measured["val_loss"])
    again = theirs.fit(loader(), epochs=1, ckpt_path=None, quiet=True)
    assert again["epoch"].tolist() == [1]


def test_9_auc_is_found_under_both_names():
    assert torchkeras.metrics.AUCROC is torchkeras.metrics.AUC
    found = model(metrics_dict={"auc": torchkeras.metrics.AUCROC()}).evaluate(loader())
    assert 0.0 <= found["val_auc"] <= 1.0
