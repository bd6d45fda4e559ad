"""Log a run to MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.logger import Row, RunLogger, numbers, warn_on_failure
from torchkeras.callbacks.needed import needed

if TYPE_CHECKING:
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable


class MLflowCallback(RunLogger):
    """Log the rows of the history to MLflow; a run that you opened is used and left open.

    A resumed run continues in the same run of MLflow, and each epoch is in it once. Rows that
    cannot be sent stay in memory, and training continues.

    Args:
        experiment: the experiment's name; None leaves it to MLflow's own settings.
        run_name: the run's name; None lets MLflow choose one.

    Raises:
        ImportError: mlflow is not installed.

    Example:
        >>> model.fit(train, callbacks=[MLflowCallback("digits")])  # doctest: +SKIP
    """

    how = "mlflow.start_run(run_id=...)"
    failed = "FAILED"

    def __init__(self, experiment: str | None = None, run_name: str | None = None) -> None:
        super().__init__()
        needed("mlflow", type(self).__name__, "mlflow")
        self.experiment, self.run_name = experiment, run_name

    @property
    def mlflow(self) -> Any:
        """Return the package."""
        return needed("mlflow", type(self).__name__, "mlflow")

    def open(self, run: Run, stopped: str | None) -> str:
        """Open a run where none is open, and return the id of the one that is."""
        if self.mlflow.active_run() is None:
            if self.experiment is not None:
                self.mlflow.set_experiment(self.experiment)
            if not (stopped and self.open_again(stopped, run)):
                self.mlflow.start_run(run_name=self.run_name)
                self.mlflow.log_params(run.config.to_share())
            self.opened = True
        return str(self.mlflow.active_run().info.run_id)

    def open_again(self, run_id: str, run: Run) -> bool:
        """Open the stopped run; return False and note it where that fails."""
        try:
            self.mlflow.start_run(run_id=run_id)
        except self.mlflow.exceptions.MlflowException as error:
            run.notes.append(f"MLflow: the run {run_id} cannot be opened again ({error})")
            return False
        return True

    def fetch_logged(self) -> set[tuple[str, int]]:
        """Return (metric, epoch) of all that the run has: MLflow would keep duplicates."""
        client = self.mlflow.MlflowClient()
        return {(name, one.step) for name in client.get_run(self.run_id).data.metrics
                for one in client.get_metric_history(self.run_id, name)
                if one.timestamp >= 1000 * self.began - 1}

    def write(self, row: Row, model: Trainable) -> None:
        """Send the numbers of a row that the run does not have yet."""
        epoch = row["epoch"]
        found = {name: value for name, value in numbers(row).items()
                 if (name, epoch) not in self.already_logged}
        if found:
            self.mlflow.log_metrics(found, step=epoch)

    def on_fit_end(self, model: Trainable) -> None:
        """Log the best number, and close the run that was opened here."""
        self.end(model)
        monitor = model.run.monitor
        if monitor.best is not None and not model.run.to_be_resumed:
            with warn_on_failure(model.run, "the best number", self.destination()):
                self.log_best(f"best_{monitor.name}", float(monitor.best))
        killed = model.run.interrupted or model.run.exit_code
        self.close(model.run, "KILLED" if killed else "FINISHED")

    def log_best(self, name: str, value: float) -> None:
        """Log the best number, unless the run has it: a finished run may be started once more."""
        if self.mlflow.MlflowClient().get_run(self.run_id).data.metrics.get(name) != value:
            self.mlflow.log_metrics({name: value})

    def finish(self, status: str | int) -> None:
        """Close the run with a status."""
        self.mlflow.end_run(status=status)

    def destination(self) -> str:
        """Return where the rows are written, for messages."""
        return "MLflow"
