"""The figures of a net, and their text."""

from __future__ import annotations

from dataclasses import dataclass

THIN, THICK = "-" * 74, "=" * 74


@dataclass(frozen=True)
class Row:
    """One call of a layer, or parameters that no called layer holds; ``params`` counts those not in a row above.

    For a net that was drawn (:mod:`torchkeras.functional`), ``connected`` has the names it takes values from.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    params: int
    shared: bool = False
    connected: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Summary:
    """What :func:`torchkeras.summary` found; ``str()`` of it is the table. A MB has 2**20 bytes."""

    rows: tuple[Row, ...]
    total_params: int
    trainable_params: int
    input_mb: float
    forward_backward_mb: float
    params_mb: float

    @property
    def non_trainable_params(self) -> int:
        """Parameters that need no gradient."""
        return self.total_params - self.trainable_params

    @property
    def total_mb(self) -> float:
        """Input, outputs with their gradients, and parameters together."""
        return self.input_mb + self.forward_backward_mb + self.params_mb

    def __str__(self) -> str:
        return table(self)


class Flops(int):
    """The floating point operations of a forward pass: an int that knows what each module has of them."""

    by_module: dict[str, int]


def table(found: Summary) -> str:
    """The rows and totals as text."""
    drawn = any(row.connected is not None for row in found.rows)
    more = max([0, *(len(row.name) - 29 for row in found.rows)]) if drawn else 0  # names are what others connect to
    lines = [line("Layer (type)", "Output Shape", "Param #", more) + ("  Connected to" if drawn else "")]
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
    """A row as text: a line for each shape and each connection."""
    shapes = [str(list(shape)) for shape in row.shapes] or ["-"]
    texts = [line(row.name, shapes[0], "(shared)" if row.shared else f"{row.params:,}", more)]
    texts += [line("", shape, "", more).rstrip() for shape in shapes[1:]]
    for place, name in enumerate(row.connected or ()):
        texts[place:place + 1] = [f"{texts[place] if place < len(texts) else '':<{73 + more}}  {name}"]
    return texts


def flop_table(flops: Flops) -> str:
    """The counts as text, each module with all that it holds."""
    rows = [line(name, f"{count:,}", f"{count / flops:.1%}") for name, count in flops.by_module.items()]
    return "\n".join([THIN, line("Module", "FLOPs", "Share"), THICK, *rows, THICK, f"Total FLOPs: {flops:,}", THIN])


def line(left: str, middle: str, right: str, more: int = 0) -> str:
    """A line of the table: a long shape takes room from the name, a name without room loses its start."""
    room = max(8, 50 - max(20, len(middle))) + more
    left = left if len(left) <= room else "..." + left[3 - room:]
    return f"{left}{middle:>{52 + more - len(left)}} {right:>20}"
