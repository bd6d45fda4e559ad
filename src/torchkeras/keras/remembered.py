"""What callbacks remember in a saved run, and who gets it back: by class, and by what they watch.

Callbacks may have come, gone or changed between a run and its resumption. A state that belongs to
none of them is left out, and one that has none begins anew; a note says so.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_value
from torchkeras.core.types import Value
from torchkeras.data.source import has_state_dict
from torchkeras.training.arguments import direction

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel


def watched_by(callback: object, model: KerasModel) -> str:
    """Return the number that a callback follows and its direction; "" for one that follows none."""
    name = getattr(callback, "monitor", None)
    if not isinstance(name, str):
        return ""
    column = name if name.startswith("val_") else f"train_{name}"
    mode = getattr(callback, "mode", "auto")
    if mode not in ("min", "max"):
        mode = direction(column, "auto", model.higher_is_better(column))[0]
    return f"{name}, {mode}"


def remembered(callbacks: Sequence[Any], model: KerasModel) -> list[Value]:
    """Return class name, what is watched, and the state of each callback that has a state."""
    return [[type(one).__name__, watched_by(one, model), one.state_dict()]
            for one in callbacks if has_state_dict(one)]


def put_back(callbacks: Sequence[Any], saved: Sequence[Value], model: KerasModel) -> list[str]:
    """Load the states of a stopped run, in order among those of one class that watch the same.

    Returns:
        Notes on callbacks that begin anew, and on states that belong to none.
    """
    left, notes = list(saved), []
    for one in filter(has_state_dict, callbacks):
        kind, watched = type(one).__name__, watched_by(one, model)
        place = next((place for place, (its, what, _) in enumerate(left)
                      if (its, what) == (kind, watched)), None)
        if place is None:
            notes.append(f"{kind}{of(watched)} was not in the stopped run, and begins anew")
        else:
            load(one, left.pop(place)[2])
    return [*notes, *(f"{kind}{of(watched)} was in the stopped run, and is not now"
                      for kind, watched, _ in left)]


def put_back_by_place(callbacks: Sequence[Any], saved: Mapping[str, Value]) -> list[str]:
    """Load states that an older version saved without the classes; leave out what does not fit."""
    notes = []
    for place, state in saved.items():
        one: Any = callbacks[int(place)] if int(place) < len(callbacks) else None
        if not has_state_dict(one) or set(one.state_dict()) != set(state):
            notes.append(f"callback {int(place) + 1} of the stopped run is another one now, so "
                         "what it counted is left out")
        else:
            load(one, state)
    return notes


def of(watched: str) -> str:
    """Return what is watched, in brackets."""
    return f" ({watched})" if watched else ""


def load(callback: Any, state: Value) -> None:
    """Load a state.

    Raises:
        ValueError: the callback does not take it.
    """
    try:
        callback.load_state_dict(copy.deepcopy(state))
    except Exception as error:
        raise bad_value(
            "callbacks", received=f"a {type(callback).__name__} that does not take the state it "
            f"had in the stopped run ({type(error).__name__}: {error})", expected="one as it was",
            fix="Leave it out to go on without that state, or begin anew: resume=False.") from error
