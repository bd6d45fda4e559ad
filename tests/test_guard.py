"""The guard around every test can fail."""

import os
import signal
import threading

import pytest
import torch

from tests.conftest import changes, footprint


def test_the_guard_sees_what_a_test_leaves_behind(monkeypatch, tmp_path):
    before, release = footprint(), threading.Event()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    thread = threading.Thread(target=release.wait)
    thread.start()
    monkeypatch.setenv("LEFT_BEHIND", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float64)
    found = [change.split(":")[0] for change in changes(before, footprint())]
    torch.set_default_dtype(torch.float32)
    signal.signal(signal.SIGINT, handler)
    release.set()
    thread.join()
    monkeypatch.undo()
    assert found == ["threads", "environment", "Ctrl-C", "folder", "dtype"]
    assert changes(before, footprint()) == []


@pytest.mark.parametrize("file", ["left_behind.txt"])
def test_the_guard_sees_files(file):
    from tests.conftest import ROOT

    before = footprint()
    (ROOT / file).touch()
    found = changes(before, footprint())
    os.remove(ROOT / file)
    assert len(found) == 1
    assert file in found[0]
