"""The folder of a run's states: what is shared between them, what cannot be removed, and what is too much."""

import json
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.faults import runs
from torch import nn

from torchkeras import Callback, KerasModel, load_checkpoint, save_checkpoint
from torchkeras.checkpoint import history_file, state_folder, store
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits, limits_for
from torchkeras.core import files, leftover
from torchkeras.state.module_state import copy_state_into, load_bare_state_dict
from torchkeras.state.weights import Weights


def columns(rows, names=("epoch", "loss")):
    return {name: [float(place + 10 * row) for row in range(rows)] for place, name in enumerate(names)}


def table(path, width):
    return np.frombuffer(path.read_bytes()).reshape(-1, width)


def saved(writer, folder, name, history, rows):
    """Write the rows of one state, as a vault does."""
    (folder / name).mkdir()
    digest = writer.write(writer.take(history, rows), folder / name)
    writer.moved_to(folder / name)
    return digest


def test_a_save_writes_only_the_rows_that_are_new_to_a_file_that_states_share(tmp_path):
    writer, history, written = history_file.HistoryFile(), columns(300), []
    for rows in range(1, 301):
        written.append(len(writer.take(history, rows).content))
        saved(writer, tmp_path, str(rows), history, rows)
    assert set(written) == {16}
    first, last = tmp_path / "1" / history_file.HISTORY, tmp_path / "300" / history_file.HISTORY
    assert first.samefile(last)
    assert table(last, 2).tolist() == [[10.0 * row, 1 + 10.0 * row] for row in range(300)]


def test_each_state_keeps_its_own_beginning_of_the_file(tmp_path):
    writer, history = history_file.HistoryFile(), columns(9)
    digests = {rows: saved(writer, tmp_path, str(rows), history, rows) for rows in (2, 5, 9)}
    for rows, (digest, size) in digests.items():
        state_folder.check_file(tmp_path / str(rows) / history_file.HISTORY, digest, size)
        found = state_folder.read_history(tmp_path / str(rows) / history_file.HISTORY, size, {"history": list(history)})
        assert {name: column.tolist() for name, column in found.items()} == {
            name: column[:rows] for name, column in history.items()}


@pytest.mark.parametrize("change", ["an earlier row", "another column", "fewer rows", "no links", "the file is gone"])
def test_rows_are_written_anew_where_those_in_the_file_are_others(tmp_path, change, monkeypatch):
    writer, history, rows = history_file.HistoryFile(), columns(8), 8
    before = saved(writer, tmp_path, "1", history, 6)
    if change == "an earlier row":
        history["loss"][2] = -1.0
    elif change == "another column":
        history["lr"] = [0.5] * 8
    elif change == "fewer rows":
        rows = 4
    elif change == "no links":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    else:
        (tmp_path / "1" / history_file.HISTORY).unlink()
    digest, size = saved(writer, tmp_path, "2", history, rows)
    found = table(tmp_path / "2" / history_file.HISTORY, len(history))
    assert np.array_equal(found.T, [column[:rows] for column in history.values()])
    assert (tmp_path / "2" / history_file.HISTORY).stat().st_size == size
    if change != "the file is gone":
        state_folder.check_file(tmp_path / "1" / history_file.HISTORY, *before)


def test_a_row_that_was_not_written_is_in_the_next_state(tmp_path, monkeypatch):
    writer, history = history_file.HistoryFile(), columns(8)
    saved(writer, tmp_path, "1", history, 3)
    with monkeypatch.context() as patch:
        patch.setattr(history_file, "flush", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            saved(writer, tmp_path, "2", history, 5)
    saved(writer, tmp_path, "3", history, 7)
    assert np.array_equal(table(tmp_path / "3" / history_file.HISTORY, 2).T, [one[:7] for one in history.values()])


class Kept(Callback):
    """Keeps the run."""

    def on_fit_end(self, model):
        self.run = model.run


@pytest.mark.parametrize("stuck", [False, True])
def test_states_are_removed_where_folders_cannot_be_renamed_and_told_where_they_cannot_be_removed(
        tmp_path, monkeypatch, stuck):
    rename, unlink = os.rename, os.unlink

    def refused(source, target):
        if Path(source).name.startswith("0000"):
            raise PermissionError(13, "Access is denied")
        rename(source, target)

    def held(path, *more, **options):
        if stuck and Path(path).name == state_folder.MANIFEST:
            raise PermissionError(13, "Access is denied")
        unlink(path, *more, **options)

    monkeypatch.setattr(os, "rename", refused)
    monkeypatch.setattr(os, "unlink", held)
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    kept = Kept()
    runs.run(tmp_path / "best", [kept], epochs=5, resume=True, keep=2)
    names = [one.name for one in runs.states(tmp_path / "best")]
    assert names == ([f"0000000{number}" for number in range(1, 6)] if stuck else ["00000004", "00000005"])
    told = [note for note in kept.run.notes if note.startswith("keep:")]
    assert [("cannot be removed (Access is denied)" in note) for note in told[:1]] == ([True] if stuck else [])


def test_what_a_killed_run_left_and_cannot_be_removed_now_keeps_no_run_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "best.state" / ".tmp-1-ab").mkdir(parents=True)
    monkeypatch.setattr(store, "remove_tree", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Access is denied")))
    kept = Kept()
    runs.run(tmp_path / "best", [kept], epochs=1, resume=True)
    assert any(note.startswith("keep:") and ".tmp-1-ab' cannot be removed" in note for note in kept.run.notes)


def test_where_the_system_cannot_say_whether_a_process_lives_the_lock_alone_counts(tmp_path, monkeypatch):
    one = store.CheckpointStore(tmp_path / "best.state")
    one.open()
    try:
        monkeypatch.setattr(leftover, "process_exists", lambda number: None)  # as on Windows
        assert one.owner_lives()
        with pytest.raises(ValueError, match=f"which process {os.getpid()} on .* writes to"):
            store.CheckpointStore(tmp_path / "best.state").open()
    finally:
        monkeypatch.undo()
        one.close()


class Late(Callback):
    """Lets the writing of best weights wait until the next epoch has trained."""

    def __init__(self, monkeypatch):
        self.trained, write = threading.Event(), store.write_pieces

        def late(path, pieces):
            if path.name == "best.safetensors":
                self.trained.clear()
                self.trained.wait(0.5)
            return write(path, pieces)

        monkeypatch.setattr(store, "write_pieces", late)

    def on_train_epoch_end(self, model):
        self.trained.set()


@pytest.mark.parametrize("waits", [True, False])
def test_best_weights_wait_for_the_state_that_they_are_written_to(tmp_path, monkeypatch, waits):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def fit(name, **options):
        torch.manual_seed(0)
        model = KerasModel(nn.Sequential(nn.Linear(4, 400), nn.Linear(400, 4)), "mse", optimizer="sgd")
        model.fit((x, x), epochs=4, batch_size=16, ckpt_path=tmp_path / name, save_every="epoch", keep=9, quiet=True,
                  **options)
        return [(one / "best.safetensors").read_bytes() for one in runs.states(tmp_path / name)]

    expected = fit("plain")
    assert len(set(expected)) == 4  # each epoch is the best
    late = Late(monkeypatch)
    if not waits:  # the control
        monkeypatch.setattr(Weights, "reader", property(lambda self: None, lambda self, thread: None), raising=False)
    assert (fit("late", callbacks=[late]) == expected) is waits


class Hoards(Callback):
    """Remembers more lists than a state can hold."""

    def __init__(self, at):
        self.at, self.step = at, 0

    def on_step_end(self, model):
        self.step += 1

    def state_dict(self):
        return {"lists": [[] for _ in range(206_000)] if self.step >= self.at else []}

    def load_state_dict(self, state):
        pass


def test_a_state_that_could_not_be_read_again_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="state: received one that has 20.* lists .* long lists as one tensor"):
        runs.run(tmp_path / "best", [Hoards(0)], epochs=1, resume=True)


def test_one_that_comes_to_hold_too_much_is_told_and_the_run_goes_on(tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        runs.run(tmp_path / "best", [Hoards(9)], epochs=1, length=1, resume=True, save_every=8)
    assert any("could not be saved (ValueError: state: received one that has 20" in str(one.message) for one in seen)
    assert runs.states(tmp_path / "best")  # those before


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="parts: received what has 30.* lists and dicts"):
        save_checkpoint(tmp_path / "all.safetensors", lists=[[] for _ in range(300_000)])
    with pytest.raises(ValueError, match="parts: received what lists 10001 tensors"):
        save_checkpoint(tmp_path / "all.safetensors", many=[torch.zeros(1) for _ in range(10_001)])
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_a_net_of_many_tensors_is_loaded_with_the_net(tmp_path):
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6_000)))
    save_checkpoint(tmp_path / "all.safetensors", net=net, epoch=3)
    assert load_checkpoint(tmp_path / "all.safetensors", net=net) == {"epoch": 3}


def test_limits_follow_what_is_to_take_a_file():
    small, large = limits_for(nn.Linear(1, 1)), limits_for(*(nn.Linear(1, 1) for _ in range(9_000)))
    assert small.tensors == Limits().tensors < large.tensors
    large.check_names(["x"] * 20_000)
    with pytest.raises(LimitExceeded, match="lists 20000 tensors, and 10000 are the most"):
        small.check_names(["x"] * 20_000)


class Own(nn.Linear):
    """Counts how it is loaded."""

    def _load_from_state_dict(self, *arguments):
        self.times = getattr(self, "times", 0) + 1
        super()._load_from_state_dict(*arguments)


def with_hook():
    net = nn.Linear(2, 2)
    net.register_load_state_dict_post_hook(lambda module, _: setattr(module, "times", 1))
    return net


def patched():
    net = nn.Linear(2, 2)

    def load(*arguments):
        net.times = 1
        nn.Linear._load_from_state_dict(net, *arguments)

    net._load_from_state_dict = load
    return net


@pytest.mark.parametrize("make", [lambda: Own(2, 2), with_hook, patched])
def test_a_module_that_loads_in_its_own_way_does(make):
    net = make()
    load_bare_state_dict(net, {name: value + 1 for name, value in net.state_dict().items()})
    assert net.times == 1


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
                                  lambda: nn.MultiheadAttention(4, 2), lambda: nn.LSTM(2, 2).half()])
def test_a_plain_net_takes_a_state_as_load_state_dict_puts_it(make, monkeypatch):
    net, other = make(), make()
    state = {name: (value.float() * 2 + 1) for name, value in net.state_dict().items()}
    other.load_state_dict(state)
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_: pytest.fail("torch's way takes 9 s for 12,000"))
    load_bare_state_dict(net, state)
    for (name, one), (_, two) in zip(net.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(one, two), name
        assert one.dtype == two.dtype


def test_tied_weights_and_a_state_of_another_net_are_left_to_torch_or_put_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert copy_state_into(net, {name: value.clone() for name, value in net.state_dict().items()})
    assert net[1].weight is net[0].weight
    assert not copy_state_into(net, nn.Linear(2, 2).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        load_bare_state_dict(net, nn.Linear(2, 2).state_dict())


def test_facts_name_the_columns_of_the_history(tmp_path):
    runs.run(tmp_path / "best", epochs=2, resume=True)
    newest = runs.states(tmp_path / "best")[-1]
    names = json.loads((newest / state_folder.FACTS).read_text())["history"]
    assert table(newest / history_file.HISTORY, len(names))[:, names.index("epoch")].tolist() == [1.0, 2.0]
