"""What fit_ddp's processes leave behind and say, however they end: no file, no process, every line."""

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from torchkeras.core.rng import random_states
from torchkeras.distributed import job_folder, launcher, worker

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux, whose /proc lists processes")
SCRIPT = textwrap.dedent("""
    import os, sys, time, torch
    from torchkeras.distributed import launcher
    from torchkeras.core.rng import random_states

    def work(data):
        open(os.path.join("begun", os.environ["RANK"]), "w").close()
        time.sleep(100)

    data = torch.zeros(500_000)
    launcher.run(2, {"work": work, "arguments": {"data": data}, "dtype": torch.float32, "random": random_states()})
""")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true, within=60.0) -> bool:
    end = time.monotonic() + within
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def data_in(folder: Path) -> int:
    """Bytes of all files."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


@needs_proc
@pytest.mark.parametrize(("killed", "left"), [
    (["caller", 0], False), (["caller", 0, 1], True), (["caller early"], False)], ids=str)
def test_nothing_is_left_whoever_is_killed(killed, left, tmp_path, monkeypatch):
    for name in ("begun", "tmp"):
        (tmp_path / name).mkdir()
    caller = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=tmp_path, stderr=subprocess.DEVNULL, env={
        **os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"})
    try:
        if killed == ["caller early"]:
            assert until(lambda: len(children_of(caller.pid)) == 2)
        else:
            assert until(lambda: len(os.listdir(tmp_path / "begun")) == 2)
            assert until(lambda: data_in(tmp_path / "tmp") < 100_000)  # the data are let go of as soon as all have them
        workers = children_of(caller.pid)
        who = [caller.pid if isinstance(one, str) else workers[one] for one in killed]
        if len(who) == 3:  # stopped first, so that none of them sees another end
            for pid in who:
                os.kill(pid, signal.SIGSTOP)
        for pid in who:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: not any(map(alive, [caller.pid, *workers])))
        if left:
            assert data_in(tmp_path / "tmp") < 1000
            monkeypatch.setattr(job_folder.tempfile, "tempdir", str(tmp_path / "tmp"))
        # the system may take a moment to let go of the lock of a process that is gone
        assert until(lambda: (left and job_folder.clear()) or os.listdir(tmp_path / "tmp") == [])
    finally:
        caller.kill()
        caller.wait()


def test_the_data_stay_until_every_process_has_them(tmp_path):
    (tmp_path / "job").write_text("data")
    job_folder.tell_mapped(tmp_path, 0)
    assert not job_folder.let_go(tmp_path, 2)
    assert (tmp_path / "job").read_text() == "data"
    job_folder.tell_mapped(tmp_path, 1)
    assert job_folder.let_go(tmp_path, 2)
    assert (tmp_path / "job").read_text() == ""


def test_where_a_file_in_use_cannot_be_replaced_it_stays_to_the_end(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(errno.EACCES, "in use")

    (tmp_path / "job").write_text("data")
    job_folder.tell_mapped(tmp_path, 0)
    monkeypatch.setattr(os, "replace", refuse)  # as Windows does
    assert job_folder.let_go(tmp_path, 1)
    assert (tmp_path / "job").read_text() == "data"


def test_a_folder_is_removed_by_several_at_once_under_whatever_name_it_has(tmp_path):
    folder = tmp_path / "torchkeras-job-x"
    folder.mkdir()
    (folder / "file").touch()
    (tmp_path / "torchkeras-job-x-77").mkdir()  # another process was killed as it removed it
    job_folder.remove(folder)
    job_folder.remove(folder)
    assert os.listdir(tmp_path) == []


def test_data_for_which_there_is_no_room_are_refused_before_any_is_written(tmp_path, monkeypatch):
    parts = {"data": torch.zeros(1000), "same": None, "words": "x" * 500}
    parts["same"] = parts["data"][5:]  # one storage
    assert 4500 < job_folder.size_of(parts) < 5500
    monkeypatch.setattr(job_folder.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4000))
    with pytest.raises(ValueError, match=r"^TMPDIR: received .*0\.000 GB free; expected 0\.000 GB.*larger disk"):
        job_folder.check_room(parts, tmp_path)
    monkeypatch.setattr(job_folder.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    job_folder.check_room(parts, tmp_path)


def test_what_cannot_be_sent_is_not_counted_but_named_when_it_is_sent():
    assert job_folder.size_of({"lock": (one for one in ())}) == 0


class Refuses(io.StringIO):
    """An output that fails now and then."""

    encoding = "ascii"

    def write(self, text):
        text.encode("ascii")
        if "refused" in text:
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.parametrize("said", ["第一轮\n".encode("gbk") + b"then\n", b"\xff\nthen\n",
                                  "é\n".encode() + b"refused\nthen", b""])
def test_every_line_is_read_and_what_can_be_is_shown(said, monkeypatch):
    out, pipe = Refuses(), io.BytesIO(said)
    monkeypatch.setattr(sys, "stdout", out)
    launcher.forward(SimpleNamespace(stdout=pipe))
    readable = said.decode("utf-8", "replace").encode("ascii", "replace").decode()
    assert out.getvalue() == readable.replace("refused\n", "")
    assert pipe.closed


@pytest.mark.parametrize("out", [None, SimpleNamespace(), io.TextIOWrapper(io.BytesIO())],
                         ids=["none", "no file", "closed"])
def test_an_output_that_takes_nothing_ends_no_job(out, monkeypatch):
    if hasattr(out, "close"):
        out.close()
    monkeypatch.setattr(sys, "stdout", out)
    pipe = io.BytesIO(b"line\n" * 1000)
    launcher.forward(SimpleNamespace(stdout=pipe))
    assert pipe.closed


def speak():
    """What a process may say that no caller expects."""
    print("第一轮 \ud800")
    sys.stdout.flush()
    os.write(1, b"\xff\xfe\n" * 3)
    print("stdin", repr(sys.stdin.read()))
    sys.stderr.write("最后")
    return {"said": True}


@pytest.mark.parametrize("names", [{"PYTHONIOENCODING": "gbk"}, {"LC_ALL": "C", "PYTHONUTF8": "0",
                                                                 "PYTHONCOERCECLOCALE": "0"}], ids=["gbk", "C"])
def test_a_job_speaks_utf8_whatever_the_language_of_the_system(names, capfd, monkeypatch):
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    parts = {"work": speak, "arguments": {}, "dtype": torch.float32, "random": random_states()}
    assert launcher.run(1, parts)["said"]
    assert out.getvalue().splitlines() == ["第一轮 ?", *["��"] * 3, "stdin ''"]


def test_a_pipe_from_the_caller_tells_of_its_end_and_leaves_an_empty_standard_input():
    code = ("import os, sys; from torchkeras.distributed import worker; pipe = worker.pipe_from_caller(); "
            "print(repr(sys.stdin.read()), os.get_inheritable(pipe), flush=True); print(os.read(pipe, 1), flush=True)")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "'' False\n"
    process.stdin.close()
    assert process.stdout.readline() == "b''\n"
    process.wait()
    process.stdout.close()


def test_a_process_ends_when_its_caller_is_gone_and_not_before(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(worker, "remove", ended.append)
    here, there = os.pipe()
    os.write(there, b"xx")  # whatever comes is no end
    os.close(there)
    worker.follow(here, tmp_path)
    os.close(here)
    assert ended == [tmp_path, 1]
