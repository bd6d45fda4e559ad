"""Show a run as HTML without scripts: pure functions, for notebooks and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from torchkeras.core import text
from torchkeras.display import svg
from torchkeras.display.digest import Digest, place_of
from torchkeras.display.plot import quantities

LIVE_ROWS, ALL_ROWS = 12, 20  # rows of the table, during the run and at its end
MARKS = {"running": "▶", "done": "✓", "stopped": "■", "interrupted": "■", "failed": "✗"}
COLOURS = {"running": svg.TRAIN, "done": "#2e9e5b", "stopped": "#2e9e5b", "interrupted": svg.VAL,
           "failed": svg.STAR}
WRAP = "display:flex;flex-wrap:wrap;gap:.4em 1.2em;align-items:flex-start;margin:.3em 0"
CELL = "padding:.15em .7em;text-align:right;white-space:nowrap"
# Jupyter paints every second row and hides what is wider than the cell; VS Code paints tables white
# in dark themes
STYLE = """<style>
.torchkeras{color:inherit;font:13px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;\
max-width:100%}
.torchkeras table{border-collapse:collapse;margin:0;font-size:12.5px;\
font-variant-numeric:tabular-nums}
.torchkeras table,.torchkeras tr,.torchkeras tbody tr:nth-child(odd),\
.torchkeras tbody tr:hover,.torchkeras td,\
.torchkeras th{background:transparent;color:inherit}
.torchkeras th{border-bottom:1px solid currentColor;font-weight:600}
.torchkeras tbody tr.torchkeras-best{background:rgba(127,127,127,.16);font-weight:600}
.torchkeras svg{max-width:100%;height:auto;flex:0 1 380px;min-width:min(300px,100%)}
@media (prefers-color-scheme:dark){.torchkeras-star{fill:#ff6b81}}
[data-jp-theme-light="true"] .torchkeras-star{fill:#e0405a}
[data-jp-theme-light="false"] .torchkeras-star,.vscode-dark .torchkeras-star,html[theme=dark] \
.torchkeras-star{fill:#ff6b81}
</style>"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The contents of a view of a run, as plain numbers and words."""

    state: str = "running"  # or "done", "stopped", "interrupted", "failed"
    reason: str = ""  # what ended the run
    device: str = ""
    epoch: int = 0
    epochs: int | None = None
    fraction: float = 0.0  # of the run, 0 to 1
    stage: str = "train"
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    left: float | None = None  # seconds
    rate: float = 0.0  # steps a second
    numbers: Mapping[str, float] = field(default_factory=dict)  # of the running epoch
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: int | None = None  # complete rows of the history; None: all
    lines: Mapping[str, svg.Points] | None = None  # points to draw; None: from the history
    monitor: str = ""
    best: float | None = None
    best_epoch: int | None = None
    notes: Sequence[str] = ()
    batches: svg.Points = ()  # losses of single batches, by place on the axis of epochs
    curves: bool = True


def view(shown: Shown) -> str:
    """Return a run at a glance: progress bar, table of its epochs, curves."""
    drawn = ""
    if shown.curves:
        drawn = charts(shown.history, shown.best_epoch, shown.batches, shown.lines)
    curves = f'<div style="{WRAP}">{drawn}</div>' if drawn else ""
    rows = f'<div style="overflow-x:auto;max-width:100%">{table(shown)}</div>'
    return f'{STYLE}<div class="torchkeras">{header(shown)}{notes(shown.notes)}{curves}{rows}</div>'


def header(shown: Shown) -> str:
    """Return the progress bar and the state in words."""
    colour = COLOURS[shown.state]
    percent = 100 * min(max(shown.fraction, 0.0), 1.0)
    words = " · ".join(escape(word) for word in progress(shown))
    best = "" if shown.best is None else (
        f'<div><b>best {escape(shown.monitor)} {text.number(shown.best)}</b> '
        f'{text.in_epoch(shown.best_epoch)}</div>')
    return (
        '<div role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}" style="height:8px;max-width:640px;border-radius:4px;'
        'background:rgba(127,127,127,.25);margin:.2em 0 .35em">'
        f'<div style="height:8px;width:{percent:.1f}%;border-radius:4px;background:{colour}">'
        '</div></div>'
        f'<div><b style="color:{colour}">{MARKS[shown.state]} {shown.state}</b> · '
        f'{words}</div>{best}')


def progress(shown: Shown) -> list[str]:
    """Return the progress and the speed in words."""
    running = shown.state in ("running", "failed", "interrupted")
    epochs = "" if shown.epochs is None else f"/{shown.epochs}"
    steps = f"/{shown.steps}" if shown.steps else ""
    words = [f"epoch {shown.epoch}{epochs}"]
    words += [f"{shown.stage} step {shown.step}{steps}"] if running and shown.step else []
    words += [f"{text.duration(shown.seconds)} "
              f"{'so far' if shown.state == 'running' else 'in all'}"]
    if shown.state == "running" and shown.left is not None:
        words += [f"{text.duration(shown.left)} left"]
    words += [f"{shown.rate:,.{0 if shown.rate >= 10 else 1}f} steps/s"] if shown.rate else []
    return [*words, *filter(None, (shown.device, shown.reason))]


def notes(found: Sequence[str]) -> str:
    """Return the notes of a run, folded."""
    if not found:
        return ""
    lines = "".join(f"<div>{escape(note)}</div>" for note in found)
    count = "1 note" if len(found) == 1 else f"{len(found)} notes"
    return f'<details style="opacity:.8"><summary>{count}</summary>{lines}</details>'


def table(shown: Shown) -> str:
    """Return the table of epochs: the best one marked, the running one with its numbers so far."""
    history, names = shown.history, list(shown.history)
    names += [name for name in shown.numbers if name not in names and shown.state != "done"]
    if not names:
        return ""
    names = names if "epoch" in names else ["epoch", *names]
    rows, before = [], -1
    for place in places(shown):
        if place > before + 1:
            rows.append(f'<tr><td colspan="{len(names) + 1}" '
                        f'style="text-align:center;opacity:.6">⋮</td></tr>')
        rows.append(row({name: history[name][place] for name in history}, names, shown.best_epoch))
        before = place
    if shown.numbers:
        rows.append(row({"epoch": shown.epoch, **shown.numbers}, names, None, running=True))
    head = "".join(f'<th scope="col" style="{CELL}">{escape(name)}</th>' for name in names)
    return f'<table><thead><tr>{head}<th></th></tr></thead><tbody>{"".join(rows)}</tbody></table>'


def places(shown: Shown) -> list[int]:
    """Return the indices of the rows to show: all, or the first, the best and the last ones."""
    epochs = shown.history.get("epoch", ())
    count = len(epochs) if shown.rows is None else shown.rows
    most = LIVE_ROWS if shown.state == "running" else ALL_ROWS
    if count <= most:
        return list(range(count))
    best = place_of(epochs, shown.best_epoch, count)
    return sorted({0, *([] if best is None else [best]), *range(count - most + 2, count)})


def row(values: Mapping[str, float], names: Sequence[str], best_epoch: int | None, *,
        running: bool = False) -> str:
    """Return one row of the table."""
    cells = "".join(f'<td style="{CELL}">{text.number(values[name]) if name in values else ""}</td>'
                    for name in names)
    if running:
        return f'<tr style="opacity:.65;font-style:italic">{cells}<td style="{CELL}">…</td></tr>'
    best = best_epoch is not None and values.get("epoch") == best_epoch
    mark = f'<b style="color:{svg.STAR}" title="best">★</b>' if best else ""
    css_class = " class=torchkeras-best" if best else ""
    return f'<tr{css_class}>{cells}<td style="{CELL}">{mark}</td></tr>'


def charts(history: Mapping[str, Sequence[float]], best_epoch: int | None, batches: svg.Points = (),
           lines: Mapping[str, svg.Points] | None = None) -> str:
    """Return the charts of all quantities; losses of single batches are drawn with the loss."""
    names = quantities(history) or (["loss"] if batches else [])
    if lines is None:
        lines = Digest().lines(history, len(history.get("epoch", ())), best_epoch)
    return "".join(svg.picture(lines, name, best_epoch=best_epoch,
                               batches=batches if name == "loss" else ()) for name in names)
