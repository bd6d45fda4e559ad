"""The form of a saved state: looked at before anything of it is used, since anybody may have made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from torchkeras.core.stop import CheckpointCorruptError

PARTS = {"position": dict, "facts": dict, "run": dict, "history": dict, "monitor": dict, "net": list, "learning": list,
         "optimizers": dict, "schedulers": dict, "others": dict, "steps": dict, "groups": dict, "data": dict,
         "ranks": list}
RUN = {"trained": int, "updates": int, "moved_by_step": list, "places": (dict, type(None))}
MONITOR = {"best": (float, int, type(None)), "best_epoch": (int, type(None)), "reference": (float, int, type(None)),
           "misses": int, "improved": bool}
PHASES = ("epoch", "train", "validation")
EPOCHS = 10**9  # more than any run has
BARE = (TypeError, KeyError, AttributeError, IndexError, OverflowError, ZeroDivisionError, RecursionError, ValueError,
        RuntimeError)


@contextmanager
def of_a_run(number: int) -> Iterator[None]:
    """Refuse in words what Python refuses about a state that is none of this run."""
    try:
        yield
    except BARE as error:
        if getattr(error, "user_mistake", False):
            raise
        raise CheckpointCorruptError(f"state {number} is none of this run: {type(error).__name__}: {error}. Give "
                                     "another ckpt_path, or remove the folder to begin anew") from error


def check_form(state: Mapping[str, Any]) -> None:
    """Refuse a state of which the parts are of other kinds than a run writes.

    Raises:
        CheckpointCorruptError: they are.
    """
    of_kinds(state, PARTS, "it")
    position, run = state["position"], state["run"]
    of_kinds(position, {"phase": str, "epoch": int, "step": int, "row": dict}, "its position")
    of_kinds(run, {name: kind for name, kind in RUN.items() if name in run}, "what it says of the run")
    of_kinds(state["monitor"], {name: MONITOR[name] for name in MONITOR if name in state["monitor"]}, "its monitor")
    wrong = [name for part, known in ((run, RUN), (state["monitor"], MONITOR)) for name in part if name not in known]
    counts = [position["step"], run["trained"], run["updates"], state["monitor"]["misses"]]
    if wrong or position["phase"] not in PHASES or not 1 <= position["epoch"] <= EPOCHS or min(counts) < 0 or (
            not state["ranks"] or not all(isinstance(one, dict) for one in state["ranks"])):
        raise CheckpointCorruptError(f"its position or what it says of the run cannot be: {str(wrong or counts)[:80]}")
    numbers = position["row"].values()
    if not all(isinstance(name, str) for name in position["row"]) or not all(map(is_number, numbers)):
        raise CheckpointCorruptError("the numbers of its training pass are none")
    for stage, kept in state["steps"].items():
        of_kinds({"it": kept}, {"it": dict}, f"the step of {stage!r}")
        of_kinds(kept, {} if "own" in kept else {"objects": dict, "values": dict}, f"the step of {stage!r}")
    check_history(state["history"], position["epoch"])


def of_kinds(part: Mapping[str, Any], kinds: Mapping[str, Any], what: str) -> None:
    """Refuse a part of a state that lacks something, or has another kind of thing there; True is no number."""
    for name, kind in kinds.items():
        value = part.get(name)
        if name not in part or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = type(value).__name__ if name in part else "nothing"
            raise CheckpointCorruptError(f"{what} has {found} as {name}")


def check_options(groups: Any, now: Any, state: Any) -> None:
    """Refuse options of an optimizer that are of other kinds than its own, and memories that are none.

    Args:
        groups: the options of each group, as saved.
        now: those of the optimizer.
        state: what it remembers of each parameter.
    """
    of_kinds({"groups": groups, "state": state}, {"groups": list, "state": dict}, "an optimizer")
    for group, own in zip(groups, now, strict=False):
        of_kinds({"group": group}, {"group": dict}, "an optimizer")
        for name in group.keys() & own.keys() - {"params"}:
            if not like(group[name], own[name]):
                raise CheckpointCorruptError(f"an optimizer has {str(group[name])[:40]!r} as {name}")
    for number, one in state.items():
        if type(number) is int and not isinstance(one, dict):
            raise CheckpointCorruptError(f"an optimizer remembers {str(one)[:40]!r} of a parameter")


def like(value: Any, own: Any) -> bool:
    """Return whether an option may take the place of another: a number that of a number, a pair that of a pair."""
    if value is None or own is None or is_number(own):
        return value is None or own is None or is_number(value)
    if isinstance(own, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(own) and all(map(like, value, own))
    return type(value) is type(own)


def is_number(value: Any) -> bool:
    """Return whether a value is a number, of Python's or in a tensor."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Tensor) and value.numel() == 1)


def check_history(history: Mapping[str, Tensor], epoch: int) -> None:
    """Refuse rows that are not those of epochs that follow one another, up to the one before a state's own."""
    columns = list(history.values())
    if not all(isinstance(name, str) and isinstance(column, Tensor) and column.dim() == 1
               for name, column in history.items()):
        raise CheckpointCorruptError("its history is no table")
    rows = len(columns[0]) if columns else 0
    epochs = history.get("epoch")
    if any(len(column) != rows for column in columns) or (rows and (epochs is None or not follows(epochs, epoch))):
        raise CheckpointCorruptError("the rows of its history are not those of the epochs before it")


def follows(epochs: Tensor, epoch: int) -> bool:
    """Return whether numbers of epochs follow one another, up to the one before an epoch."""
    return bool((epochs[1:] == epochs[:-1] + 1).all()) and float(epochs[-1]) == epoch - 1 and float(epochs[0]) >= 1
