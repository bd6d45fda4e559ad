"""Use the callback objects of the package keras itself, and refuse those that cannot work here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_type
from torchkeras.data.source import has_state_dict
from torchkeras.training.arguments import direction

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel

PACKAGES = ("keras", "tensorflow", "tf_keras")
OURS = "torchkeras.keras.callbacks."
REFUSED = {  # what they need, and the way out
    "ModelCheckpoint": ("Keras's file formats", f"Use {OURS}ModelCheckpoint('net.pt', ...)."),
    "BackupAndRestore": ("Keras's file formats", f"Use {OURS}BackupAndRestore, or "
                                                 "fit(..., ckpt_path='net.pt', resume=True)."),
    "OrbaxCheckpoint": ("Keras's file formats", f"Use {OURS}ModelCheckpoint('net.pt', ...)."),
    "TensorBoard": ("Keras's layers and graphs",
                    "Use torchkeras.kerascallbacks.TensorBoardCallback."),
    "SwapEMAWeights": ("averages that Keras's optimizers keep",
                       "Average with torch.optim.swa_utils.AveragedModel in a callback."),
}


def kinds_of_keras(callback: object) -> list[str]:
    """Return the names of the classes of Keras that a callback derives from, nearest first."""
    return [kind.__name__ for kind in type(callback).__mro__
            if kind.__module__.partition(".")[0] in PACKAGES]


def refuse(callbacks: Iterable[object]) -> None:
    """Raise for callbacks of Keras that need what a torch net does not have.

    Raises:
        TypeError: one of them cannot work.
    """
    for one in callbacks:
        for name in kinds_of_keras(one):
            if name in REFUSED:
                needs, fix = REFUSED[name]
                raise bad_type("callbacks", received=f"keras.callbacks.{name}, which needs {needs}",
                               expected="callbacks that need a model's weights, learning rate and "
                               "numbers only", fix=fix)


def prepare(callbacks: Iterable[Any], model: KerasModel) -> None:
    """Tell Keras's callbacks which direction is better; note those that are not resumed.

    With ``mode="auto"``, Keras asks its own metric objects, which are not there.
    """
    lost = []
    for one in callbacks:
        if not kinds_of_keras(one):
            continue
        name = getattr(one, "monitor", None)
        if getattr(one, "mode", None) == "auto" and isinstance(name, str):
            column = name if name.startswith("val_") else f"train_{name}"
            one.mode = direction(column, "auto", model.higher_is_better(column))[0]
        if not has_state_dict(one):
            lost.append(f"keras.callbacks.{kinds_of_keras(one)[0]}")
    if lost and model.run.config.resume:
        model.run.notes.append(f"callbacks: {', '.join(lost)}: what they count begins anew when "
                               f"the run is resumed; those of {OURS[:-1]} go on")
