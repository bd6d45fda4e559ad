"""The records of a summary, and their form as text."""

from __future__ import annotations

from dataclasses import dataclass

THIN, THICK = "-" * 74, "=" * 74


@dataclass(frozen=True)
class Row:
    """One call of a layer, or parameters outside called layers; ``params`` excludes earlier rows'.

    For a FunctionalModel, ``connected`` has the names of the nodes it takes values from.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    params: int
    shared: bool = False
    connected: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Summary:
    """The result of :func:`torchkeras.summary`; ``str()`` is the table. A MB has 2**20 bytes."""

    rows: tuple[Row, ...]
    total_params: int
    trainable_params: int
    input_mb: float
    forward_backward_mb: float
    params_mb: float

    @property
    def non_trainable_params(self) -> int:
        """Return the number of parameters that need no gradient."""
        return self.total_params - self.trainable_params

    @property
    def total_mb(self) -> float:
        """Return the size of inputs, outputs with their gradients, and parameters."""
        return self.input_mb + self.forward_backward_mb + self.params_mb

    def __str__(self) -> str:
        return format_table(self)


class Flops(int):
    """The floating point operations of a forward pass: an int, with those of each module."""

    by_module: dict[str, int]


def format_table(found: Summary) -> str:
    """Return the table as text."""
    drawn = any(row.connected is not None for row in found.rows)
    # connections refer to full names
    more = max([0, *(len(row.name) - 29 for row in found.rows)]) if drawn else 0
    head = format_line("Layer (type)", "Output Shape", "Param #", more)
    lines = [head + ("  Connected to" if drawn else "")]
    body = [text for row in found.rows for text in row_lines(row, more)]
    wide = max([len(THIN), *map(len, body)]) if drawn else len(THIN)
    return "\n".join([
        "-" * wide, *lines, "=" * wide, *body, "=" * wide,
        f"Total params: {found.total_params:,}",
        f"Trainable params: {found.trainable_params:,}",
        f"Non-trainable params: {found.non_trainable_params:,}", THIN,
        f"Input size (MB): {found.input_mb:.6f}",
        f"Forward/backward pass size (MB): {found.forward_backward_mb:.6f}",
        f"Params size (MB): {found.params_mb:.6f}",
        f"Estimated Total Size (MB): {found.total_mb:.6f}", THIN])


def row_lines(row: Row, more: int) -> list[str]:
    """Return a row as text: a line for each shape and each connection."""
    shapes = [str(list(shape)) for shape in row.shapes] or ["-"]
    texts = [
        format_line(row.name, shapes[0], "(shared)" if row.shared else f"{row.params:,}", more)]
    texts += [format_line("", shape, "", more).rstrip() for shape in shapes[1:]]
    for place, name in enumerate(row.connected or ()):
        texts[place:place + 1] = [
            f"{texts[place] if place < len(texts) else '':<{73 + more}}  {name}"]
    return texts


def flop_table(flops: Flops) -> str:
    """Return the operation counts as text, each module with all that it contains."""
    rows = [
        format_line(name, f"{count:,}", f"{count / flops:.1%}")
        for name, count in flops.by_module.items()]
    head = format_line("Module", "FLOPs", "Share")
    return "\n".join([THIN, head, THICK, *rows, THICK, f"Total FLOPs: {flops:,}", THIN])


def format_line(left: str, middle: str, right: str, more: int = 0) -> str:
    """Return a line of the table; a long shape shortens the name, from its start."""
    room = max(8, 50 - max(20, len(middle))) + more
    left = left if len(left) <= room else "..." + left[3 - room:]
    return f"{left}{middle:>{52 + more - len(left)}} {right:>20}"
