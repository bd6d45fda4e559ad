"""Show the progress of LightGBM."""

from __future__ import annotations

from typing import Any

from torchkeras.vlog import VLog


class VLogCallback:
    """Show the numbers of every boosting round of ``lightgbm.train`` or ``lightgbm.cv``.

    Args:
        num_boost_round: how many rounds there are to be.
        monitor_metric: which number says what is best: ``<name of the data>_<metric>``.
        monitor_mode: "min" or "max".

    Attributes:
        vlog: the :class:`torchkeras.VLog`; ``vlog.log_start()`` and ``vlog.log_end()`` are yours
            to call around the training.

    Example:
        >>> shown = VLogCallback(50, monitor_metric="val_auc", monitor_mode="max")
        >>> shown.vlog.log_start()  # doctest: +SKIP
        >>> model = lightgbm.train(params, train, num_boost_round=50, valid_sets=[val],
        ...                        valid_names=["val"], callbacks=[shown])  # doctest: +SKIP
        >>> shown.vlog.log_end()  # doctest: +SKIP
    """

    order = 20  # before LightGBM's early stopping, which ends the round
    before_iteration = False

    def __init__(self, num_boost_round: int, monitor_metric: str = "val_loss",
                 monitor_mode: str = "min") -> None:
        self.num_boost_round = num_boost_round
        self.vlog = VLog(num_boost_round, monitor_metric, monitor_mode)

    def __call__(self, env: Any) -> None:
        """Log a round; ``env.evaluation_result_list`` has its numbers."""
        numbers = {}
        for data, metric, value, *_ in env.evaluation_result_list:
            # cross validation has all in one: ("cv_agg", "valid auc", mean, ..., deviation)
            name = metric.replace(" ", "_") if data == "cv_agg" else f"{data}_{metric}"
            numbers[name] = value
        self.vlog.log_epoch(numbers)
