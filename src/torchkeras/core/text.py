"""Format numbers and lines as text: pure functions, so that tests compare what a screen shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COLUMN = 13  # most characters of a column in the table
STARRED = " ★"
SYMBOLS = {"cpu": "🐌", "cuda": "⚡️"}
ASCII = str.maketrans({"━": "=", "─": "-", "★": "*", "…": "~", "·": ".", "⠒": "-",
                       "🐌": "*", "🚀": "*", "⚡": "*", "\ufe0f": None})


def number(value: float) -> str:
    """Return a number in few characters: with four decimals, or with four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e5 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time as ``0:07``, ``12:30`` or ``2h03m``."""
    whole = int(seconds + 0.5)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def bar(fraction: float, width: int) -> str:
    """Return a bar that fills from the left."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * filled + "─" * (width - filled)


def encodable(text: str, encoding: str) -> str:
    """Return the text as an encoding can write it: GBK and ASCII have no emoji."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    except LookupError:  # a stream whose encoding is none that Python knows
        return text.translate(ASCII).encode("ascii", "replace").decode("ascii")
    return text


def fit_in(parts: Sequence[str], width: int, gap: str = "  ") -> str:
    """Return as many parts as the width holds; the first is the most important."""
    line = ""
    for part in parts:
        longer = f"{line}{gap}{part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line


def device_line(device: str) -> str:
    """Return the line that names the device."""
    return f"<<<<<< {SYMBOLS.get(device.split(':')[0], '🚀')} {device} is used >>>>>>"


def best_line(name: str, value: float) -> str:
    """Return the line for an epoch that is the best so far."""
    return f"<<<<<< reach best {name} : {value:.6g} >>>>>>"


def last_line(name: str, best: float | None, epoch: int | None, seconds: float) -> str:
    """Return the last line of a run: the best value and the time."""
    found = "" if best is None else f"best {name} {number(best)} {in_epoch(epoch)}, "
    return f"{found}{duration(seconds)} in all"


def in_epoch(epoch: int | None) -> str:
    """Return in which epoch weights were found; epoch 0 is before all training."""
    return f"in epoch {epoch}" if epoch else "before the first epoch"


def stop_line(reason: str) -> str:
    """Return the line that says why the run ended before its last epoch."""
    return f"<<<<<< {reason} >>>>>>"


def progress_line(*, epoch: int, epochs: int, stage: str, step: int, steps: int | None,
                  elapsed: float, left: float | None, numbers: Mapping[str, float], best: str,
                  width: int) -> str:
    """Return the running epoch as one line: its place, the time left, its numbers so far."""
    rate = step / elapsed if elapsed > 0 else 0.0
    shown = [f"{name.removeprefix(stage + '_')} {number(value)}" for name, value in numbers.items()
             if name != "lr"]
    others = [] if left is None else [f"left {duration(left)}"]
    others += [*shown, *([f"best {best}"] if best else [])]
    others += [f"lr {numbers['lr']:.3g}"] if "lr" in numbers else []
    others += [f"eta {duration((steps - step) / rate)}"] if steps and rate else []
    others += [*([f"{step}/{steps}"] if steps else []), f"{rate:,.0f} steps/s"]
    place = f"epoch {epoch}/{epochs} {'' if stage == 'train' else stage + ' '}"
    done = f"{step / steps:.0%}" if steps else f"step {step}"
    smallest = f"{bar(step / steps, 3)} " if steps else ""
    line = fit_in([f"{place}{smallest}{done}", *others], width)
    longer = bar(step / steps, min(3 + width - len(line), 24)) + " " if steps else ""
    return line.replace(smallest, longer, 1) if steps else line


def columns(names: Sequence[str], width: int, monitor: str) -> list[str]:
    """Return the columns that fit: the monitored one first, the learning rate last."""
    rank = {"epoch": 0, monitor: 1, "val_loss": 2, "train_loss": 3, "lr": 5}
    kept: list[str] = []
    for name in sorted(names, key=lambda name: rank.get(name, 4)):
        if sum(column_width(one) + 1 for one in [*kept, name]) - 1 > width - len(STARRED):
            break
        kept.append(name)
    return [name for name in names if name in kept]


def column_width(name: str) -> int:
    """Return the width of a column: that of its name, within limits that a number needs."""
    return 6 if name == "epoch" else min(max(len(name), 10), COLUMN)


def header(names: Sequence[str]) -> str:
    """Return the head of the table."""
    return " ".join(short(name, COLUMN).rjust(column_width(name)) for name in names)


def table_row(row: Mapping[str, float], names: Sequence[str], *, star: bool) -> str:
    """Return an epoch as a row of the table; a star marks the best so far."""
    cells = (number(row[name]).rjust(column_width(name)) for name in names)
    return " ".join(cells) + (STARRED if star else "")


def short(name: str, width: int) -> str:
    """Return a name cut to a width."""
    return name if len(name) <= width else name[:width - 1] + "…"


def plain_line(time: str, row: Mapping[str, float], epochs: int, seconds: float) -> str:
    """Return an epoch as a line of a log: a time, then ``key=value`` pairs to search for."""
    values = [f"{name}={number(value)}" for name, value in row.items()
              if name != "epoch" and not math.isnan(value)]
    place = f"epoch={int(row['epoch'])}/{epochs}"
    return " ".join([time, place, *values, f"seconds={seconds:.1f}"])


def rate_line(time: str, *, epoch: int, epochs: int, stage: str, step: int, steps: int | None,
              elapsed: float, left: float | None, numbers: Mapping[str, float]) -> str:
    """Return the progress within an epoch as a line of a log, in ``key=value`` pairs."""
    rate = step / elapsed if elapsed > 0 else 0.0
    values = [f"{name}={number(value)}" for name, value in numbers.items()]
    done = f"step={step}/{steps}" if steps else f"step={step}"
    ending = [] if left is None else [f"left={duration(left)}"]
    return " ".join([time, f"epoch={epoch}/{epochs}", f"stage={stage}", done, *values,
                     f"steps_per_second={number(rate)}", *ending])
