"""Log a run to MLflow."""

from __future__ import annotations

from typing import Any

from torchkeras.callbacks.logger import Row, RunLogger, numbers, told_of
from torchkeras.callbacks.needed import needed


class MLflowCallback(RunLogger):
    """See the rows of the history in MLflow; a run that you opened yourself is used and left open.

    A resumed run goes on in the same run of MLflow, and each epoch is in it once. What cannot be sent waits in memory,
    and training goes on.

    Args:
        experiment: the experiment's name; None leaves it to MLflow's own settings.
        run_name: the run's name; None lets MLflow find one.

    Raises:
        ImportError: mlflow is not installed.

    Example:
        >>> model.fit(train, callbacks=[MLflowCallback("digits")])  # doctest: +SKIP
    """

    how = "mlflow.start_run(run_id=...)"

    def __init__(self, experiment: str | None = None, run_name: str | None = None) -> None:
        super().__init__()
        needed("mlflow", type(self).__name__, "mlflow")
        self.experiment, self.run_name = experiment, run_name
        self.opened = False

    @property
    def mlflow(self) -> Any:
        """The package."""
        return needed("mlflow", type(self).__name__, "mlflow")

    def on_fit_start(self, model: Any) -> None:
        """Open a run, unless there is one; a resumed run opens its own again."""
        stopped = self.stopped.get("run_id") if self.resumed(model.run) else None
        if self.mlflow.active_run() is None:
            if self.experiment is not None:
                self.mlflow.set_experiment(self.experiment)
            if not (stopped and self.open_again(stopped, model.run)):
                self.mlflow.start_run(run_name=self.run_name)
                self.mlflow.log_params(model.run.config.to_share())
            self.opened = True
        self.begin_in(self.mlflow.active_run().info.run_id, stopped, model)

    def open_again(self, run_id: str, run: Any) -> bool:
        """Open the run that was stopped; tell if it cannot be."""
        try:
            self.mlflow.start_run(run_id=run_id)
        except self.mlflow.exceptions.MlflowException as error:
            run.notes.append(f"MLflow: the run {run_id} cannot be opened again ({error})")
            return False
        return True

    def all_held(self) -> set[tuple[str, int]]:
        """Return which metric the run has of which epoch: MLflow takes none back, and would keep a second beside it."""
        client = self.mlflow.MlflowClient()
        return {(name, one.step) for name in client.get_run(self.run_id).data.metrics
                for one in client.get_metric_history(self.run_id, name) if one.timestamp >= 1000 * self.began - 1}

    def write(self, row: Row, model: Any) -> None:
        """Send what the run does not have of a row."""
        epoch = row["epoch"]
        found = {name: value for name, value in numbers(row).items() if (name, epoch) not in self.held}
        if found:
            self.mlflow.log_metrics(found, step=epoch)

    def on_fit_end(self, model: Any) -> None:
        """Say what was best, and close the run that was opened here."""
        self.end(model)
        monitor = model.run.monitor
        if monitor.best is not None and not model.run.to_be_resumed:
            with told_of(model.run, "the best number", self.place()):
                self.say_best(f"best_{monitor.name}", float(monitor.best))
        self.close("KILLED" if model.run.interrupted or model.run.exit_code else "FINISHED", model.run)

    def say_best(self, name: str, value: float) -> None:
        """Log the best number, unless a run that was over already is started once more."""
        if self.mlflow.MlflowClient().get_run(self.run_id).data.metrics.get(name) != value:
            self.mlflow.log_metrics({name: value})

    def on_exception(self, model: Any) -> None:
        """Close the run as failed."""
        self.end(model)
        self.close("FAILED", model.run)

    def close(self, status: str, run: Any) -> None:
        """Close only what was opened here."""
        if self.opened:
            self.opened = False
            with told_of(run, "the end of the run", self.place()):
                self.mlflow.end_run(status=status)

    def place(self) -> str:
        """Return where the rows go to, for a message."""
        return "MLflow"
