"""What it costs to be watched, as a share of steps of 200 microseconds, with every display and file logger on.

    python -m benchmarks.watching

Measured in the middle of a real run: what each step pays, and what looking and drawing cost as often as they happen in
a second. CPU time, the least of many rounds, so other programs on the machine hardly count.
"""

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core.screen import Terminal
from torchkeras.display import live, notebook, samples
from torchkeras.display.live import LiveProgress
from torchkeras.display.notebook import NotebookProgress
from torchkeras.engine.callback import CallbackList
from torchkeras.kerascallbacks import CSVLogger, JSONLLogger, ReportWriter

STEP = 200e-6  # seconds
EPOCHS = 50


def cost(work: Callable[[], object], times: int, rounds: int = 30) -> float:
    """CPU seconds of one call: the least of the rounds."""
    least = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(times):
            work()
        least = min(least, (time.process_time() - begun) / times)
    return least


def in_terminal() -> Terminal:
    """A terminal that writes into memory."""
    from rich.console import Console

    screen = Terminal()
    screen.console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False,
                             _environ={"TERM": "xterm-256color"})
    return screen


class Measure:
    """Measures once, in the last epoch."""

    allows_multi_step = True

    def __init__(self, watchers: list[object]) -> None:
        self.watchers = watchers

    def on_step_end(self, model: KerasModel) -> None:
        """Look at the parts, one by one."""
        if model.run.epoch == EPOCHS and model.run.step == 7:
            view, bar = self.watchers[0], self.watchers[1]
            view.next_look = bar.next_draw = float("inf")
            told, silent = CallbackList(self.watchers, model), CallbackList([], model)
            step = cost(lambda: told.announce("on_step_end"), 2000) - cost(lambda: silent.announce("on_step_end"), 2000)
            look = cost(lambda: view.samples.take(model.run), 20)
            view.samples.read()
            draw = cost(lambda: view.draw(model.run, view.clock()), 5)
            bar.screen = in_terminal()
            line = cost(lambda: bar.draw(model, bar.clock()), 5)
            shown = bar.screen.console.file.getvalue()
            bar.screen.close()
            if "\x1b[" not in shown or "epoch" not in shown:
                raise RuntimeError(f"the terminal showed nothing: {shown[:80]!r}")
            report(step, look, draw, line)


def report(step: float, look: float, draw: float, line: float) -> None:
    """Each part, and all of them in a second."""
    a_second = {"steps": step / STEP, "batch losses": look / samples.EVERY,
                "views in a notebook": draw / max(notebook.REDRAW_EVERY, notebook.IDLE * draw),
                "lines in a terminal": line / max(live.REDRAW_EVERY, live.IDLE * line)}
    for (name, share), one in zip(a_second.items(), (step, look, draw, line), strict=True):
        print(f"{name:<20} {one * 1e6:8.2f} us each {share:8.3%} of the time")
    for name in ("notebook", "terminal"):
        total = a_second["steps"] + sum(share for kind, share in a_second.items() if name in kind)
        total += a_second["batch losses"] if name == "notebook" else 0.0
        print(f"in a {name}: {total:.3%}, {total * STEP * 1e6:.2f} us of a step of {STEP * 1e6:.0f} us")


def main() -> None:
    """A run of small steps, with everything on."""
    torch.manual_seed(0)
    x = torch.randn(800, 4)
    model = KerasModel(nn.Linear(4, 1), "mse", {"mae": "mae", "rmse": "rmse"}, "sgd")
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        folder = Path(name)
        watchers = [NotebookProgress(show=lambda bundle: json.dumps(bundle).encode()),
                    LiveProgress(write=lambda line: None), CSVLogger(folder / "a.csv"), JSONLLogger(folder / "a.jsonl"),
                    ReportWriter(folder / "a.html")]
        model.fit((x, x[:, :1]), (x[:80], x[:80, :1]), epochs=EPOCHS, batch_size=32, ckpt_path=None, patience=None,
                  quiet=True, callbacks=[*watchers, Measure(watchers)])


if __name__ == "__main__":
    main()
