"""The base of ``Model``: the net, what ``compile`` made, and saving and loading the weights."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from torchkeras.checkpoint.known_files import known_files_of
from torchkeras.core.errors import bad_value, mistake
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Value
from torchkeras.keras.compiled import Compiled
from torchkeras.kerasmodel import KerasModel
from torchkeras.training.saving import LoadReport, Rename


class BaseModel(nn.Module):
    """A wrapped net, or a subclass with its own ``forward``, and the engine that trains it."""

    net: nn.Module
    compilation: Compiled | None = None

    def forward(self, *args: Value, **kwargs: Value) -> Any:
        """Call the wrapped net; a subclass may override this."""
        return self.net(*args, **kwargs)

    def __setattr__(self, name: str, value: Value) -> None:
        hidden = isinstance(value, (nn.Module, nn.Parameter)) and any(
            name in vars(kind) for kind in type(self).__mro__
            if kind.__module__.startswith("torchkeras."))
        if hidden:
            raise bad_value(f"self.{name}", received=f"a {type(value).__name__}",
                            expected="another name for it",
                            fix=f"Model.{name} exists already and would hide it.")
        super().__setattr__(name, value)

    @short_traceback
    def summary(self, *args: Value, **kwargs: Value) -> Any:
        """Print the net layer by layer; arguments as in :func:`torchkeras.summary` but ``net``."""
        return self.engine.summary(*args, **kwargs)

    @short_traceback
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the net's weights, and nothing else, to one file that plain torch can load.

        Args:
            path: the file; safetensors when its name ends in ``.safetensors``, else torch's format.

        Raises:
            ValueError: the path cannot be written, or has a suffix of Keras's.

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
            raise bad_value("path", received=repr(str(path)),
                            expected="a file of weights, such as 'net.pt' or "
                            "'net.safetensors'", fix="Keras's file formats are not supported.")
        self.engine.save_ckpt(path)

    @short_traceback
    def load(self, path: str | os.PathLike[str], *, strict: bool = True,
             rename: Rename | None = None) -> LoadReport:
        """Load weights that :meth:`save` or plain torch wrote, all or none; no code in it is run.

        Args:
            path: the file.
            strict: False loads only those that match by name and shape.
            rename: maps names in the file to names in the net, see :func:`torchkeras.load_weights`.

        Returns:
            A report of what was loaded and what was not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the weights belong to another net.
        """
        return self.engine.load_ckpt(path, strict=strict, rename=rename)

    @property
    def engine(self) -> KerasModel:
        """Return the :class:`KerasModel` underneath; before ``compile``, one without a loss."""
        engine = KerasModel(net_of(self)) if self.compilation is None else self.compilation.engine
        share_files(self, engine)
        return engine


def share_files(model: BaseModel, engine: KerasModel) -> None:
    """Share the record of loaded and saved files: a recompiled model is the same model."""
    vars(engine)["known_files"] = known_files_of(model)


def net_of(model: BaseModel) -> nn.Module:
    """Return the module that is trained: the wrapped net, or a subclass with its own forward."""
    return model.net if type(model).forward is BaseModel.forward else model


def compiled_of(model: BaseModel) -> Compiled:
    """Return what ``compile`` made; raise RuntimeError if it was not called."""
    if model.compilation is None:
        raise mistake(RuntimeError(
            'compile: this model has no loss yet; call model.compile(optimizer="adam", loss="mse") '
            'or model.compile(loss_func=..., optimizer=..., metrics_dict=...) first'))
    return model.compilation
