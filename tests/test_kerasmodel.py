"""The face: every way to give a net its parts and its data, and what comes back."""

import copy
import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

import torchkeras
from torchkeras import Callback, EpochRunner, KerasModel, StepRunner
from torchkeras.engine.callback import MOMENTS

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def fit(data, val=None, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(4, 1), "mse", optimizer="sgd")
    return model, model.fit(data, val, **({"epochs": 2, "ckpt_path": None, "quiet": True} | options))


def test_the_arguments_of_fit_are_those_that_users_know_in_their_order():
    parameters = inspect.signature(KerasModel.fit).parameters
    assert list(parameters)[1:14] == ["train_data", "val_data", "epochs", "ckpt_path", "patience", "monitor", "mode",
                                      "callbacks", "plot", "wandb", "mixed_precision", "cpu",
                                      "gradient_accumulation_steps"]
    assert all(one.kind is one.KEYWORD_ONLY for one in list(parameters.values())[14:])
    defaults = {name: one.default for name, one in parameters.items()}
    assert (defaults["epochs"], defaults["patience"], defaults["ckpt_path"]) == (10, 5, "checkpoint")


def test_the_history_has_the_columns_that_users_know():
    model = KerasModel(nn.Linear(4, 3), "cross_entropy", {"acc": "accuracy"}, "adam")
    labels = torch.randint(0, 3, (60,))
    history = model.fit((X, labels), (X, labels), epochs=2, ckpt_path=None, quiet=True)
    assert isinstance(history, pd.DataFrame)
    assert list(history.columns) == ["epoch", "train_loss", "train_acc", "lr", "val_loss", "val_acc"]
    assert history["epoch"].tolist() == [1, 2]
    assert list(model.evaluate((X, labels))) == ["val_loss", "val_acc"]


class Rows(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Rows()[index] for index in range(60))


def forever():
    while True:
        yield X[:20], Y[:20]


@pytest.mark.parametrize(("data", "options"), [
    (lambda: DataLoader(Rows(), 20), {}),
    (lambda: Rows(), {"batch_size": 20}),
    (lambda: Stream(), {"batch_size": 20}),
    (lambda: DataLoader(Stream(), 20), {}),
    (lambda: (X, Y), {"batch_size": 20}),
    (lambda: (X.numpy(), Y.numpy()), {"batch_size": 20}),
    (lambda: (X.numpy().astype(np.float64), Y.numpy()), {"batch_size": 20}),
    (lambda: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())), {"batch_size": 20}),
    (lambda: {"input": X, "labels": Y}, {"batch_size": 20}),
    (lambda: [(X[:20], Y[:20]), (X[20:40], Y[20:40]), (X[40:], Y[40:])], {}),
    (lambda: (X, Y, torch.ones(60)), {"batch_size": 20}),
], ids=["loader", "dataset", "stream", "stream loader", "tensors", "numpy", "float64", "frames", "dict", "batches",
        "weights"])
def test_every_kind_of_data_trains_the_same_net(data, options):
    if "batch_size" in options and not isinstance(data(), IterableDataset):
        options = options | {"shuffle": False}
    model, history = fit(data(), **options)
    expected, _ = fit((X, Y), batch_size=20, shuffle=False)
    assert torch.allclose(model.net.weight, expected.net.weight, atol=1e-6)
    assert len(history) == 2


def test_a_generator_without_an_end_trains_with_steps_per_epoch():
    model, history = fit(forever(), forever(), steps_per_epoch=3, validation_steps=2)
    assert len(history) == 2
    assert model.run.global_step == 6


def test_a_generator_that_runs_dry_ends_the_run_and_nothing_is_lost():
    model, history = fit(iter([(X, Y), (X, Y)]), epochs=5, monitor="train_loss")
    assert history["epoch"].tolist() == [1]
    assert history.attrs["stop_reason"].startswith("train_data ran out of data")
    assert model.run.global_step == 2


def test_fit_learns_inside_no_grad():
    with torch.no_grad():
        model, _ = fit((X, Y), shuffle=False)
    assert torch.equal(model.net.weight, fit((X, Y), shuffle=False)[0].net.weight)


def test_a_model_can_be_copied_and_pickled_after_fit():
    model, _ = fit((X, Y), callbacks=[type("Local", (), {"on_step_end": lambda self, model: None})()])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.evaluate((X, Y)) == model.evaluate((X, Y))
        twin.fit((X, Y), epochs=1, ckpt_path=None, quiet=True)
        assert not torch.equal(twin.net.weight, model.net.weight)


def test_splits_and_subsets_are_data():
    train, val = random_split(TensorDataset(X, Y), [50, 10])
    _, history = fit(train, val)
    assert history["val_loss"].notna().all()


def test_the_last_share_is_measured_on_when_validation_split_is_asked_for():
    model, history = fit((X, Y), validation_split=0.25, epochs=1)
    assert model.evaluate((X[45:], Y[45:]))["val_loss"] == pytest.approx(history["val_loss"][0], rel=1e-6)
    assert model.evaluate((X[:45], Y[:45]))["val_loss"] != pytest.approx(history["val_loss"][0], rel=1e-6)


def test_seed_repeats_a_run():
    def once(seed):
        return fit((X, Y), seed=seed)[0].net.weight

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


def test_parts_can_be_given_by_name_or_left_out():
    net = nn.Linear(4, 1)
    model = KerasModel(net, "mse")
    assert type(model.optimizer) is torch.optim.Adam
    assert model.optimizer.param_groups[0]["lr"] == 3e-4
    assert type(KerasModel(net, "l1", optimizer="AdamW").optimizer) is torch.optim.AdamW
    assert isinstance(KerasModel(net, "bce_with_logits", ["auc", "ks"]).metrics_dict["auc"], torchkeras.metrics.AUC)


def test_metrics_by_name_know_from_the_loss_whether_outputs_are_logits():
    probabilities = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    labels = (Y > 0).float()
    found = KerasModel(probabilities, "bce", ["accuracy"]).evaluate((X, labels))["val_accuracy"]
    with torch.no_grad():
        assert found == pytest.approx(((probabilities(X) >= 0.5) == labels).double().mean().item())
        assert found != pytest.approx(((probabilities(X) >= 0.0) == labels).double().mean().item())


@pytest.mark.parametrize("where", ["subclass", "instance", "class"])
def test_one_verb_of_the_step_can_be_changed_in_three_places(where, monkeypatch):
    calls = []

    class Doubled(StepRunner):
        def loss(self, preds, labels, weights=None):
            calls.append(self.stage)
            return 2 * super().loss(preds, labels, weights)

    plain, _ = fit((X, Y), shuffle=False, epochs=1)
    torch.manual_seed(0)
    face = type("Mine", (KerasModel,), {"StepRunner": Doubled}) if where == "subclass" else KerasModel
    model = face(nn.Linear(4, 1), "mse", optimizer="sgd")
    if where == "instance":
        model.StepRunner = Doubled
    if where == "class":
        monkeypatch.setattr(KerasModel, "StepRunner", Doubled)
    model.fit((X, Y), (X, Y), epochs=1, shuffle=False, ckpt_path=None, quiet=True)
    assert calls == ["train", "train", "val", "val"]  # what is tried before leaves no trace, in a closure neither
    assert not torch.equal(model.net.weight, plain.net.weight)


def test_an_epoch_runner_can_be_replaced():
    class Short(EpochRunner):
        def __call__(self, loader):
            return super().__call__([next(iter(loader))])

    torch.manual_seed(0)
    model = KerasModel(nn.Linear(4, 1), "mse", optimizer="sgd")
    model.EpochRunner = Short
    model.fit((X, Y), epochs=2, batch_size=10, ckpt_path=None, quiet=True)
    assert model.run.global_step == 2


def test_a_step_takes_its_further_objects_from_the_model():
    class Scaled(StepRunner):
        def __init__(self, *args, factor, **kwargs):
            super().__init__(*args, **kwargs)
            self.factor = factor

        def loss(self, preds, labels, weights=None):
            return self.factor * super().loss(preds, labels, weights)

    model = KerasModel(nn.Linear(4, 1), "mse", factor=3.0)
    model.StepRunner = Scaled
    plain = KerasModel(model.net, "mse").evaluate((X, Y))["val_loss"]
    assert model.evaluate((X, Y))["val_loss"] == pytest.approx(3 * plain, rel=1e-6)


def test_listeners_hear_the_moments_in_the_order_of_the_loop():
    heard = []

    def hear(moment):
        return lambda self, model: heard.append(moment)

    Loud = type("Loud", (Callback,), {moment: hear(moment) for moment in MOMENTS})
    fit((X, Y), (X, Y), batch_size=30, epochs=1, callbacks=[Loud()])
    assert heard == ["on_fit_start", "on_epoch_start", "on_step_end", "on_step_end", "on_train_epoch_end",
                     "on_step_end", "on_step_end", "on_validation_epoch_end", "on_fit_end"]


def test_evaluate_and_predict_in_mid_epoch_disturb_nothing():
    class Curious(Callback):
        def on_step_end(self, model):
            if model.run.stage == "train":
                model.evaluate((X, Y))
                model.predict(X)

    options = {"batch_size": 10, "gradient_accumulation_steps": 4, "seed": 3}
    quiet, first = fit((X, Y), **options)
    asked, second = fit((X, Y), callbacks=[Curious()], shuffle=False, **options)
    quiet, first = fit((X, Y), shuffle=False, **options)
    assert torch.equal(asked.net.weight, quiet.net.weight)
    assert first.equals(second)


def test_the_net_is_called_as_a_module_so_its_hooks_run():
    calls = []
    net = nn.Linear(4, 1)
    net.register_forward_hook(lambda *args: calls.append(1))
    model = KerasModel(net, "mse")
    model(X)
    model.fit((X, Y), epochs=1, batch_size=60, ckpt_path=None, quiet=True)
    model.predict(X, batch_size=60)
    assert len(calls) == 3


def test_predict_keeps_the_structure_that_the_net_returns():
    class Both(nn.Module):
        def forward(self, x):
            return {"sum": x.sum(1), "parts": (x, -x)}

    found = KerasModel(Both(), "mse").predict(X, batch_size=7, as_numpy=True)
    assert found["sum"].shape == (60,)
    assert np.array_equal(found["parts"][1], -X.numpy())


def test_the_model_carries_the_names_that_old_callbacks_read():
    model, _ = fit((X, Y))
    assert (model.epochs, model.monitor, model.mode, model.ckpt_path) == (2, "train_loss", "min", None)
    assert model.history["epoch"] == [1, 2]
    assert str(model.accelerator.device) == "cpu"


def test_cpu_true_stays_on_the_cpu():
    model, _ = fit((X, Y), cpu=True)
    assert model.run.device == "cpu"
    assert next(model.cpu().parameters()).is_cpu  # nn.Module.cpu is still torch's


def test_old_names_are_found_at_the_top():
    assert callable(torchkeras.colorful)
    assert callable(torchkeras.delete_object)
    with pytest.raises(AttributeError, match="no attribute 'colourful'"):
        getattr(torchkeras, "colourful")  # noqa: B009


def test_all_lists_what_is_public():
    assert all(hasattr(torchkeras, name) for name in torchkeras.__all__)


def test_torchmetrics_objects_and_collections_work_beside_ours():
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics: pip install torchmetrics")
    labels = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))
    theirs = torchmetrics.Accuracy(task="multiclass", num_classes=3, average="micro")
    several = torchmetrics.MetricCollection({"f1": torchmetrics.F1Score(task="multiclass", num_classes=3)})
    model = KerasModel(nn.Linear(4, 3), "cross_entropy", {"theirs": theirs, "ours": "accuracy", "all": several})
    history = model.fit((X, labels), (X, labels), epochs=2, batch_size=7, ckpt_path=None, quiet=True,
                        monitor="val_theirs")
    assert history["val_theirs"].tolist() == pytest.approx(history["val_ours"].tolist(), rel=1e-6)
    assert history["train_theirs"].tolist() == pytest.approx(history["train_ours"].tolist(), rel=1e-6)
    assert model.mode == "max"
    assert "val_all_f1" in history


def test_class_weights_take_a_column_of_binary_labels():
    labels = (Y > 0).float()
    net = nn.Linear(4, 1)
    model = KerasModel(net, "bce_with_logits", optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    history = model.fit((X, labels), epochs=1, class_weight={1: 4.0}, ckpt_path=None, quiet=True)
    with torch.no_grad():
        losses = nn.functional.binary_cross_entropy_with_logits(net(X), labels, reduction="none")
    assert history["train_loss"][0] == pytest.approx((losses * (1 + 3 * labels)).mean().item(), rel=1e-6)
    assert history["train_loss"][0] != pytest.approx(losses.mean().item(), rel=1e-3)
