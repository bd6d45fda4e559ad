"""Find, decode and check the state that a run resumes from; encode a new one for the store."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.optim.lr_scheduler import OneCycleLR

from torchkeras.checkpoint import run_fingerprint, run_state
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.history_file import HISTORY, Rows
from torchkeras.checkpoint.older_formats import rename_to_bare
from torchkeras.checkpoint.serialization import TensorJSONEncoder, unpack
from torchkeras.checkpoint.state_folder import FROZEN, STATE_LIMITS, TENSORS, SavedState
from torchkeras.checkpoint.state_schema import check_form, refuse_misfit
from torchkeras.checkpoint.store import CheckpointStore, TensorFiles
from torchkeras.checkpoint.tensor_file import limits_for
from torchkeras.core.errors import bad_value
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.types import State, Value
from torchkeras.engine.run import Run
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import components_of
from torchkeras.state.module_state import storage_key


@contextmanager
def open_store(model: Trainable,
               run: Run) -> Iterator[tuple[CheckpointStore | None, State | None]]:
    """Open the store of a run; yield it (on the main process) and the state to resume from.

    The state is the same on all ranks; it is checked, and nothing is loaded yet. One run at a time
    can open a store: the lock is released at the end.
    """
    config, communicator = run.config, run.communicator
    if not config.keeps_state:
        yield None, None
        return
    modules = components_of(model).modules.values()
    limits = limits_for(*modules, times=STATE_LIMITS.times)
    store = CheckpointStore(Path(f"{config.ckpt_path}.state"), config.keep, limits)
    try:
        saved = None
        with communicator.raise_on_all_ranks():
            if communicator.is_main_process:
                saved = newest_state(store, run)
        saved = communicator.broadcast(saved)
        with communicator.raise_on_all_ranks():
            if saved is not None:
                run.notes += check_resumable(model, run, saved)
        yield store if communicator.is_main_process else None, saved
    finally:
        store.close()


def newest_state(store: CheckpointStore, run: Run) -> State | None:
    """Return the newest sound state, decoded; None if the run is to begin anew."""
    store.open()
    if not run.config.resume:
        return None
    newest, notes = store.newest()
    run.notes += notes
    if newest is None:
        run.notes.append(f"resume: no saved state in {str(store.folder)!r}, the run begins anew")
        return None
    return decode_state(newest)


def decode_state(saved: SavedState) -> State:
    """Return a state as values and tensors; refuse one that no run has written."""
    try:
        frozen: Value = saved.tensors.get(FROZEN, {})  # ChainMap is typed for what can be written
        parts: list[Value] = [saved.tensors[name] for name in TENSORS]
        weights, best, rest = (ChainMap(part, frozen) for part in parts)
        state: State = unpack(saved.facts["state"], rest)
        state["net"] = [unpack(saved.facts["weights"], weights), *state["net"]]
        state["best"] = unpack(saved.facts["best"], best)
        if HISTORY in saved.tensors:
            state["history"] = saved.tensors[HISTORY]
        state = run_state.upgrade_state({**state, "number": saved.number})
        check_form(state)
    except (CheckpointCorruptError, KeyError, TypeError, ValueError, AttributeError,
            RecursionError) as error:
        raise CheckpointCorruptError(
            f"state {saved.number} is not the state of a run: {error}") from error
    return state


def check_resumable(model: Trainable, run: Run, state: State) -> list[str]:
    """Compare a state with the run that is to resume from it; return notes on differences."""
    position, inside = state["position"], state["position"]["phase"] == "train"
    with refuse_misfit(state["number"]):
        rename_to_bare(state, model.learners())
        now = run_fingerprint.run_fingerprint(model, run)
        run_fingerprint.add_older_contents(now, state["facts"], run.data)
        run_fingerprint.check_parts(state["facts"], now)
        notes = run_state.check_components(model, state)
        notes += run_fingerprint.check_data(state["facts"], now, inside)
        notes += run_fingerprint.check_rates(state, now)
    if changed := run_fingerprint.changed_criteria(state["facts"], now):
        state["judged_anew"] = True
        notes.append(f"resume: {', '.join(changed)}: earlier numbers cannot be compared, "
                     "the best is looked for anew")
    epochs, done = run.config.epochs, position["epoch"] - 1
    if done >= epochs:
        return [*notes, f"resume: the run is at the end of epoch {done} of {epochs}; "
                "pass a larger epochs to go on"]
    with refuse_misfit(state["number"]):
        check_schedule(state, run)
    return [*notes, f"resume: the run goes on in epoch {describe_position(position)} "
            f"(state {state['number']})"]


def describe_position(position: State) -> str:
    """Return the epoch of a state, with the step or the validation that it continues with."""
    where = {"train": f", step {position['step']}", "validation": ", its validation"}
    return f"{position['epoch']}{where.get(position['phase'], '')}"


def check_schedule(state: State, run: Run) -> None:
    """Refuse a OneCycleLR that would end before the run: its length is fixed when it is built."""
    saved = state["schedulers"].get("lr_scheduler", {})
    train = run.data.train
    is_one_cycle = state["facts"]["lr_scheduler"] == OneCycleLR.__name__
    if not is_one_cycle or train.length is None or "total_steps" not in saved:
        return
    if run.objects.step_scheduler is None:
        return
    windows = -(-train.length // run.config.gradient_accumulation_steps)
    done = -(-state["position"]["step"] // run.config.gradient_accumulation_steps)
    left = windows * (run.config.epochs - state["position"]["epoch"] + 1) - (
        windows if state["position"]["phase"] == "validation" else done)
    room = saved["total_steps"] - saved["last_epoch"]
    if left > room:
        raise bad_value(
            "epochs", received=f"{run.config.epochs}, which needs {left} more updates",
            expected=f"at most the {room} that the stopped run's OneCycleLR has left",
            fix="Its length is fixed as it is built: use another schedule.")


def encode_state(state: State,
                 store: CheckpointStore) -> tuple[State, TensorFiles, object, Rows]:
    """Return a state as JSON and the tensors of each file, whose weights the best are, and rows.

    The owner of the best weights is None if the store has them already. Weights that are frozen,
    and were so when the best weights were copied, go into a file that is written once. The best
    weights are written from their copies in memory, which are not overwritten before that is done.
    """
    best: Best = state["best"]
    best.lost = best.recover()  # reported only if they are restored: the next best has a copy
    known = {f"{number}:{name}": one for number in range(len(best.weights.modules))
             for name, one in best.weights.frozen_now(number).items()}
    store.frozen.write(known)
    places = {storage_key(weight): name for name, (weight, _) in known.items()}
    weights, rest = TensorJSONEncoder(places), TensorJSONEncoder(places)
    best_encoder = TensorJSONEncoder(places, lent=best.weights.copies_made())
    new = (store.best_owner is not best.weights.moment or not store.best_is_there()
           or store.best_frozen != store.frozen.checksums)
    others: dict[str, Value] = {
        name: value for name, value in state.items() if name not in ("best", "history")}
    facts = {"weights": weights.pack(state["net"][0], ""),
             "best": best_encoder.pack(best.saved_parts(), "best") if new else store.best_facts,
             "state": rest.pack({**others, "net": state["net"][1:]}, "")}
    tensors = {"weights.safetensors": weights.tensors, "best.safetensors": best_encoder.tensors,
               "state.safetensors": rest.tensors}
    rows = store.history.take(*state["history"])
    return facts, tensors, best.weights.moment if new else None, rows


archive = open_store  # its older name
