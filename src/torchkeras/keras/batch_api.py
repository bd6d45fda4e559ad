"""The methods of ``Model`` that take single batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchkeras.core.errors import check_bool
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Data
from torchkeras.keras.base import BaseModel, compiled_of
from torchkeras.keras.batchwise import predictions
from torchkeras.keras.compiled import in_keras_order
from torchkeras.keras.rate import rate_of, set_rate, sync_rate


class BatchMethods(BaseModel):
    """Methods for your own training loop: single batches, and the learning rate."""

    @short_traceback
    def train_on_batch(self, x: Data, y: Data = None, sample_weight: Data = None,
                       class_weight: Mapping[int, float] | None = None,
                       return_dict: bool = False, *, reset_metrics: bool = True) -> Any:
        """Train on one batch, on the net's device.

        Args:
            x: the batch's features: an array, or a list or dict of several inputs.
            y: its labels.
            sample_weight: one weight for each sample.
            class_weight: ``{class: weight}``.
            return_dict: return a dict instead of a list.
            reset_metrics: False adds the batch to those since the last reset: the last call with
                True, or of :meth:`reset_metrics`. Training and testing are counted apart.

        Returns:
            The loss and the metrics of this batch alone, before its update, in the order of
            ``metrics_names``; the loss alone where there are no metrics. With
            ``reset_metrics=False``, those of all batches since the last reset, weighted by their
            samples.

        Raises:
            RuntimeError: the model was not compiled.
            ValueError: the batch does not fit the net and the loss, or its loss is not finite; then
                nothing is updated.

        Example:
            >>> import torch
            >>> from torchkeras import Model
            >>> model = Model(torch.nn.Linear(3, 1))
            >>> model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
            >>> loss, mae = model.train_on_batch(torch.zeros(4, 3), torch.ones(4, 1))
        """
        check_bool("reset_metrics", reset_metrics)
        compiled = compiled_of(self)
        sync_rate(compiled.engine.optimizer)
        row = compiled.batchwise.train(x, y, sample_weight, class_weight, reset_metrics)
        return in_keras_order(row, return_dict)

    @short_traceback
    def test_on_batch(self, x: Data, y: Data = None, sample_weight: Data = None,
                      return_dict: bool = False, *, reset_metrics: bool = True) -> Any:
        """Measure one batch in evaluation mode; arguments and result as in :meth:`train_on_batch`.

        Args:
            x: the batch's features.
            y: its labels.
            sample_weight: one weight for each sample.
            return_dict: return a dict instead of a list.
            reset_metrics: False adds the batch to those tested since the last reset.

        Returns:
            The numbers of this batch alone; with ``reset_metrics=False``, those of all batches
            tested since the last reset.

        Raises:
            RuntimeError: the model was not compiled.
            ValueError: the batch does not fit the net and the loss.

        Example:
            >>> import torch
            >>> from torchkeras import Model
            >>> model = Model(torch.nn.Identity())
            >>> model.compile(loss="mse", metrics=["mae"])
            >>> model.test_on_batch(torch.zeros(4, 1), torch.full((4, 1), 2.0))
            [4.0, 2.0]
        """
        check_bool("reset_metrics", reset_metrics)
        row = compiled_of(self).batchwise.test(x, y, sample_weight, reset_metrics)
        return in_keras_order(row, return_dict)

    @short_traceback
    def predict_on_batch(self, x: Data) -> Any:
        """Run the net on one batch in evaluation mode, on its device.

        Args:
            x: the batch's features.

        Returns:
            numpy arrays, in the tuples and dicts that the net returns.

        Example:
            >>> import torch
            >>> from torchkeras import Model
            >>> Model(torch.nn.Flatten()).predict_on_batch(torch.zeros(4, 2, 3)).shape
            (4, 6)
        """
        return predictions(self.engine, x)

    @short_traceback
    def reset_metrics(self) -> None:
        """Reset what ``train_on_batch`` and ``test_on_batch`` add up with ``reset_metrics=False``.

        Raises:
            RuntimeError: the model was not compiled.
        """
        compiled_of(self).batchwise.reset()

    @property
    def metrics_names(self) -> list[str]:
        """Return the names of the numbers of ``evaluate`` in order; none before ``compile``."""
        return [] if self.compilation is None else ["loss", *self.compilation.engine.metrics_dict]

    @property
    def optimizer(self) -> Any:
        """Return the torch optimizer; its ``learning_rate`` can be read and set, as in Keras."""
        return None if self.compilation is None else sync_rate(self.compilation.engine.optimizer)

    @property
    def learning_rate(self) -> Any:
        """Return the rate of the optimizer's first group; setting it sets all groups."""
        return rate_of(self.optimizer)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        optimizer = sync_rate(compiled_of(self).engine.optimizer)
        set_rate(optimizer, rate)
        sync_rate(optimizer)
