"""Several processes in which one wants something that the others do not know of; each tells how its run ended."""

import importlib
import json
import os
import signal
import sys
import time
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from torchkeras import Callback, KerasModel

RANK = int(os.environ.get("RANK", 0))


class Slow(Dataset):
    """Samples that take their time."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.ones(3), torch.ones(1)


class At(Callback):
    """Does something at one step, or at one moment of an epoch, in one process."""

    def __init__(self, act, step=None, moment=None, rank=1, stage="train"):
        self.act, self.step, self.moment, self.rank, self.stage = act, step, moment, rank, stage

    def maybe(self, model, moment):
        here = moment == self.moment if self.step is None else (
            moment == "step" and model.run.step == self.step and model.run.stage == self.stage)
        if here and self.rank == RANK and model.run.epoch == 2:
            self.act(model)

    def on_step_end(self, model):
        self.maybe(model, "step")

    def on_epoch_start(self, model):
        self.maybe(model, "epoch_start")

    def on_train_epoch_end(self, model):
        self.maybe(model, "train_end")

    def on_validation_epoch_end(self, model):
        self.maybe(model, "epoch_end")


class Main(At):
    main_only = True


class Bad(nn.Module):
    """A loss that becomes NaN in one process at one step."""

    def __init__(self, rank, step):
        super().__init__()
        self.rank, self.step, self.seen = rank, step, 0

    def forward(self, preds, labels):
        self.seen += torch.is_grad_enabled()
        loss = (preds - labels).square().mean()
        return loss * torch.nan if self.rank == RANK and self.seen == self.step else loss


def stop(model):
    model.run.stop("enough")


def send(number):
    return lambda model: os.kill(os.getpid(), number)


def fail(model):
    raise LookupError("nothing there")


x, y = np.ones((60, 3), np.float32), np.ones((60, 1), np.float32)
CASES = {
    "nothing": {},
    "stop in a step": dict(callbacks=[At(stop, step=3)]),
    "stop by the main process": dict(callbacks=[Main(stop, step=3, rank=0)]),
    "stop while measuring": dict(callbacks=[At(stop, step=2, stage="val")]),
    "stop before an epoch": dict(callbacks=[At(stop, moment="epoch_start")]),
    "stop after training": dict(callbacks=[At(stop, moment="train_end")]),
    "stop after an epoch": dict(callbacks=[At(stop, moment="epoch_end")]),
    "stop in all at one step": dict(callbacks=[At(stop, step=3, rank=0), At(stop, step=3, rank=1)]),
    "Ctrl-C": dict(callbacks=[At(send(signal.SIGINT), step=3)]),
    "NaN": dict(loss_fn=Bad(rank=1, step=13)),
    "NaN in accumulation": dict(loss_fn=Bad(rank=1, step=13), gradient_accumulation_steps=4),
    "stop in a long measuring": dict(val_data=Slow(samples=120), callbacks=[At(stop, step=2, stage="val")]),
    # of three batches one process measures two and the other one
    "stop after an uneven measuring": dict(val_data=Slow(samples=12), callbacks=[At(stop, step=3)]),
    "stop in an uneven measuring": dict(val_data=Slow(samples=12), callbacks=[At(stop, step=1, stage="val", rank=0)]),
    # these end the program
    "SIGTERM": dict(callbacks=[At(send(signal.SIGTERM), step=3)]),
    "exception": dict(callbacks=[At(fail, step=3)]),
    "exception in the main process": dict(callbacks=[Main(fail, step=3, rank=0)]),
    "exception in all": dict(callbacks=[At(fail, step=3, rank=0), At(fail, step=3, rank=1)]),
    "failure that is caught": dict(callbacks=[At(fail, step=3)]),
    "killed": dict(callbacks=[At(send(signal.SIGKILL), step=3)]),
    "killed main": dict(callbacks=[At(send(signal.SIGKILL), step=3, rank=0)]),
}


def run(loss_fn="mse", val_data=None, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    model = KerasModel(net, loss_fn, {"mae": "mae"}, torch.optim.Adam(net.parameters(), lr=0.01))
    if val_data is not None:
        val_data = torch.utils.data.DataLoader(val_data, batch_size=4)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as warned:
        warnings.filterwarnings("always", "fit: ", RuntimeWarning)
        history = model.fit((x, y), (x, y) if val_data is None else val_data, epochs=3, batch_size=6, ckpt_path=None,
                            quiet=True, **options)
    return {"warned": [str(one.message) for one in warned], "reason": history.attrs["stop_reason"],
            "epochs": history["epoch"].tolist(),
            "trained": model.run.global_step, "weights": net.weight.tolist(), "finite": all(
                torch.isfinite(state["exp_avg"]).all().item() for state in model.optimizer.state.values()),
            "seconds": time.monotonic() - began}


def told(folder, names):
    """Run some cases one after another, and write down how each ended."""
    found = {}
    try:
        for name in names:
            found[name] = run(**CASES[name])
    except BaseException as error:
        found["error"] = f"{type(error).__name__}: {error}"
        if names == ["failure that is caught"] and RANK == 1:
            time.sleep(60)  # its part in the others' gradients never comes
        raise
    finally:
        with open(f"{folder}/{RANK}.json", "w") as file:
            json.dump(found, file)


def forked(folder, port, rank):
    """Fork a process of a job; return its id, and 0 in that process, which is then as if it had been started alone."""
    if pid := os.fork():
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.dup2(os.open(f"{folder}/{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    return 0


def ended(pids, folder, names):
    """Wait for the processes of a job, which has no launcher that would end one when the other fails."""
    codes = []
    for rank, pid in enumerate(pids):
        if names == ["failure that is caught"] and rank == 1:
            os.kill(pid, signal.SIGKILL)  # it would live on
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    with open(f"{folder}/codes.json", "w") as file:
        json.dump(codes, file)


if __name__ == "__main__":
    # one process imports torch, and those of all jobs are forks of it; two jobs at a time
    importlib.import_module("torch._dynamo")  # the first optimizer does, for seconds
    torch.set_num_threads(1)
    jobs = json.loads(sys.argv[1])
    running = []
    for folder, port, *names in jobs:
        pids = []
        for RANK in range(2):
            pids.append(forked(folder, port, RANK))
            if pids[-1] == 0:
                break
        if pids[-1] == 0:
            told(folder, names)
            break
        running.append((pids, folder, names))
        if len(running) == 2:
            ended(*running.pop(0))
    else:
        for job in running:
            ended(*job)
