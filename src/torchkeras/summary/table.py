"""The figures of a net, and their text."""

from __future__ import annotations

from dataclasses import dataclass

THIN, THICK = "-" * 74, "=" * 74


@dataclass(frozen=True)
class Row:
    """One call of a layer, or parameters that no called layer holds; ``params`` counts those not in a row above."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    params: int
    shared: bool = False


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
    lines = [THIN, line("Layer (type)", "Output Shape", "Param #"), THICK]
    for row in found.rows:
        first, *others = [str(list(shape)) for shape in row.shapes] or ["-"]
        lines.append(line(row.name, first, "(shared)" if row.shared else f"{row.params:,}"))
        lines += [line("", shape, "").rstrip() for shape in others]
    return "\n".join([
        *lines, THICK,
        f"Total params: {found.total_params:,}",
        f"Trainable params: {found.trainable_params:,}",
        f"Non-trainable params: {found.non_trainable_params:,}", THIN,
        f"Input size (MB): {found.input_mb:.6f}",
        f"Forward/backward pass size (MB): {found.forward_backward_mb:.6f}",
        f"Params size (MB): {found.params_mb:.6f}",
        f"Estimated Total Size (MB): {found.total_mb:.6f}", THIN])


def flop_table(flops: Flops) -> str:
    """The counts as text, each module with all that it holds."""
    rows = [line(name, f"{count:,}", f"{count / flops:.1%}") for name, count in flops.by_module.items()]
    return "\n".join([THIN, line("Module", "FLOPs", "Share"), THICK, *rows, THICK, f"Total FLOPs: {flops:,}", THIN])


def line(left: str, middle: str, right: str) -> str:
    """A line of the table: a long shape takes room from the name, a name without room loses its start."""
    room = max(8, 50 - max(20, len(middle)))
    left = left if len(left) <= room else "..." + left[3 - room:]
    return f"{left}{middle:>{52 - len(left)}} {right:>20}"
