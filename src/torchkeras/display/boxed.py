"""Format plain text: rules with a date, tables in boxes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

RULE = 80  # characters of a rule before its date


def dated_rule(moment: datetime | None = None) -> str:
    """Return a rule that ends with a date; None means now."""
    return "=" * RULE + f"{moment or datetime.now():%Y-%m-%d %H:%M:%S}"


def rounded(value: float) -> float:
    """Round a number to three decimals, or to three significant digits if it is below 0.1."""
    return round(value, 3) if not 0 < abs(value) < 0.1 else float(f"{value:.3g}")


def boxed(row: Mapping[str, float]) -> str:
    """Format one row of numbers under its names, in a box."""
    cells = [str(value if isinstance(value, int) else rounded(value)) for value in row.values()]
    widths = [max(len(name), len(cell)) + 2 for name, cell in zip(row, cells, strict=True)]
    rule = "+".join(["", *("-" * width for width in widths), ""])
    lines = ["|".join(["", *(one.center(width) for one, width in zip(line, widths, strict=True)),
                       ""])
             for line in (list(row), cells)]
    return "\n".join([rule, lines[0], rule, lines[1], rule])
