"""Validation data are looked at before the first update, and a run does not show that they were."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from torchkeras import KerasModel
from torchkeras.training import session
from torchkeras.training.verify import flatten, same

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
VX, VY = X[:20] + 0.1, Y[:20]
CALLS = []


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


class Restless(nn.Module):
    """Writes to all that a forward can write to."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.table = nn.Linear(4, 8), nn.Linear(8, 2), nn.Embedding(3, 4, max_norm=0.1)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.calls, self.seen = 0, []
        self.register_buffer("total", torch.zeros(5000))

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        self.total += x.mean()
        self.first.weight.data = torch.renorm(self.first.weight.data, 2, 0, 1.0)
        self.last.weight.data.clamp_(-0.3, 0.3)
        x.add_(self.table(torch.arange(len(x)) % 3))
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))) + 0.01 * torch.rand(()))


class Noisy(Dataset):
    """Draws, counts and remembers as it is read."""

    def __init__(self):
        self.rng, self.own, self.reads, self.log = np.random.default_rng(0), random.Random(1), 0, []
        self.scale, self.parts = np.ones(1), {"deep": {"calls": 0}}

    def __len__(self):
        return 20

    def __getitem__(self, index):
        self.reads += 1
        self.log.append(index)
        self.scale *= 0.99
        self.parts["deep"]["calls"] += 1
        noise = self.rng.random() + self.own.random() + np.random.rand() + random.random() + torch.rand(()).item()
        return VX[index] * self.scale[0] + noise * 0.1 + 0.001 * self.reads, VY[index]


class Stream(IterableDataset):
    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        for x, y in zip(VX, VY, strict=True):
            yield x + 0.01 * self.passes + 0.1 * torch.rand(()), y


class Once(IterableDataset):
    """A stream that is its own iterator."""

    def __init__(self):
        self.items = iter([(x, y) for _ in range(3) for x, y in zip(VX, VY, strict=True)])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)


class Alternating:
    """A batch sampler with a memory of its own."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 4

    def __iter__(self):
        self.passes += 1
        order = np.roll(np.arange(20), self.passes)
        return iter([order[start:start + 5].tolist() for start in range(0, 20, 5)])


class Stateful:
    """A loader that tells where it is."""

    def __init__(self):
        self.place, self.passes = 0, 0

    def __iter__(self):
        self.passes += 1
        while self.place < 4:
            self.place += 1
            yield VX[self.place:self.place + 9] + 0.01 * self.passes, VY[self.place:self.place + 9]
        self.place = 0

    def state_dict(self):
        return {"place": self.place, "passes": self.passes}

    def load_state_dict(self, state):
        self.place, self.passes = state["place"], state["passes"]


class OwnIter(DataLoader):
    def __iter__(self):
        for x, y in super().__iter__():
            yield x + 1, y


class Slotted:
    __slots__ = ("passes",)

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([(VX + 0.01 * self.passes, VY)])


def batches_of(count=6):
    return [(VX[i:i + 9] + 0.1, VY[i:i + 9]) for i in range(count)]


DATA = {
    "arrays": lambda: (VX, VY),
    "a list of batches": batches_of,
    "a shuffled loader in memory": lambda: DataLoader(TensorDataset(VX, VY), 7, shuffle=True),
    "a shuffled loader with a generator": lambda: DataLoader(TensorDataset(VX, VY), 7, shuffle=True,
                                                             generator=generator()),
    "a sampler with a generator": lambda: DataLoader(
        Noisy(), 7, sampler=RandomSampler(range(20), generator=generator())),
    "a weighted sampler": lambda: DataLoader(Noisy(), 7, sampler=WeightedRandomSampler(torch.rand(20), 20)),
    "a batch sampler with a memory": lambda: DataLoader(Noisy(), batch_sampler=Alternating()),
    "a Dataset with a state": lambda: DataLoader(Noisy(), 7, shuffle=True),
    "a Dataset": Noisy,
    "workers": lambda: DataLoader(TensorDataset(VX, VY, torch.ones(20)), 7, shuffle=True, num_workers=1,
                                  multiprocessing_context="fork"),
    "workers that live on": lambda: DataLoader(Noisy(), 7, shuffle=True, num_workers=1, persistent_workers=True,
                                               generator=generator(), multiprocessing_context="fork"),
    "a stream": Stream,
    "a stream in a loader": lambda: DataLoader(Stream(), 7, generator=generator()),
    "a stream that is read once": lambda: DataLoader(Once(), 7, generator=generator()),
    "a loader with a state": Stateful,
    "a loader with its own way": lambda: OwnIter(TensorDataset(VX, VY), 7, shuffle=True),
    "an object with slots": Slotted,
    "a generator": lambda: (one for one in batches_of(12)),
    "an iterator": lambda: iter(batches_of(12)),
    "an endless generator": lambda: itertools.cycle(batches_of()),
}
STEPS = {"a generator": 3, "an iterator": 3, "an endless generator": 3, "a stream that is read once": 2}


def run(kind, rehearsed, monkeypatch, speed="exact"):
    """All that is left of a run."""
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with monkeypatch.context() as patch:
        if not rehearsed:
            patch.setattr(session, "rehearse", lambda *args: None)
        net, val = Restless(), DATA[kind]()
        model = KerasModel(net, nn.CrossEntropyLoss(), ["accuracy"], torch.optim.Adam(net.parameters(), 0.01))
        frame = model.fit(DataLoader(TensorDataset(X, Y), 16, shuffle=True), val, epochs=3, ckpt_path=None, quiet=True,
                          validation_steps=STEPS.get(kind), speed=speed, patience=None)
    held = {name: value for name, value in vars(val).items() if isinstance(value, (int, list, dict))
            and not name.startswith("_")} if hasattr(val, "__dict__") else {}
    dataset = vars(val.dataset) if isinstance(val, DataLoader) and isinstance(val.dataset, Noisy) else {}
    left = {"weights": net.state_dict(), "calls": net.calls, "seen": net.seen, "held": repr(held),
            "reads": dataset.get("reads"), "log": dataset.get("log"), "history": frame.to_dict("list"),
            "torch": torch.get_rng_state(), "numpy": np.random.get_state()[1], "python": random.getstate(),
            "modes": [one.training for one in net.modules()], "grads": [w.grad is None for w in net.parameters()],
            "left": len(list(val)) if kind in ("a generator", "an iterator") else None}
    return flatten(left), model


def different(one, other):
    return [name for name in {**one, **other} if not same(one.get(name), other.get(name))]


@pytest.mark.parametrize("kind", DATA)
def test_a_run_that_was_rehearsed_is_bit_for_bit_one_that_was_not(kind, monkeypatch):
    rehearsed, model = run(kind, True, monkeypatch)
    plain, _ = run(kind, False, monkeypatch)
    assert different(rehearsed, plain) == []
    notes = [note for note in model.run.notes if "not tried before its turn" in note]
    assert len(notes) == (kind in STEPS)  # what can be read only once is left alone


def test_control_reading_ahead_without_putting_back_is_seen(monkeypatch):
    plain, _ = run("a Dataset with a state", True, monkeypatch)
    real = session.rehearse

    def careless(run, kind, make):
        next(iter(run.data.val.source))
        return real(run, kind, make)

    monkeypatch.setattr(session, "rehearse", careless)
    assert "reads" in different(plain, run("a Dataset with a state", True, monkeypatch)[0])


def test_control_a_forward_without_putting_back_is_seen(monkeypatch):
    from contextlib import nullcontext

    from torchkeras.diagnostics import rehearsal

    plain, _ = run("arrays", True, monkeypatch)
    monkeypatch.setattr(rehearsal, "untouched", lambda step: nullcontext())
    found = different(plain, run("arrays", True, monkeypatch)[0])
    assert {"calls", "seen.0", "weights.total", "torch"} <= set(found)


class Counted(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


def broken_in(stage):
    def fails(preds, labels):
        raise ZeroDivisionError("in the metric")

    return fails


BAD = {
    "another width": (TensorDataset(VX[:, :3], VY), "RuntimeError: (addmm: )?mat1 and mat2"),
    "another type of features": (TensorDataset(VX.double(), VY), "RuntimeError"),
    "labels of floats": (TensorDataset(VX, VY.float()), "labels of torch.float32"),
    "a class too many": (TensorDataset(VX, VY + 1), "labels with the class 2"),
    "a negative class": (TensorDataset(VX, VY - 1), "labels with the class -1"),
    "a column of labels": (TensorDataset(VX, VY[:, None]), r"labels of shape \(16, 1\)"),
    "no labels": (TensorDataset(VX), "a batch without labels"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_validation_data_cost_no_training_step(name, workers):
    data, words = BAD[name]
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    optimizer = Counted(net.parameters(), lr=0.1)
    before = [*map(torch.clone, net.state_dict().values()), torch.get_rng_state()]
    with pytest.raises((ValueError, TypeError), match=f"^val_data: received .*{words}"):
        KerasModel(net, "cross_entropy", ["accuracy"], optimizer).fit(
            (X, Y), DataLoader(data, 16, num_workers=workers), epochs=1, ckpt_path=None, quiet=True)
    assert optimizer.steps == 0
    assert all(map(torch.equal, before, [*net.state_dict().values(), torch.get_rng_state()]))


def test_an_error_of_the_net_itself_is_no_error_of_the_validation_data():
    class Wrong(nn.Linear):
        def forward(self, x):
            return self.typo(x)

    with pytest.raises(AttributeError, match="typo"):
        KerasModel(Wrong(4, 2), "cross_entropy").fit((X, Y), (VX, VY), epochs=1, ckpt_path=None, quiet=True)


def test_training_data_that_are_wrong_too_are_named_first():
    with pytest.raises(ValueError, match="^train_data: received labels"):
        KerasModel(nn.Linear(4, 2), "cross_entropy").fit((X, Y.float()), (VX, VY.float()), epochs=1, ckpt_path=None,
                                                         quiet=True)


def test_a_metric_that_takes_only_the_shapes_of_training_is_named():
    def same_length(preds, labels):
        if len(labels) % 20 == 0:
            raise ZeroDivisionError("in the metric")
        return 1.0

    with pytest.raises(ValueError, match="^val_data: received a first batch .* ZeroDivisionError: in the metric"):
        KerasModel(nn.Linear(4, 2), "cross_entropy", {"odd": same_length}).fit(
            (X, Y), (VX, VY), epochs=1, ckpt_path=None, quiet=True, batch_size=32)


def test_data_that_cannot_be_read_twice_for_sure_are_left_alone():
    class Holds(Dataset):
        numbers = None

        def __init__(self):
            self.numbers = itertools.count()

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return VX[index] + 0.01 * next(self.numbers), VY[index]

    data = Holds()
    model = KerasModel(nn.Linear(4, 2), "cross_entropy")
    model.fit((X, Y), data, epochs=1, ckpt_path=None, quiet=True)
    assert next(data.numbers) == 20
    assert any(note.startswith("val_data: not tried before its turn") for note in model.run.notes)


def test_what_only_workers_can_read_is_left_to_them():
    class InWorkers(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            assert torch.utils.data.get_worker_info() is not None
            return VX[index], VY[index]

    model = KerasModel(nn.Linear(4, 2), "cross_entropy")
    model.fit((X, Y), DataLoader(InWorkers(), 8, num_workers=1), epochs=1, ckpt_path=None, quiet=True)
    assert any("only its workers can read it (AssertionError" in note for note in model.run.notes)
    with pytest.raises(AssertionError):
        model.fit((X, Y), DataLoader(InWorkers(), 8), epochs=1, ckpt_path=None, quiet=True)


def test_one_stream_for_both_gives_training_its_first_batch():
    seen = []

    def stream():
        for number in range(8):
            seen.append(number)
            yield torch.full((4, 4), float(number)), torch.zeros(4).long()

    class First(KerasModel.StepRunner):
        def forward(self, batch):
            order.append((self.stage, batch[0][0, 0].item()))
            return super().forward(batch)

    order, data = [], stream()
    model = KerasModel(nn.Linear(4, 2), "cross_entropy")
    model.StepRunner = First
    model.fit(data, data, epochs=2, steps_per_epoch=2, validation_steps=1, ckpt_path=None, quiet=True)
    assert order == [("train", 0), ("train", 1), ("val", 2), ("train", 3), ("train", 4), ("val", 5)]


def test_steps_of_the_users_own_are_called_with_batches_only():
    calls = []

    class Old:
        def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None,
                     lr_scheduler=None):
            self.net, self.loss_fn, self.stage, self.metrics_dict = net, loss_fn, stage, metrics_dict
            self.accelerator, self.optimizer = accelerator, optimizer

        def __call__(self, batch):
            calls.append(self.stage)
            loss = self.loss_fn(self.net(batch[0]), batch[1])
            if self.stage == "train":
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
            return {f"{self.stage}_loss": loss.item()}, {}

    model = KerasModel(nn.Linear(4, 2), nn.CrossEntropyLoss())
    model.StepRunner = Old
    model.fit((X, Y), (VX, VY), epochs=1, batch_size=48, ckpt_path=None, quiet=True)
    assert calls == ["train", "val"]


def test_what_a_step_was_given_is_left_as_it_was():
    class Counts(KerasModel.StepRunner):
        def __init__(self, *args, counter=None, **parts):
            super().__init__(*args, **parts)
            self.counter = counter

        def forward(self, batch):
            self.counter[self.stage] = self.counter.get(self.stage, 0) + 1
            return super().forward(batch)

    counter = {}
    model = KerasModel(nn.Linear(4, 2), "cross_entropy", counter=counter)
    model.StepRunner = Counts
    model.fit((X, Y), (VX, VY), epochs=1, batch_size=16, ckpt_path=None, quiet=True)
    assert counter == {"train": 3, "val": 2}


def test_a_stop_that_is_asked_for_meanwhile_is_heard():
    class Asks(nn.Linear):
        def forward(self, x):
            if model.run.global_step == 0:
                model.run.stop("enough")
            return super().forward(x)

    model = KerasModel(Asks(4, 2), "cross_entropy")
    frame = model.fit((X, Y), (VX, VY), epochs=2, ckpt_path=None, quiet=True)
    assert (len(frame), frame.attrs["stop_reason"], model.run.global_step) == (0, "enough", 0)


def test_it_costs_one_forward_of_one_batch():
    calls = CALLS
    calls.clear()
    net = nn.Linear(4, 2)
    net.register_forward_hook(lambda module, given, out: globals()["CALLS"].append(len(out)))  # not put back
    KerasModel(net, "cross_entropy", ["accuracy"]).fit((X, Y), (VX, VY), epochs=1, batch_size=16, ckpt_path=None,
                                                       quiet=True)
    assert calls == [16] + 3 * [16] + [16, 4]


@pytest.mark.parametrize("options", [{"validation_freq": 2}, {"initial_epoch": 1}, {"speed": "fast"},
                                     {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}],
                         ids=lambda options: next(iter(options)))
def test_it_goes_with_every_option(options):
    net = nn.Linear(4, 2)
    optimizer = Counted(net.parameters(), lr=0.1)
    model = KerasModel(net, "cross_entropy", ["accuracy"], optimizer)
    with pytest.raises(ValueError, match="^val_data"):
        model.fit((X, Y), (VX, VY + 1), epochs=3, ckpt_path=None, quiet=True, **options)
    assert optimizer.steps == 0
    assert len(model.fit((X, Y), (VX, VY), epochs=3, ckpt_path=None, quiet=True, **options))


def test_a_run_that_goes_on_is_the_run_without_a_break(tmp_path):
    report = KerasModel(Restless(), nn.CrossEntropyLoss(), ["accuracy"]).verify_resume(
        (X, Y), (VX, VY), steps=6, batch_size=8)
    assert report.identical, str(report)


def test_batchnorm_still_refuses_a_last_batch_of_one():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="a last batch of 1 sample"):
        KerasModel(net, "cross_entropy").fit((X[:33], Y[:33]), (VX, VY), epochs=1, batch_size=16, ckpt_path=None,
                                             quiet=True)


def test_no_worker_is_started_to_look(monkeypatch):
    from torch.utils.data import dataloader

    started = []
    real = dataloader._MultiProcessingDataLoaderIter

    def counted(loader):
        started.append(len(optimizer_steps))
        return real(loader)

    optimizer_steps = []
    monkeypatch.setattr(dataloader, "_MultiProcessingDataLoaderIter", counted)
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *args: optimizer_steps.append(1))
    KerasModel(net, "cross_entropy", None, optimizer).fit(
        (X, Y), DataLoader(Noisy(), 8, num_workers=1), epochs=1, batch_size=24, ckpt_path=None, quiet=True)
    assert started == [2]
