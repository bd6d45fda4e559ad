"""A resumed run gives callbacks back what they remember, also where their list has changed."""

import pytest
import torch
from torch import nn

from torchkeras import Callback, Model
from torchkeras.keras import callbacks
from torchkeras.keras.moments import KerasMoments

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, :1] > 0).float()


class StopAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_validation_epoch_end(self, model):
        if model.run.epoch == self.epoch:
            model.run.stop("enough for today")


def fit(path, told, stop=99):
    made = Model(nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()))
    made.compile("sgd", "binary_crossentropy", ["accuracy"])
    made.fit(X, Y, epochs=4, batch_size=10, validation_data=(X, Y), verbose=0, ckpt_path=path, resume=True,
             restore_best=False, callbacks=[*told, StopAt(stop)])
    return [note for note in made.engine.run.notes if note.startswith("callbacks: ")]


def stopping(name="val_loss", **options):
    return callbacks.EarlyStopping(name, patience=50, **options)


def plateau():
    return callbacks.ReduceLROnPlateau("val_loss", patience=50, min_delta=100.0)


class Begun(callbacks.Callback):
    """Notes what another callback remembers as the first epoch of a resumed run begins."""

    def __init__(self, other):
        self.other, self.seen = other, None

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = self.seen or dict(vars(self.other))


def test_states_go_by_class_when_callbacks_are_swapped_and_added(tmp_path):
    fit(tmp_path / "a.pt", [stopping(), plateau()], stop=2)
    moved, slow = stopping(), plateau()
    seen, slowly = Begun(moved), Begun(slow)
    assert fit(tmp_path / "a.pt", [callbacks.History(), slow, moved, seen, slowly]) == []
    assert (seen.seen["best"] is not None, seen.seen["best_epoch"], slowly.seen["wait"]) == (True, 1, 1)


def test_a_changed_monitor_or_mode_begins_anew_and_says_so(tmp_path):
    for number, other in enumerate((stopping("val_accuracy"), stopping(mode="max"))):
        fit(tmp_path / f"{number}.pt", [stopping()], stop=2)
        seen = Begun(other)
        notes = fit(tmp_path / f"{number}.pt", [other, seen])
        assert seen.seen["best"] is None
        assert "begins anew" in notes[0]
        assert "(val_loss, min) was in the stopped run, and is not now" in notes[1]
    fit(tmp_path / "b.pt", [stopping()], stop=2)
    same = Begun(other := stopping(mode="min"))  # control: said in other words
    assert fit(tmp_path / "b.pt", [other, same]) == []
    assert same.seen["best"] is not None


def test_a_callback_that_is_gone_is_named(tmp_path):
    fit(tmp_path / "a.pt", [stopping(), plateau()], stop=2)
    assert fit(tmp_path / "a.pt", [plateau()]) == [
        "callbacks: EarlyStopping (val_loss, min) was in the stopped run, and is not now"]


def test_a_state_that_a_callback_does_not_take_is_an_error_in_words(tmp_path):
    class Counts(callbacks.Callback):
        def state_dict(self):
            return {"one": 1}

        def load_state_dict(self, state):
            state["two"]

    fit(tmp_path / "a.pt", [Counts()], stop=2)
    with pytest.raises(ValueError, match=r"callbacks: received a Counts that does not take .*KeyError"):
        fit(tmp_path / "a.pt", [Counts()])


def test_states_saved_by_place_still_load(tmp_path, monkeypatch):
    def by_place(self):
        return {"rows": [dict(row) for row in self.history.rows],
                "callbacks": {str(place): one.state_dict() for place, one in enumerate(self.callbacks)
                              if hasattr(one, "state_dict")}}

    for name in ("a", "b"):
        with monkeypatch.context() as older:
            older.setattr(KerasMoments, "state_dict", by_place)
            fit(tmp_path / f"{name}.pt", [stopping(), plateau()], stop=2)
    seen = Begun(other := stopping())
    assert fit(tmp_path / "a.pt", [other, plateau(), seen]) == []
    assert seen.seen["best"] is not None
    changed = Begun(other := stopping())
    assert len(fit(tmp_path / "b.pt", [plateau(), other, changed])) == 2
    assert changed.seen["best"] is None
