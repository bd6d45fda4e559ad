"""Log a run to MLflow."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from torchkeras.callbacks.needed import needed
from torchkeras.engine.callback import Callback


class MLflowCallback(Callback):
    """See the rows of the history in MLflow; a run that you opened yourself is used and left open.

    Args:
        experiment: the experiment's name; None leaves it to MLflow's own settings.
        run_name: the run's name; None lets MLflow find one.

    Raises:
        ImportError: mlflow is not installed.

    Example:
        >>> model.fit(train, callbacks=[MLflowCallback("digits")])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, experiment: str | None = None, run_name: str | None = None) -> None:
        needed("mlflow", type(self).__name__, "mlflow")
        self.experiment, self.run_name = experiment, run_name
        self.opened = False

    @property
    def mlflow(self) -> Any:
        """The package."""
        return needed("mlflow", type(self).__name__, "mlflow")

    def on_fit_start(self, model: Any) -> None:
        """Open a run, unless there is one; note what was asked."""
        if self.mlflow.active_run() is None:
            if self.experiment is not None:
                self.mlflow.set_experiment(self.experiment)
            self.mlflow.start_run(run_name=self.run_name)
            self.opened = True
            self.mlflow.log_params(asdict(model.run.config))

    def on_validation_epoch_end(self, model: Any) -> None:
        """Send the epoch's row."""
        row = {name: float(column[-1]) for name, column in model.run.history.items()
               if name != "epoch" and not math.isnan(column[-1])}
        self.mlflow.log_metrics(row, step=model.run.epoch)

    def on_fit_end(self, model: Any) -> None:
        """Say what was best, and close the run that was opened here."""
        monitor = model.run.monitor
        if monitor.best is not None:
            self.mlflow.log_metrics({f"best_{monitor.name}": float(monitor.best)})
        self.close("KILLED" if model.run.interrupted else "FINISHED")

    def on_exception(self, model: Any) -> None:
        """Close the run as failed."""
        self.close("FAILED")

    def close(self, status: str) -> None:
        """Close only what was opened here."""
        if self.opened:
            self.mlflow.end_run(status=status)
            self.opened = False
