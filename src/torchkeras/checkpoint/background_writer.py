"""Write saved states in a thread beside the training, where that is safe."""

from __future__ import annotations

import threading
import warnings

from torchkeras.checkpoint.history_file import Rows
from torchkeras.checkpoint.store import CheckpointStore, TensorFiles
from torchkeras.core.types import State
from torchkeras.engine.run import Run


class BackgroundWriter:
    """Writes one state after the other; an error is a warning, and the run goes on.

    Args:
        run: whose notes tell of errors.
        store: where states go.
    """

    def __init__(self, run: Run, store: CheckpointStore) -> None:
        self.run, self.store = run, store
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None
        self.reported = [""]  # errors in removing states that were reported
        # forking loader workers while a thread writes could leave them with its locks
        workers = any(getattr(one.source, "num_workers", 0) for one in run.data.given())
        self.beside_training = not (run.strategy.splits_batches or workers)

    def write(self, facts: State, tensors: TensorFiles, best_owner: object,
              rows: Rows) -> threading.Thread:
        """Begin to write a state; return the thread that reads its tensors until it ends."""
        def write_state() -> None:
            try:
                self.store.write(facts, tensors, best_owner, rows)
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=write_state, name="torchkeras-checkpoint")
        self.thread.start()
        return self.thread

    def wait(self) -> None:
        """Wait until the state is on the disk; if it could not be written, warn and go on."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if self.store.removal_error not in self.reported:
            self.reported.append(self.store.removal_error)
            self.run.notes.append(f"keep: {self.store.removal_error}: it is tried again when the "
                                  "next run begins")
        if error is not None:
            text = (f"the state of the run could not be saved ({type(error).__name__}: "
                    f"{error}); the run goes on")
            self.run.notes.append(f"save_every: {text}")
            warnings.warn(text, stacklevel=2)
