"""Log a run to Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torchkeras.engine.callback import Callback


class WandbCallback(Callback):
    """See the rows of the history in Weights & Biases; a run that you opened yourself is used and left open.

    Args:
        project: the project's name; None leaves it to wandb's own settings.
        config: what to note of the run beside the arguments of ``fit``: a dict, or parsed arguments.
        name: the run's name.
        save_ckpt: upload the best weights when the run ends, if ``fit`` writes them to a file.
        save_code: let wandb keep the script.

    Raises:
        ImportError: wandb is not installed.

    Example:
        >>> model.fit(train, callbacks=[WandbCallback("digits")])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, project: str | None = None, config: Any = None, name: str | None = None,
                 save_ckpt: bool = False, save_code: bool = False) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb=True needs Weights & Biases. Install it: pip install torchkeras[wandb]") from error
        self.wandb, self.project = wandb, project
        self.config = dict(config if isinstance(config, Mapping) else {} if config is None else vars(config))
        self.name, self.save_ckpt, self.save_code = name, save_ckpt, save_code
        self.opened: Any = None

    def on_fit_start(self, model: Any) -> None:
        """Open a run, unless there is one."""
        if self.wandb.run is None:
            self.opened = self.wandb.init(project=self.project, name=self.name, save_code=self.save_code or None,
                                          config=asdict(model.run.config) | self.config)

    def on_validation_epoch_end(self, model: Any) -> None:
        """Send the epoch's row."""
        row = {name: column[-1] for name, column in model.run.history.items() if not math.isnan(column[-1])}
        self.wandb.log(row)

    def on_fit_end(self, model: Any) -> None:
        """Say what was best, and close the run that was opened here."""
        monitor = model.run.monitor
        if self.wandb.run is not None and monitor.best is not None:
            self.wandb.run.summary[f"best_{monitor.name}"] = monitor.best
        if self.save_ckpt and model.run.config.ckpt_path is not None and monitor.best is not None:
            self.upload(model.run.config.ckpt_path)
        self.close(exit_code=0)

    def upload(self, path: str) -> None:
        """Keep the best weights with the run, if the disk took them."""
        if not os.path.exists(path):
            return
        artifact = self.wandb.Artifact(f"{self.wandb.run.id}-best", type="model")
        artifact.add_file(path)
        self.wandb.log_artifact(artifact)

    def on_exception(self, model: Any) -> None:
        """Close the run as failed."""
        self.close(exit_code=1)

    def close(self, exit_code: int) -> None:
        """Close only what was opened here."""
        if self.opened is not None:
            self.wandb.finish(exit_code=exit_code)
            self.opened = None
