"""How the processes of fit_ddp find each other: on this machine alone, by a file, with nobody between them."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.distributed import launcher, rendezvous, restart, worker

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/net"), reason="needs Linux, whose /proc lists sockets")


def listening() -> list[str]:
    """The hosts on which this process listens, as the system's own list has them, in hexadecimal."""
    inodes = set()
    for one in Path("/proc/self/fd").iterdir():
        if one.exists() or one.is_symlink():
            inodes.add(os.readlink(one).removeprefix("socket:[").rstrip("]") if one.is_symlink() else "")
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                found.append(address.partition(":")[0])
    return found


class Look(Callback):
    """Writes down in each process what it is open to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_end(self, model):
        told = {"listening": listening(), "input": os.read(0, 10).decode(), "job": os.path.getsize(self.job())}
        (self.folder / f"told-{model.run.communicator.rank}").write_text(json.dumps(told))

    def job(self) -> Path:
        return rendezvous.file.with_name("job")


@needs_proc
def test_the_processes_of_a_job_listen_on_the_loopback_alone_and_have_let_go_of_the_data(tmp_path):
    with socket.create_server(("", 0)):
        assert "00000000" in listening()  # control: a port that is open to all is seen
    x = torch.randn(50_000, 4)
    KerasModel(nn.Linear(4, 1), "mse").fit_ddp(2, (x, x[:, :1]), epochs=2, batch_size=25_000, ckpt_path=None, cpu=True,
                                               quiet=True, callbacks=[Look(tmp_path)])
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in range(2)]
    assert [set(one["listening"]) for one in told] == [{"0100007F"}] * 2  # 127.0.0.1
    assert [one["input"] for one in told] == ["", ""]
    assert [one["job"] for one in told] == [0, 0]


class Store(dict):
    """What two processes write down, without processes: the other has said what it knows."""

    def set(self, key, value):
        self[key] = value

    def get(self, key):
        return self[key]


@pytest.mark.skipif(not rendezvous.DESCRIPTORS.is_dir(), reason="the system does not list what a process has open")
def test_a_connection_that_no_process_of_the_job_made_is_found(monkeypatch):
    before = rendezvous.listeners()
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = rendezvous.listeners() - before
        assert own == {server.getsockname()}
        with socket.create_connection(server.getsockname()) as there, server.accept()[0] as here:
            mine = [(here.getsockname(), here.getpeername())]  # this process has the other end of it, too
            assert mine[0] in rendezvous.connections()
            assert mine[0][::-1] in rendezvous.connections()
            monkeypatch.setattr(rendezvous, "connections", lambda: mine)
            known = Store({"connections/1": json.dumps([mine[0][::-1]]), "strangers/1": "[]"})
            assert rendezvous.strangers(known, 0, 2, own) == []
            unknown = Store({"connections/1": "[]", "strangers/1": "[]"})
            assert rendezvous.strangers(unknown, 0, 2, own) == [list(there.getsockname())]
            elsewhere = Store({"connections/1": "[]", "strangers/1": '[["127.0.0.1", 5]]'})
            assert rendezvous.strangers(elsewhere, 0, 2, set()) == [["127.0.0.1", 5]]  # what one finds, all know
    assert rendezvous.listeners() == before


@pytest.fixture
def environment(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TORCH_GLOO_LAZY_INIT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("there", rendezvous.LOOPBACKS)
def test_gloo_and_nccl_get_the_loopback_device_by_the_name_that_it_has(there, environment):
    def create_device(interface):
        if interface != there:
            raise RuntimeError("no such device")

    environment.setattr(torch.distributed, "ProcessGroupGloo", SimpleNamespace(create_device=create_device))
    rendezvous.stay_on_this_machine()
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == there


def test_a_device_that_the_user_chose_stays_chosen(environment):
    environment.setenv("GLOO_SOCKET_IFNAME", "eth7")
    rendezvous.stay_on_this_machine()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "NCCL_SOCKET_IFNAME" not in os.environ


def test_where_no_loopback_device_is_known_torch_chooses(environment):
    environment.setattr(rendezvous, "LOOPBACKS", ("nowhere0",))
    rendezvous.stay_on_this_machine()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_outside_of_a_job_nobody_is_met(monkeypatch):
    monkeypatch.setattr(torch.distributed, "FileStore", lambda *a: pytest.fail("a file was opened"))
    rendezvous.meet("gloo")


@pytest.mark.parametrize(("system", "asked", "libuv"), [("posix", None, True), ("posix", "0", False),
                                                        ("nt", None, False), ("nt", "1", False)])
def test_libuv_is_asked_for_only_where_torch_has_it(system, asked, libuv, monkeypatch):
    monkeypatch.setattr(restart, "os", SimpleNamespace(name=system, environ={
        "TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "here",
        "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1", **({"USE_LIBUV": asked} if asked else {})}))
    found = []
    monkeypatch.setattr(torch.distributed, "TCPStore", lambda *a, **options: found.append(options["use_libuv"]))
    monkeypatch.setattr(torch.distributed, "PrefixStore", lambda *a: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: None)
    restart.join_attempt("gloo")
    assert found == [libuv]


class Told:
    """A process that only hears signals."""

    def __init__(self, code=None):
        self.code, self.heard = code, []

    def poll(self):
        return self.code

    def send_signal(self, number):
        self.heard.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("windows", [False, True])
def test_windows_is_sent_ctrl_break_and_every_other_system_the_signal_itself(windows, number, monkeypatch):
    monkeypatch.setattr(launcher, "WINDOWS", windows)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1234, raising=False)
    workers, sent = [Told(), Told()], set()
    launcher.pass_on(number, workers, sent)
    assert [one.heard for one in workers] == [[1234 if windows else number], []]
    assert sent == {number}


def test_windows_gets_a_group_of_its_own_by_the_flag_that_it_has(monkeypatch):
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    assert launcher.own_group() == {"start_new_session": True}
    monkeypatch.setattr(launcher, "WINDOWS", True)
    assert launcher.own_group() == {"creationflags": 512}
    assert launcher.environment(0, 2)["USE_LIBUV"] == "0"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal stands in for Windows's")
def test_ctrl_break_is_heard_as_ctrl_c_by_whoever_listens_at_that_moment(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)
    heard = []
    try:
        worker.hear_break()
        signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))  # as a run does later
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert heard == [signal.SIGINT]
