"""Disks that do not take the best file, files that were spoiled, and temporary files of processes that were killed."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.faults import kills, places
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.checkpoint import weight_file
from torchkeras.core import leftover

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
DATA = X, X.sum(dim=1, keepdim=True)


def model(cls=KerasModel, lr=0.02):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return cls(net, "mse", None, torch.optim.SGD(net.parameters(), lr=lr))


def fit(one, path, **options):
    return one.fit(DATA, DATA, **{"epochs": 4, "ckpt_path": path, "quiet": True, "seed": 0, **options})


def holds(path, one):
    return all(torch.equal(value, torch.load(path)[name]) for name, value in one.net.state_dict().items())


class Full(Callback):
    """No room from an epoch on, until another one."""

    def __init__(self, monkeypatch, error, begin=2, end=99):
        self.patch, self.error, self.begin, self.end = monkeypatch, error, begin, end

    def on_epoch_start(self, model):
        if model.run.epoch == self.begin:
            def refuse(path):
                raise self.error

            self.patch.setattr(weight_file, "flush_to_disk", refuse)
        if model.run.epoch == self.end:
            self.patch.undo()


ERRORS = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
          OSError(errno.EROFS, "Read-only file system"), OSError(errno.EIO, "Input/output error"),
          PermissionError(errno.EACCES, "Permission denied"),
          RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:20])
def test_a_full_disk_is_told_and_the_run_trains_on_with_the_best_weights_in_memory(error, tmp_path, monkeypatch):
    reference = model()
    expected = fit(reference, None)
    one = model()
    with pytest.warns(RuntimeWarning) as warned:
        history = fit(one, tmp_path / "best.pt", callbacks=[Full(monkeypatch, error)])
    monkeypatch.undo()
    assert history.equals(expected)
    assert len(warned) == 2
    assert "tries again after each epoch" in str(warned[0].message)
    assert "model.save_ckpt('another/place')" in str(warned[1].message)
    assert str(tmp_path / "best.pt") in str(warned[1].message)
    one.save_ckpt(tmp_path / "elsewhere.pt")
    assert holds(tmp_path / "elsewhere.pt", reference)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


class Adapters(KerasModel):
    """Saves its last layer alone."""

    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        weight_file.write_weights(self.net[-1].state_dict(), ckpt_path)

    def load_ckpt(self, ckpt_path="checkpoint"):
        self.net[-1].load_state_dict(torch.load(ckpt_path))


@pytest.mark.parametrize("cls", [KerasModel, Adapters])
@pytest.mark.parametrize("worse", [False, True])
def test_the_file_is_written_as_soon_as_there_is_room(cls, worse, tmp_path, monkeypatch):
    class Worsens(Callback):
        def on_epoch_start(self, model):
            if worse and model.run.epoch == 3:
                with torch.no_grad():
                    model.net[-1].weight.add_(9.0)

    path, one = tmp_path / "best.pt", model(cls)
    full = Full(monkeypatch, OSError(errno.ENOSPC, "No space left on device"), end=3)
    with pytest.warns(RuntimeWarning, match="No space left"):
        fit(one, path, callbacks=[full, Worsens()])
    assert one.run.monitor.best_epoch == (2 if worse else 4)
    inner = one.net[-1].state_dict() if cls is Adapters else one.net.state_dict()
    assert all(torch.equal(value, torch.load(path)[name]) for name, value in inner.items())
    assert one.evaluate(DATA)["val_loss"] == one.run.monitor.best
    assert "could be written" in " ".join(one.run.notes)


def test_a_folder_that_is_removed_in_mid_run_is_made_again(tmp_path):
    class Removes(Callback):
        def on_epoch_start(self, model):
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)

    one = model()
    fit(one, tmp_path / "runs" / "best.pt", callbacks=[Removes()])
    assert holds(tmp_path / "runs" / "best.pt", one)


def test_a_folder_that_became_a_file_is_told(tmp_path):
    class Removes(Callback):
        def on_epoch_start(self, model):
            if model.run.epoch == 2:
                shutil.rmtree(tmp_path / "runs")
                (tmp_path / "runs").write_text("")

    with pytest.warns(RuntimeWarning) as warned:
        history = fit(model(), tmp_path / "runs" / "best.pt", callbacks=[Removes()])
    assert "could not be written" in str(warned[0].message)
    assert len(history) == 4


def test_an_error_of_a_models_own_save_ckpt_that_is_none_of_the_disk_still_ends_the_run(tmp_path):
    class Wrong(KerasModel):
        def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
            raise AttributeError("a mistake")

    with pytest.raises(AttributeError, match="a mistake"):
        fit(model(Wrong), tmp_path / "best.pt")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_disk_that_fills_up_under_the_best_file():
    assert places.full_under_best(2)["right"]


# files that were spoiled while the run was stopped


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    at = content.find(torch.load(path)["0.bias"].numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace(path):
    torch.save({name: value + 1 for name, value in torch.load(path).items()}, path)


@pytest.mark.parametrize("spoil", [cut, flip, replace, os.unlink, lambda path: path.write_bytes(b"")],
                         ids=["cut", "a bit", "replaced", "gone", "empty"])
@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_best_file_that_was_spoiled_is_written_again_when_the_run_goes_on(spoil, name, tmp_path):
    if name.endswith("safetensors") and spoil in (flip, replace):
        pytest.skip("these are written for torch's format")
    path, one = tmp_path / name, model()
    fit(one, path, save_every="epoch")
    whole = {key: value.clone() for key, value in weight_file.read_weights(path).items()}
    spoil(path)
    other = model(lr=1e-9)
    fit(other, path, resume=True)
    again = weight_file.read_weights(path)
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    assert "written again" in " ".join(other.run.notes)


def test_a_best_file_that_is_sound_is_left_alone(tmp_path):
    path = tmp_path / "best.pt"
    fit(model(), path, save_every="epoch")
    before = path.stat()
    other = model()
    fit(other, path, resume=True)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "written again" not in " ".join(other.run.notes)


# temporary files


def dead():
    """The number of a process that is gone."""
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True,
                              check=True).stdout)


@pytest.mark.parametrize("error", [RuntimeError("a crash"), KeyboardInterrupt(), SystemExit(1), OSError("full")])
def test_a_write_that_is_broken_off_leaves_nothing(error, tmp_path):
    def write(path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        weight_file.write_atomically(tmp_path / "best.pt", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_cleared_by_the_next_writer(tmp_path):
    def killed():
        weight_file.write_atomically(tmp_path / "best.pt", lambda path: (path.write_bytes(b"half"), os.kill(os.getpid(), 9)))

    assert kills.ended(kills.child(killed)) == -9
    assert len(list(tmp_path.iterdir())) == 1  # control
    model().save_ckpt(tmp_path / "best.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_where_processes_cannot_be_asked_for_what_is_a_day_old_is_cleared(monkeypatch, tmp_path):
    monkeypatch.setattr(leftover, "process_exists", lambda number: None)  # as on Windows
    for name, age in (("old", 2 * leftover.DAY), ("new", 60)):
        left = tmp_path / f".best.pt.{dead()}-{leftover.machine_id()}-{name.encode().hex()}00.tmp"
        left.write_text(name)
        os.utime(left, (time.time() - age,) * 2)
    leftover.remove_abandoned(tmp_path, ".best.pt.", ".tmp", aged=True)
    assert [left.read_text() for left in tmp_path.iterdir()] == ["new"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    gone, mark, day = dead(), leftover.machine_id(), time.time() - 2 * leftover.DAY
    stay = [f".best.pt.{os.getppid()}-{mark}-00000000.tmp",  # at work
            f".best.pt.{gone}-00000000-00000000.tmp",  # of another machine
            f".best.pt.{gone}-00000000.tmp",  # of nobody knows which
            f".other.pt.{gone}-{mark}-00000000.tmp", ".best.pt.tmp", f"best.pt.{gone}-{mark}-00000000.tmp"]
    go = [f".best.pt.{gone}-{mark}-00000001.tmp", f".best.pt.{gone}-00000000-00000002.tmp",
          f".best.pt.{gone}-00000003.tmp"]
    for name in stay + go:
        (tmp_path / name).write_text("")
    for name in go[1:]:
        os.utime(tmp_path / name, (day, day))
    model().save_ckpt(tmp_path / "best.pt")
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "best.pt"}


def test_the_folder_of_a_job_that_was_killed_is_cleared(tmp_path):
    gone = tmp_path / f"torchkeras-{dead()}-{leftover.machine_id()}-00000000-abcd1234"
    mine = tmp_path / f"torchkeras-{os.getpid()}-{leftover.machine_id()}-00000000-abcd1234"
    for folder in (gone, mine, tmp_path / "torchkeras-mine"):
        folder.mkdir()
        (folder / "job").write_text("")
    leftover.remove_abandoned(Path(tmp_path), "torchkeras-")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, "torchkeras-mine"}


