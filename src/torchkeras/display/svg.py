"""Draw curves as SVG: pure functions; readable on light and dark.

Shapes are styled by attributes, because some notebook viewers drop style sheets; text takes the
colour of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from torchkeras.display.plot import points

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 368, 34, 198  # the plotted area
TRAIN, VAL, STAR = "#3b82d6", "#e07b1a", "#e0405a"  # at least 2.8:1 on white and on near black
DOTTED = 40  # up to this many points, each gets a dot
MOST = 400  # points of a line
LARGEST = 1e100
DECADES = 2  # from this span on, the axis is logarithmic


class Axis(NamedTuple):
    """An axis: maps numbers to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a number, clipped to the axis."""
        form: Callable[[float], float] = math.log10 if self.log else float
        held = min(max(value, self.low), self.high)
        share = (form(held) - form(self.low)) / (form(self.high) - form(self.low))
        return self.start + share * (self.end - self.start)


def chart(history: Mapping[str, Sequence[float]], quantity: str, *, best_epoch: int | None = None,
          batches: Points = ()) -> str:
    """Draw one quantity over the epochs, with a star at the best; empty if it has no number.

    Args:
        history: columns of equal length, one of them ``epoch``.
        quantity: a name without its stage, such as ``"loss"``.
        best_epoch: the epoch to star.
        batches: (place on the epoch axis, number) of single batches, drawn as a thin line.

    Example:
        >>> chart({"epoch": [1, 2], "val_acc": [0.5, 0.6]}, "acc", best_epoch=2).count("<circle")
        2
    """
    names = (f"{stage}_{quantity}" for stage in ("train", "val"))
    found = {name: list(zip(*points(history, name), strict=True)) for name in names}
    return picture(found, quantity, best_epoch=best_epoch, batches=batches)


def picture(found: Mapping[str, Points], quantity: str, *, best_epoch: int | None = None,
            batches: Points = ()) -> str:
    """Draw one quantity from points by column name; see :func:`chart`."""
    lines = {stage: drawable(found.get(f"{stage}_{quantity}", ())) for stage in ("train", "val")}
    thin = drawable(batches)
    if not any(lines.values()) and len(thin) < 2:
        return ""
    x, y = axes(lines.values(), thin)
    label = f"{quantity} over the epochs"
    return "".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(label, quote=True)}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="currentColor">',
        grid(x, y), line(thin, x, y, TRAIN, thin=True),
        line(lines["train"], x, y, TRAIN, dash="5 3"), line(lines["val"], x, y, VAL),
        star(lines["val"] or lines["train"], best_epoch, x, y),
        legend(quantity, lines, best_epoch, bool(thin)), "</svg>"])


def drawable(shown: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that can be drawn: neither NaN nor huge."""
    return [(place, value) for place, value in shown if abs(value) < LARGEST]  # False for NaN


def axes(lines: Iterable[Points], thin: Points) -> tuple[Axis, Axis]:
    """Return axes that hold all epochs; outliers of single batches do not stretch them."""
    shown = [point for one in lines for point in one]
    places = [place for place, _ in [*shown, *thin]]
    values = [value for _, value in shown]
    inner = sorted(value for _, value in thin)
    values += inner[len(inner) // 50:len(inner) - len(inner) // 50]
    low, high = min(places), max(places)
    across = Axis(low, high if high > low else low + 1, LEFT, RIGHT)
    return across, upright(min(values), max(values))


def upright(low: float, high: float) -> Axis:
    """Return the vertical axis, with room at both ends; logarithmic if it spans decades."""
    if low > 1 / LARGEST and high / low >= 10**DECADES:
        room = (high / low) ** 0.04
        return Axis(low / room, high * room, BOTTOM, TOP, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, BOTTOM, TOP)


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Return at most ``most`` round numbers between two ends."""
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= least * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float, most: int = 6) -> list[float]:
    """Return powers of ten between two ends."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers[::math.ceil(len(powers) / most)]] if powers else []


def grid(x: Axis, y: Axis) -> str:
    """Draw thin lines at round numbers, and the numbers."""
    rows = decades(y.low, y.high) if y.log else ticks(y.low, y.high)
    across = [f'<path d="M{LEFT} {y.at(one):.1f}H{RIGHT}" stroke="currentColor" '
              f'stroke-opacity=".15"/><text x="{LEFT - 6}" y="{y.at(one) + 4:.1f}" '
              f'text-anchor="end" fill-opacity=".75">{one:.4g}</text>'
              for one in rows]
    below = [f'<text x="{x.at(one):.1f}" y="{BOTTOM + 15}" text-anchor="middle" '
             f'fill-opacity=".75">{one:.0f}</text>'
             for one in ticks(x.low, x.high, 7, whole=True)]
    foot = (f'<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="currentColor" stroke-opacity=".5"/>'
            f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle" '
            f'fill-opacity=".75">epoch</text>')
    return "".join([*across, *below, foot])


def line(shown: Points, x: Axis, y: Axis, colour: str, *, dash: str = "",
         thin: bool = False) -> str:
    """Draw a line through points, with dots if they are few."""
    if not shown:
        return ""
    kept = thinned(shown)
    path = "L".join(f"{x.at(place):.1f} {y.at(value):.1f}" for place, value in kept)
    width, opacity = ("0.8", ' stroke-opacity=".55"') if thin else ("1.8", "")
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = (f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
             f'{opacity}{dashes} stroke-linejoin="round"/>') if len(kept) > 1 else ""
    dots = "" if thin or len(kept) > DOTTED else "".join(
        f'<circle cx="{x.at(place):.1f}" cy="{y.at(value):.1f}" r="2.4" fill="{colour}"/>'
        for place, value in kept)
    return drawn + dots


def thinned(shown: Points) -> list[tuple[float, float]]:
    """Return at most ``MOST`` points, evenly spaced; the last is kept."""
    apart = math.ceil(len(shown) / MOST)
    return [*shown[:-1:apart], shown[-1]]


def star(shown: Points, epoch: int | None, x: Axis, y: Axis) -> str:
    """Draw a star at the best epoch, if the line has it."""
    return "".join(five_points(x.at(place), y.at(value), 7.5) for place, value in shown
                   if place == epoch)


def five_points(x: float, y: float, size: float) -> str:
    """Draw a star around a place."""
    corners = [(size if corner % 2 == 0 else size * 0.42, math.pi * (corner / 5 - 0.5))
               for corner in range(10)]
    path = "L".join(f"{x + radius * math.cos(angle):.1f} {y + radius * math.sin(angle):.1f}"
                    for radius, angle in corners)
    return f'<path d="M{path}Z" fill="{STAR}" class="torchkeras-star"/>'


def legend(quantity: str, lines: Mapping[str, Points], best_epoch: int | None, thin: bool) -> str:
    """Draw the head: the name on the left, the kinds of lines on the right."""
    parts, right = [], float(RIGHT)
    best = lines["val"] or lines["train"]
    if any(place == best_epoch for place, _ in best):
        word = f"best: epoch {best_epoch}"
        parts.append(f'<text x="{right}" y="18" text-anchor="end">{word}</text>')
        right -= 6 * len(word) + 9
        parts.append(five_points(right, 14, 5.5))
        right -= 16
    for stage, colour, dash in (("val", VAL, ""), ("train", TRAIN, "5 3")):
        if lines[stage] or (thin and stage == "train"):
            parts.append(f'<text x="{right:.1f}" y="18" text-anchor="end">{stage}</text>')
            right -= 6 * len(stage) + 6
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            parts.append(f'<path d="M{right - 18:.1f} 14h18" stroke="{colour}" '
                         f'stroke-width="1.8"{dashes}/>')
            right -= 28
    room = int((right - 10) / 7.5)
    name = quantity if len(quantity) <= room else quantity[:max(room - 1, 1)] + "…"
    head = f'<text x="10" y="18" font-size="13" font-weight="600">{escape(name)}</text>'
    return head + "".join(parts)
