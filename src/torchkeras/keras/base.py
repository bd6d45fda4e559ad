"""What every model holds: its net, what ``compile`` made, and the net's weights in files."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from torchkeras.checkpoint.known_files import files_of
from torchkeras.core.errors import bad_value, mistake
from torchkeras.core.tracebacks import short_traceback
from torchkeras.keras.compiled import Compiled
from torchkeras.kerasmodel import KerasModel
from torchkeras.training.saving import LoadReport, Rename


class Held(nn.Module):
    """The net inside, or a subclass with a ``forward`` of its own, and the engine that trains it."""

    net: nn.Module
    compilation: Compiled | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net inside; a subclass writes its own."""
        return self.net(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        hidden = isinstance(value, (nn.Module, nn.Parameter)) and any(
            name in vars(kind) for kind in type(self).__mro__ if kind.__module__.startswith("torchkeras."))
        if hidden:
            raise bad_value(f"self.{name}", received=f"a {type(value).__name__}", expected="another name for it",
                            fix=f"Model.{name} is there already, and would be found in its place.")
        super().__setattr__(name, value)

    @short_traceback
    def summary(self, *args: Any, **kwargs: Any) -> Any:
        """Print the net layer by layer; the arguments are those of :func:`torchkeras.summary` without the net."""
        return self.engine.summary(*args, **kwargs)

    @short_traceback
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the net's weights to one file, which plain torch can load; nothing else of the model is in it.

        Args:
            path: the file; safetensors when its name ends in ``.safetensors``, else torch's format.

        Raises:
            ValueError: the path cannot be written, or has an ending of Keras's.

        Example:
            >>> import tempfile
            >>> from torchkeras import Model
            >>> model = Model(nn.Linear(2, 1))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save(f"{folder}/net.pt")
            ...     print(model.load(f"{folder}/net.pt"))
            2 of 2 weights loaded
        """
        if str(path).endswith((".keras", ".h5", ".hdf5")):
            raise bad_value("path", received=repr(str(path)), expected="a file of weights, such as 'net.pt' or "
                            "'net.safetensors'", fix="Files of Keras's formats are not written.")
        self.engine.save_ckpt(path)

    @short_traceback
    def load(self, path: str | os.PathLike[str], *, strict: bool = True, rename: Rename | None = None) -> LoadReport:
        """Read weights that :meth:`save` or plain torch wrote, all or nothing; no code in the file is run.

        Args:
            path: the file.
            strict: False takes those that match by name and shape.
            rename: from names in the file to names in the net, see :func:`torchkeras.load_weights`.

        Returns:
            A report of what was loaded and what was not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the weights are another net's.
        """
        return self.engine.load_ckpt(path, strict=strict, rename=rename)

    @property
    def engine(self) -> KerasModel:
        """The :class:`KerasModel` underneath, for what it alone can do; one without a loss before ``compile``."""
        engine = KerasModel(net_of(self)) if self.compilation is None else self.compilation.engine
        share_files(self, engine)
        return engine


def share_files(model: Held, engine: KerasModel) -> None:
    """Let an engine know the files that the model has loaded and saved: compiled anew, it is the same model."""
    vars(engine)["known_files"] = files_of(model)


def net_of(model: Held) -> nn.Module:
    """The net that is trained: the one inside, or a subclass with a forward of its own."""
    return model.net if type(model).forward is Held.forward else model


def compiled_of(model: Held) -> Compiled:
    """What ``compile`` made; refuses a model for which it was not called."""
    if model.compilation is None:
        raise mistake(RuntimeError(
            'compile: this model has no loss yet; call model.compile(optimizer="adam", loss="mse") '
            'or model.compile(loss_func=..., optimizer=..., metrics_dict=...) first'))
    return model.compilation
