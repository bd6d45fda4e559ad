"""Show the progress of transformers' Trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.needed import needed
from torchkeras.core.types import Value
from torchkeras.vlog import VLog

if TYPE_CHECKING:
    from transformers import TrainerCallback
else:
    TrainerCallback = needed("transformers", "VLogCallback", "transformers").TrainerCallback


class VLogCallback(TrainerCallback):
    """Show what transformers' Trainer logs: a row for every evaluation.

    What is best is said by the Trainer's own arguments ``metric_for_best_model`` (default:
    the loss) and ``greater_is_better``.

    Args:
        figsize: width and height of each curve in the image, in inches.
        update_freq: accepted as in older versions; the view redraws as time allows.
        save_path: an image of the curves, written when the training ends. Default: none.

    Attributes:
        vlog: the :class:`torchkeras.VLog`, from the start of the training on.

    Example:
        >>> trainer = Trainer(model, args, train_dataset=train, eval_dataset=val,
        ...                   callbacks=[VLogCallback()])  # doctest: +SKIP
    """

    vlog: VLog

    def __init__(self, figsize: tuple[float, float] = (6, 4), update_freq: int = 1,
                 save_path: str | os.PathLike[str] | None = None) -> None:
        self.figsize, self.save_path = figsize, save_path
        self.loss: dict[str, Any] = {}  # of training, as logged last

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Value) -> None:
        """Open the view."""
        metric = args.metric_for_best_model or "eval_loss"
        self.prefix = "val_" if metric.startswith("val_") else "eval_"
        metric = metric if metric.startswith(self.prefix) else f"eval_{metric}"
        self.vlog = VLog(evaluations(args, state), metric,
                         "max" if args.greater_is_better else "min")
        self.vlog.log_start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None,
               **kwargs: Value) -> None:
        """Log the loss of training."""
        if logs and "loss" in logs:
            self.loss = {"train_loss": logs["loss"]}
            self.vlog.log_step(self.loss)

    def on_evaluate(self, args: Any, state: Any, control: Any,
                    metrics: Mapping[str, Any] | None = None, **kwargs: Value) -> None:
        """Log an evaluation."""
        timing = ("_runtime", "_per_second", "_compilation_time")
        self.vlog.log_epoch(self.loss | {
            name.replace("eval_", self.prefix, 1): value for name, value in (metrics or {}).items()
            if name != "epoch" and not name.endswith(timing)})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Value) -> None:
        """Close the view; write the image if there is to be one."""
        self.vlog.log_end()
        if self.save_path is not None:
            from torchkeras.display.figures import plot_history

            plot_history(self.vlog.history, self.save_path, figsize=self.figsize)


def evaluations(args: Any, state: Any) -> int:
    """Return how often the Trainer will evaluate."""
    found = float(args.num_train_epochs)
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "steps":
        found = state.max_steps / (args.eval_steps or args.logging_steps)
    return max(1, math.ceil(found))
