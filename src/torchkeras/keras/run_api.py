"""The methods of ``Model`` beside Keras's: the promises of ``KerasModel`` under its arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchkeras.core.errors import bad_type
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Data, Value
from torchkeras.keras.base import compiled_of
from torchkeras.keras.batch_api import BatchMethods
from torchkeras.keras.data import combined
from torchkeras.keras.moments import split_callbacks
from torchkeras.training.verify import ResumeReport


class RunMethods(BatchMethods):
    """Methods around whole runs."""

    fit: Any
    evaluate: Any

    @short_traceback
    def validate(self, dl_val: Data, *, batch_size: int | None = None,
                 steps: int | None = None) -> dict[str, float]:
        """Measure loss and metrics on data, under the names of a validation.

        Args:
            dl_val: a DataLoader, a Dataset, ``(x, y)`` or what else :meth:`fit` validates on.
            batch_size: samples in a batch; it does not change the result.
            steps: the number of batches to take. Default: all.

        Returns:
            A dict of ``val_loss`` and ``val_<metric>``.

        Raises:
            RuntimeError: the model was not compiled.
            ValueError: the data is empty, or has no labels.

        Example:
            >>> import torch
            >>> from torchkeras import Model
            >>> model = Model(torch.nn.Identity())
            >>> model.compile(loss="mse", metrics=["mae"])
            >>> model.validate((torch.zeros(10, 1), torch.full((10, 1), 2.0)))
            {'val_loss': 4.0, 'val_mae': 2.0}
        """
        return compiled_of(self).engine.evaluate(dl_val, batch_size=batch_size, steps=steps)

    @short_traceback
    def fit_ddp(self, num_processes: int, *args: Value, **kwargs: Value) -> Any:
        """Train in several processes: :meth:`fit` with ``num_processes=...``.

        Args:
            num_processes: the number of processes; at most that of the accelerators.
            *args: the arguments of :meth:`fit`.
            **kwargs: the arguments of :meth:`fit`.

        Returns:
            What :meth:`fit` returns.

        Raises:
            TypeError: the net, the loss, the data or a callback cannot be sent to a process.
            ValueError: there are fewer accelerators, or as for :meth:`fit`.
        """
        return self.fit(*args, num_processes=num_processes, **kwargs)

    @short_traceback
    def evaluate_ddp(self, num_processes: int, *args: Value, **kwargs: Value) -> Any:
        """Measure in several processes, each sample once; see :meth:`evaluate`.

        Args:
            num_processes: the number of processes; at most that of the accelerators.
            *args: the arguments of :meth:`evaluate`.
            **kwargs: the arguments of :meth:`evaluate`.

        Returns:
            What :meth:`evaluate` returns.
        """
        return self.evaluate(*args, num_processes=num_processes, **kwargs)

    @short_traceback
    def report(self, path: str | os.PathLike[str], validation_data: Data = None, *,
               class_names: Sequence[str] | None = None) -> Path:
        """Write the last fit to one HTML file, see :meth:`KerasModel.report`.

        Args:
            path: the file, its name ending in .html.
            validation_data: for a classifier: data for a confusion matrix and the samples that were
                most wrong.
            class_names: names of the classes in the order of their numbers.

        Returns:
            The path.

        Raises:
            RuntimeError: there was no fit yet.
            ValueError: the path cannot be written, or is not an .html file.
        """
        return compiled_of(self).engine.report(path, validation_data, class_names=class_names)

    @short_traceback
    def verify_resume(self, x: Data, y: Data = None, *, validation_data: Data = None,
                      steps: int = 20, **options: Value) -> ResumeReport:
        """Check on your net and data that a stopped run resumes exactly.

        Args:
            x: what :meth:`fit` takes, other than a generator.
            y: labels.
            validation_data: as of :meth:`fit`.
            steps: training steps to compare. At least 4.
            **options: further arguments of :meth:`KerasModel.fit`.

        Returns:
            A report: ``identical``, ``steps``, ``differences`` and ``notes``; print it.

        Raises:
            TypeError: the data can be read only once, or a callback is one in Keras's words.
            ValueError: as for :meth:`fit`.

        Example:
            >>> import torch
            >>> from torchkeras import Model
            >>> model = Model(torch.nn.Linear(3, 1))
            >>> model.compile("nadam", "mse")
            >>> x = torch.randn(100, 3)
            >>> model.verify_resume(x, x[:, :1], batch_size=10).identical
            True
        """
        if split_callbacks(options.get("callbacks"))[1]:
            raise bad_type("callbacks", received="some in Keras's words",
                           expected="those of torchkeras.Callback here")
        report: ResumeReport = compiled_of(self).engine.verify_resume(
            combined(x, y), validation_data, steps=steps, **options)
        return report
