"""Check callbacks in Keras's words before training: the numbers that they name."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.engine.step import StepRunner
from torchkeras.keras.callbacks.files import ModelCheckpoint
from torchkeras.keras.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel

LIBRARIES = ("torchkeras", "keras", "tf_keras", "tensorflow")  # whose callbacks add no numbers
RATE = "learning_rate"


def check_known(callbacks: Sequence[Any], columns: Iterable[str], model: KerasModel) -> None:
    """Raise for a number that a callback names and no epoch will have.

    Nothing is known where a StepRunner or an earlier callback of the user's may add numbers.

    Raises:
        ValueError: a monitor, or a name in braces in a path, is not among the numbers.
    """
    known = [name for name in columns if name != "epoch"]
    if model.StepRunner is not StepRunner:
        return
    for one in callbacks:
        kind = type(one)
        own = kind.__module__.partition(".")[0] not in LIBRARIES or "Lambda" in kind.__name__
        if own and getattr(one, "on_epoch_end", None) is not None:
            return
        check_names(one, known, model.metrics_dict)
        if isinstance(one, (LearningRateScheduler, ReduceLROnPlateau)):
            known.append(RATE)


def check_names(callback: Any, known: list[str], metrics: Iterable[str]) -> None:
    """Raise for an unknown number that one callback names."""
    saves = isinstance(callback, ModelCheckpoint)
    name = getattr(callback, "monitor", None)
    if isinstance(name, str) and (not saves or callback.save_best_only):
        check_name("monitor", type(callback).__name__, name, known, metrics)
    if saves and callback.save_freq == "epoch":
        for field in string.Formatter().parse(callback.filepath):
            if field[1] is not None and field[1] != "epoch":
                check_name("filepath", type(callback).__name__, field[1], known, metrics)


def check_name(argument: str, kind: str, name: str, known: list[str],
               metrics: Iterable[str]) -> None:
    """Raise unless a name is that of a number, or of a part of a metric."""
    if name in known or any(f"{one}_" in name for one in metrics):
        return
    fix = did_you_mean(name, known)
    if name.startswith("val_") and not any(one.startswith("val_") for one in known):
        fix = "Without validation_data or validation_split nothing is measured there."
    raise bad_value(argument, received=f"{name!r} of {kind}", expected="one of "
                    + ", ".join(known), fix=fix)
