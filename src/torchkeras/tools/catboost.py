"""Show the progress of CatBoost."""

from __future__ import annotations

from typing import Any

from torchkeras.vlog import VLog

NAMES = {"learn": "train", "validation": "val", "validation_0": "val"}


class VLogCallback:
    """Show the numbers of every iteration of a CatBoost model.

    CatBoost does not tell a callback how many iterations there are to be, and not when it ends:
    call ``vlog.log_end()`` after ``fit``.

    Args:
        monitor_metric: which number says what is best, with CatBoost's name of the metric behind
            "train_" or "val_".
        monitor_mode: "min" or "max".
        iterations: how many there are to be; CatBoost's default is 1000.

    Attributes:
        vlog: the :class:`torchkeras.VLog`.

    Example:
        >>> shown = VLogCallback("val_Accuracy", "max", iterations=200)
        >>> model.fit(train, eval_set=val, callbacks=[shown])  # doctest: +SKIP
        >>> shown.vlog.log_end()  # doctest: +SKIP
    """

    def __init__(self, monitor_metric: str = "val_Accuracy", monitor_mode: str = "max", *,
                 iterations: int = 1000) -> None:
        self.vlog = VLog(iterations, monitor_metric, monitor_mode)

    def after_iteration(self, info: Any) -> bool:
        """Log an iteration; ``info.metrics`` has its numbers. Return True to go on."""
        self.vlog.log_epoch({f"{NAMES.get(data, data)}_{name}": values[-1]
                             for data, metrics in info.metrics.items()
                             for name, values in metrics.items()})
        return True
