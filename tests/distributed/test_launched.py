"""fit_ddp and evaluate_ddp: started from a script or a notebook, with everything back where it belongs."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.core.stop import ProcessFailed
from torchkeras.distributed import job_folder

X = torch.randn(53, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)


class Remember(Callback):
    def __init__(self):
        self.seen, self.lock = [], None

    def on_fit_start(self, model):
        self.lock = threading.Lock()  # cannot be sent back

    def on_validation_epoch_end(self, model):
        self.seen.append(model.history.last("val_loss"))


class Failure(Exception):
    pass


class Fail(Callback):
    def on_validation_epoch_end(self, model):
        if model.run.communicator.rank == 1:
            raise Failure("in the second")


class Die(Callback):
    def __init__(self, rank):
        self.rank = rank

    def on_validation_epoch_end(self, model):
        if model.run.communicator.rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


def model_of(net=None):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) if net is None else net
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    return KerasModel(net, "mse", {"mae": "mae"}, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))


def fitted(how, **options):
    model, callback = model_of(), Remember()
    torch.manual_seed(2)
    history = getattr(model, how)(*([2] if how == "fit_ddp" else []), (X, Y), (X[:9], Y[:9]), epochs=4, batch_size=8,
                                  quiet=True, cpu=True, callbacks=[callback], **options)
    return model, callback, history, torch.rand(3)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return (fitted("fit", ckpt_path=folder / "one.pt"), fitted("fit_ddp", ckpt_path=folder / "two.pt"), folder)


class Scaled(nn.Module):
    """A loss with a weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((1,), dtype=torch.float64))

    def forward(self, preds, labels):
        return nn.functional.mse_loss(preds * self.scale, labels)


class Thaw(Callback):
    def on_epoch_start(self, model):
        if model.run.epoch == 2:
            model.net[0].bias.requires_grad_(True)
            model.optimizer["net"].add_param_group({"params": [model.net[0].bias], "lr": 0.03})


def test_all_that_learns_comes_back():
    left = []
    for how, first in (("fit", ()), ("fit_ddp", (2,))):
        torch.manual_seed(1)
        net, loss_fn = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double(), Scaled()
        net[0].bias.requires_grad_(False)
        optimizers = {"net": torch.optim.Adam([net[0].weight, *net[2].parameters()], lr=0.01),
                      "loss": torch.optim.SGD(loss_fn.parameters(), lr=0.1, momentum=0.9)}
        schedules = [torch.optim.lr_scheduler.StepLR(one, 1, 0.5) for one in optimizers.values()]
        model = KerasModel(net, loss_fn, optimizer=optimizers, lr_scheduler=schedules)
        getattr(model, how)(*first, (X.double(), Y.double()), epochs=3, batch_size=8, shuffle=False, quiet=True,
                            cpu=True, ckpt_path=None, callbacks=[Thaw()])
        moments = [value for one in optimizers.values() for state in one.state.values() for value in state.values()]
        rates = [float(group["lr"]) for one in optimizers.values() for group in one.param_groups]
        left.append([*net.parameters(), *loss_fn.parameters(), *moments, torch.tensor(rates)])
    assert len(left[0]) == len(left[1]) == 5 + 12 + 1 + 1
    for one, two in zip(*left, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=1e-10, atol=1e-12)
    assert left[0][4].item() != 1.0  # control: the loss has learned


def test_fit_ddp_gives_the_history_of_fit(both):
    (_, _, one, _), (model, _, two, _), _ = both
    assert list(one.columns) == list(two.columns)
    torch.testing.assert_close(torch.tensor(two.to_numpy()), torch.tensor(one.to_numpy()), rtol=1e-5, atol=1e-6)
    assert model.history["val_loss"] == two["val_loss"].tolist()
    assert not model.active


def test_fit_ddp_leaves_best_weights_optimizer_and_schedule_in_the_caller(both):
    (one, *_), (two, *_), _ = both
    for mine, other in zip(one.net.parameters(), two.net.parameters(), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-5)
    assert two.lr_scheduler.state_dict()["last_epoch"] == one.lr_scheduler.state_dict()["last_epoch"] == 4
    states = zip(one.optimizer.state.values(), two.optimizer.state.values(), strict=True)
    assert all(other["step"] == mine["step"] > 0 for mine, other in states)
    untrained = model_of().net
    assert not torch.allclose(untrained[0].weight, two.net[0].weight, atol=1e-4)


def test_fit_ddp_writes_one_file_of_weights(both):
    _, (two, *_), folder = both
    written = torch.load(folder / "two.pt", weights_only=True)
    assert all(torch.equal(value, two.net.state_dict()[name]) for name, value in written.items())


def test_what_a_callback_remembers_comes_back_but_for_what_cannot(both):
    _, (_, callback, history, _), _ = both
    assert callback.seen == history["val_loss"].tolist()
    assert callback.lock is None


def test_random_numbers_go_on_as_after_fit(both):
    (*_, one), (*_, two), _ = both
    assert torch.equal(one, two)


def test_evaluate_ddp_gives_the_numbers_of_evaluate():
    model = model_of()
    one, two = model.evaluate((X, Y), batch_size=5), model.evaluate_ddp(2, (X, Y), batch_size=5, cpu=True)
    assert two == pytest.approx(one, rel=1e-6)


def test_the_users_own_error_arrives_with_the_place_where_it_arose():
    model = model_of()
    before = copy.deepcopy(model.net.state_dict())
    with pytest.raises(Failure, match="in the second") as found:
        model.fit_ddp(2, (X, Y), epochs=2, ckpt_path=None, quiet=True, cpu=True, callbacks=[Fail()])
    note = "\n".join(found.value.__notes__)
    assert "In process 1 of 2" in note
    assert "test_launched.py" in note
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


def test_a_process_that_is_killed_is_reported():
    for rank in (0, 1):
        with pytest.raises(ProcessFailed, match=f"process {rank} of 2 ended with exit code -9"):
            model_of().fit_ddp(2, (X, Y), epochs=2, ckpt_path=None, quiet=True, cpu=True, callbacks=[Die(rank)])


LOCK = threading.Lock()


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
        self.lock = LOCK


class LockedData(torch.utils.data.Dataset):
    def __init__(self):
        self.lock = LOCK

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index], Y[index]


@pytest.mark.parametrize(("make", "data", "named"), [
    (lambda: model_of(Locked()), (X, Y), "net"),
    (lambda: KerasModel(nn.Linear(4, 1), lambda preds, labels: preds.mean() if LOCK else labels), (X, Y), "loss_fn"),
    (model_of, LockedData(), "train_data"),
])
def test_what_cannot_be_sent_is_named(make, data, named):
    with pytest.raises(TypeError, match=rf"^{named}: received .* that cannot be sent to another process"):
        make().fit_ddp(2, data, epochs=1, ckpt_path=None, quiet=True, cpu=True)


@pytest.mark.parametrize(("arguments", "error"), [
    ((0, (X, Y)), "num_processes: received 0"),
    ((2, (X, Y[:5])), "train_data: received"),
    ((2, (X, Y), None, -1), "epochs: received -1"),
])
def test_bad_arguments_are_refused_before_a_process_is_started(arguments, error, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises((ValueError, TypeError), match=error):
        model_of().fit_ddp(*arguments, ckpt_path=None)


SCRIPT = textwrap.dedent("""
    import os, sys, time, torch
    from torch import nn
    from torchkeras import Callback, KerasModel
    from beside import Squares  # a file of the user's own

    class Net(nn.Module):  # defined in the script itself, which has no __main__ guard
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return self.layer(x)

    class Slow(Callback):
        def on_step_end(self, model):
            time.sleep(0.05)
            if model.run.global_step == 5 and model.run.communicator.is_main_process:
                with open("started", "w") as file:
                    file.write("yes")

    x = torch.randn(4000, 4)
    model = KerasModel(Net(), Squares())
    history = model.fit_ddp(2, (x, x[:, :1]), epochs=1000, ckpt_path="best", cpu=True, callbacks=[Slow()], resume=True)
    print("ended:", history.attrs["stop_reason"])
""")


BESIDE = """
from torch import nn

class Squares(nn.Module):
    def forward(self, preds, labels):
        return (preds - labels).square().mean()
"""


@pytest.fixture
def script(tmp_path):
    for folder in ("scripts", "tmp"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "scripts" / "script.py"
    path.write_text(SCRIPT)
    (path.parent / "beside.py").write_text(BESIDE)
    (tmp_path / "numbers.py").write_text("raise ImportError('not the numbers of Python')")  # in the current folder
    process = subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1",
                                                                    "TMPDIR": str(tmp_path / "tmp")})
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def children_of(process) -> list[int]:
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(child) for child in file.read().split()]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], within: float = 15.0) -> bool:
    end = time.monotonic() + within
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def jobs_in(folder) -> list[str]:
    """The folders of jobs; torch's compiler, which a run tries, keeps a cache of its own there."""
    return [name for name in os.listdir(folder) if name.startswith("torchkeras-job-")]


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux, whose /proc lists processes")


@needs_proc
def test_ctrl_c_in_the_caller_ends_all_in_good_order(script):
    workers = children_of(script)
    script.send_signal(signal.SIGINT)
    printed = script.communicate(timeout=30)[0]
    assert script.returncode == 0, printed
    assert "ended: interrupted by Ctrl-C" in printed
    assert "cpu is used" in printed  # the first process's display, once
    assert printed.count("cpu is used") == 1
    assert len(workers) == 2
    assert gone(workers)


@needs_proc
def test_sigterm_to_the_caller_saves_the_state_and_ends_all_with_143(script, tmp_path):
    workers = children_of(script)
    script.send_signal(signal.SIGTERM)
    printed = script.communicate(timeout=30)[0]
    assert script.returncode == 143, printed
    assert "ended:" not in printed
    assert gone(workers)
    assert any(one.name.isdigit() for one in (tmp_path / "best.state").iterdir())
    assert jobs_in(tmp_path / "tmp") == []


@needs_proc
def test_no_process_and_no_file_survives_a_caller_that_was_killed(script, tmp_path):
    workers = children_of(script)
    assert len(workers) == 2
    assert len(jobs_in(tmp_path / "tmp")) == 1
    script.kill()
    assert gone(workers)
    assert jobs_in(tmp_path / "tmp") == []


class NoRoom(Callback):
    """A file takes the place of the folder, in the process that writes."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_start(self, model):
        if model.run.communicator.is_main_process and model.run.epoch == 1:
            shutil.rmtree(self.folder)
            self.folder.write_text("")


def test_a_disk_that_does_not_take_the_best_file_ends_no_process_and_is_told_in_the_caller(tmp_path):
    path = tmp_path / "runs" / "best.pt"
    model = model_of()
    model.save_ckpt(path)
    before = model.evaluate((X[:9], Y[:9]))["val_loss"]
    with pytest.warns(RuntimeWarning, match="the best weights are not in"):
        history = model.fit_ddp(2, (X, Y), (X[:9], Y[:9]), epochs=2, ckpt_path=path, quiet=True, cpu=True,
                                callbacks=[NoRoom(path.parent)])
    assert len(history) == 2
    assert model.run.monitor.best < before  # control: there was something to write
    assert f"have val_loss {before:.6g}" in " ".join(model.run.notes)
    assert model.evaluate((X[:9], Y[:9]))["val_loss"] == pytest.approx(model.run.monitor.best)


def test_after_fit_ddp_the_model_knows_the_file_that_it_has_written(both):
    (_, (model, *_), folder), path = both, both[2] / "two.pt"
    before = path.read_bytes()
    with torch.no_grad():
        for weight in model.net.parameters():
            weight.add_(3.0)
    model.optimizer.param_groups[0]["lr"] = 1e-9
    model.fit((X, Y), (X[:9], Y[:9]), epochs=1, ckpt_path=path, quiet=True, cpu=True)
    assert path.read_bytes() == before
    assert folder == path.parent


def test_what_killed_callers_left_is_removed_by_the_next_and_what_is_in_use_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(job_folder.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "torchkeras-job-left").mkdir()
    for name in ("job", "lock"):
        (tmp_path / "torchkeras-job-left" / name).write_text("")
    (tmp_path / "torchkeras-job-left").chmod(0o700)
    with job_folder.job_folder() as one:
        assert os.listdir(tmp_path) == [one.name]
        (one / "job").write_text("")
        with job_folder.job_folder() as other:
            assert sorted(os.listdir(tmp_path)) == sorted([one.name, other.name])
    assert os.listdir(tmp_path) == []
