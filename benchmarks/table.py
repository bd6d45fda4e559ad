"""From measurements to the one table."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from benchmarks.one import is_right
from benchmarks.registry import CONTENDERS
from benchmarks.workloads import WORKLOADS

FLOOR, PLAIN = "tuned loop", "plain loop"
HEADINGS = ("", "us a step", "lowest-highest", "x tuned", "x plain", "us over tuned", "first epoch s", "weights")


def step_time(found: dict[str, Any]) -> float:
    """Microseconds a step, of the median epoch after the first."""
    return 1e6 * median(found["times"][1:]) / found["steps"]


def verdict(measurements: list[dict[str, Any]]) -> str:
    """How the weights compare with the reference's, or why there is no time."""
    for found in measurements:
        if "error" in found:
            return f"failed: {found['error']}"
    furthest = max(found["difference"] for found in measurements)
    if not all(is_right(found) for found in measurements):
        return f"wrong numbers: weights differ by up to {furthest:.1e}"
    return "bit-equal" if furthest == 0 else f"differ by up to {furthest:.1e}"


def timed(measurements: list[dict[str, Any]]) -> list[float]:
    """The step times of the repeats; none where anything was wrong."""
    if not measurements or not all("times" in found and is_right(found) for found in measurements):
        return []
    return [step_time(found) for found in measurements]


def row(name: str, measurements: list[dict[str, Any]], floor: list[float], plain: list[float]) -> list[str]:
    """One contender's line."""
    times = timed(measurements)
    if not times:
        return [name, *["-"] * (len(HEADINGS) - 2), verdict(measurements)]
    time = median(times)
    first = median(found["times"][0] for found in measurements)
    return [name, f"{time:,.0f}", f"{min(times):,.0f}-{max(times):,.0f}", *(ratio(time, one) for one in (floor, plain)),
            f"{time - median(floor):+,.0f}" if floor else "-", f"{first:.2f}", verdict(measurements)]


def ratio(time: float, others: list[float]) -> str:
    return f"{time / median(others):.2f}" if others else "-"


def section(workload: str, measurements: list[dict[str, Any]]) -> tuple[str, list[list[str]]]:
    """A workload's title and its lines, in the order of the registry."""
    of = {name: [found for found in measurements if found["contender"] == name] for name in CONTENDERS}
    floor, plain = timed(of[FLOOR]), timed(of[PLAIN])
    steps = next((found["steps"] for found in measurements if "steps" in found), "?")
    title = f"{workload}: {WORKLOADS[workload].title} ({steps} {'step' if steps == 1 else 'steps'} an epoch)"
    return title, [row(name, found, floor, plain) for name, found in of.items() if found]


def table(measurements: list[dict[str, Any]]) -> str:
    """All of them, a section for each workload, in columns of one width."""
    names = dict.fromkeys(found["workload"] for found in measurements)
    sections = [section(name, [found for found in measurements if found["workload"] == name]) for name in names]
    lines = [list(HEADINGS), *(line for _, rows in sections for line in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [aligned(HEADINGS, widths)]
    for title, rows in sections:
        text += ["", title, *(aligned(line, widths) for line in rows)]
    return "\n".join(text)


def aligned(cells: Iterable[str], widths: list[int]) -> str:
    """Numbers to the right, words to the left."""
    first, *numbers, last = (cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
                             for column, (cell, width) in enumerate(zip(cells, widths, strict=True)))
    return "  ".join([first, *numbers, last]).rstrip()
