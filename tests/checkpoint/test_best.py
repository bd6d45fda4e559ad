"""Which weights a run ends with, in the net and in the file; no file is replaced by a worse one."""

import os

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import Callback, KerasModel, Model

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
DATA = X, X.sum(dim=1, keepdim=True)


def model(lr=0.05, seed=1, cls=KerasModel, **options):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
    return cls(net, "mse", {"mae": "mae"}, torch.optim.SGD(net.parameters(), lr=lr), **options)


def trained(path, cls=KerasModel):
    """A model whose best weights are in a file."""
    found = model(cls=cls)
    found.fit(DATA, DATA, epochs=8, ckpt_path=path, quiet=True, seed=0)
    return found


def spoil(net):
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(3.0)


def fit(one, path, **options):
    """A run that comes to nothing: hardly a step."""
    return one.fit(DATA, options.pop("val_data", DATA), **{"epochs": 2, "ckpt_path": path, "quiet": True, "seed": 3,
                                                          **options})


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def slow(one):
    for group in one.optimizer.param_groups:
        group["lr"] = 1e-9
    return one


def holds(path, one):
    return same(torch.load(path), one.net.state_dict())


def notes(one):
    return " ".join(one.run.notes)


# a file that is there


@pytest.mark.parametrize("options", [{}, {"monitor": "val_mae"}, {"validation_freq": 2}, {"initial_epoch": 1},
                                     {"patience": 1, "epochs": 3}], ids=str)
def test_a_second_fit_does_not_replace_a_better_file_by_a_worse_one(options, tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    before, weights = path.read_bytes(), torch.load(path)
    spoil(one.net)
    history = fit(slow(one), path, **options)
    assert path.read_bytes() == before
    assert same(weights, one.net.state_dict())
    assert one.run.monitor.best_epoch == 0
    assert 0 not in history["epoch"].tolist()
    assert "better than every epoch of this run" in notes(one)


def test_the_larger_number_is_better_where_the_mode_says_so(tmp_path):
    path = tmp_path / "best.pt"
    one = model()
    one.fit(DATA, DATA, epochs=1, ckpt_path=path, quiet=True, monitor="val_mae", mode="max", seed=0)
    before = path.read_bytes()
    one.fit(DATA, DATA, epochs=3, ckpt_path=path, quiet=True, monitor="val_mae", mode="max", seed=0)
    assert path.read_bytes() == before
    one.fit(DATA, DATA, epochs=1, ckpt_path=path, quiet=True, monitor="val_mae", mode="min", seed=0)
    assert path.read_bytes() != before


@pytest.mark.parametrize("spelling", ["absolute", "relative", "home", "link", "hard link"])
def test_a_file_is_known_however_its_path_is_spelled(spelling, tmp_path, monkeypatch):
    path = tmp_path / "best.pt"
    trained(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "link.pt").symlink_to(path)
    os.link(path, tmp_path / "hard.pt")
    other = {"absolute": path, "relative": "best.pt", "home": "~/best.pt", "link": "link.pt",
             "hard link": "hard.pt"}[spelling]
    one = model()
    one.load_ckpt(other)
    weights = torch.load(path)
    spoil(one.net)
    fit(slow(one), path)
    assert same(weights, one.net.state_dict())
    assert holds(path, one)


def test_better_weights_do_replace_the_file(tmp_path):
    path = tmp_path / "best.pt"
    one = model(lr=1e-3)
    fit(one, path)
    first = one.run.monitor.best
    one.optimizer.param_groups[0]["lr"] = 0.05
    one.fit(DATA, DATA, epochs=8, ckpt_path=path, quiet=True)
    assert one.run.monitor.best < first
    assert one.run.monitor.best_epoch > 0
    assert holds(path, one)


def test_the_weights_in_the_file_are_measured_and_not_those_of_the_net(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    measured = one.evaluate(DATA)["val_loss"]
    spoil(one.net)
    fit(slow(one), path)
    assert one.run.monitor.best == measured


def test_a_new_model_overwrites_what_is_there(tmp_path):
    path = tmp_path / "best.pt"
    trained(path)
    other = model(lr=1e-9, seed=2)
    fit(other, path)
    assert holds(path, other)
    assert other.run.monitor.best_epoch > 0


def test_weights_that_were_loaded_from_elsewhere_do_not_compete(tmp_path):
    trained(tmp_path / "a.pt")
    fit(model(lr=1e-9, seed=2), tmp_path / "b.pt")
    one = model(lr=1e-9)
    one.load_ckpt(tmp_path / "a.pt")
    spoil(one.net)
    fit(one, tmp_path / "b.pt")
    assert holds(tmp_path / "b.pt", one)
    assert one.run.monitor.best_epoch > 0


def test_the_file_of_another_run_is_overwritten_and_that_is_said(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    trained(path)
    spoil(one.net)
    fit(slow(one), path)
    assert holds(path, one)
    assert "no longer the file that this model saved or loaded" in notes(one)


def test_a_file_that_is_gone_is_missed_by_nobody(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    path.unlink()
    fit(slow(one), path)
    assert holds(path, one)
    assert "ckpt_path" not in notes(one)


@pytest.mark.parametrize("options", [{"val_data": None}, {"monitor": "train_loss"},
                                     {"val_data": (batch for batch in [DATA] * 9), "validation_steps": 1}],
                         ids=["no val_data", "a number of training", "a generator"])
def test_what_cannot_be_compared_is_said_before_it_is_overwritten(options, tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    spoil(one.net)
    fit(slow(one), path, **options)
    assert holds(path, one)
    assert "could not be compared with this run's" in notes(one)


def test_a_file_that_was_loaded_in_part_is_overwritten_and_that_is_said(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    torch.save({name: value for name, value in one.net.state_dict().items() if name.startswith("0")}, path)
    other = model(lr=1e-9, seed=2)
    other.load_ckpt(path, strict=False)
    fit(other, path)
    assert holds(path, other)
    assert "a part of the net's weights" in notes(other)


def test_names_that_were_changed_in_loading_are_changed_again(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    torch.save({f"old.{name}": value for name, value in one.net.state_dict().items()}, path)
    other = model(lr=1e-9, seed=2)
    other.load_ckpt(path, rename={"old.": ""})
    weights = {name: value.clone() for name, value in other.net.state_dict().items()}
    spoil(other.net)
    fit(other, path)
    assert same(weights, other.net.state_dict())


class Adapters(KerasModel):
    """Saves its last layer alone."""

    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        torch.save(self.net[-1].state_dict(), ckpt_path)

    def load_ckpt(self, ckpt_path="checkpoint", extra=None):
        self.net[-1].load_state_dict(torch.load(ckpt_path))


def test_a_model_that_saves_in_its_own_way_is_asked_for_its_file(tmp_path):
    path = tmp_path / "best.pt"
    one = model(cls=Adapters)
    for weight in one.net[:-1].parameters():
        weight.requires_grad_(False)
    one.fit(DATA, DATA, epochs=4, ckpt_path=path, quiet=True, seed=0)
    other = model(lr=1e-9, cls=Adapters)
    other.net.load_state_dict(one.net.state_dict())
    other.load_ckpt(path)
    weights, before = torch.load(path), path.read_bytes()
    spoil(other.net[-1])
    fit(other, path)
    assert path.read_bytes() == before
    assert same(weights, other.net[-1].state_dict())


class Noisy(Dataset):
    """Draws, from the global generator and from one of its own, and counts."""

    def __init__(self):
        self.own, self.read = torch.Generator().manual_seed(0), 0

    def __len__(self):
        return 20

    def __getitem__(self, index):
        self.read += 1
        return X[index] + torch.rand(1) + torch.rand(1, generator=self.own) + self.read / 100, DATA[1][index]


class Counting(nn.Module):
    """Changes when it is called, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(4, 1), 0
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.count += 1
        return self.inner(x) * (1 + 0.01 * self.calls + 0.01 * self.count)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_pass_that_measures_the_file_changes_nothing_in_the_run(workers, tmp_path):
    def run(path, knows):
        torch.manual_seed(0)
        one = KerasModel(Counting(), "mse", ["mae"])
        one.save_ckpt(tmp_path / ("best.pt" if knows else "other.pt"))
        val = DataLoader(Noisy(), 8, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        heard = []
        listener = Callback()
        listener.on_step_end = lambda model: heard.append((model.run.stage, model.run.epoch, model.run.step))
        torch.manual_seed(1)
        frame = one.fit(DATA, val, epochs=3, ckpt_path=path, quiet=True, callbacks=[listener], batch_size=16,
                        restore_best=False)
        return frame.to_dict("list"), one.net.state_dict(), torch.rand(1).item(), one.net.calls, heard, notes(one)

    plain, measured = run(tmp_path / "best.pt", False), run(tmp_path / "best.pt", True)
    assert "only better ones replace them" in measured[-1]  # control: there was such a pass
    assert "only better ones" not in plain[-1]
    assert repr(measured[:-1]) == repr(plain[:-1])


def test_patience_counts_the_epochs_of_this_run_alone(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    spoil(one.net)
    one.optimizer.param_groups[0]["lr"] = 1e-5
    history = fit(one, path, patience=2, epochs=6)
    assert history["val_loss"].is_monotonic_decreasing  # control: it improves, far above the file
    assert history.attrs["stop_reason"] is None
    assert len(history) == 6


def test_a_run_that_goes_on_has_its_best_weights_and_measures_no_file(tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    spoil(one.net)
    fit(slow(one), path, save_every="epoch")
    assert one.run.monitor.best_epoch == 0
    best, before = one.run.monitor.best, path.read_bytes()
    other = slow(model(seed=2))
    other.load_ckpt(path)
    fit(other, path, resume=True, epochs=4)
    assert (other.run.monitor.best, other.run.monitor.best_epoch) == (best, 0)
    assert "only better ones" not in notes(other)
    assert path.read_bytes() == before
    assert holds(path, other)


def test_the_face_in_keras_words_protects_its_file_too(tmp_path):
    path = tmp_path / "best.pt"
    one = Model(nn.Linear(4, 1))
    one.compile(torch.optim.SGD(one.net.parameters(), 0.1), "mse")
    options = {"validation_data": DATA, "verbose": 0, "ckpt_path": path}
    one.fit(*DATA, epochs=5, **options)
    before = path.read_bytes()
    spoil(one.net)
    one.learning_rate = 1e-9
    one.fit(*DATA, epochs=1, **options)
    assert path.read_bytes() == before


def test_a_model_that_is_compiled_anew_knows_its_files_and_tells_callbacks_of_no_pass_but_its_own(tmp_path):
    class Tests:
        def __init__(self):
            self.heard = 0

        def on_test_begin(self, logs=None):
            self.heard += 1

    path = tmp_path / "best.pt"
    first = Model(nn.Linear(4, 1))
    first.compile(torch.optim.SGD(first.net.parameters(), 0.1), "mse")
    first.fit(*DATA, validation_data=DATA, verbose=0, ckpt_path=path, epochs=5)
    before = path.read_bytes()
    one, tests = Model(nn.Linear(4, 1)), Tests()
    one.load(path)
    spoil(one.net)
    one.compile(torch.optim.SGD(one.net.parameters(), 1e-9), "mse")
    one.fit(*DATA, validation_data=DATA, verbose=0, ckpt_path=path, epochs=2, callbacks=[tests])
    assert path.read_bytes() == before
    assert tests.heard == 2


@pytest.mark.parametrize("options", [{"speed": "fast"}, {"mixed_precision": "bf16"}, {"val_data": [DATA]},
                                     {"val_data": DataLoader(TensorDataset(*DATA), 7, num_workers=1)}],
                         ids=["fast", "bf16", "a list", "workers"])
def test_other_ways_of_training_protect_the_file_too(options, tmp_path):
    path = tmp_path / "best.pt"
    one = trained(path)
    before = path.read_bytes()
    spoil(one.net)
    fit(slow(one), path, **options)
    assert path.read_bytes() == before
    assert holds(path, one)


def test_weights_whose_number_is_nan_are_no_rival(tmp_path):
    path = tmp_path / "best.pt"
    one = model()
    weights = {name: value.clone() for name, value in one.net.state_dict().items()}
    spoil(one.net)
    with torch.no_grad():
        one.net[0].weight.fill_(float("nan"))
    one.save_ckpt(path)
    one.net.load_state_dict(weights)
    fit(one, path)
    assert holds(path, one)
    assert "val_loss is nan" in notes(one)


def test_an_end_that_is_asked_for_in_that_pass_changes_nothing(tmp_path):
    class Stops(Dataset):
        def __init__(self, one):
            self.one = one

        def __len__(self):
            return 8

        def __getitem__(self, index):
            run = self.one[0].run
            if index == 6 and run.epoch == 0 and run.stage == "val":
                run.stop("by the test")
            return X[index], DATA[1][index]

    path = tmp_path / "best.pt"
    one = trained(path)
    before = path.read_bytes()
    spoil(one.net)
    weights = {name: value.clone() for name, value in one.net.state_dict().items()}
    history = fit(one, path, val_data=DataLoader(Stops([one]), 2))
    assert len(history) == 0
    assert history.attrs["stop_reason"] == "by the test"
    assert path.read_bytes() == before
    assert same(weights, one.net.state_dict())


# which weights the net ends with


@pytest.mark.parametrize("face", ["KerasModel", "Model"])
def test_the_last_weights_stay_where_that_is_asked_and_the_file_has_the_best(face, tmp_path):
    class Worsens(Callback):
        def on_epoch_start(self, model):
            if model.run.epoch == 3:
                spoil(model.net)

        def on_validation_epoch_end(self, model):
            self.last = {name: value.clone() for name, value in model.net.state_dict().items()}

    path, watch = tmp_path / "best.pt", Worsens()
    options = {"epochs": 3, "ckpt_path": path, "callbacks": [watch], "restore_best": False}
    one = model(lr=0.01)
    if face == "KerasModel":
        one.fit(DATA, DATA, quiet=True, **options)
    else:
        outer = Model(one.net)
        outer.compile(one.optimizer, "mse")
        outer.fit(*DATA, validation_data=DATA, verbose=0, **options)
        one = outer.engine
    assert one.run.monitor.best_epoch == 2
    assert same(watch.last, one.net.state_dict())
    assert not holds(path, one)
    assert one.evaluate(DATA)["val_loss"] > one.run.monitor.best


def test_a_loss_that_becomes_nan_leaves_the_weights_that_the_epoch_began_with(tmp_path):
    class Breaks(Callback):
        def on_epoch_start(self, model):
            self.began = {name: value.clone() for name, value in model.net.state_dict().items()}

        def on_step_end(self, model):
            if model.run.epoch == 2 and model.run.stage == "train":
                with torch.no_grad():
                    model.net[0].weight.fill_(float("nan"))

    watch, one = Breaks(), model()
    with pytest.warns(RuntimeWarning, match="nan"):
        fit(one, tmp_path / "best.pt", restore_best=False, callbacks=[watch], epochs=3)
    assert same(watch.began, one.net.state_dict())


def test_a_finished_run_gives_its_last_weights_back(tmp_path):
    options = {"restore_best": False, "resume": True}
    first, again = model(lr=0.3), model(lr=0.3, seed=2)
    fit(first, tmp_path / "best.pt", **options)
    fit(again, tmp_path / "best.pt", **options)
    assert same(first.net.state_dict(), again.net.state_dict())


def test_small_improvements_are_kept_and_end_the_run(tmp_path):
    one = model(lr=2e-3)
    history = fit(one, tmp_path / "best.pt", epochs=9, patience=2, min_delta=0.5)
    assert history["val_loss"].is_monotonic_decreasing
    assert len(history) == 3
    assert one.run.monitor.best_epoch == 3
    again = model(lr=2e-3)
    assert len(fit(again, None, epochs=9, patience=2)) == 9  # control


@pytest.mark.parametrize(("value", "kind"), [(-0.1, ValueError), (float("nan"), ValueError), ("small", TypeError),
                                             (True, TypeError), (None, TypeError)])
def test_a_min_delta_that_is_no_size_is_refused(value, kind):
    with pytest.raises(kind, match="min_delta"):
        fit(model(), None, min_delta=value)


def test_words_of_other_libraries_are_told_ours():
    for word, ours in {"restore_best_weights": "restore_best", "load_best_model_at_end": "restore_best",
                       "early_stopping_threshold": "min_delta"}.items():
        with pytest.raises(TypeError, match=f"Did you mean '{ours}'"):
            model().fit(DATA, **{word: 1})
    with pytest.raises(TypeError, match="restore_best"):
        fit(model(), None, restore_best="yes")
