"""The base of ``Model``: the net, what ``compile`` made, and saving and loading the weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.known_files import known_files_of
from torchkeras.core.errors import bad_type, bad_value, check_bool, kind_of, mistake
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Value
from torchkeras.data import outputs
from torchkeras.keras.compiled import Compiled
from torchkeras.kerasmodel import KerasModel
from torchkeras.state.module_state import bare_state_dict
from torchkeras.training.loading import LoadReport, Rename

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        self.engine.save_ckpt(check_suffix("path", path))

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

    @short_traceback
    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the net's weights as :meth:`save` does, under Keras's name.

        Args:
            filepath: the file.
            overwrite: False refuses a file that is there.

        Raises:
            ValueError: the path cannot be written, has a suffix of Keras's, or is there already.
        """
        check_bool("overwrite", overwrite)
        check_suffix("filepath", filepath)
        if not overwrite and os.path.exists(filepath):
            raise bad_value("filepath", received=f"{str(filepath)!r}, which is there already",
                            expected="a new file", fix="Pass overwrite=True to replace it.")
        self.save(filepath)

    @short_traceback
    def load_weights(self, filepath: str | os.PathLike[str], skip_mismatch: bool = False) -> None:
        """Load weights as :meth:`load` does, under Keras's name.

        Args:
            filepath: the file.
            skip_mismatch: load only those that match by name and shape.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the weights belong to another net, or ``skip_mismatch`` leaves none.
        """
        check_bool("skip_mismatch", skip_mismatch)
        check_suffix("filepath", filepath)
        try:
            self.load(filepath, strict=not skip_mismatch)
        except ValueError as error:
            if skip_mismatch and "strict" in str(error):
                raise bad_value("filepath", received=f"{str(filepath)!r}, none of whose weights "
                                "match the net's by name and shape", expected="at least one that "
                                "does", fix="Check that the file belongs to this net.") from error
            raise

    @short_traceback
    def get_weights(self) -> list[NDArray[Any]]:
        """Return copies of all weights and buffers as arrays, in the order of ``state_dict``.

        Raises:
            RuntimeError: a run with ``fsdp=True`` is under way, in which no process has them all.

        Example:
            >>> from torchkeras import Model
            >>> [one.shape for one in Model(nn.Linear(2, 1)).get_weights()]
            [(1, 2), (1,)]
        """
        check_whole(self, "get_weights")
        return [outputs.to_numpy(one.detach().clone()) for one in tensors_of(net_of(self))]

    @short_traceback
    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all weights and buffers, as :meth:`get_weights` returns them, all or none.

        Args:
            weights: arrays in the same order and of the same shapes.

        Raises:
            RuntimeError: a run with ``fsdp=True`` is under way.
            TypeError: it is no list of arrays of numbers.
            ValueError: their number or a shape differs.
        """
        check_whole(self, "set_weights")
        own = tensors_of(net_of(self))
        given = arrays_of(weights)
        for number, (one, tensor) in enumerate(zip(given, own, strict=False)):
            if one.is_complex() and not tensor.is_complex():
                raise bad_type(f"weights[{number}]", received="complex numbers",
                               expected=f"numbers of {tensor.dtype}")
        shapes = [[tuple(one.shape) for one in each] for each in (given, own)]
        if shapes[0] != shapes[1]:
            raise bad_value("weights", received=f"arrays of shapes {shapes[0]}",
                            expected=f"arrays of shapes {shapes[1]}")
        with torch.no_grad():
            for tensor, value in zip(own, given, strict=True):
                tensor.copy_(value)

    def count_params(self) -> int:
        """Return the number of parameters, as :meth:`summary` does; buffers are not counted.

        Example:
            >>> from torchkeras import Model
            >>> Model(nn.Linear(2, 1)).count_params()
            3
        """
        return sum(one.numel() for one in net_of(self).parameters())

    @property
    def engine(self) -> KerasModel:
        """Return the :class:`KerasModel` underneath; before ``compile``, one without a loss."""
        engine = KerasModel(net_of(self)) if self.compilation is None else self.compilation.engine
        share_files(self, engine)
        return engine


def check_whole(model: BaseModel, method: str) -> None:
    """Raise while a run has divided the weights between processes."""
    engine = None if model.compilation is None else model.compilation.engine
    if engine is not None and engine.active and engine.run.strategy.shards_parameters:
        raise mistake(RuntimeError(
            f"{method}: in a run with fsdp=True no process has all weights; call it before or "
            "after the run, or give patience=... and restore_best=True to fit"))


def arrays_of(weights: object) -> list[Tensor]:
    """Return a list of arrays as tensors; raise TypeError for anything else."""
    expected = "a list of arrays, as get_weights() returns it"
    if isinstance(weights, Mapping):
        raise bad_type("weights", received=f"a {type(weights).__name__}", expected=expected,
                       fix="A state_dict: model.load_state_dict(...).")
    if isinstance(weights, (str, bytes)) or not isinstance(weights, Iterable):
        raise bad_type("weights", received=kind_of(weights), expected=expected)
    found = []
    for number, one in enumerate(weights):
        try:
            found.append(torch.as_tensor(one))
        except (TypeError, ValueError, RuntimeError) as error:
            raise bad_type(f"weights[{number}]", received=kind_of(one),
                           expected="an array of numbers") from error
    return found


def check_suffix(argument: str, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return a path after refusing other values, and suffixes of Keras's file formats."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise bad_type(argument, received=kind_of(path), expected="the path of a file",
                       fix="Such as 'net.safetensors'.")
    if str(path).lower().endswith((".keras", ".h5", ".hdf5")):
        raise bad_value(argument, received=repr(str(path)),
                        expected="a file of weights, such as 'net.pt' or "
                        "'net.safetensors'", fix="Keras's file formats are not supported.")
    return path


def tensors_of(net: nn.Module) -> list[Tensor]:
    """Return all weights and buffers of a net, in the order of its ``state_dict``."""
    return [one for one in bare_state_dict(net).values() if isinstance(one, Tensor)]


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
