"""The guard around every test can fail."""

import os
import signal
import subprocess
import threading
import time

import pytest
import torch

from tests.conftest import ROOT, changes, footprint, lasting_changes


def names(found):
    return [change.split(":")[0] for change in found]


def leave_thread():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    return lambda: (release.set(), thread.join())


def leave_child():
    child = subprocess.Popen(["sleep", "60"])
    return lambda: (child.kill(), child.wait())


def leave_variable():
    os.environ["LEFT_BEHIND"] = "1"
    return lambda: os.environ.pop("LEFT_BEHIND")


def leave_handler():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGINT, before)


def leave_dtype():
    torch.set_default_dtype(torch.float64)
    return lambda: torch.set_default_dtype(torch.float32)


def leave_grad():
    torch.set_grad_enabled(False)
    return lambda: torch.set_grad_enabled(True)


def leave_torch_threads():
    torch.set_num_threads(2)
    return lambda: torch.set_num_threads(1)


def leave_file():
    (ROOT / "left_behind.txt").touch()
    return lambda: (ROOT / "left_behind.txt").unlink()


@pytest.mark.parametrize(("leave", "name"), [
    (leave_thread, "threads"), (leave_child, "children"), (leave_variable, "environment"), (leave_handler, "handlers"),
    (leave_dtype, "dtype"), (leave_grad, "grad"), (leave_torch_threads, "torch threads"), (leave_file, "files")])
def test_the_guard_sees_what_a_test_leaves_behind_and_nothing_once_it_is_gone(leave, name):
    before = footprint()
    clean_up = leave()
    try:
        found = changes(before, footprint())
    finally:
        clean_up()
    assert names(found) == [name]
    assert changes(before, footprint()) == []


def test_the_guard_sees_a_changed_folder(monkeypatch, tmp_path):
    before = footprint()
    monkeypatch.chdir(tmp_path)
    assert "folder" in names(changes(before, footprint()))


def test_the_guard_waits_for_a_thread_that_is_ending_and_not_for_one_that_stays():
    before, release = footprint(), threading.Event()
    ending = threading.Thread(target=time.sleep, args=(0.05,))
    ending.start()
    assert names(changes(before, footprint())) == ["threads"]
    assert lasting_changes(before) == []
    staying = threading.Thread(target=release.wait, daemon=True)
    staying.start()
    assert names(lasting_changes(before, patience=0.05)) == ["threads"]
    release.set()
    staying.join()


def test_the_guard_costs_a_test_less_than_a_millisecond():
    took = []
    for _ in range(20):
        start = time.process_time()
        changes(footprint(), footprint())
        took.append(time.process_time() - start)
    assert min(took) < 1e-3
