"""The Lightning face: the numbers and weights of KerasModel, Lightning's own tools on top."""

import json
import os
import re
import sys
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import distributed, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torchmetrics.classification import MulticlassF1Score

import torchkeras
from torchkeras import KerasModel, LightModel
from torchkeras.lightning.trainer_flags import where_to_compute

EPOCHS, BATCH = 3, 16
LIGHTNINGS_OWN = (r"`isinstance\(treespec, LeafSpec\)` is deprecated",
                  "You defined a `validation_step` but have no `val_dataloader`")
ON_LARGER_MACHINES = "The '.*_dataloader' does not have many workers"
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (*LIGHTNINGS_OWN, ON_LARGER_MACHINES)]


def data(samples: int = 101, seed: int = 0) -> TensorDataset:  # 101 = 6 x 16 + 5: a ragged last batch
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(samples, 6, generator=generator),
                         torch.randint(0, 3, (samples,), generator=generator))


def loaders(samples: int = 101) -> tuple[DataLoader, DataLoader]:
    return (DataLoader(data(samples), batch_size=BATCH, shuffle=True),
            DataLoader(data(50, seed=1), batch_size=BATCH))


def parts(schedule=None):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    return net, optimizer, None if schedule is None else schedule(optimizer)


def trainer(epochs: int = EPOCHS, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return pl.Trainer(max_epochs=epochs, **quiet | options)


def by_lightning(model: pl.LightningModule, *data: DataLoader, seed: int = 5, **options) -> pl.Trainer:
    runner = trainer(**options)
    torch.manual_seed(seed)
    runner.fit(model, *data)
    return runner


class Epochs:
    """A metric that rises by one each epoch, so that the last weights are the best."""

    epochs = 0

    def update(self, preds, labels) -> None: ...

    def compute(self) -> int:
        self.epochs += 1
        return self.epochs

    def reset(self) -> None: ...


def both(metrics, *data: DataLoader, schedule=None, seed: int = 5, accumulate: int = 1):
    """The history and the weights of KerasModel and LightModel."""
    net, optimizer, scheduler = parts(schedule)
    keras = KerasModel(net, "cross_entropy", metrics() | {"count": Epochs()}, optimizer, scheduler)
    expected = keras.fit(*data, epochs=EPOCHS, seed=seed, ckpt_path=None, quiet=True, monitor="train_count",
                         mode="max", gradient_accumulation_steps=accumulate)
    net, optimizer, scheduler = parts(schedule)
    light = LightModel(net, "cross_entropy", metrics() | {"count": Epochs()}, optimizer, scheduler, quiet=True)
    by_lightning(light, *data, seed=5, accumulate_grad_batches=accumulate)
    return expected, light.get_history(), keras.net.state_dict(), net.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


METRICS = [lambda: {"acc": "accuracy", "top": torchkeras.metrics.TopK(2)},
           lambda: {"f1": MulticlassF1Score(num_classes=3), "worst": lambda p, y: F.cross_entropy(p, y) ** 2}]


@pytest.mark.parametrize("metrics", METRICS, ids=["ours", "torchmetrics and functions"])
@pytest.mark.parametrize("validated", [True, False], ids=["validated", "training alone"])
def test_history_and_weights_are_those_of_kerasmodel(metrics, validated):
    expected, found, keras, light = both(metrics, *loaders()[:1 + validated])
    assert list(found.columns) == list(expected.columns)
    assert np.allclose(found, expected, rtol=1e-7, atol=0)
    assert equal(light, keras)


def test_control_another_seed_gives_other_numbers_and_weights():
    expected, found, keras, light = both(METRICS[0], *loaders(), seed=6)
    assert not np.allclose(found["train_loss"], expected["train_loss"], rtol=1e-7)
    assert not equal(light, keras)


def test_weights_are_those_of_the_plain_loop():
    net, optimizer, _ = parts()
    light = LightModel(net, "cross_entropy", optimizer=optimizer, quiet=True)
    by_lightning(light, *loaders())
    by_hand, optimizer, _ = parts()
    torch.manual_seed(5)
    train, val = loaders()
    for _ in range(EPOCHS):
        assert not equal(net.state_dict(), by_hand.state_dict())
        for features, labels in train:
            F.cross_entropy(by_hand(features), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        list(val)  # each pass over any loader draws a number
    assert equal(net.state_dict(), by_hand.state_dict())


def test_windows_of_equal_size_give_the_weights_of_kerasmodel():
    _, _, keras, light = both(dict, *loaders(samples=96), accumulate=3)
    _, _, single, _ = both(dict, *loaders(samples=96))
    assert equal(light, keras)
    assert not equal(light, single)


@pytest.mark.parametrize("schedule", [
    lambda optimizer: OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * 7), lambda optimizer: StepLR(optimizer, 1, 0.5),
    lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1.0),
], ids=["each update", "each epoch", "on a plateau"])
@pytest.mark.parametrize("validated", [True, False], ids=["validated", "training alone"])
def test_schedules_move_as_in_kerasmodel(schedule, validated):
    expected, found, keras, light = both(dict, *loaders()[:1 + validated], schedule=schedule)
    assert list(found["lr"]) == list(expected["lr"])
    assert len(set(found["lr"])) > 1
    assert equal(light, keras)


class Classifier(LightModel):
    """The way of a subclass."""

    def shared_step(self, batch):
        features, labels = batch
        preds = self(features)
        return {"loss": F.cross_entropy(preds, labels), "acc": (preds.argmax(dim=1) == labels).float().mean()}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


class OwnLayers(Classifier):
    """The same with layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = parts()[0]

    def forward(self, features):
        return self.layers(features)


@pytest.mark.parametrize("build", [lambda: Classifier(parts()[0]), OwnLayers], ids=["net", "own layers"])
def test_a_subclass_gives_the_same_history_and_weights(build):
    expected, found, keras, _ = both(lambda: {"acc": "accuracy"}, *loaders())
    model = build()
    by_lightning(model, *loaders())
    own = model.get_history()
    assert list(own.columns) == ["epoch", "train_loss", "train_acc", "lr", "val_loss", "val_acc"]
    assert np.allclose(own, expected[own.columns], rtol=1e-6)
    assert equal({name.partition(".")[2]: value for name, value in model.state_dict().items()}, keras)


def test_control_means_of_batch_means_would_be_other_numbers():
    model = Classifier(parts()[0], quiet=True)
    runner = by_lightning(model, *loaders())
    losses = []
    model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(model(features), labels).item() for features, labels in loaders()[1]]
    measured = runner.validate(model, loaders()[1], verbose=False)[0]["val_loss"]
    assert measured == pytest.approx(np.average(losses, weights=[16, 16, 16, 2]), rel=1e-6)
    assert measured != pytest.approx(np.mean(losses), rel=1e-4)


def test_metrics_count_in_a_step_of_ones_own_that_feeds_them():
    class Measured(Classifier):
        def shared_step(self, batch):
            self.measure(self(batch[0]), batch[1])
            return {"loss": super().shared_step(batch)["loss"]}

    class Extended(LightModel):
        def shared_step(self, batch):
            return {**super().shared_step(batch), "samples": len(batch[1])}

    train, val = loaders()
    model = Measured(parts()[0], metrics_dict={"acc": "accuracy"}, quiet=True)
    by_lightning(model, train, val, epochs=1)
    extended = Extended(parts()[0], "cross_entropy", ["acc"], "adam", quiet=True)
    by_lightning(extended, train, val, epochs=1)
    preds = model.eval()(data(50, seed=1).tensors[0]).argmax(dim=1)
    assert model.get_history()["val_acc"][0] == (preds == data(50, seed=1).tensors[1]).double().mean().item()
    row = extended.get_history().iloc[0]
    assert row["val_samples"] == pytest.approx((3 * 16 * 16 + 2 * 2) / 50)
    assert 0 < row["val_acc"] < 1


def test_the_validation_before_the_first_epoch_is_in_no_row():
    seen = []

    class Counting(Classifier):
        def shared_step(self, batch):
            seen.append((self.trainer.sanity_checking, self.stage))
            return super().shared_step(batch)

    model = Counting(parts()[0], quiet=True)
    by_lightning(model, *loaders(), num_sanity_val_steps=2)
    plain = Classifier(parts()[0], quiet=True)
    by_lightning(plain, *loaders(), num_sanity_val_steps=0)
    assert seen.count((True, "val")) == 2
    assert model.get_history().equals(plain.get_history())
    assert list(model.get_history()["epoch"]) == [1, 2, 3]


RULE = r"\n={80}20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\n"


def test_each_epoch_prints_a_dated_rule_its_number_and_what_was_measured(capsys):
    model = LightModel(parts()[0], "cross_entropy", {"acc": "accuracy"})
    by_lightning(model, *loaders(), epochs=2)
    printed = capsys.readouterr().out
    number = r"[\d.e-]+"
    epochs = [rf"{RULE}epoch = {k}\n{{'val_loss': {number}, 'val_acc': {number}}}\n"
              rf"{{'acc': {number}, 'loss': {number}}}\n" for k in (0, 1)]
    assert re.fullmatch("".join(epochs), printed)
    assert f"'val_loss': {model.get_history()['val_loss'][1]:.5f}"[:16] in printed


def test_without_validation_the_training_numbers_are_printed_alone_and_quiet_prints_nothing(capsys):
    by_lightning(Classifier(parts()[0]), loaders()[0], epochs=1)
    assert re.fullmatch(rf"{RULE}epoch = 0\n{{'acc': [\d.e-]+, 'loss': [\d.e-]+}}\n", capsys.readouterr().out)
    model = Classifier(parts()[0])
    model.quiet = True
    by_lightning(model, *loaders(), epochs=1)
    assert capsys.readouterr().out == ""


def test_test_validate_and_predict_give_the_numbers_of_kerasmodel():
    net, optimizer, _ = parts()
    model = LightModel(net, "cross_entropy", {"acc": "accuracy"}, optimizer, quiet=True)
    train, val = loaders()
    runner = by_lightning(model, train, val)
    history = model.get_history()
    keras = KerasModel(net, "cross_entropy", {"acc": "accuracy"})
    expected = keras.evaluate(val)
    assert runner.validate(model, val, verbose=False)[0] == pytest.approx(expected, rel=1e-6)
    tested = runner.test(model, val, verbose=False)[0]
    assert tested == pytest.approx({name.replace("val", "test"): value for name, value in expected.items()}, rel=1e-6)
    other = DataLoader(data(), batch_size=BATCH)
    assert runner.test(model, other, verbose=False)[0]["test_loss"] != pytest.approx(tested["test_loss"], rel=1e-3)
    assert torch.equal(torch.cat(runner.predict(model, val)), keras.predict(val))
    assert model.get_history().equals(history)


def test_a_subclass_with_a_forward_of_its_own_predicts_and_sums_up_with_it(capsys):
    class Doubled(Classifier):
        def forward(self, features):
            return 2 * self.net(features)

    model, features = Doubled(parts()[0], quiet=True), data(20).tensors[0]
    preds = trainer().predict(model, DataLoader(TensorDataset(features), batch_size=BATCH))
    with torch.no_grad():
        expected = torch.cat([model.net.eval()(part) for part in features.split(BATCH)])
    assert torch.equal(torch.cat(preds), 2 * expected)
    assert not torch.equal(torch.cat(preds), expected)
    capsys.readouterr()
    OwnLayers().summary(input_shape=(6,))
    LightModel(parts()[0]).summary(input_shape=(6,))
    total = sum(weight.numel() for weight in model.parameters())
    assert capsys.readouterr().out.count(f"Total params: {total}") == 2


def test_training_in_half_precision_counts_like_kerasmodel():
    net, optimizer, _ = parts()
    model = LightModel(net, "cross_entropy", {"acc": "accuracy"}, optimizer, quiet=True)
    by_lightning(model, *loaders(), precision="bf16-mixed")
    net, optimizer, _ = parts()
    keras = KerasModel(net, "cross_entropy", {"acc": "accuracy"}, optimizer)
    expected = keras.fit(*loaders(), epochs=EPOCHS, seed=5, ckpt_path=None, quiet=True, mixed_precision="bf16")
    assert np.allclose(model.get_history(), expected, rtol=1e-6)
    whole, optimizer, _ = parts()
    model = LightModel(whole, "cross_entropy", {"acc": "accuracy"}, optimizer, quiet=True)
    by_lightning(model, *loaders())
    assert not np.allclose(model.get_history(), expected, rtol=1e-6)


class BringsItsLoss(nn.Module):
    """Takes its labels itself, and puts out a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = parts()[0]

    def forward(self, features, labels=None):
        logits = self.inner(features)
        return {"logits": logits, "loss": None if labels is None else F.cross_entropy(logits, labels)}


def test_a_net_that_brings_its_own_loss_trains_as_in_kerasmodel():
    def named(samples):
        return DataLoader([{"features": one, "labels": label} for one, label in data(samples)], batch_size=BATCH)

    nets = BringsItsLoss(), BringsItsLoss()
    keras = KerasModel(nets[0], None, {"acc": "accuracy", "count": Epochs()})
    expected = keras.fit(named(101), named(50), epochs=EPOCHS, seed=5, ckpt_path=None, quiet=True,
                         monitor="train_count", mode="max")
    model = LightModel(nets[1], None, {"acc": "accuracy", "count": Epochs()}, quiet=True)
    runner = by_lightning(model, named(101), named(50))
    assert np.allclose(model.get_history(), expected, rtol=1e-7)
    assert equal(*(net.state_dict() for net in nets))
    assert not equal(nets[0].state_dict(), BringsItsLoss().state_dict())
    assert torch.equal(torch.cat([one["logits"] for one in runner.predict(model, named(50))]),
                       keras.predict(named(50))["logits"])


def test_several_validation_loaders_count_as_one():
    first, second = (DataLoader(data(samples, seed=samples), batch_size=BATCH) for samples in (40, 7))
    model = Classifier(parts()[0], quiet=True)
    runner = trainer()
    losses = [runner.validate(model, one, verbose=False)[0]["val_loss"] for one in (first, second)]
    communicator = runner.validate(model, [first, second], verbose=False)[0]["val_loss"]
    assert communicator == pytest.approx((40 * losses[0] + 7 * losses[1]) / 47, rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_an_epoch_without_validation_has_none_in_its_row_and_of_several_the_last_counts():
    model = Classifier(parts()[0], quiet=True)
    by_lightning(model, *loaders(), check_val_every_n_epoch=2)
    assert list(model.get_history()["val_loss"].isna()) == [True, False, True]
    model = Classifier(parts()[0], quiet=True)
    runner = by_lightning(model, *loaders(), epochs=1, val_check_interval=3)  # after 3 and 6 of 7 batches
    row = model.get_history().iloc[0]
    assert row["val_loss"] == pytest.approx(runner.callback_metrics["val_loss"].item(), rel=1e-6)
    assert list(model.get_history().columns)[-1] == "val_acc"


def test_lightnings_checkpoint_and_early_stopping_watch_the_validation_loss(tmp_path):
    model = Classifier(parts()[0], quiet=True)
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    by_lightning(model, *loaders(), epochs=30, enable_checkpointing=True,
                 callbacks=[best, EarlyStopping(monitor="val_loss", patience=2)])
    history = model.get_history()
    assert 3 <= len(history) < 30
    assert history["val_loss"].idxmin() == len(history) - 3
    assert best.best_model_score.item() == pytest.approx(history["val_loss"].min(), rel=1e-6)
    for given in ({}, {"net": None}):
        with pytest.raises(TypeError, match=r"net: received none; .* Classifier.load_from_checkpoint\(path, net=net\)"):
            Classifier.load_from_checkpoint(best.best_model_path, **given)
    loaded = Classifier.load_from_checkpoint(best.best_model_path, net=parts()[0])
    again = trainer().validate(loaded, loaders()[1], verbose=False)[0]["val_loss"]
    assert again == pytest.approx(history["val_loss"].min(), rel=1e-6)
    assert len(loaded.get_history()) == len(history) - 2


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("monitor", "when"), [("val_loss", None), ("val_loss", False), ("train_loss", True)],
                         ids=["as Lightning likes", "after validation", "after the epoch"])
def test_a_run_that_goes_on_from_a_checkpoint_has_all_its_epochs(tmp_path, monitor, when):
    model = Classifier(parts()[0], quiet=True)
    kept = ModelCheckpoint(dirpath=tmp_path, monitor=monitor, save_top_k=-1, filename="{epoch}",
                           save_on_train_epoch_end=when)
    by_lightning(model, *loaders(), enable_checkpointing=True, callbacks=[kept])
    other = Classifier(parts()[0], quiet=True)
    runner = trainer(epochs=4, enable_checkpointing=True, callbacks=[
        ModelCheckpoint(dirpath=tmp_path, monitor=monitor, save_top_k=-1, save_on_train_epoch_end=when)])
    runner.fit(other, *loaders(), ckpt_path=tmp_path / "epoch=1.ckpt")
    history = other.get_history()
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert history.iloc[:2].equals(model.get_history().iloc[:2])
    assert not history.isna().any(axis=None)


def test_a_second_fit_has_a_history_of_its_own_and_goes_on_from_the_weights():
    model = LightModel(parts()[0], "cross_entropy", optimizer="adam", quiet=True)
    assert model.get_history().empty
    train = DataLoader(data(), batch_size=BATCH)
    by_lightning(model, train)
    first, optimizer = model.get_history(), model.optimizer
    by_lightning(model, train, epochs=2)
    assert (len(first), len(model.get_history())) == (3, 2)
    assert model.get_history()["train_loss"][0] < first["train_loss"][0]
    assert model.optimizer is optimizer


def test_metrics_and_run_state_are_not_among_the_saved_weights():
    net = parts()[0]
    model = LightModel(net, "cross_entropy", {"acc": "accuracy", "f1": MulticlassF1Score(num_classes=3)}, quiet=True)
    by_lightning(model, *loaders(), epochs=1)
    assert list(model.state_dict()) == ["net." + name for name in net.state_dict()]


@pytest.mark.parametrize(("arguments", "error", "text"), [
    ({"net": nn.Linear}, TypeError, r"net: received the class Linear"),
    ({"loss_fn": "cross_entrpy"}, ValueError, r"Did you mean 'cross_entropy'\?"),
    ({"metrics_dict": ["acuracy"]}, ValueError, r"Did you mean 'accuracy'\?"),
    ({"metrics_dict": {"loss": "accuracy"}}, ValueError, r"received the name 'loss'"),
    ({"optimizer": "adm"}, ValueError, r"Did you mean 'adam'\?"),
    ({"lr_scheduler": 3}, TypeError, r"lr_scheduler: received int"),
])
def test_a_wrong_part_is_refused_as_the_model_is_put_together(arguments, error, text):
    good = {"net": nn.Linear(6, 3), "loss_fn": "cross_entropy"}
    LightModel(**good)
    with pytest.raises(error, match=text):
        LightModel(**good | arguments)


def frozen() -> nn.Module:
    return parts()[0].requires_grad_(False)


@pytest.mark.parametrize(("build", "error", "text"), [
    (lambda: LightModel(nn.Linear(6, 2), "cross_entropy", quiet=True), ValueError, "the class 2, and the net has 2"),
    (lambda: LightModel(frozen(), "cross_entropy", quiet=True), ValueError, "without a parameter that requires grad"),
    (lambda: LightModel(parts()[0], "cross_entropy", optimizer=parts()[1], quiet=True), ValueError,
     "holds none of the net's parameters"),
    (lambda: short_schedule(), ValueError, "for the 21 updates of this run"),
    (lambda: Headless(), TypeError, "net: received None; .* write forward in your subclass"),
    (lambda: Told(parts()[0], told=lambda loss: loss), TypeError, "shared_step: received Tensor"),
    (lambda: Told(parts()[0], told=lambda loss: {"los": loss}), TypeError, "a dict of los; expected"),
    (lambda: Told(parts()[0], told=lambda loss: {"loss": loss, "acc": torch.ones(3)}), ValueError, r"shape \(3,\)"),
    (lambda: Told(parts()[0], told=lambda loss: {"loss": loss, "acc": "high"}), TypeError, r"\['acc'\]: received str"),
    (lambda: Told(parts()[0], told=lambda loss: {"loss": loss, "lr": 1.0}), ValueError, "a name that is taken"),
    (lambda: Told(parts()[0], told=lambda loss: {"loss": loss, str(loss): 1.0}), ValueError, "batches before: loss"),
    (lambda: Told(parts()[0], ["acc"], told=lambda loss: {"loss": loss}), ValueError, "a shared_step that does not"),
])
def test_what_cannot_train_is_refused_before_any_weight_changes(build, error, text):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name
              and "tracked" not in name}
    with pytest.raises(error, match=text):
        by_lightning(model, loaders()[0])
    if "batches before" not in text:
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def short_schedule() -> LightModel:
    net, optimizer, scheduler = parts(lambda one: OneCycleLR(one, 0.1, total_steps=20))
    return LightModel(net, "cross_entropy", optimizer=optimizer, lr_scheduler=scheduler, quiet=True)


class Headless(LightModel):
    """Has layers, and nothing that says how they are called."""

    def __init__(self) -> None:
        super().__init__(loss_fn="cross_entropy", quiet=True)
        self.layer = nn.Linear(6, 3)


class Told(Classifier):
    """Gives what a test says."""

    def __init__(self, net, metrics_dict=None, *, told) -> None:
        super().__init__(net, metrics_dict=metrics_dict, quiet=True)
        self.to_tell = told

    def shared_step(self, batch):
        return self.to_tell(super().shared_step(batch)["loss"])


@pytest.mark.parametrize(("flags", "expected"), [
    ({}, {}), ({"gpus": None}, {}), ({"gpus": 0}, {"accelerator": "cpu"}),
    ({"gpus": 2}, {"accelerator": "gpu", "devices": 2}), ({"gpus": -1}, {"accelerator": "gpu", "devices": -1}),
    ({"gpus": [1, 3]}, {"accelerator": "gpu", "devices": [1, 3]}),
    ({"gpus": [0]}, {"accelerator": "gpu", "devices": [0]}),
    ({"tpu_cores": 8}, {"accelerator": "tpu", "devices": 8}),
    ({"tpu_cores": [5]}, {"accelerator": "tpu", "devices": [5]}),
])
def test_flags_of_older_versions_say_where_to_compute(flags, expected):
    found = where_to_compute(flags.get("gpus"), flags.get("tpu_cores"), {"max_epochs": 4})
    assert found == {"max_epochs": 4} | expected


@pytest.mark.parametrize(("flags", "error", "text"), [
    ({"gpus": "two"}, TypeError, "gpus: received 'two'; expected a number from 0"),
    ({"gpus": True}, TypeError, "gpus: received True"), ({"gpus": -2}, ValueError, "gpus: received -2"),
    ({"gpus": []}, ValueError, r"gpus: received \[\]"), ({"gpus": [0, -1]}, ValueError, r"gpus: received \[0, -1\]"),
    ({"tpu_cores": 0}, ValueError, "tpu_cores: received 0"),
    ({"gpus": 1, "tpu_cores": 1}, ValueError, "gpus=1 beside tpu_cores"),
    ({"gpus": 1, "accelerator": "ddp"}, ValueError, "gpus=1 beside accelerator; .* strategy"),
    ({"max_epoch": 3}, TypeError, r"Did you mean 'max_epochs'\?"),
])
def test_flags_that_cannot_be_are_refused_by_name(flags, error, text):
    with pytest.raises(error, match=text):
        LightModel.Trainer(**flags)


def test_the_trainer_with_an_old_flag_trains():
    runner = LightModel.Trainer(gpus=0, max_epochs=1, logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False)
    model = LightModel(parts()[0], "cross_entropy", quiet=True)
    runner.fit(model, *loaders())
    assert type(runner) is pl.Trainer
    assert len(model.get_history()) == 1


def test_without_lightning_the_error_says_what_to_install_and_the_rest_works(monkeypatch):
    assert torchkeras.LightModel is LightModel
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    monkeypatch.delitem(sys.modules, "torchkeras.lightning.model")
    with pytest.raises(ImportError, match="LightModel needs pytorch_lightning.*pip install pytorch-lightning"):
        exec("from torchkeras import LightModel", {})
    names: dict[str, object] = {}
    exec("from torchkeras import *", names)
    assert "KerasModel" in names
    assert "LightModel" in dir(torchkeras)


class Written(LightModel):
    """Leaves its history in a file of each process."""

    folder = None

    def on_fit_end(self) -> None:
        if self.folder is not None:
            (self.folder / f"{self.global_rank}.json").write_text(json.dumps(dict(self.history)))


class EveryNth(Sampler):
    """Samples dealt out to the processes one by one."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def own(self) -> range:
        return range(distributed.get_rank(), self.samples, 2) if distributed.is_initialized() else range(self.samples)

    def __iter__(self):
        return iter(self.own())

    def __len__(self) -> int:
        return len(self.own())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork Lightning's processes")
def test_two_processes_report_the_numbers_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))  # Lightning would leave one in the environment

    def model() -> Written:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        return Written(net, "cross_entropy", {"acc": "accuracy", "worst": lambda p, y: F.cross_entropy(p, y) ** 2},
                       torch.optim.SGD(net.parameters(), lr=0.1), quiet=True)

    def dealt(batch: int) -> list[DataLoader]:
        return [DataLoader(data(samples, samples), batch_size=batch, sampler=EveryNth(samples))
                for samples in (96, 26)]

    alone = model()
    by_lightning(alone, *dealt(16))
    shared = model()
    shared.folder = tmp_path
    by_lightning(shared, *dealt(8), devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for name, column in alone.history.items():
        assert first[name] == pytest.approx(column, rel=1e-5), name
    assert len(set(first["val_loss"])) == EPOCHS


def test_the_warnings_silenced_here_are_lightnings_about_any_module():
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, 3)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        validation_step = training_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        by_lightning(Plain(), loaders()[0], epochs=1)
        by_lightning(Plain(), *loaders(), epochs=1)
    texts = [str(one.message) for one in found]
    for pattern in LIGHTNINGS_OWN:
        assert any(re.match(pattern, text) for text in texts), pattern
