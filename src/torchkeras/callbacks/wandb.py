"""Log a run to Weights & Biases."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.logger import Row, RunLogger, is_moment, warn_on_failure
from torchkeras.callbacks.needed import needed

if TYPE_CHECKING:
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable

# a file next to those of a W&B run, so that it is not uploaded with them
SENT = "torchkeras-epochs"


class WandbCallback(RunLogger):
    """Log the rows of the history to Weights & Biases; a run that you opened is used and left open.

    A resumed run continues in the same run of W&B, and each epoch is in it once. Rows that cannot
    be sent stay in memory, and training continues.

    Args:
        project: the project's name; None leaves it to wandb's own settings.
        config: settings to store beside the arguments of ``fit`` (of ``ckpt_path`` only the file
            name is stored): a dict, or parsed arguments.
        name: the run's name.
        save_ckpt: upload the best weights when the run ends, if ``fit`` writes them to a file.
        save_code: let wandb keep the script.

    Raises:
        ImportError: wandb is not installed.

    Example:
        >>> model.fit(train, callbacks=[WandbCallback("digits")])  # doctest: +SKIP
    """

    how = 'wandb.init(id=..., resume="allow")'
    forms = {**RunLogger.forms, "opened_at": (is_moment, "seconds since 1970")}

    def __init__(self, project: str | None = None, config: object = None, name: str | None = None,
                 save_ckpt: bool = False, save_code: bool = False) -> None:
        super().__init__()
        needed("wandb", type(self).__name__, "torchkeras[wandb]")
        self.project = project
        self.config = dict(config if isinstance(config, Mapping) else {} if config is None
                           else vars(config))
        self.name, self.save_ckpt, self.save_code = name, save_ckpt, save_code
        self.opened_at = 0.0

    @property
    def wandb(self) -> Any:
        """Return the package."""
        return needed("wandb", type(self).__name__, "torchkeras[wandb]")

    def state_dict(self) -> dict[str, Any]:
        """Return which run this is, which rows it has, and when it was opened."""
        return {**super().state_dict(), "opened_at": self.opened_at}

    def open(self, run: Run, stopped: str | None) -> str:
        """Open a run where none is open, and return the id of the one that is."""
        if self.wandb.run is None:
            if stopped:  # its folder is named after the second, and would be overwritten
                time.sleep(min(max(int(self.stopped.get("opened_at", 0)) + 1 - time.time(), 0), 1))
            self.opened_at = time.time()
            again = {"id": stopped, "resume": "allow", "allow_val_change": True} if stopped else {}
            self.wandb.init(project=self.project, name=self.name, save_code=self.save_code or None,
                            config=run.config.to_share() | self.config, **again)
            self.opened = True
        return str(self.wandb.run.id)

    def fetch_logged(self) -> set[int]:
        """Return the epochs that the run has: W&B would keep duplicates."""
        lines = [line.split() for folder in Path(self.wandb.run.dir).parents[1].glob(
                     f"*run-*-{glob.escape(self.run_id or '')}")
                 for line in complete_lines(folder / SENT)]
        seen = {int(epoch) for began, epoch in lines if float(began) == self.began}
        # as the server has it
        newest = self.wandb.run.summary.get("epoch") if self.opened else None
        return seen | set(range(int(newest) + 1)) if newest is not None else seen

    def write(self, row: Row, model: Trainable) -> None:
        """Send a row, and note it beside the run's files: an offline run cannot be asked."""
        if row["epoch"] in self.already_logged:
            return
        self.wandb.log({name: value for name, value in row.items() if value is not None})
        if model.run.config.keeps_state:
            with suppress(OSError), (Path(self.wandb.run.dir).parent / SENT).open("a") as file:
                file.write(f"{self.began!r} {row['epoch']}\n")

    def on_fit_end(self, model: Trainable) -> None:
        """Log the best number, and close the run that was opened here."""
        self.end(model)
        monitor, ckpt_path = model.run.monitor, model.run.config.ckpt_path
        with warn_on_failure(model.run, "the best number", self.destination()):
            if self.wandb.run is not None and monitor.best is not None:
                self.wandb.run.summary[f"best_{monitor.name}"] = monitor.best
                self.wandb.run.summary["best_score"] = monitor.best
            if self.save_ckpt and ckpt_path is not None and monitor.best is not None:
                self.upload(ckpt_path)
        self.close(model.run, 0)

    def upload(self, path: str) -> None:
        """Upload the best weights, if they could be written."""
        if not os.path.exists(path):
            return
        artifact = self.wandb.Artifact(f"{self.wandb.run.id}-best", type="model")
        add = artifact.add_dir if os.path.isdir(path) else artifact.add_file
        add(path)
        self.wandb.log_artifact(artifact)

    def finish(self, status: str | int) -> None:
        """Close the run with an exit code."""
        self.wandb.finish(exit_code=status)

    def destination(self) -> str:
        """Return where the rows are written, for messages."""
        return "W&B"


def complete_lines(path: Path) -> list[str]:
    """Return the complete lines of a file, if it is there; one that was cut off has no end."""
    with suppress(OSError):
        return path.read_text().split("\n")[:-1]
    return []
