"""Write a run to one HTML file that any browser opens."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import torch
from torch import nn

from torchkeras.checkpoint.weights_path import write_atomically
from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import type_names
from torchkeras.core.types import Batch, Data
from torchkeras.data import batches
from torchkeras.data.arrays import wide_dtype
from torchkeras.data.batch import split, to_device
from torchkeras.display import html, page
from torchkeras.display.classes import Judged, Predicting, judge
from torchkeras.display.live import share_done
from torchkeras.display.targets import target
from torchkeras.engine.callback import Callback
from torchkeras.engine.run import Run
from torchkeras.summary import summary

SUFFIXES = (".html", ".htm")


def write_report(model: Predicting, path: str | os.PathLike[str], val_data: Data = None, *,
                 class_names: Sequence[str] | None = None) -> Path:
    """Write a run to one HTML file: curves, table, settings and environment.

    The file needs no network and no script; it reads well on light and dark screens and on paper.

    Args:
        model: a KerasModel that was fitted.
        path: the file, ``.html``.
        val_data: what ``evaluate`` takes; adds the layers' output shapes and, if the loss is a
            classifier's, the confusion matrix and the most wrong samples. It is read once more for
            that.
        class_names: names of the classes in the order of their numbers. Default: the numbers.

    Returns:
        The path of the file.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: there is no run to report, the file cannot be written, or there are fewer names
            than classes.

    Example:
        >>> import tempfile
        >>> from torchkeras import KerasModel
        >>> x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
        >>> model = KerasModel(nn.Linear(4, 2), loss_fn="cross_entropy")
        >>> history = model.fit((x, y), epochs=2, ckpt_path=None, quiet=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_report(model, os.path.join(folder, "run.html"), (x, y))
        ...     "Confusion matrix" in file.read_text(encoding="utf-8")
        True
    """
    file = target("path", path, SUFFIXES)
    if getattr(model, "run", None) is None:
        raise bad_value("model", received="a model without a run", expected="one that was fitted",
                        fix="Call fit first.")
    return write(model, file, val_data, class_names, outcome(model.run))


def write(model: Predicting, file: Path, val_data: Data, class_names: Sequence[str] | None,
          ended: tuple[str, str]) -> Path:
    """Write the file atomically."""
    content = document(model, val_data, class_names, ended)
    write_atomically(file, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return file


def document(model: Predicting, val_data: Data, class_names: Sequence[str] | None,
             ended: tuple[str, str]) -> str:
    """Return the page of a run."""
    run: Run = model.run
    seconds: Mapping[str, float] = getattr(run, "timings", {})
    shown = overview(run, ended, sum(seconds.values()))
    judged = None if val_data is None or run.strategy.splits_batches else judge(model, val_data)
    names = named(judged, class_names)
    charts = html.charts(run.history, run.monitor.best_epoch)
    return page.page(f"{type(model.net).__name__}: training report", [
        ("", f"{html.STYLE}<div class='torchkeras'>{html.header(shown)}"
             f"{html.notes(shown.notes)}</div>"),
        ("Curves", boxed(f'<div style="{html.WRAP}">{charts}</div>')),
        ("Epochs", boxed(html.table(shown))),
        ("Confusion matrix", page.matrix(judged.confusion.tolist(), names) if judged else ""),
        ("Most wrong samples", page.samples(judged.worst, names) if judged else ""),
        ("Where the time went", page.parts(seconds)),
        ("What was trained", page.facts(made_of(model))),
        ("Configuration", page.facts(run.config.to_share())),
        ("Layers", f"<pre>{escape(layers(model.net, val_data))}</pre>"),
        ("Environment", page.facts(environment(run)))])


def boxed(content: str) -> str:
    """Wrap content in the style of the notebook's view."""
    return f'<div class="torchkeras">{content}</div>'


def outcome(run: Run) -> tuple[str, str]:
    """Return how a run ended, and why."""
    word = "interrupted" if run.interrupted else "done" if run.stop_reason is None else "stopped"
    return word, run.stop_reason or ""


def overview(run: Run, ended: tuple[str, str], seconds: float) -> html.Shown:
    """Collect what the head of the report shows."""
    epochs = run.history.get("epoch", ())
    return html.Shown(
        state=ended[0], reason=without_home(ended[1]), device=run.device,
        epoch=int(epochs[-1]) if epochs else 0, epochs=run.config.epochs,
        fraction=1.0 if ended[0] == "done" else share_done(run, whole=True), seconds=seconds,
        rate=run.global_step / seconds if seconds else 0.0, history=run.history,
        monitor=run.monitor.name, best=run.monitor.best, best_epoch=run.monitor.best_epoch,
        notes=[without_home(note) for note in run.notes])


def without_home(text: str) -> str:
    """Replace the home folder, which names a person, by ~: a report is shown to others."""
    home = os.path.expanduser("~") + os.sep
    for spelled in (repr(home)[1:-1], home):  # repr doubles the backslashes of Windows
        text = text.replace(spelled, "~" + os.sep) if len(home) > 2 else text
    return text


def named(judged: Judged | None, given: Sequence[str] | None) -> list[str]:
    """Return a name for each class."""
    count = 0 if judged is None else len(judged.confusion)
    if given is not None and len(given) < count:
        raise bad_value("class_names", received=f"{len(given)} names",
                        expected=f"a name for each of {count} classes")
    return [str(name) for name in given or range(count)]


def made_of(model: Predicting) -> dict[str, str]:
    """Return net, loss, optimizer and metrics in words."""
    loss, groups = model.loss_fn, getattr(model.optimizer, "param_groups", [])
    settings = ", ".join(f"{name}={value}" for name, value in (groups[0] if groups else {}).items()
                         if name != "params" and value is not None and value is not False)
    loss_name = str(loss) if isinstance(loss, nn.Module) else getattr(loss, "__name__", str(loss))
    found = {"net": type(model.net).__name__, "loss": loss_name,
             "optimizer": f"{type_names(model.optimizer)} ({settings})",
             "metrics": ", ".join(f"{name}: {type(one).__name__}"
                                  for name, one in model.metrics_dict.items())}
    if model.lr_scheduler is not None:
        found["lr_scheduler"] = type_names(model.lr_scheduler)
    return {name: value for name, value in found.items() if value}


def layers(net: nn.Module, val_data: Data) -> str:
    """Return the layers: with output shapes if there is a batch to run, else with parameters."""
    if val_data is not None:
        try:
            return str(summary(net, input_data=one_batch(net, val_data), write=lambda text: None))
        except (TypeError, ValueError):  # the net takes its batch in another form
            pass
    rows = [f"{name or type(net).__name__} ({type(module).__name__})  {count:,}"
            for name, module in net.named_modules()
            if (count := sum(one.numel() for one in module.parameters(recurse=False)))]
    return "\n".join([*rows, f"Total params: {sum(one.numel() for one in net.parameters()):,}"])


def one_batch(net: nn.Module, val_data: Data) -> Batch:
    """Return the features of the first batch, on the net's device."""
    first = next(iter(batches(val_data, name="val_data", dtype=wide_dtype(net), draws=False)))
    weight = next(net.parameters(), None)
    return to_device(split(first)[0], "cpu" if weight is None else weight.device)


def environment(run: Run) -> dict[str, str]:
    """Return versions, system and device."""
    found = {name: importlib.metadata.version(name)
             for name in ("torchkeras", "torch", "numpy", "accelerate")}
    found |= {"Python": platform.python_version(),
              "system": f"{platform.system()} {platform.machine()}",
              "device": run.device, "CPU threads": str(torch.get_num_threads()),
              "written": f"{datetime.now():%Y-%m-%d %H:%M}"}
    if run.device.startswith("cuda"):
        found["accelerator"] = torch.cuda.get_device_name(run.accelerator.device)
    return found


class ReportWriter(Callback):
    """Writes the report of a run however it ends; if that fails, it warns and the run is kept.

    Args:
        path: the file, ``.html``; it is checked at once.
        val_data: what to measure a classifier on, as in :func:`write_report`.
        class_names: names of the classes.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: the file cannot be written.

    Example:
        >>> model.fit(train, val, callbacks=[ReportWriter("run.html", val)])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, path: str | os.PathLike[str], val_data: Data = None,
                 class_names: Sequence[str] | None = None) -> None:
        self.file = target("report", path, SUFFIXES)
        self.val_data, self.class_names = val_data, class_names

    def on_fit_end(self, model: Predicting) -> None:
        """Write the report; without ``val_data`` if that cannot be read again."""
        for data in (self.val_data, None) if self.val_data is not None else (None,):
            try:
                write(model, self.file, data, self.class_names, outcome(model.run))
                return
            except Exception as error:
                what = "The report" if data is None else "The part on val_data of the report"
                warnings.warn(f"{what} {str(self.file)!r} could not be written: {error}. "
                              "model.report('another/place.html') writes it anew.", stacklevel=2)

    def on_exception(self, model: Predicting) -> None:
        """Write the report of a failed run with its error; the net is not run again."""
        error = sys.exc_info()[1]
        word = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if model.run is not None and model.run.optimizer_steps:
            try:
                write(model, self.file, None, None, (word, f"{type(error).__name__}: {error}"))
            except OSError as second:  # later callbacks must hear of the end too
                warnings.warn(f"The report {str(self.file)!r} could not be written: {second}",
                              stacklevel=2)
