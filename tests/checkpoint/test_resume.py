"""A run that was stopped goes on bit for bit: weights, optimizer, schedule, history, averages, random numbers."""

import random
import shutil
import types
import warnings

import numpy as np
import pytest
import torch
from tests.faults import runs
from tests.faults.runs import BATCH, SAMPLES, Noisy, StopAt
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from torchkeras import Callback, CheckpointCorruptError, KerasModel, Model
from torchkeras.checkpoint import rank_state, run_state
from torchkeras.data import seeded
from torchkeras.data.fit_data import FitData
from torchkeras.state import generators

STEPS = 13  # an epoch
FACES = pytest.mark.parametrize("face", [KerasModel, Model])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by their options, each trained once."""
    found = {}

    def uninterrupted(name="plain", **options):
        if name not in found:
            found[name] = runs.run(tmp_path_factory.mktemp("whole") / "best", **options)
        return found[name]

    return uninterrupted


def broken(path, *stops, **options):
    """The same with stops at some training steps."""
    for stop in stops:
        runs.run(path, [stop if isinstance(stop, Callback) else StopAt(stop)], resume=True, **options)
    return runs.run(path, resume=True, **options)


def unlike(one, other):
    return [name for name in one if one[name] != other[name]]


@pytest.mark.parametrize("stops", [(1,), (7,), (12,), (13,), (14,), (26,), (38,), (39,), (3, 5, 6), (12, 13, 14)])
@FACES
def test_a_run_that_was_stopped_at_any_step_goes_on_bit_for_bit(tmp_path, whole, stops, face):
    assert unlike(whole(), broken(tmp_path / "best", *stops, face=face)) == []


def test_control_a_run_with_another_seed_differs_in_everything(tmp_path, whole):
    assert set(unlike(whole(), runs.run(tmp_path / "best", seed=9))) >= {"weights", "optimizer", "history", "random"}


@pytest.mark.parametrize("forgotten", ["set_rng_state", "load_sums"])
def test_control_without_generators_or_sums_it_is_another_run(tmp_path, whole, monkeypatch, forgotten):
    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    monkeypatch.setattr(*((rank_state, "set_rng_state", lambda *_: None) if forgotten == "set_rng_state" else
                          (rank_state.RankState, "load_sums", lambda *_: None)))
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True))


class StopIn(Callback):
    """Ends a run in a validation, or as a training pass ends."""

    def __init__(self, epoch, step=None):
        self.epoch, self.step = epoch, step

    def on_step_end(self, model):
        if model.run.stage == "val" and (model.run.epoch, model.run.step) == (self.epoch, self.step):
            model.run.stop("in the validation")

    def on_train_epoch_end(self, model):
        if self.step is None and model.run.epoch == self.epoch:
            model.run.stop("between training and validation")

    def on_validation_epoch_end(self, model):
        if self.step == 0 and model.run.epoch == self.epoch:
            model.run.stop("at the end of an epoch")


@pytest.mark.parametrize("where", [(1, 1), (2, 2), (2, 3), (3, 3), (2, None), (3, None), (1, 0), (3, 0)])
@FACES
def test_so_does_one_that_was_stopped_in_a_validation_or_between_passes(tmp_path, whole, where, face):
    assert unlike(whole(), broken(tmp_path / "best", StopIn(*where), face=face)) == []


@pytest.mark.parametrize("stop", [1, 4, 13, 20, 39])
@FACES
def test_so_does_one_with_gradient_accumulation(tmp_path, whole, stop, face):
    assert unlike(whole("windows", accumulation=3), broken(tmp_path / "best", stop, accumulation=3, face=face)) == []


@pytest.mark.parametrize("save_every", [1, 4, "epoch", "0.001s"])
@pytest.mark.parametrize("step", [2, 14, 20])
@FACES
def test_a_run_that_failed_goes_on_from_the_last_state_that_was_written(tmp_path, whole, save_every, step, face):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        runs.run(tmp_path / "best", [StopAt(step, "raise")], resume=True, save_every=save_every, face=face)
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True, face=face)) == []


def test_writing_the_state_changes_nothing(tmp_path, whole):
    assert unlike(whole(), runs.run(tmp_path / "best", save_every=1)) == []


class Stream(IterableDataset):
    """Draws its order from the global generator, and does not tell where it is."""

    def __iter__(self):
        samples = Noisy(noise=False)
        for index in torch.randperm(SAMPLES):
            yield samples[int(index)]


class Telling:
    """Batches without a DataLoader, which tell where they are."""

    def __init__(self):
        self.samples, self.done, self.order = Noisy(noise=False), 0, None

    def __iter__(self):
        if self.order is None:
            self.order = torch.randperm(SAMPLES)
        while self.done < SAMPLES:
            index = self.order[self.done:self.done + BATCH]
            self.done += BATCH
            yield self.samples.x[index], self.samples.y[index]
        self.done, self.order = 0, None

    def state_dict(self):
        return {"done": self.done, "order": self.order}

    def load_state_dict(self, state):
        self.done, self.order = state["done"], state["order"]


class Lazy:
    """A sampler that draws from the global generator for every sample."""

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        for _ in range(SAMPLES):
            yield int(torch.randint(SAMPLES, ()))


class Own(Dataset):
    """Draws noise from generators of its own."""

    def __init__(self):
        self.samples = Noisy(noise=False)
        self.numpy, self.python = np.random.default_rng(3), random.Random(4)
        self.older, self.torch = np.random.RandomState(5), torch.Generator().manual_seed(6)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        x, y = self.samples[index]
        noise = self.numpy.normal() + self.python.random() + self.older.rand() + torch.rand(1, generator=self.torch)
        return x + noise, y


def tensors():
    return TensorDataset(Noisy().x, Noisy().y)


def seed(number=7):
    return torch.Generator().manual_seed(number)


def stream():
    generator = seed(3)
    for _ in range(3):
        for index in torch.randperm(SAMPLES, generator=generator).split(BATCH):
            yield Noisy().x[index], Noisy().y[index]


class Counting(Sampler):
    """Another order each pass, by the number of passes."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(torch.randperm(SAMPLES, generator=seed(self.passes)).tolist())

    def __len__(self):
        return SAMPLES


class CountingInWords(Counting):
    def state_dict(self):
        return {"passes": self.passes}

    def load_state_dict(self, state):
        self.passes = state["passes"]


WORKERS = {"num_workers": 1, "persistent_workers": True}
KINDS = {
    "samples drawn as it goes": lambda: DataLoader(tensors(), BATCH, sampler=RandomSampler(
        tensors(), replacement=True, num_samples=SAMPLES, generator=seed())),
    "tensors, a sampler that draws as it goes": lambda: DataLoader(tensors(), BATCH, sampler=Lazy()),
    "a sampler that counts its passes": lambda: DataLoader(tensors(), BATCH, sampler=Counting()),
    "a sampler with a state": lambda: DataLoader(Noisy(), BATCH, sampler=CountingInWords()),
    "tensors": lambda: DataLoader(tensors(), BATCH, shuffle=True),
    "tensors, workers that stay": lambda: DataLoader(tensors(), BATCH, shuffle=True, **WORKERS),
    "arrays": lambda: (Noisy().x, Noisy().y),
    "a generator of the loader's own": lambda: DataLoader(Noisy(), BATCH, shuffle=True, generator=seed()),
    "a part of tensors": lambda: DataLoader(Subset(tensors(), range(SAMPLES)), BATCH, shuffle=True, generator=seed()),
    "weighted": lambda: DataLoader(Noisy(), BATCH, sampler=WeightedRandomSampler(
        torch.rand(SAMPLES, generator=seed()) + 0.1, SAMPLES)),
    "a random part": lambda: DataLoader(Noisy(), BATCH, sampler=SubsetRandomSampler(range(SAMPLES))),
    "a sampler that draws as it goes": lambda: DataLoader(Noisy(), BATCH, sampler=Lazy()),
    "a Dataset with generators": lambda: DataLoader(Own(), BATCH, shuffle=True),
    "workers": lambda: DataLoader(Noisy(noise=False), BATCH, shuffle=True, num_workers=2),
    "workers that stay": lambda: DataLoader(Noisy(noise=False), BATCH, shuffle=True, **WORKERS),
    "seeded noise in workers": lambda: DataLoader(seeded(Noisy(), 5), BATCH, shuffle=True, num_workers=1),
    "seeded noise in workers that stay": lambda: DataLoader(seeded(Noisy(), 5), BATCH, shuffle=True, **WORKERS),
    "a stream": lambda: DataLoader(Stream(), BATCH),
    "batches that tell where they are": Telling,
    "a list of batches": lambda: list(zip(Noisy().x.split(BATCH), Noisy().y.split(BATCH), strict=True)),
    "a generator": stream,
}


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_with_data_of_every_kind(tmp_path, kind):
    options = {"arrays": {"batch_size": BATCH}, "a generator": {"steps_per_epoch": STEPS}}.get(kind, {})

    def given():
        val = DataLoader(Noisy(40, noise=False), 16, **(WORKERS if "stay" in kind else {}))
        return {"train": KINDS[kind](), "val": val, **options}

    uninterrupted = runs.run(tmp_path / "whole", **given())
    for stop in (3, 13, 17):
        runs.run(tmp_path / f"best{stop}", [StopAt(stop)], resume=True, **given())
        assert unlike(uninterrupted, runs.run(tmp_path / f"best{stop}", resume=True, **given())) == [], stop


def test_control_noise_from_workers_that_is_not_seeded_is_other_noise_and_that_is_said(tmp_path):
    train = [DataLoader(Noisy(), BATCH, shuffle=True, num_workers=1) for _ in range(3)]
    uninterrupted = runs.run(tmp_path / "whole", train=train[0])
    told = Tells()
    runs.run(tmp_path / "best", [StopAt(3), told], resume=True, train=train[1])
    assert "weights" in unlike(uninterrupted, runs.run(tmp_path / "best", resume=True, train=train[2]))
    assert any("torchkeras.data.seeded" in note for note in told.notes)


class Tells(Callback):
    """Keeps what a run notes."""

    def on_fit_start(self, model):
        self.notes = list(model.run.notes)

    def on_fit_end(self, model):
        self.notes = list(model.run.notes)
        self.reason = model.run.stop_reason


def notes_of(path, *callbacks, **options):
    told = Tells()
    runs.run(path, [*callbacks, told], resume=True, **options)
    return [note.removeprefix("resume: ") for note in told.notes if note.startswith("resume")]


def test_what_happens_is_told(tmp_path):
    path = tmp_path / "best"
    assert notes_of(path, StopAt(20)) == [f"no saved state in {str(path) + '.state'!r}, the run begins anew"]
    assert notes_of(path, StopIn(2, 1))[0].startswith("the run goes on in epoch 2, step 7 (state ")
    assert notes_of(path)[0].startswith("the run goes on in epoch 2, its validation (state ")
    assert notes_of(path) == ["the run is at the end of epoch 3 of 3; pass a larger epochs to go on"]


def test_a_finished_run_does_nothing_more_and_gives_the_same_back(tmp_path, whole):
    path = tmp_path / "best"
    first = runs.run(path, resume=True)
    again = runs.run(path, [StopAt(1, "raise")], resume=True)  # not one step
    assert unlike(first, again) == []
    assert unlike(whole(), again) == []


@FACES
def test_more_epochs_go_on_where_the_last_ended(tmp_path, face):
    options = {"length": 5, "face": face}  # of the schedule
    uninterrupted = runs.run(tmp_path / "whole", epochs=5, **options)
    runs.run(tmp_path / "best", epochs=3, resume=True, **options)
    found = runs.run(tmp_path / "best", epochs=5, resume=True, **options)
    # the best weights that came back after epoch 3 are not what goes on: the state is
    assert unlike(uninterrupted, found) == []


def test_a_schedule_that_is_too_short_for_more_epochs_is_refused_before_anything(tmp_path):
    runs.run(tmp_path / "best", resume=True)
    with pytest.raises(ValueError, match="epochs: received 5, which needs 26 more updates; expected at most the 0"):
        runs.run(tmp_path / "best", epochs=5, resume=True)


def early(path, callbacks=(), patience=3, epochs=12, **options):
    """A run that ends early: what it learns is soon unlearned."""
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    model = KerasModel(nn.Linear(3, 1), "mse", optimizer="sgd")
    model.optimizer.param_groups[0]["lr"] = 0.3
    rate = {"on_epoch_start": lambda model: model.optimizer.param_groups[0].update(
        lr=0.1 if model.run.epoch < 4 else 1.3)}
    rises = types.SimpleNamespace(**rate)
    history = model.fit((x, x[:, :1]), epochs=epochs, patience=patience, monitor="train_loss", ckpt_path=str(path),
                        quiet=True, batch_size=10, callbacks=[rises, *callbacks], **options)
    return model, history


@pytest.mark.parametrize("stop", range(1, 7))
def test_patience_and_the_best_go_on_too(tmp_path, stop):
    model, history = early(tmp_path / "whole")
    assert len(history) == 6
    assert history.attrs["stop_reason"] == "train_loss without improvement in 3 epoch, early stopping"
    early(tmp_path / "best", [StopAt(4 * stop - 2)], resume=True)
    other, found = early(tmp_path / "best", resume=True)
    assert found.equals(history)
    assert found.attrs["stop_reason"] == history.attrs["stop_reason"]
    assert (other.run.monitor.best, other.run.monitor.best_epoch) == (model.run.monitor.best, 3)
    assert torch.equal(other.net.weight, model.net.weight)


def test_a_run_that_was_stopped_early_stays_so_unless_it_is_given_more_patience(tmp_path):
    _, history = early(tmp_path / "best", resume=True)
    again, found = early(tmp_path / "best", epochs=20, resume=True)
    assert found.equals(history)
    assert again.run.stop_reason == "train_loss without improvement in 3 epoch, early stopping"
    _, longer = early(tmp_path / "best", patience=5, epochs=20, resume=True)
    assert len(longer) == 8


def state_of(model):
    return (runs.of_tensors(model.net.state_dict()), repr(model.optimizer.state_dict()),
            repr(model.lr_scheduler.state_dict()), torch.get_rng_state().sum().item(), random.getstate())


def other_net(model):
    model.net[4] = nn.Linear(12, 4).double()
    return model


def other_optimizer(model):
    model.optimizer = torch.optim.SGD(model.net.parameters(), lr=0.1)
    model.lr_scheduler = None
    return model


def other_order(model):
    model.optimizer = torch.optim.AdamW(list(model.net.parameters())[::-1])
    model.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(model.optimizer, 0.05, total_steps=39)
    return model


def other_groups(model):
    weights = list(model.net.parameters())
    model.optimizer = torch.optim.AdamW([{"params": weights[:2]}, {"params": weights[2:]}])
    model.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(model.optimizer, 0.05, total_steps=39)
    return model


def single(model):
    model.net.float()
    return model


WRONG = {
    "net": (other_net, {}, r"net: received another .*4.bias: \[3\] torch.float64 became \[4\] torch.float64"),
    "type": (single, {}, r"net: received another .*0.weight: \[12, 6\] torch.float64 became \[12, 6\] torch.float32"),
    "optimizer": (other_optimizer, {}, "optimizer: received another .*'AdamW' became 'SGD'"),
    "order": (other_order, {}, "optimizer: received its parameters in another order: 0: 0.0.weight became 0.4.bias"),
    "groups": (other_groups, {}, r"optimizer: received groups of \[2, 4\] parameters where the run had \[6\]"),
    "data": (None, {"train": DataLoader(Noisy(99), BATCH, shuffle=True)}, "train_data: .*samples: 101 became 99"),
    "batch": (None, {"train": DataLoader(Noisy(), 9, shuffle=True)}, "train_data: .*batch size: 8 became 9"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_state_of_something_else_is_refused_and_nothing_is_changed(tmp_path, what):
    change, options, expected = WRONG[what]
    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    model = runs.build() if change is None else change(runs.build())
    before = repr(model.optimizer.state_dict()), runs.of_tensors(model.net.state_dict())
    train = options.get("train", DataLoader(Noisy(), BATCH, shuffle=True))
    drawn = torch.get_rng_state()
    with pytest.raises(ValueError, match=expected):
        model.fit(train, epochs=3, ckpt_path=str(tmp_path / "best"), quiet=True, resume=True)
    assert (repr(model.optimizer.state_dict()), runs.of_tensors(model.net.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_between_epochs_data_and_options_may_change_and_that_is_told(tmp_path):
    runs.run(tmp_path / "best", [StopAt(13)], resume=True, val=False)
    # a schedule of its own length would be too short for more batches
    told = notes_of(tmp_path / "best", val=False, train=DataLoader(Noisy(99), BATCH, shuffle=True), clip_grad_norm=1.0)
    assert any(note.startswith("train_data has changed: samples: 101 became 99") for note in told)
    assert "clip_grad_norm has changed: None became 1.0" in told


def test_frozen_weights_and_a_loss_with_weights_come_back(tmp_path):
    class Freeze(Callback):
        def on_epoch_start(self, model):
            model.net[0].requires_grad_(model.run.epoch < 2)

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, preds, labels):
            return (self.scale.exp() * (preds - labels) ** 2).mean() - self.scale.sum()

    def train(path, *stops, **options):
        torch.manual_seed(3)
        net, loss = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1)), Weighted()
        optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=0.01)
        x = torch.randn(40, 3)
        model = KerasModel(net, loss, optimizer=optimizer)
        model.fit((x, x[:, :1]), epochs=3, quiet=True, batch_size=8, ckpt_path=str(path),
                  callbacks=[Freeze(), *stops], **options)
        return runs.of_tensors({**net.state_dict(), **loss.state_dict()}), [
            weight.requires_grad for weight in net.parameters()], repr(optimizer.state_dict())

    uninterrupted = train(tmp_path / "whole")
    train(tmp_path / "best", StopAt(12), resume=True)
    assert train(tmp_path / "best", resume=True) == uninterrupted


def test_a_state_that_does_not_fit_after_all_leaves_nothing_half_put_back(tmp_path, monkeypatch):
    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    model = runs.build()
    before = repr(model.optimizer.state_dict()), runs.of_tensors(model.net.state_dict())
    drawn = torch.get_rng_state()

    def fails(*_):
        raise RuntimeError("not this one")

    monkeypatch.setattr(rank_state, "set_rng_state", fails)
    with pytest.raises(CheckpointCorruptError, match="state 1 does not fit this run .RuntimeError: not this one"):
        model.fit(DataLoader(Noisy(), BATCH, shuffle=True), DataLoader(Noisy(40), 16), epochs=3,
                  ckpt_path=str(tmp_path / "best"), quiet=True, resume=True)
    assert (repr(model.optimizer.state_dict()), runs.of_tensors(model.net.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_run_that_begins_anew_replaces_the_states_of_another(tmp_path, whole):
    runs.run(tmp_path / "best", seed=9, resume=True)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        runs.run(tmp_path / "best", [StopAt(2, "raise")], save_every="epoch")
    assert len(runs.states(tmp_path / "best")) == 1
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True)) == []


@pytest.mark.parametrize("keep", [1, 3])
@FACES
def test_so_many_states_are_kept(tmp_path, keep, face):
    runs.run(tmp_path / "best", save_every=5, keep=keep, face=face)
    assert len(runs.states(tmp_path / "best")) == keep


def test_the_weights_of_a_state_can_be_read_by_name(tmp_path):
    from safetensors.torch import load_file

    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    found = load_file(runs.states(tmp_path / "best")[-1] / "weights.safetensors")
    runs.build().net.load_state_dict(found)


class Unsavable:
    """A metric that holds on to something that no file can hold."""

    def __init__(self):
        self.things = []

    def update(self, preds, labels):
        self.things.append(object())

    def compute(self):
        return float(len(self.things))

    def reset(self):
        self.things = [object()]


def test_a_metric_that_cannot_be_saved_moves_states_to_the_ends_of_epochs_and_that_is_told(tmp_path):
    def train(path, *callbacks, **options):
        model = runs.build()
        model.metrics_dict = {"odd": Unsavable()}
        model.metrics_dict["odd"].reset()
        told = Tells()
        history = model.fit((Noisy().x, Noisy().y), epochs=3, batch_size=BATCH, quiet=True, ckpt_path=str(path),
                            callbacks=[*callbacks, told], **options)
        return runs.prints(model, history, runs.Averaged()), told.notes

    uninterrupted, _ = train(tmp_path / "whole")
    _, told = train(tmp_path / "best", StopAt(20), resume=True, save_every=1)
    why = "only at the end of epochs, because the state of a metric cannot be saved: metrics_dict['odd']"
    assert any(why in one for one in told)
    found, told = train(tmp_path / "best", resume=True)
    assert any("goes on in epoch 2 (state" in one for one in told)
    assert unlike(uninterrupted, found) == []


class OddCallback(Callback):
    def state_dict(self):
        return {"thing": object()}

    def load_state_dict(self, state):
        raise AssertionError


def test_a_listener_whose_state_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(TypeError, match=r"callbacks.*thing: received a object; expected what can be saved"):
        runs.run(tmp_path / "best", [OddCallback(), StopAt(1, "raise")], resume=True)


@pytest.mark.parametrize(("options", "expected"), [
    ({"save_every": "10 parsecs"}, "save_every: received '10 parsecs'"),
    ({"save_every": 0}, "save_every: received 0"),
    ({"save_every": "0min"}, "save_every: received '0min'"),
    ({"resume": "best"}, "resume: received 'best'"),
    ({"keep": 0, "resume": True}, "keep: received 0"),
    ({"ckpt_path": None, "resume": True}, "ckpt_path: received None with resume or save_every"),
])
def test_arguments_that_cannot_be_right_are_refused(tmp_path, options, expected):
    model = KerasModel(nn.Linear(3, 1), "mse")
    with pytest.raises((ValueError, TypeError), match=expected):
        model.fit((torch.zeros(4, 3), torch.zeros(4, 1)), quiet=True, **{"ckpt_path": tmp_path / "best", **options})


def test_a_scaler_is_a_part_of_the_state():
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    model, run = runs.build(), types.SimpleNamespace(accelerator=types.SimpleNamespace(scaler=scaler()))
    run.accelerator.scaler.load_state_dict({**scaler().state_dict(), "scale": 64.0, "_growth_tracker": 2})
    data = types.SimpleNamespace(position=lambda: None, source=None, length=1, samples=1, known_indices=dict)
    run.moved_by_step, run.step_runners, run.places, run.data = [], {}, None, FitData(data, None)
    run.history, run.global_step, run.optimizer_steps, run.monitor, run.communicator, run.config = (
        {}, 0, 0, types.SimpleNamespace(best=None, best_epoch=None, reference=None, num_bad_epochs=0, improved=False),
        types.SimpleNamespace(world_size=1), runs_config())
    state = run_state.run_state_dict(model, run, types.SimpleNamespace(kept=False), {"epoch": 1}, [])
    fresh = types.SimpleNamespace(**{**vars(run), "accelerator": types.SimpleNamespace(scaler=scaler())})
    run_state.load_run_state_dict(model, fresh, None, state, history=False)
    assert fresh.accelerator.scaler.state_dict()["scale"] == 64.0
    assert fresh.accelerator.scaler.state_dict()["_growth_tracker"] == 2


def runs_config():
    from torchkeras.engine.config import FitConfig

    return FitConfig()


def test_verify_resume_tells_whether_a_run_of_ones_own_goes_on_exactly():
    model = runs.build()
    before = state_of(model)
    good = model.verify_resume(DataLoader(Noisy(), BATCH, shuffle=True), DataLoader(Noisy(40), 16))
    bad = model.verify_resume(DataLoader(Noisy(), BATCH, shuffle=True, num_workers=1), callbacks=[runs.Averaged()])
    assert good.identical, str(good)
    assert not bad.identical
    assert "NOT the same" in str(bad)
    assert "weights: 0.weight differs by up to" in str(bad)
    assert "torchkeras.data.seeded" in str(bad)
    assert state_of(model) == before


def test_seeded_samples_are_the_same_whoever_draws_them():
    data = seeded(Noisy(), 3)
    data.set_epoch(2)
    alone = [data[index][0] for index in range(10)]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].sum()
    loaded = next(iter(DataLoader(data, 10, num_workers=2)))[0]
    assert torch.equal(loaded, torch.stack(alone))
    torch.set_rng_state(state[0])
    assert torch.equal(torch.stack([data[index][0] for index in range(9, -1, -1)]), loaded.flip(0))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    data.set_epoch(3)
    assert not torch.equal(data[0][0], alone[0])
    assert not torch.equal(seeded(Noisy(), 4)[0][0], seeded(Noisy(), 3)[0][0])
    with pytest.raises(TypeError, match="dataset: received a Stream"):
        seeded(Stream())


def test_generators_of_a_loader_and_its_dataset_are_found():
    source = DataLoader(Own(), BATCH, shuffle=True, generator=seed())
    found = generators.own_generators(source)
    assert len(found) == 5
    moment = generators.rng_state(source)
    first = [next(iter(source))[0].sum().item() for _ in range(2)]
    generators.set_rng_state(moment, source)
    assert [next(iter(source))[0].sum().item() for _ in range(2)] == first
    assert next(iter(source))[0].sum().item() not in first


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path, monkeypatch, whole):
    from torchkeras.checkpoint import store

    written, write = [], store.write_pieces

    def full(path, pieces):
        written.append(path.name)
        if len(written) in range(8, 20):
            raise OSError(28, "No space left on device")
        return write(path, pieces)

    monkeypatch.setattr(store, "write_pieces", full)
    told = Tells()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        runs.run(tmp_path / "best", [told, StopAt(38)], resume=True, save_every=3)
    assert any("could not be saved (OSError: [Errno 28] No space left on device); the run goes on" in str(one.message)
               for one in seen)
    assert any(note.startswith("save_every: the state of the run could not be saved") for note in told.notes)
    assert not list(tmp_path.glob("best.state/.tmp-*"))
    monkeypatch.undo()
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True)) == []


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path, whole):
    runs.run(tmp_path / "best", [StopAt(7)], resume=True, save_every=2)
    newest = runs.states(tmp_path / "best")[-1]
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[:-9] + b"x" + content[-8:])
    told = notes_of(tmp_path / "best", StopAt(9))
    assert told[0] == (f"{newest.name}/state.safetensors is damaged: its checksum differs; "
                       f"state {int(newest.name) - 1} is used")
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True)) == []


def test_when_no_state_is_sound_the_run_does_not_begin(tmp_path):
    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    for state in runs.states(tmp_path / "best"):
        (state / "MANIFEST").write_text("")
    with pytest.raises(CheckpointCorruptError, match=r"No sound state is left in .* remove the folder to begin anew"):
        runs.run(tmp_path / "best", resume=True)
    shutil.rmtree(tmp_path / "best.state")


def test_best_weights_that_are_gone_from_their_file_are_written_again(tmp_path, whole):
    runs.run(tmp_path / "best", [StopAt(38)], resume=True)
    (tmp_path / "best").unlink()
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True)) == []


@pytest.mark.parametrize("failing", range(1, 12))
def test_best_weights_whose_first_write_failed_are_written_with_the_next_state(tmp_path, whole, monkeypatch, failing):
    from torchkeras.checkpoint import store

    write, calls = store.CheckpointStore.write, []

    def fails_once(self, facts, tensors, best_owner, rows):
        calls.append(best_owner)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return write(self, facts, tensors, best_owner, rows)

    monkeypatch.setattr(store.CheckpointStore, "write", fails_once)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        runs.run(tmp_path / "best", [StopAt(33)], resume=True, save_every=3)
    assert len(calls) == 11
    monkeypatch.undo()
    (tmp_path / "best").unlink()
    assert unlike(whole(), runs.run(tmp_path / "best", resume=True)) == []


def test_an_error_of_any_kind_while_writing_is_told(tmp_path, monkeypatch):
    from torchkeras.checkpoint import store

    def fails(*_):
        raise KeyError("something else")

    monkeypatch.setattr(store.CheckpointStore, "write", fails)
    with pytest.warns(UserWarning, match=r"could not be saved \(KeyError: 'something else'\); the run goes on"):
        runs.run(tmp_path / "best", epochs=1, length=1, resume=True)


def test_the_files_that_a_run_goes_on_from_are_let_go(tmp_path):
    class Mapped(Callback):
        def on_fit_end(self, model):
            with open("/proc/self/maps") as maps:
                self.found = [line for line in maps if str(tmp_path) in line]  # not those of an error before

    runs.run(tmp_path / "best", [StopAt(7)], resume=True)
    mapped = Mapped()
    runs.run(tmp_path / "best", [mapped, StopAt(30)], resume=True)
    runs.run(tmp_path / "best", [mapped], resume=True)
    assert mapped.found == []


def test_a_net_that_was_drawn_goes_on_too():
    from torchkeras import Input, functional

    torch.manual_seed(0)
    first = Input((3,))
    hidden = nn.Dropout(0.2)(nn.Linear(3, 8)(first)).relu()
    model = KerasModel(functional.build(first, nn.Linear(8, 1)(hidden)), "mse")
    x = torch.randn(60, 3)
    assert model.verify_resume((x, x[:, :1]), batch_size=10).identical
