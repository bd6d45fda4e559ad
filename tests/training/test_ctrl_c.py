"""Ctrl-C, with real signals: once ends the run in good order, twice at once."""

import multiprocessing
import os
import signal
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import KerasModel

X = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))


class Press:
    """Presses Ctrl-C at the given training steps."""

    def __init__(self, *steps):
        self.steps, self.weights = steps, []

    def on_step_end(self, model):
        if model.run.global_step in self.steps and model.run.stage == "train":
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation_epoch_end(self, model):
        self.weights.append(model.net.weight.detach().clone())


def fit(press, data=None, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(3, 1), "mse", optimizer="sgd")
    data = (X, X[:, :1]) if data is None else data
    options = ({} if isinstance(data, DataLoader) else {"batch_size": 20}) | options
    return model, model.fit(data, epochs=9, ckpt_path=None, quiet=True, callbacks=[press], **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_press_finishes_the_step_and_gives_the_best_back(workers):
    before, press = signal.getsignal(signal.SIGINT), Press(10)
    model, history = fit(press, DataLoader(TensorDataset(X, X[:, :1]), batch_size=20, num_workers=workers))
    assert history["epoch"].tolist() == [1, 2]
    assert history.attrs["stop_reason"] == "interrupted by Ctrl-C"
    assert model.run.global_step == 10
    assert torch.equal(model.net.weight, press.weights[1])
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_that_hear_the_press_too_do_not_spoil_the_end():
    class Group(Press):
        """A terminal sends Ctrl-C to every process of its group."""

        def on_step_end(self, model):
            if model.run.global_step == 10:
                heard.extend(worker.pid for worker in multiprocessing.active_children())
                for pid in (*heard, os.getpid()):
                    os.kill(pid, signal.SIGINT)

    heard, press = [], Group()
    model, history = fit(press, DataLoader(TensorDataset(X, X[:, :1]), batch_size=20, num_workers=1))
    assert len(heard) == 1
    assert history["epoch"].tolist() == [1, 2]
    assert history.attrs["stop_reason"] == "interrupted by Ctrl-C"
    assert torch.equal(model.net.weight, press.weights[1])


class Pressed(Dataset):
    """Ctrl-C comes while a batch is waited for, in an epoch that is armed."""

    armed = False

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        if self.armed:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a spawned worker has it; a forked one, ours
            for pid in (os.getppid(), os.getpid()):
                os.kill(pid, signal.SIGINT)
        return X[index], X[index, :1]


def test_workers_that_die_of_the_press_while_a_batch_is_waited_for_end_the_run_in_good_order():
    class Arm(Press):
        def on_epoch_start(self, model):
            data.armed = model.run.epoch == 3

    data, press = Pressed(), Arm()
    model, history = fit(press, DataLoader(data, batch_size=20, num_workers=1, timeout=2))  # else 5 s
    assert history["epoch"].tolist() == [1, 2]
    assert history.attrs["stop_reason"] == "interrupted by Ctrl-C"
    assert model.run.global_step == 8
    assert torch.equal(model.net.weight, press.weights[1])


def test_a_press_in_the_first_epoch_keeps_what_was_learned():
    def start():
        torch.manual_seed(0)
        return nn.Linear(3, 1).weight

    model, history = fit(Press(2))
    assert len(history) == 0
    assert torch.equal(start(), start())
    assert not torch.equal(model.net.weight, start())
    again = model.fit((X, X[:, :1]), epochs=1, ckpt_path=None, quiet=True)  # and the notebook goes on
    assert len(again) == 1


def test_the_second_press_raises_at_once():
    class Twice(Press):
        def on_step_end(self, model):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Twice())
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_a_run_leaves_the_handler_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    class Look:
        def on_fit_start(self, model):
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=lambda: found.append(len(fit(Look())[1])))
    thread.start()
    thread.join()
    assert found == [True, 9]
    fit(Look())
    assert found == [True, 9, False]  # control: in the main thread a run listens


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_when_the_run_began_stays_ignored(number):
    class Send:
        def on_fit_start(self, model):
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert len(fit(Send())[1]) == 9
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    if number == signal.SIGINT:
        assert len(fit(Send())[1]) == 0  # control
