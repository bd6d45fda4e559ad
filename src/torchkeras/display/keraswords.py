"""Show a run of ``Model``: as any run, with Keras's names, and no best epoch unless it is kept."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from torchkeras.core.screen import detect
from torchkeras.core.types import Row
from torchkeras.display.html import Shown
from torchkeras.display.live import LiveProgress
from torchkeras.display.notebook import NotebookProgress, in_place
from torchkeras.display.progress import Progress
from torchkeras.display.protocols import HasRun, RunView
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor


class KerasProgress(Progress):
    """Shows a run with the names that ``Model.fit`` returns.

    Args:
        plot: draw the curves.
        keeps_best: whether the net gets its best weights back, so that the best epoch matters.
    """

    def __init__(self, plot: bool = True, keeps_best: bool = False) -> None:
        super().__init__(plot)
        self.keeps_best = keeps_best

    def on_fit_start(self, model: HasRun) -> None:
        """Choose the display, new for each run, and open it."""
        kind = NotebookWords if detect() == "notebook" else TextWords
        self.shown = kind(self.plot, self.keeps_best)
        self.shown.on_fit_start(model)


class RunInKerasWords:
    """A run as a display reads it, with other names.

    Args:
        run: the run.
        keeps_best: whether its best epoch is shown.
        curves: whether columns keep their names, by which curves are paired.
    """

    def __init__(self, run: RunView, keeps_best: bool, curves: bool = False) -> None:
        self.run, self.curves = run, curves
        self.monitor: Any = run.monitor
        if not keeps_best:
            self.monitor = Monitor(run.monitor.name, run.monitor.mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    @property
    def notes(self) -> list[str]:
        """Return the notes, without that on the number that tells which epoch is the best."""
        shown = self.run.monitor is self.monitor
        return [note for note in self.run.notes if shown or not note.startswith("monitor: ")]

    @property
    def history(self) -> History:
        """Return the numbers of the epochs."""
        found = self.run.history
        return found if self.curves else History(
            {name.removeprefix("train_"): column for name, column in found.items()})

    def current_metrics(self) -> Row:
        """Return the numbers of the pass so far."""
        return {name.removeprefix("train_"): value
                for name, value in self.run.current_metrics().items()}


class TextWords(LiveProgress):
    """Shows a run in a terminal or a log."""

    def __init__(self, plot: bool, keeps_best: bool) -> None:
        super().__init__(plot)
        self.keeps_best = keeps_best

    def renamed(self, model: HasRun, curves: bool = False) -> Any:
        """Return a model whose run has other names."""
        return SimpleNamespace(run=RunInKerasWords(model.run, self.keeps_best, curves))

    def on_fit_start(self, model: HasRun) -> None:
        """Print the device and the notes of the run."""
        super().on_fit_start(self.renamed(model))

    def draw(self, model: HasRun, now: float) -> None:
        """Draw the live line, or print a heartbeat in a log."""
        super().draw(self.renamed(model), now)

    def on_validation_epoch_end(self, model: HasRun) -> None:
        """Print the epoch's row."""
        super().on_validation_epoch_end(self.renamed(model))

    def on_fit_end(self, model: HasRun) -> None:
        """Print how the run ended, and the curves."""
        super().on_fit_end(self.renamed(model, curves=True))


class NotebookWords(NotebookProgress):
    """Shows a run in a notebook."""

    def __init__(self, plot: bool, keeps_best: bool) -> None:
        super().__init__(plot)
        self.keeps_best, self.columns = keeps_best, re.compile("(?!)")

    def on_fit_start(self, model: HasRun) -> None:
        """Open the view."""
        inner = self.given or in_place()
        self.given, before = (lambda bundle: inner(
            {kind: self.columns.sub(r"\1", text) for kind, text in bundle.items()})), self.given
        super().on_fit_start(model)
        self.given = before

    def shown(self, run: RunView, now: float, state: str, reason: str, whole: bool) -> Shown:
        """Collect what the view shows; note the columns that are renamed in it."""
        view: Any = RunInKerasWords(run, self.keeps_best, curves=True)
        found = super().shown(view, now, state, reason, whole)
        names = [re.escape(name[6:]) for name in {*found.history, *found.numbers}
                 if name.startswith("train_")]
        self.columns = re.compile(rf"\btrain_({'|'.join(names)})\b") if names else re.compile(
            "(?!)")
        return found
