"""Numbers as text: pure functions, so that what a screen shows can be compared with a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COLUMN = 13  # most characters of a column in the table
STARRED = " ★"
SYMBOLS = {"cpu": "🐌", "cuda": "⚡️"}
ASCII = str.maketrans({"━": "=", "─": "-", "★": "*", "…": "~", "·": ".", "⠒": "-", "🐌": "*", "🚀": "*", "⚡": "*",
                       "\ufe0f": None})


def number(value: float) -> str:
    """A number in few characters: four decimals where they say enough, else four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e5 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time as ``0:07``, ``12:30`` or ``2h03m``."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def bar(fraction: float, width: int) -> str:
    """A bar that fills from the left."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * filled + "─" * (width - filled)


def encodable(text: str, encoding: str) -> str:
    """The text as a stream can take it: a GBK or ASCII log knows no snail, and must not end a run over it."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    except LookupError:  # a stream of somebody's with a name of its own for what it does
        return text.translate(ASCII).encode("ascii", "replace").decode("ascii")
    return text


def fit_in(parts: Sequence[str], width: int, gap: str = "  ") -> str:
    """As many parts as the width holds, the first being the most important."""
    line = ""
    for part in parts:
        longer = f"{line}{gap}{part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line


def device_line(device: str) -> str:
    """Where the run computes."""
    return f"<<<<<< {SYMBOLS.get(device.split(':')[0], '🚀')} {device} is used >>>>>>"


def best_line(name: str, value: float) -> str:
    """An epoch is the best so far."""
    return f"<<<<<< reach best {name} : {value:.6g} >>>>>>"


def last_line(name: str, best: float | None, epoch: int | None, seconds: float) -> str:
    """What the run came to."""
    found = "" if best is None else f"best {name} {number(best)} {in_epoch(epoch)}, "
    return f"{found}{duration(seconds)} in all"


def in_epoch(epoch: int | None) -> str:
    """When weights were found; epoch 0 is before all training."""
    return f"in epoch {epoch}" if epoch else "before the first epoch"


def stop_line(reason: str) -> str:
    """Why the run ended before its last epoch."""
    return f"<<<<<< {reason} >>>>>>"


def progress_line(*, epoch: int, epochs: int, stage: str, step: int, steps: int | None, elapsed: float,
                  left: float | None, numbers: Mapping[str, float], best: str, width: int) -> str:
    """The running epoch on one line: where it is, how long it still takes, its numbers so far."""
    rate = step / elapsed if elapsed > 0 else 0.0
    shown = [f"{name.removeprefix(stage + '_')} {number(value)}" for name, value in numbers.items() if name != "lr"]
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
    """The columns that fit: the watched number first of all, the learning rate only when everything else fits."""
    rank = {"epoch": 0, monitor: 1, "val_loss": 2, "train_loss": 3, "lr": 5}
    kept: list[str] = []
    for name in sorted(names, key=lambda name: rank.get(name, 4)):
        if sum(column_width(one) + 1 for one in [*kept, name]) - 1 > width - len(STARRED):
            break
        kept.append(name)
    return [name for name in names if name in kept]


def column_width(name: str) -> int:
    """As wide as the name, but a number must fit and a long name is cut."""
    return 6 if name == "epoch" else min(max(len(name), 10), COLUMN)


def header(names: Sequence[str]) -> str:
    """The head of the table."""
    return " ".join(short(name, COLUMN).rjust(column_width(name)) for name in names)


def table_row(row: Mapping[str, float], names: Sequence[str], *, star: bool) -> str:
    """One epoch of the table; a star marks the best so far."""
    return " ".join(number(row[name]).rjust(column_width(name)) for name in names) + (STARRED if star else "")


def short(name: str, width: int) -> str:
    """A name that fits a column."""
    return name if len(name) <= width else name[:width - 1] + "…"


def plain_line(time: str, row: Mapping[str, float], epochs: int, seconds: float) -> str:
    """One epoch for a log file: a time, then ``key=value`` pairs that can be searched for."""
    values = [f"{name}={number(value)}" for name, value in row.items() if name != "epoch" and not math.isnan(value)]
    return " ".join([time, f"epoch={int(row['epoch'])}/{epochs}", *values, f"seconds={seconds:.1f}"])


def rate_line(time: str, *, epoch: int, epochs: int, stage: str, step: int, steps: int | None, elapsed: float,
              left: float | None, numbers: Mapping[str, float]) -> str:
    """A sign of life for a log file in mid-epoch, as ``key=value`` pairs."""
    rate = step / elapsed if elapsed > 0 else 0.0
    values = [f"{name}={number(value)}" for name, value in numbers.items()]
    done = f"step={step}/{steps}" if steps else f"step={step}"
    ending = [] if left is None else [f"left={duration(left)}"]
    return " ".join([time, f"epoch={epoch}/{epochs}", f"stage={stage}", done, *values,
                     f"steps_per_second={number(rate)}", *ending])
