"""Listeners that write and those under older names, in real runs."""

import csv
import itertools
import json
import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel, kerascallbacks
from torchkeras.acceleration.multi_step_graph import follows
from torchkeras.callbacks.tensorboard import tag
from torchkeras.display.progress import Progress, one_display
from torchkeras.kerascallbacks import (
    CSVLogger,
    EpochCheckpoint,
    JSONLLogger,
    MLflowCallback,
    TensorBoardCallback,
    VisDisplay,
    VisMetric,
    VisProgress,
)

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :1]


def fit(*callbacks, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd")
    model.fit((X, Y), callbacks=callbacks, **({"val_data": (X, Y), "epochs": 3, "ckpt_path": None, "quiet": True}
                                              | options))
    return model


class Boom:
    def on_train_epoch_end(self, model):
        if model.run.epoch == 2:
            raise RuntimeError("boom")


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_holds_the_history_to_the_last_bit(tmp_path):
    path = tmp_path / "new" / "history.csv"
    history = fit(CSVLogger(path)).history
    rows = read_csv(path)
    assert [[float(row[name]) for row in rows] for name in history] == list(history.values())
    assert list(rows[0]) == list(history)
    assert [one.name for one in path.parent.iterdir()] == ["history.csv"]


def test_each_row_is_in_the_file_when_its_epoch_ends(tmp_path):
    seen = []

    class Look:
        def on_validation_epoch_end(self, model):
            seen.append([len(read_csv(tmp_path / "a.csv")), len((tmp_path / "a.jsonl").read_text().splitlines())])

    with pytest.raises(RuntimeError):
        fit(CSVLogger(tmp_path / "a.csv"), JSONLLogger(tmp_path / "a.jsonl"), Look(), Boom())
    assert seen == [[1, 1]]
    assert len(read_csv(tmp_path / "a.csv")) == 1


def test_a_column_that_comes_later_gets_its_place_in_all_rows(tmp_path):
    history = fit(CSVLogger(tmp_path / "a.csv"), validation_freq=2, epochs=4).history
    rows = read_csv(tmp_path / "a.csv")
    assert [row["val_loss"] == "" for row in rows] == [True, False, True, False]
    assert list(rows[0]) == list(history)
    assert float(rows[3]["val_loss"]) == history["val_loss"][3]


def test_a_file_is_begun_anew_or_gone_on_with(tmp_path):
    for append, expected in ((False, 3), (True, 6), (False, 3)):
        fit(CSVLogger(tmp_path / "a.csv", append=append), JSONLLogger(tmp_path / "a.jsonl", append=append))
        assert len(read_csv(tmp_path / "a.csv")) == expected
        assert len((tmp_path / "a.jsonl").read_text().splitlines()) == expected
    (tmp_path / "a.jsonl").write_text('{"epoch": 1}\n{"epo')  # as a killed process leaves it
    fit(JSONLLogger(tmp_path / "a.jsonl", append=True))
    assert [json.loads(line)["epoch"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, 1, 2, 3]


def test_json_lines_hold_the_history_and_only_json(tmp_path):
    class Spoil:
        def on_validation_epoch_end(self, model):
            model.history["train_mae"][-1] = math.inf

    history = fit(Spoil(), JSONLLogger(tmp_path / "a.jsonl")).history
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["val_loss"] for row in rows] == history["val_loss"]
    assert [row["train_mae"] for row in rows] == ["inf"] * 3


def pipe(path):
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("wrong", [
    lambda folder: CSVLogger(folder / "a.txt"), lambda folder: JSONLLogger(folder / "a.csv"),
    lambda folder: CSVLogger(folder), lambda folder: CSVLogger(pipe(folder / "a.csv")),
    lambda folder: EpochCheckpoint(folder, save_freq=0),
    lambda folder: EpochCheckpoint("/proc/nothing"), lambda folder: VisDisplay(print, dis_period=0),
    lambda folder: VisMetric(save_path=folder)])
def test_arguments_that_cannot_be_are_refused_at_once(wrong, tmp_path):
    with pytest.raises(ValueError, match="received"):
        wrong(tmp_path)


def test_the_newest_epochs_are_kept_and_a_missing_file_does_not_matter(tmp_path):
    class Remove:
        def on_validation_epoch_end(self, model):
            (tmp_path / "w" / "epoch_1.pt").unlink(missing_ok=True)

    weights = []

    class Keep:
        def on_validation_epoch_end(self, model):
            weights.append(model.net.weight.detach().clone())

    fit(Keep(), EpochCheckpoint(tmp_path / "w", max_ckpt=2), Remove(), epochs=4)
    assert sorted(one.name for one in (tmp_path / "w").iterdir()) == ["epoch_3.pt", "epoch_4.pt"]
    found = torch.load(tmp_path / "w" / "epoch_3.pt")
    assert torch.equal(found["weight"], weights[2])
    assert not torch.equal(found["weight"], weights[3])
    fit(EpochCheckpoint(tmp_path / "w", save_freq=5, max_ckpt=None), epochs=6)
    assert sorted(one.name for one in (tmp_path / "w").iterdir()) == ["epoch_3.pt", "epoch_4.pt", "epoch_5.pt"]


def test_a_display_function_is_called_at_the_start_and_now_and_then(tmp_path):
    seen = []
    other = object()
    fit(VisDisplay(lambda model: seen.append((model.run.epoch, model.training)), dis_period=2), epochs=5)
    assert [epoch for epoch, _ in seen] == [0, 2, 4]
    fit(VisDisplay(seen.append, model=other, init_display=False), epochs=1)
    assert seen[-1] is other
    with pytest.raises(TypeError, match="display_fn: received int"):
        VisDisplay(3)


def test_of_several_displays_one_is_there_and_it_draws(capsys):
    with_curves, without = VisMetric(), VisProgress()
    assert one_display([without, with_curves]) == [with_curves]
    assert [without.plot, with_curves.plot] == [False, True]
    fit(without, quiet=False, epochs=1)
    assert capsys.readouterr().out.count("epoch=1/1") == 1
    fit(quiet=False, epochs=1)
    assert capsys.readouterr().out.count("epoch=1/1") == 1


def test_the_picture_of_the_curves_is_written_only_when_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(VisMetric())
    assert list(tmp_path.iterdir()) == []
    fit(VisMetric(save_path="history.png"))
    assert [one.name for one in tmp_path.iterdir()] == ["history.png"]


def test_nan_from_the_first_epoch_and_no_validation_end_no_display(capsys):
    class Spoil:
        def on_train_epoch_end(self, model):
            model.history["train_mae"][-1] = math.nan

    fit(Spoil(), VisMetric(), val_data=None)
    assert "epoch=3/3" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "package", "hidden"), [
    (TensorBoardCallback, "torch", "torch.utils.tensorboard"), (MLflowCallback, "mlflow", "mlflow")])
def test_a_missing_package_is_told_with_how_to_get_it(kind, package, hidden, monkeypatch):
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=f"{kind.__name__} needs {package}.*pip install"):
        kind()


def test_tensorboard_gets_the_rows_and_the_weights(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(TensorBoardCallback(tmp_path, "mine", log_weight=True, log_weight_freq=2)).history
    events = EventAccumulator(str(tmp_path / "mine"))
    events.Reload()
    assert [one.value for one in events.Scalars("loss/val")] == pytest.approx(history["val_loss"], rel=1e-6)
    assert [one.step for one in events.Scalars("lr")] == [1, 2, 3]
    assert [one.step for one in events.Histograms("weight")] == [2]


def test_a_column_is_grouped_by_what_it_measures():
    assert [tag("train_loss"), tag("val_interval_acc"), tag("lr"), tag("constrain_loss")] == [
        "loss/train", "interval_acc/val", "lr", "constrain_loss"]


def test_mlflow_gets_the_rows_and_a_run_of_yours_stays_open(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install torchkeras[mlflow]")
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "runs").as_uri()
    for name, value in (("MLFLOW_ALLOW_FILE_STORE", "true"), ("MLFLOW_TRACKING_URI", uri),
                        ("MLFLOW_EXPERIMENT_ID", "0")):  # mlflow sets the last two itself, and leaves them
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(uri)
    history = fit(MLflowCallback("digits")).history
    run = mlflow.last_active_run()
    values = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
    assert [one.value for one in values] == history["val_loss"]
    assert run.info.status == "FINISHED"
    assert os.sep not in run.data.params["ckpt_path"]  # no folder, which may hold a person's name
    with pytest.raises(RuntimeError):
        fit(MLflowCallback("digits"), Boom())
    assert mlflow.last_active_run().info.status == "FAILED"
    with mlflow.start_run() as mine:
        fit(MLflowCallback())
        assert mlflow.active_run().info.run_id == mine.info.run_id


def test_wandb_is_given_the_settings_and_the_best_weights_when_asked(monkeypatch, tmp_path):
    calls = []

    class Artifact(list):
        def __init__(self, name, type):
            super().__init__([name, type])

        def add_file(self, path):
            self.append(path)

    fake = SimpleNamespace(run=None, Artifact=Artifact, log=lambda row: None, finish=lambda exit_code: None,
                           log_artifact=calls.append)

    def init(**options):
        calls.append(options)
        fake.run = SimpleNamespace(summary={}, id="7")
        return fake.run

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    path = str(tmp_path / "best.pt")
    fit(kerascallbacks.WandbCallback("p", SimpleNamespace(width=3), "n", save_ckpt=True), ckpt_path=path)
    assert (calls[0]["project"], calls[0]["name"], calls[0]["save_code"]) == ("p", "n", None)
    assert calls[0]["config"]["width"] == calls[0]["config"]["epochs"] == 3
    assert calls[0]["config"]["ckpt_path"] == "best.pt"  # no folder, which may hold a person's name
    assert calls[1:] == [["7-best", "model", path]]
    fake.run = None
    calls.clear()
    fit(kerascallbacks.WandbCallback("p"), ckpt_path=path)
    assert len(calls) == 1


def test_what_writes_or_draws_does_so_in_the_first_process_alone():
    kinds = [getattr(kerascallbacks, name) for name in kerascallbacks.__all__]
    assert all(kind.main_only for kind in kinds)
    assert Progress.allows_multi_step
    assert [name for one, name in itertools.product(kinds, ("on_step_end",)) if name in vars(one)
            and not one.allows_multi_step] == []


def test_a_callback_allows_several_steps_at_once_by_either_name_of_the_attribute():
    class Sees(Callback):
        def on_step_end(self, model):
            pass

    assert follows(Sees())  # control: it is called after every step
    for name in ("allows_multi_step", "looks_only"):  # the second is the older name
        assert not follows(type("Allows", (Sees,), {name: True})())
        assert not follows(SimpleNamespace(on_step_end=print, **{name: True}))
        assert follows(SimpleNamespace(on_step_end=print, **{name: False}))
