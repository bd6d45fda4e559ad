"""Check the structure of a saved state before anything of it is used: anybody may have made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor

from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.types import Value

Kinds: TypeAlias = Mapping[str, type | tuple[type, ...]]  # the types that values may have, by name

PART_KINDS: Kinds = {
    "position": dict, "facts": dict, "run": dict, "history": dict, "monitor": dict, "net": list,
    "learning": list, "optimizers": dict, "schedulers": dict, "others": dict, "steps": dict,
    "groups": dict, "data": dict, "ranks": list}
RUN_KINDS: Kinds = {
    "trained": int, "updates": int, "moved_by_step": list, "places": (dict, type(None))}
MONITOR_KINDS: Kinds = {
    "best": (float, int, type(None)), "best_epoch": (int, type(None)),
    "reference": (float, int, type(None)), "misses": int, "improved": bool}
POSITION_KINDS: Kinds = {"phase": str, "epoch": int, "step": int, "row": dict}
PHASES = ("epoch", "train", "validation")
MAX_EPOCHS = 10**9  # more than any run has
MISFIT_ERRORS = (
    TypeError, KeyError, AttributeError, IndexError, OverflowError, ZeroDivisionError,
    RecursionError, ValueError, RuntimeError)


@contextmanager
def refuse_misfit(number: int) -> Iterator[None]:
    """Turn the errors of Python and torch about a state that does not fit into one that says so."""
    try:
        yield
    except MISFIT_ERRORS as error:
        if getattr(error, "user_mistake", False):
            raise
        raise CheckpointCorruptError(
            f"state {number} does not belong to this run: {type(error).__name__}: {error}. Give "
            "another ckpt_path, or remove the folder to begin anew") from error


def check_form(state: Mapping[str, Value]) -> None:
    """Refuse a state whose parts have other types or values than a run writes.

    Raises:
        CheckpointCorruptError: some have.
    """
    check_kinds(state, PART_KINDS, "it")
    position, run, monitor = state["position"], state["run"], state["monitor"]
    check_kinds(position, POSITION_KINDS, "its position")
    check_kinds(run, present(RUN_KINDS, run), "what it says of the run")
    check_kinds(monitor, present(MONITOR_KINDS, monitor), "its monitor")
    wrong = [name for part, known in ((run, RUN_KINDS), (monitor, MONITOR_KINDS))
             for name in part if name not in known]
    counts = [position["step"], run["trained"], run["updates"], monitor["misses"]]
    if (wrong or position["phase"] not in PHASES or not 1 <= position["epoch"] <= MAX_EPOCHS
            or min(counts) < 0 or not state["ranks"]
            or not all(isinstance(one, dict) for one in state["ranks"])):
        raise CheckpointCorruptError("its position or what it says of the run is impossible: "
                                     f"{str(wrong or counts)[:80]}")
    row = position["row"]
    if not all(isinstance(name, str) for name in row) or not all(map(is_number, row.values())):
        raise CheckpointCorruptError("the numbers of its training pass are not numbers")
    for stage, kept in state["steps"].items():
        step_kinds: Kinds = {"objects": dict, "values": dict}
        check_kinds({"it": kept}, {"it": dict}, f"the step of {stage!r}")
        check_kinds(kept, {} if "own" in kept else step_kinds, f"the step of {stage!r}")
    check_history(state["history"], position["epoch"])


def present(kinds: Kinds, part: Mapping[str, Value]) -> Kinds:
    """Return the kinds of those names that a part has: older states lack some."""
    return {name: kind for name, kind in kinds.items() if name in part}


def check_kinds(part: Mapping[str, Value], kinds: Kinds, what: str) -> None:
    """Refuse a part that lacks a name, or has a value of another type; True is no number."""
    for name, kind in kinds.items():
        value = part.get(name)
        if (name not in part or not isinstance(value, kind)
                or (isinstance(value, bool) and kind is not bool)):
            found = type(value).__name__ if name in part else "nothing"
            raise CheckpointCorruptError(f"{what} has {found} as {name}")


def check_options(groups: Value, now: Sequence[Mapping[str, Value]], state: Value) -> None:
    """Refuse saved optimizer options of other types than the optimizer's, and bad states.

    Args:
        groups: the options of each parameter group, as saved.
        now: those of the optimizer.
        state: the saved state of each parameter.
    """
    check_kinds({"groups": groups, "state": state}, {"groups": list, "state": dict}, "an optimizer")
    for group, own in zip(groups, now, strict=False):
        check_kinds({"group": group}, {"group": dict}, "an optimizer")
        for name in group.keys() & own.keys() - {"params"}:
            if not is_like(group[name], own[name]):
                raise CheckpointCorruptError(
                    f"an optimizer has {str(group[name])[:40]!r} as {name}")
    for number, one in state.items():
        if type(number) is int and not isinstance(one, dict):
            raise CheckpointCorruptError(
                f"an optimizer has {str(one)[:40]!r} as the state of a parameter")


def is_like(value: object, own: object) -> bool:
    """Return whether an option may replace another: a number a number, a pair a pair."""
    if value is None or own is None or is_number(own):
        return value is None or own is None or is_number(value)
    if isinstance(own, (tuple, list)):
        return (isinstance(value, (tuple, list)) and len(value) == len(own)
                and all(map(is_like, value, own)))
    return type(value) is type(own)


def is_number(value: object) -> bool:
    """Return whether a value is a number, Python's or a tensor with one element."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Tensor) and value.numel() == 1)


def check_history(history: Mapping[str, Tensor], epoch: int) -> None:
    """Refuse a history whose rows are not consecutive epochs up to the one before ``epoch``."""
    columns = list(history.values())
    if not all(isinstance(name, str) and isinstance(column, Tensor) and column.dim() == 1
               for name, column in history.items()):
        raise CheckpointCorruptError("its history is not a table")
    rows = len(columns[0]) if columns else 0
    epochs = history.get("epoch")
    if any(len(column) != rows for column in columns) or (
            rows and (epochs is None or not is_consecutive(epochs, epoch))):
        raise CheckpointCorruptError("the rows of its history are not those of the epochs "
                                     "before it")


def is_consecutive(epochs: Tensor, epoch: int) -> bool:
    """Return whether numbers of epochs are consecutive and end right before ``epoch``."""
    return (bool((epochs[1:] == epochs[:-1] + 1).all())
            and float(epochs[-1]) == epoch - 1 and float(epochs[0]) >= 1)
