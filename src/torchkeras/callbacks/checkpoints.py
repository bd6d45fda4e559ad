"""Save the weights of single epochs, beside the best ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.logger import from_state, note_and_warn, remove_temporary_files
from torchkeras.checkpoint.best import describe_write_error, is_disk_error
from torchkeras.core.errors import whole_number
from torchkeras.display.targets import target
from torchkeras.engine.callback import Callback

if TYPE_CHECKING:
    from torchkeras.engine.trainable import Trainable

WRITTEN = re.compile(r"epoch_(0|[1-9][0-9]{0,17})\.pt")  # the names of the files


class EpochCheckpoint(Callback):
    """Keeps the weights of the newest epochs, to compare or to average, whether best or not.

    Each file, ``epoch_<n>.pt``, is what ``model.save_ckpt`` writes. Only files that this run wrote
    are removed; a resumed run counts those from before the stop as its own.

    Args:
        ckpt_dir: the folder; it is made if it is not there.
        save_freq: save every ``save_freq`` epochs.
        max_ckpt: how many files to keep; None keeps all.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a number is below 1, or the folder cannot be written.

    Example:
        >>> model.fit(train, callbacks=[EpochCheckpoint("weights", max_ckpt=3)])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, ckpt_dir: str | os.PathLike[str] = "weights", save_freq: int = 1,
                 max_ckpt: int | None = 10) -> None:
        whole_number("save_freq", save_freq, least=1)
        whole_number("max_ckpt", max_ckpt, least=1, optional=True)
        self.folder = target("ckpt_dir", Path(ckpt_dir) / "epoch_1.pt").parent
        self.save_freq, self.max_ckpt = save_freq, max_ckpt
        self.files: list[Path] = []
        self.stopped: list[str] = []  # those of the run that is resumed

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the files that are kept."""
        return {"files": [file.name for file in self.files]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Store the names of the stopped run's files.

        Raises:
            CheckpointCorruptError: a name is none that this callback writes; such a file is never
                removed.
        """
        files = from_state(self, state, "files", names_written, "names such as 'epoch_1.pt'")
        self.stopped = list(dict.fromkeys(files or ()))

    def on_fit_start(self, model: Trainable) -> None:
        """Forget the files of earlier runs; take over those of the run that is resumed."""
        self.files = []
        if model.run.resumes_at is not None:
            self.files = [self.folder / name for name in self.stopped]
            remove_temporary_files(self.folder, "epoch_*.pt")

    def on_validation_epoch_end(self, model: Trainable) -> None:
        """Save the weights, then remove the oldest files."""
        if model.run.epoch % self.save_freq:
            return
        file = self.folder / f"epoch_{model.run.epoch}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save_ckpt(file)
        except Exception as error:
            if not is_disk_error(error):
                raise
            note_and_warn(model.run, f"the weights of epoch {model.run.epoch} could not be written "
                          f"to {file} "
                          f"({describe_write_error(error)}); the run continues")
        else:
            self.files = [*(one for one in self.files if one != file), file]
            self.drop_old()

    def drop_old(self) -> None:
        """Remove the oldest files; one that is locked is tried again after the next save."""
        for file in [] if self.max_ckpt is None else self.files[:-self.max_ckpt]:
            with suppress(OSError):
                file.unlink(missing_ok=True)
                self.files.remove(file)


def names_written(value: object) -> bool:
    """Return whether a value is a list of file names that this callback writes."""
    return isinstance(value, list) and all(isinstance(one, str) and WRITTEN.fullmatch(one)
                                           for one in value)
