"""A run's state and the vault it lies in: found, looked at, unpacked; packed and handed over."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import OneCycleLR

from torchkeras.checkpoint import run_state
from torchkeras.checkpoint.history_file import HISTORY, Rows
from torchkeras.checkpoint.older_formats import in_own_names
from torchkeras.checkpoint.serialization import Packer, unpack
from torchkeras.checkpoint.state_folder import ANY, FROZEN, TENSORS, Saved
from torchkeras.checkpoint.state_schema import check_form, of_a_run
from torchkeras.checkpoint.store import Vault
from torchkeras.checkpoint.tensor_file import limits_for
from torchkeras.core.errors import bad_value
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.data import Batches
from torchkeras.engine.run import Run
from torchkeras.state.components import components_of
from torchkeras.state.module_state import place_of


@contextmanager
def archive(model: Any, run: Run, train: Batches, val: Batches | None) -> Iterator[tuple[Vault | None, Any]]:
    """The vault of a run, in the process that writes to it, and the state to go on from, in all; checked, nothing set.

    One run at a time has a vault: the lock is given back at the end.
    """
    config, together = run.config, run.together
    if not config.keeps_state:
        yield None, None
        return
    modules = components_of(model).modules.values()
    vault = Vault(Path(f"{config.ckpt_path}.state"), config.keep, limits_for(*modules, times=ANY.times))
    try:
        saved = None
        with together.same_fate():
            if together.main:
                saved = found(vault, run)
        saved = together.from_main(saved)
        with together.same_fate():
            if saved is not None:
                run.notes += checked(model, run, train, val, saved)
        yield vault if together.main else None, saved
    finally:
        vault.close()


def found(vault: Vault, run: Run) -> Any:
    """The newest sound state, unpacked; None where the run is to begin anew."""
    vault.open()
    if not run.config.resume:
        return None
    newest, notes = vault.newest()
    run.notes += notes
    if newest is None:
        run.notes.append(f"resume: no saved state in {str(vault.folder)!r}, the run begins anew")
        return None
    return opened(newest)


def opened(saved: Saved) -> dict[str, Any]:
    """A state as values and tensors; of another make, it is refused."""
    try:
        frozen: Any = saved.tensors.get(FROZEN, {})
        parts: list[Any] = [saved.tensors[name] for name in TENSORS]
        weights, best, rest = (ChainMap(part, frozen) for part in parts)
        state: dict[str, Any] = unpack(saved.facts["state"], rest)
        state["net"] = [unpack(saved.facts["weights"], weights), *state["net"]]
        state["best"] = unpack(saved.facts["best"], best)
        if HISTORY in saved.tensors:
            state["history"] = saved.tensors[HISTORY]
        state = run_state.upgraded({**state, "number": saved.number})
        check_form(state)
    except CheckpointCorruptError as error:
        raise CheckpointCorruptError(f"state {saved.number} is none of a run: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointCorruptError(f"state {saved.number} is none of a run: {error}") from error
    return state


def checked(model: Any, run: Run, train: Batches, val: Batches | None, state: dict[str, Any]) -> list[str]:
    """Compare a state with the run that is to go on from it; what is worth saying."""
    position, inside = state["position"], state["position"]["phase"] == "train"
    with of_a_run(state["number"]):
        in_own_names(state, model.learners())
        now = run_state.facts(model, run.config, train, val, run.together.world)
        run_state.add_older(now, state["facts"], train, val)
        run_state.check_parts(state["facts"], now)
        notes = run_state.check_components(model, state)
        notes += run_state.check_data(state["facts"], now, inside) + run_state.check_rates(state, now)
    if changed := run_state.judged_otherwise(state["facts"], now):
        state["judged_anew"] = True
        notes.append(f"resume: {', '.join(changed)}: earlier numbers cannot be compared, the best is looked for anew")
    epochs, done = run.config.epochs, position["epoch"] - 1
    if done >= epochs:
        return [*notes, f"resume: the run is at the end of epoch {done} of {epochs}; pass a larger epochs to go on"]
    with of_a_run(state["number"]):
        check_schedule(state, run, train)
    where = f", step {position['step']}" if inside else ", its validation" if position["phase"] == "validation" else ""
    return [*notes, f"resume: the run goes on in epoch {position['epoch']}{where} (state {state['number']})"]


def check_schedule(state: dict[str, Any], run: Run, train: Batches) -> None:
    """Refuse a OneCycleLR that would be over before the run is: it keeps the length that it began with."""
    saved = state["schedulers"].get("lr_scheduler", {})
    if state["facts"]["lr_scheduler"] != OneCycleLR.__name__ or train.length is None or "total_steps" not in saved:
        return
    windows = -(-train.length // run.config.gradient_accumulation_steps)
    done = -(-state["position"]["step"] // run.config.gradient_accumulation_steps)
    left = windows * (run.config.epochs - state["position"]["epoch"] + 1) - (
        windows if state["position"]["phase"] == "validation" else done)
    if run.tools.step_scheduler is not None and left > saved["total_steps"] - saved["last_epoch"]:
        raise bad_value("epochs", received=f"{run.config.epochs}, which needs {left} more updates",
                        expected=f"at most the {saved['total_steps'] - saved['last_epoch']} that the stopped run's "
                        "OneCycleLR has left", fix="Its length is fixed as it is built: use another schedule.")


def files(state: dict[str, Any], vault: Vault) -> tuple[Any, dict[str, Any], Any, Rows]:
    """A state as JSON and the tensors of each file; whose the best weights are, where they are not written yet; rows.

    What is frozen and was so when the best weights were taken is in a file that is written once. The best weights are
    written from the copies that are there: they wait for it before they take others down.
    """
    owner = state["best"]
    owner.lost = owner.recover()  # told only if these come back in the end: the next best has a copy
    known = {f"{number}:{name}": one for number in range(len(owner.weights.modules))
             for name, one in owner.weights.frozen_now(number).items()}
    vault.frozen.write(known)
    places = {place_of(weight): name for name, (weight, _) in known.items()}
    weights, best, rest = Packer(places), Packer(places, lent=owner.weights.copies_made()), Packer(places)
    new = (vault.best_owner is not owner.weights.moment or vault.best_frozen != vault.frozen.marks
           or not vault.best_is_there())
    others = {name: value for name, value in state.items() if name not in ("best", "history")}
    facts = {"weights": weights.pack(state["net"][0], ""),
             "best": best.pack(owner.named(), "best") if new else vault.best_facts,
             "state": rest.pack({**others, "net": state["net"][1:]}, "")}
    return facts, {"weights.safetensors": weights.tensors, "best.safetensors": best.tensors,
                   "state.safetensors": rest.tensors}, owner.weights.moment if new else None, vault.history.take(
                       *state["history"])
