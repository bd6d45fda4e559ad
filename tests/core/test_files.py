"""Files that another program holds for a moment or for ever, what reaches the disk, and what is removed."""

import errno
import io
import os
import stat
import types

import pytest
import torch

from torchkeras.checkpoint.weight_file import write_atomically, write_torch
from torchkeras.core import files

REFUSED = PermissionError(errno.EACCES, "Permission denied")


class Clock:
    """Counts the seconds that are slept in place of sleeping."""

    def __init__(self, monkeypatch):
        self.slept = 0.0
        monkeypatch.setattr(files, "time", types.SimpleNamespace(sleep=self.sleep))
        monkeypatch.setattr(files, "waited_for", set())

    def sleep(self, seconds):
        self.slept += seconds


class Held:
    """A function of os that another program makes fail until a time of the clock."""

    def __init__(self, monkeypatch, name, clock, until, error=REFUSED):
        self.real, self.clock, self.until, self.error, self.calls = getattr(os, name), clock, until, error, 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.clock.slept < self.until:
            raise self.error
        return self.real(*args, **kwargs)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def sharing_violation():
    error = OSError(errno.EINVAL, "The requested operation cannot be performed")
    error.winerror = 1224
    return error


@pytest.mark.parametrize("error", [REFUSED, OSError(errno.EBUSY, "busy"), sharing_violation()], ids=repr)
@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_a_file_that_is_held_for_a_moment_is_written(seconds, error, clock, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    Held(monkeypatch, "replace", clock, seconds, error)
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "a.txt").read_text() == "new"
    assert seconds <= clock.slept <= files.PATIENCE
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_that_stays_held_is_waited_for_once_until_it_gives_way(clock, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    held = Held(monkeypatch, "replace", clock, until=99)
    for _ in range(5):
        with pytest.raises(PermissionError):
            write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
        assert clock.slept == pytest.approx(files.PATIENCE)
        assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
    held.until = 0
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    held.until = 99
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text("newer"))
    assert clock.slept == pytest.approx(2 * files.PATIENCE)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_is_full_or_broken_is_not_waited_for(number, clock, monkeypatch, tmp_path):
    Held(monkeypatch, "replace", clock, 99, OSError(number, os.strerror(number)))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert clock.slept == 0
    assert os.listdir(tmp_path) == []


def test_ctrl_c_while_a_file_is_waited_for_leaves_the_old_one_and_nothing_beside_it(clock, monkeypatch, tmp_path):
    def pressed(seconds):
        raise KeyboardInterrupt

    (tmp_path / "a.txt").write_text("old")
    Held(monkeypatch, "replace", clock, 99)
    monkeypatch.setattr(files, "time", types.SimpleNamespace(sleep=pressed))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_scanner_that_looks_at_the_new_file_before_it_is_flushed_is_waited_for(clock, monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("new")
    Held(monkeypatch, "open", clock, until=0.5)
    files.flush_to_disk(tmp_path / "a.txt")
    assert clock.slept >= 0.5


@pytest.mark.parametrize(("answer", "expected"), [
    (0, [51]), (errno.ENOTSUP, [51, "fsync"]), (errno.ENOTTY, [51, "fsync"]), (errno.EIO, [51])])
def test_a_flush_that_reaches_the_disk_is_used_where_there_is_one(
        answer, expected, monkeypatch, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    done = []

    def full(descriptor, command):
        done.append(command)
        if answer:
            raise OSError(answer, "no")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("fsync"))
    (tmp_path / "a").write_text("x")
    if answer == errno.EIO:
        with pytest.raises(OSError, match="no"):
            files.flush_to_disk(tmp_path / "a")
    else:
        files.flush_to_disk(tmp_path / "a")
    assert done == expected


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_flushes_no_folders_is_left_alone_but_not_a_broken_disk(number, monkeypatch, tmp_path):
    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no")

    monkeypatch.setattr(files, "flush", refuse)
    if number == errno.EINVAL:
        write_atomically(tmp_path / "a", lambda path: path.write_text("x"))
    else:
        with pytest.raises(OSError, match="no"):
            write_atomically(tmp_path / "a", lambda path: path.write_text("x"))


def state(folder):
    folder.mkdir()
    for name in ("MANIFEST", "a.bin", "z.bin"):
        (folder / name).write_text(name)
    return folder


def test_a_tree_is_removed_and_what_its_links_lead_to_stays(tmp_path):
    outside = state(tmp_path / "outside")
    inside = state(tmp_path / "inside")
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "a.bin")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    (inside / "deep").mkdir()
    (inside / "deep" / "broken").symlink_to("nowhere")
    files.remove_tree(inside, first="MANIFEST")
    assert not inside.exists()
    assert len(os.listdir(outside)) == 3


@pytest.mark.parametrize("make", [lambda path, outside: path.symlink_to(outside), lambda path, outside: os.mkfifo(path),
                                  lambda path, outside: path.write_text("x")], ids=["link", "pipe", "file"])
def test_what_is_no_folder_is_unlinked(make, tmp_path):
    outside = state(tmp_path / "outside")
    make(tmp_path / "one", outside)
    files.remove_tree(tmp_path / "one", first="MANIFEST")
    assert os.listdir(tmp_path) == ["outside"]
    assert len(os.listdir(outside)) == 3


def refusing(name, monkeypatch):
    real = os.unlink

    def unlink(path, *args, **kwargs):
        if os.path.basename(path) == name:
            raise REFUSED
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", unlink)


def test_a_file_that_is_held_keeps_its_folder_but_the_mark_of_a_whole_one_is_gone(clock, monkeypatch, tmp_path):
    folder = state(tmp_path / "state")
    refusing("a.bin", monkeypatch)
    with pytest.raises(PermissionError):
        files.remove_tree(folder, first="MANIFEST")
    assert os.listdir(folder) == ["a.bin"]


def test_where_the_mark_cannot_go_nothing_does(clock, monkeypatch, tmp_path):
    folder = state(tmp_path / "state")
    refusing("MANIFEST", monkeypatch)
    with pytest.raises(PermissionError):
        files.remove_tree(folder, first="MANIFEST")
    assert len(os.listdir(folder)) == 3


def test_a_pipe_or_a_device_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"no file: .*pipe'"):
        write_atomically(tmp_path / "pipe", lambda path: path.write_text("x"))
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), REFUSED])
def test_an_error_of_the_disk_names_the_file_and_not_the_one_beside_it(error, clock, tmp_path):
    def refuse(path):
        raise error

    with pytest.raises(OSError, match=r"best.pt'$") as caught:
        write_atomically(tmp_path / "best.pt", refuse)
    assert caught.value.filename == str(tmp_path / "best.pt")


def test_what_torch_makes_of_a_full_disk_is_the_disks_error_again(monkeypatch, tmp_path):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "open", lambda path, mode: Full())
    with pytest.raises(OSError, match="No space left"):
        write_torch(tmp_path / "a.pt", {"a": torch.zeros(1000)})
