"""Say what became of modules that torchkeras 3 and 4 had and this version leaves out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from torchkeras.core.former import PAGE

GONE = {
    "tabular": "train any net on tables with KerasModel; pytorch-tabular has such models",
    "hugmodel": "transformers' nets go into KerasModel as they are",
    "chat": "transformers and ollama have chats",
    "models": "torchvision and timm have nets, and any torch.nn.Module goes into KerasModel",
    "vision": "torchvision has these nets",
    "eda": "pandas and scikit-learn describe tables",
    "pbar": "tqdm has progress bars; is_jupyter is in torchkeras.utils",
    "soup": "torch.optim.swa_utils averages weights",
    "stacker": "scikit-learn stacks models",
    "email": "the standard library's smtplib sends mail",
    "lightkeras": "LightModel took its place",
    "HugModel": "transformers' nets go into KerasModel as they are",
}


def gone(name: str) -> ModuleNotFoundError:
    """Return the error for a module that is no longer there."""
    return ModuleNotFoundError(
        f"torchkeras.{name} was part of an earlier version, and is not in this one: {GONE[name]}. "
        f'What is where: the page "From torchkeras 3 and 4", {PAGE}', name=f"torchkeras.{name}")


class GoneFinder:
    """Answers ``import torchkeras.tabular`` and its kind, after all other finders."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Raise for a module that is gone; None for any other."""
        package, _, rest = fullname.partition(".")
        name = rest.partition(".")[0]
        if package == "torchkeras" and name in GONE:
            raise gone(name)
        return None


def watch_imports() -> None:
    """Let imports of modules that are gone say so."""
    if GoneFinder not in sys.meta_path:
        sys.meta_path.append(GoneFinder)
