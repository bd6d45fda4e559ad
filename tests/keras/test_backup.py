"""BackupAndRestore deletes what it wrote, when the run is over, and nothing else."""

import contextlib
import os

import pytest
import torch
from torch import nn

from torchkeras import Callback, Model
from torchkeras.keras import callbacks

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :1]


def model():
    made = Model(nn.Linear(3, 1))
    made.compile("sgd", "mse")
    return made


def fit(folder, *others, made=None, **options):
    told = [*others, callbacks.BackupAndRestore(folder, **options)]
    return (made or model()).fit(X, Y, epochs=3, batch_size=10, verbose=0, callbacks=told)


def names(folder):
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


class Stop(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


class Interrupt(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


class Fail(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise RuntimeError("the power went")


class Pause(Callback):
    def on_validation_epoch_end(self, model):
        model.run.stop("enough for today")


def test_other_files_of_the_folder_stay_also_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a year's work")
    (tmp_path / "weights.pt.state").mkdir()
    (tmp_path / "weights.pt.state" / "mine").write_text("x")
    before = names(tmp_path)
    fit(".")
    assert names(tmp_path) == before
    fit(".", delete_checkpoint=False)
    assert "weights.pt" in names(tmp_path)  # control: something was there to be deleted
    fit(".")
    assert names(tmp_path) == before


def test_a_folder_that_was_there_stays_and_one_that_was_made_goes(tmp_path):
    (tmp_path / "old").mkdir()
    fit(tmp_path / "old")
    fit(tmp_path / "new" / "er")
    assert names(tmp_path) == ["new", "old"]


@pytest.mark.parametrize("link", ["weights.pt", "weights.pt.state", "weights.pt.learning", None])
def test_a_weights_file_of_another_origin_and_a_link_are_refused_before_training(tmp_path, link):
    mine = tmp_path / "mine"
    mine.write_text("precious")
    if link is None:
        torch.save(nn.Linear(3, 1).state_dict(), tmp_path / "weights.pt")
    else:
        os.symlink(mine, tmp_path / link)
    before, made = names(tmp_path), model()
    weights = made.get_weights()[0].copy()
    with pytest.raises(ValueError, match="backup_dir: received"):
        fit(tmp_path, made=made)
    assert names(tmp_path) == before
    assert (made.get_weights()[0] == weights).all()


def test_a_folder_can_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("x")
    os.symlink("real", tmp_path / "link")
    fit(tmp_path / "link", Pause())
    assert (tmp_path / "real" / "weights.pt").exists()
    assert fit(tmp_path / "link").epoch == [0, 1, 2]
    assert names(tmp_path) == ["link", "real", "real/mine"]


def test_weights_that_a_plain_fit_saved_there_stay(tmp_path):
    path = tmp_path / "weights.pt"
    model().fit(X, Y, batch_size=10, verbose=0, epochs=1, ckpt_path=path, resume=True, restore_best=False)
    fit(tmp_path)
    assert names(tmp_path) == ["weights.pt"]


@pytest.mark.parametrize("ending", [
    Stop(), callbacks.EarlyStopping("loss", min_delta=100, patience=1)])
def test_a_run_that_a_callback_of_keras_ended_is_over(tmp_path, ending):
    assert len(fit(tmp_path / "backup", ending).epoch) < 3
    assert not (tmp_path / "backup").exists()
    torch.manual_seed(5)
    made, alone = model(), model()
    alone.set_weights(made.get_weights())
    first = alone.evaluate(X, Y)
    fit(tmp_path / "backup", ending, made=made)
    assert made.evaluate(X, Y) < first  # it trained its own weights


@pytest.mark.parametrize("ending", [Pause(), Fail(), Interrupt()])
def test_a_run_that_was_interrupted_is_gone_on_with(tmp_path, ending):
    with contextlib.suppress(RuntimeError, KeyboardInterrupt):
        fit(tmp_path / "backup", ending)
    assert (tmp_path / "backup" / "weights.pt").exists()
    assert fit(tmp_path / "backup").epoch == [0, 1, 2]
    assert not (tmp_path / "backup").exists()
