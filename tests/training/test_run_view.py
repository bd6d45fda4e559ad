"""A run is read by users, and written by the loop alone."""

import copy
import inspect
import itertools
import pickle
from dataclasses import MISSING, fields

import pytest
import torch
from tests.faults.runs import StopAt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel, Run
from torchkeras.engine.config import FitConfig
from torchkeras.training.run_view import RunView, read_only, whole

X = torch.arange(24.0).reshape(8, 3) / 24


def fitted(callbacks=(), epochs=2, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(3, 1), "mse", optimizer="sgd")
    return model, model.fit((X, X[:, :1]), epochs=epochs, batch_size=4, ckpt_path=None, quiet=True, cpu=True,
                            callbacks=list(callbacks), **options)


class Meddler(Callback):
    """Tries to write what the loop writes."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_step_end(self, model):
        setattr(model.run, self.name, self.value)


@pytest.mark.parametrize(("name", "value"), [
    ("epoch", 7), ("step", 0), ("global_step", 0), ("stop_reason", "mine"), ("logs", {}), ("mine", 1),
    ("history", None), ("active", False)])
def test_a_callback_that_assigns_to_the_run_gets_an_error_that_names_the_way_out(name, value):
    with pytest.raises(AttributeError, match=rf"model\.run\.{name}: .*run\.stop\('why'\)"):
        fitted([Meddler(name, value)])


def test_nothing_of_a_run_is_deleted():
    model, _ = fitted()
    with pytest.raises(AttributeError, match=r"model\.run\.epoch"):
        del model.run.epoch
    assert model.run.epoch == 2


def test_control_a_run_is_read_and_stopped():
    class Stops(Callback):
        def on_step_end(self, model):
            if model.run.global_step == 2:
                self.seen = model.run.current_metrics()
                model.run.stop("enough")

    stops = Stops()
    model, history = fitted([stops])
    assert stops.seen["train_loss"] > 0
    assert model.run.global_step == 2
    assert model.run.stop_reason == history.attrs["stop_reason"] == "enough"
    assert isinstance(model.run, Run)
    assert {"epoch", "history", "stop"} <= set(dir(model.run))


def test_a_model_is_copied_with_its_run():
    model, _ = fitted()
    other = copy.deepcopy(model)
    assert other.run.epoch == 2
    assert whole(other.run) is not whole(model.run)


class Copies(Callback):
    """Copies and pickles the model at each moment of a run; keeps what the data was meanwhile."""

    def __init__(self):
        self.copies, self.sizes, self.data = [], [], []

    def on_step_end(self, model):
        packed = pickle.dumps(model)
        self.sizes.append(len(packed))
        self.copies += [copy.deepcopy(model), pickle.loads(packed)]
        self.data.append(model.run.data.train)

    on_fit_start = on_validation_epoch_end = on_fit_end = on_step_end


@pytest.mark.parametrize("keeps", [False, True])
def test_a_model_copied_or_saved_by_a_callback_takes_no_data_along_and_is_fitted_itself(keeps, tmp_path):
    copies = Copies()
    net = nn.Linear(3, 1)
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    many = torch.ones(20_000, 3)
    kept = {"ckpt_path": tmp_path / "net", "save_every": 1} if keeps else {"ckpt_path": None}
    batches = ((part, part[:, :1]) for part in many.split(10_000))  # which nothing can copy
    model.fit(batches, epochs=1, quiet=True, cpu=True, callbacks=[copies], **kept)
    assert len(copies.copies) == 10
    assert max(copies.sizes) < many.nbytes / 4
    assert None not in copies.data  # the run itself has them
    for one in copies.copies:
        assert one.run.data.train is None
        assert not one.active
        assert one.run.config == model.run.config
    once = copies.copies[-1]
    assert once.run.epoch == 1
    assert once.run.history == model.run.history
    once.fit((X, X[:, :1]), epochs=1, quiet=True, cpu=True, ckpt_path=None)
    assert not torch.equal(once.net.weight, model.net.weight)  # and moves weights of its own


def test_control_a_copy_in_mid_run_leaves_the_run_as_it_is():
    (model, history), (other, undisturbed) = fitted([Copies()]), fitted()
    assert history.equals(undisturbed)
    assert torch.equal(model.net.weight, other.net.weight)
    assert not torch.equal(model.net.weight, fitted(epochs=1)[0].net.weight)


class ReadsData(Callback):
    """Reads the training data as an epoch begins, or in the middle of a pass."""

    def __init__(self, moment, batches=None):
        self.moment, self.batches, self.read = moment, batches, []

    def read_data(self, model):
        data = model.run.data.train
        self.read.append(sum(len(x) for x, _ in itertools.islice(data, self.batches)))

    def on_epoch_start(self, model):
        if self.moment == "epoch":
            self.read_data(model)

    def on_step_end(self, model):
        if self.moment == "step" and model.run.stage == "train" and model.run.step == 2:
            self.read_data(model)


class Persistent(DataLoader):
    """Reads with a worker that lives on."""

    def __init__(self, dataset, batch_size, shuffle):
        super().__init__(dataset, batch_size, shuffle=shuffle, num_workers=1, persistent_workers=True)


@pytest.mark.parametrize("loader", [DataLoader, Persistent])
@pytest.mark.parametrize(("moment", "batches"), [("epoch", None), ("step", None), ("step", 1)])
def test_a_callback_that_reads_the_data_of_a_run_disturbs_neither_it_nor_its_saved_states(
        tmp_path, loader, moment, batches):
    def fit(path, *stop, seed=1):
        torch.manual_seed(0)
        net, reads = nn.Linear(3, 1), ReadsData(moment, batches)
        model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
        data = loader(TensorDataset(X, X[:, :1]), batch_size=2, shuffle=True)
        model.fit(data, epochs=3, seed=seed, quiet=True, cpu=True, ckpt_path=tmp_path / path, save_every=1, resume=True,
                  callbacks=[reads, *stop])
        assert set(reads.read) <= {8 if batches is None else 2}
        return net.weight, model.run

    whole, run = fit("whole")
    assert run.global_step == 12
    for step in (3, 6):  # behind what was read in mid-pass, and at it
        fit(f"stopped{step}", StopAt(step))
        weight, resumed = fit(f"stopped{step}")
        assert torch.equal(weight, whole)
        assert resumed.history == run.history
        assert any("goes on in epoch" in note for note in resumed.notes)
    assert not torch.equal(fit("other", seed=2)[0], whole)


def test_a_view_is_sent_to_another_process_and_shows_a_run_once():
    view = RunView(FitConfig(seed=3))
    assert pickle.loads(pickle.dumps(view)).seed == 3
    assert whole(read_only(view)) is whole(view)


def test_every_field_of_the_config_is_an_argument_of_fit_with_the_same_default():
    arguments = inspect.signature(KerasModel.fit).parameters
    given = {one.name: one.default for one in fields(FitConfig)}
    assert MISSING not in given.values()
    assert {name: arguments[name].default for name in given} == given


def test_a_config_takes_its_fields_from_the_arguments_of_fit():
    every = {name: one.default for name, one in inspect.signature(KerasModel.fit).parameters.items()}
    assert FitConfig.of(every | {"train_data": 1, "seed": 3}, ckpt_path=None) == FitConfig(seed=3, ckpt_path=None)
