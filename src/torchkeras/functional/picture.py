"""The graph of a net as a picture: SVG text, made without another program."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from itertools import islice
from pathlib import Path

from torchkeras.core.errors import bad_type
from torchkeras.functional.model import FunctionalModel, conversions
from torchkeras.functional.plan import Node, Ref
from torchkeras.functional.symbol import leaves

HEIGHT, GAP, BETWEEN, LETTER, MARGIN = 44, 34, 22, 7.0, 12  # pixels
FILLS = {"input": "#dbeafe", "module": "#dcfce7", "tensor": "#f3e8ff", "output": "#fee2e2"}


def to_svg(net: FunctionalModel, path: str | os.PathLike[str] | None = None) -> str:
    """Draw a net as SVG: boxes for layers and functions, arrows for the values they take.

    Args:
        net: a net that :func:`torchkeras.functional.build` returned; notebooks show it in this
            form.
        path: a file to write the picture to, ending in ``.svg``.

    Returns:
        The picture as SVG text.

    Raises:
        TypeError: the net was not drawn.

    Example:
        >>> from torchkeras.functional import Input, build
        >>> x = Input((3,))
        >>> to_svg(build(x, x.relu() + x))[:4]
        '<svg'
    """
    if not isinstance(net, FunctionalModel):
        raise bad_type("net", received=f"a {type(net).__name__}",
                       expected="a net made by functional.build")
    boxes = {node.name: box_lines(net, node) for node in net.plan.nodes} | {"output": ["output"]}
    arrows = [(source, node.name) for node in net.plan.nodes for source in node.sources()]
    arrows += [(one, "output") for one in dict.fromkeys(
        leaf.name for leaf in leaves(net.plan.outputs) if isinstance(leaf, Ref))]
    chains = route(arrows, levels(list(boxes), arrows))
    picture = render(boxes, {node.name: node.kind for node in net.plan.nodes}, *chains)
    if path is not None:
        Path(path).expanduser().write_text(picture, encoding="utf-8")
    return picture


def box_lines(net: FunctionalModel, node: Node) -> list[str]:
    """Return the text of a box: name and kind, then shapes and parameters."""
    part = getattr(net, node.target) if node.kind == "module" else None
    count = sum(one.numel() for one in part.parameters()) if part is not None else 0
    more = "  ..." if len(node.shapes) > 3 else ""
    shapes = "  ".join(map(shape_label, node.shapes[:3])) + more
    again = "shared" if node.name != node.target else f"{count:,} parameters"
    return [
        " · ".join(dict.fromkeys([node.name, node.label(part)])),
        shapes + (f" · {again}" if count else "")]


def shape_label(shape: Sequence[int]) -> str:
    """Return a shape as text, with its batch sizes by name."""
    sizes = [
        "batch" if size == -1 else f"{-size}*batch" if size < 0 else str(size) for size in shape]
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"


def levels(names: list[str], arrows: list[tuple[str, str]]) -> dict[str, int]:
    """Return each box's row: below all its sources; without sources, just above its first use."""
    sources, users = defaultdict(list), defaultdict(list)
    for start, end in arrows:
        sources[end].append(start)
        users[start].append(end)
    found: dict[str, int] = {}
    for name in names:
        found[name] = max((found[one] + 1 for one in sources[name]), default=0)
    for name in names:
        if not sources[name] and users[name]:
            found[name] = min(found[one] for one in users[name]) - 1
    return found


def route(arrows: list[tuple[str, str]],
          level: dict[str, int]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of boxes, and each arrow as a list of points, one for each row it passes."""
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for name, row in level.items():
        rows[row].append(name)
    ways = []
    for start, end in arrows:
        between = [f"{start}>{end}@{row}" for row in range(level[start] + 1, level[end])]
        for row, point in enumerate(between, level[start] + 1):
            rows[row].append(point)
        ways.append([start, *between, end])
    return reduce_crossings(rows, ways), ways


def reduce_crossings(rows: list[list[str]], ways: list[list[str]]) -> list[list[str]]:
    """Sort each row by the mean position of its neighbours, above and below in turn."""
    above, below = defaultdict(list), defaultdict(list)
    for way in ways:
        for upper, lower in zip(way, way[1:], strict=False):
            above[lower].append(upper)
            below[upper].append(lower)
    spot: dict[str, float] = {}
    for row in rows:
        spot |= relative_positions(row)
    for turn in range(8):
        near = below if turn % 2 else above
        for row in rows[::-1] if turn % 2 else rows:
            row.sort(key=lambda name: mean([spot[one] for one in near[name]], spot[name]))
            spot |= relative_positions(row)
    return rows


def relative_positions(row: list[str]) -> dict[str, float]:
    """Return the position of each in its row, from 0 (left) to 1."""
    return {name: place / max(len(row) - 1, 1) for place, name in enumerate(row)}


def mean(numbers: list[float], otherwise: float) -> float:
    """Return the mean, or ``otherwise`` where there are no numbers."""
    return sum(numbers) / len(numbers) if numbers else otherwise


def place_boxes(rows: list[list[str]], ways: list[list[str]],
                width: dict[str, float]) -> dict[str, float]:
    """Return the middle of each box: near those it is connected to, without overlap."""
    near = defaultdict(list)
    for way in ways:
        for upper, lower in zip(way, way[1:], strict=False):
            near[lower].append(upper)
            near[upper].append(lower)
    middle: dict[str, float] = {}
    for row in rows:
        whole = sum(width[name] + BETWEEN for name in row) - BETWEEN
        left = -whole / 2
        for name in row:
            middle[name] = left + width[name] / 2
            left += width[name] + BETWEEN
    for turn in range(12):
        for row in rows[::-1] if turn % 2 else rows:
            target = {name: mean([middle[one] for one in near[name]], middle[name]) for name in row}
            place_row(row, target, width, middle)
    return middle


def place_row(row: list[str], target: dict[str, float], width: dict[str, float],
              middle: dict[str, float]) -> None:
    """Place each box as near its target as possible; overlapping ones move apart evenly."""
    groups: list[tuple[int, float, float]] = []  # touching boxes: count, total width, left edge
    for name in row:
        count, size, left = 1, width[name] + BETWEEN, target[name] - width[name] / 2
        while groups and groups[-1][2] + groups[-1][1] > left:
            more, wider, start = groups.pop()
            share = more / (more + count)
            left = share * start + (1 - share) * (left - wider)
            count, size = more + count, wider + size
        groups.append((count, size, left))
    names = iter(row)
    for count, _, left in groups:
        for name in islice(names, count):
            middle[name] = left + width[name] / 2
            left += width[name] + BETWEEN


def render(boxes: dict[str, list[str]], kinds: dict[str, str], rows: list[list[str]],
           ways: list[list[str]]) -> str:
    """Return the picture as SVG text."""
    width = {name: max(len(line) for line in boxes[name]) * LETTER + 20 if name in boxes else 2.0
             for row in rows for name in row}
    middle = place_boxes(rows, ways, width)
    left = min(middle[name] - width[name] / 2 for name in middle) - MARGIN
    right = max(middle[name] + width[name] / 2 for name in middle) + MARGIN
    top = {name: MARGIN + place * (HEIGHT + GAP) for place, row in enumerate(rows) for name in row}
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP) - GAP
    drawn = [
        arrow([(middle[name] - left, top[name], name in boxes) for name in way]) for way in ways]
    drawn += [
        box(boxes[name], kinds.get(name, "output"), middle[name] - left, top[name], width[name])
        for name in boxes]
    size = f'width="{right - left:.0f}" height="{height}" viewBox="0 0 {right - left:.0f} {height}"'
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#64748b"/></marker></defs>'
        '<rect width="100%" height="100%" fill="#ffffff"/>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="11">',
        head, *drawn, "</svg>"]) + "\n"


def arrow(way: list[tuple[float, float, bool]]) -> str:
    """Return an arrow from box to box, straight down past the boxes of other rows."""
    x, y, _ = way[0]
    path, y = f"M{x:.1f} {y + HEIGHT}", y + HEIGHT
    for to_x, to_y, last in way[1:]:
        half = (y + to_y) / 2
        path += f" C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y - (2 if last else 0)}"
        path += "" if last else f" V{to_y + HEIGHT}"
        x, y = to_x, to_y + HEIGHT
    return f'<path d="{path}" fill="none" stroke="#64748b" marker-end="url(#tip)"/>'


def box(texts: list[str], kind: str, middle: float, top: float, width: float) -> str:
    """Return a box with its lines of text."""
    rounded = f'<rect x="{middle - width / 2:.1f}" y="{top}" width="{width:.1f}" '
    rounded += f'height="{HEIGHT}" rx="6" fill="{FILLS.get(kind, "#fef9c3")}" stroke="#94a3b8"/>'
    shown = [text for text in texts if text]
    first = top + HEIGHT / 2 + 4 - 8 * (len(shown) - 1)
    return rounded + "".join(
        f'<text x="{middle:.1f}" y="{first + 16 * number:.1f}" text-anchor="middle"'
        f'{"" if number else " font-weight=" + chr(34) + "bold" + chr(34)}>{escape(text)}</text>'
        for number, text in enumerate(shown))


conversions.to_svg = to_svg
