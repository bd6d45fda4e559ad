"""Log a run to Weights & Biases."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchkeras.callbacks.logger import Row, RunLogger, is_moment, told_of
from torchkeras.callbacks.needed import needed

SENT = "torchkeras-epochs"  # beside the files of a run of W&B, which are uploaded, not among them


class WandbCallback(RunLogger):
    """See the rows of the history in Weights & Biases; a run that you opened yourself is used and left open.

    A resumed run goes on in the same run of W&B, and each epoch is in it once. What cannot be sent waits in memory, and
    training goes on.

    Args:
        project: the project's name; None leaves it to wandb's own settings.
        config: what to note of the run beside the arguments of ``fit``, of whose ``ckpt_path`` the folder is left out:
            a dict, or parsed arguments.
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

    def __init__(self, project: str | None = None, config: Any = None, name: str | None = None,
                 save_ckpt: bool = False, save_code: bool = False) -> None:
        super().__init__()
        needed("wandb", type(self).__name__, "torchkeras[wandb]")
        self.project = project
        self.config = dict(config if isinstance(config, Mapping) else {} if config is None else vars(config))
        self.name, self.save_ckpt, self.save_code = name, save_ckpt, save_code
        self.opened: Any = None
        self.opened_at = 0.0

    @property
    def wandb(self) -> Any:
        """The package."""
        return needed("wandb", type(self).__name__, "torchkeras[wandb]")

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is, and what it has."""
        return {**super().state_dict(), "opened_at": self.opened_at}

    def on_fit_start(self, model: Any) -> None:
        """Open a run, unless there is one; a resumed run opens its own again."""
        stopped = self.stopped.get("run_id") if self.resumed(model.run) else None
        if self.wandb.run is None:
            if stopped:  # a run's folder is named after its second, and would be written over
                time.sleep(min(max(int(self.stopped.get("opened_at", 0)) + 1 - time.time(), 0), 1))
            self.opened_at = time.time()
            again = {"id": stopped, "resume": "allow", "allow_val_change": True} if stopped else {}
            self.opened = self.wandb.init(project=self.project, name=self.name, save_code=self.save_code or None,
                                          config=model.run.config.to_share() | self.config, **again)
        self.begin_in(self.wandb.run.id, stopped, model)

    def all_held(self) -> set[int]:
        """Return the epochs that the run has: W&B takes no row back, and would keep a second beside it."""
        lines = [line.split() for folder in Path(self.wandb.run.dir).parents[1].glob(
                     f"*run-*-{glob.escape(self.run_id or '')}")
                 for line in written(folder / SENT)]
        seen = {int(epoch) for began, epoch in lines if float(began) == self.began}
        newest = self.wandb.run.summary.get("epoch") if self.opened is not None else None  # as the server knows it
        return seen | set(range(int(newest) + 1)) if newest is not None else seen

    def write(self, row: Row, model: Any) -> None:
        """Send a row, and note beside the run's files that it was, since a run that is offline cannot be asked."""
        if row["epoch"] in self.held:
            return
        self.wandb.log({name: value for name, value in row.items() if value is not None})
        if model.run.config.keeps_state:
            with suppress(OSError), (Path(self.wandb.run.dir).parent / SENT).open("a") as file:
                file.write(f"{self.began!r} {row['epoch']}\n")

    def on_fit_end(self, model: Any) -> None:
        """Say what was best, and close the run that was opened here."""
        self.end(model)
        monitor = model.run.monitor
        with told_of(model.run, "the best number", self.place()):
            if self.wandb.run is not None and monitor.best is not None:
                self.wandb.run.summary[f"best_{monitor.name}"] = monitor.best
            if self.save_ckpt and model.run.config.ckpt_path is not None and monitor.best is not None:
                self.upload(model.run.config.ckpt_path)
        self.close(model.run, exit_code=0)

    def upload(self, path: str) -> None:
        """Keep the best weights with the run, if the disk took them."""
        if not os.path.exists(path):
            return
        artifact = self.wandb.Artifact(f"{self.wandb.run.id}-best", type="model")
        artifact.add_file(path)
        self.wandb.log_artifact(artifact)

    def on_exception(self, model: Any) -> None:
        """Close the run as failed."""
        self.end(model)
        self.close(model.run, exit_code=1)

    def close(self, run: Any, exit_code: int) -> None:
        """Close only what was opened here."""
        if self.opened is not None:
            self.opened = None
            with told_of(run, "the end of the run", self.place()):
                self.wandb.finish(exit_code=exit_code)

    def place(self) -> str:
        """Return where the rows go to, for a message."""
        return "W&B"


def written(path: Path) -> list[str]:
    """Return the epochs noted in a file, if it is there; a number that was cut short has no end of line."""
    with suppress(OSError):
        return path.read_text().split("\n")[:-1]
    return []
