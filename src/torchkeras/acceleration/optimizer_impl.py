"""Which implementation an optimizer uses while a run lasts: the fastest one that is allowed.

torch's optimizers have up to three. One loops over the weights; ``foreach`` does each operation for
all weights at once; ``fused`` does everything in one call, and rounds differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, optim

from torchkeras.core.optimizers import each_of
from torchkeras.engine.run import Run

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from torchkeras.core.optimizers import Optimizers

# foreach and the loop give the same bits on a CPU
SAME_BITS = (optim.Adam, optim.AdamW, optim.RMSprop, optim.Adadelta, optim.Adamax)
FUSED = (optim.Adam, optim.AdamW, optim.SGD, optim.Adagrad)
DEVICES = {"cpu", "cuda", "xpu"}  # that have the fused form
FEW = 50_000  # numbers in all weights; many leave the processor's cache between two operations


@contextmanager
def optimizer_implementation(run: Run, optimizer: Optimizer | Optimizers | None) -> Iterator[None]:
    """Set an optimizer's implementation, unless the user chose one; restore it afterwards.

    In exact mode on a CPU alone: on accelerators torch chooses ``foreach`` itself.
    """
    before: list[tuple[Optimizer, list[dict[str, Any]]]] = []
    for one in each_of(optimizer).values():
        settings = fastest_settings(run, one)
        before.append((one, [{name: group[name] for name in settings}
                             for group in one.param_groups]))
        for group in one.param_groups:
            group.update(settings)
        if settings.get("fused"):
            place_counters(one)
            run.notes.append(f"fast: {type(one).__name__} in its fused form")
    try:
        yield
    finally:
        for one, groups in before:
            # a callback may have added groups
            for group, old in zip(one.param_groups, groups, strict=False):
                group.update(old)
            if any(groups):
                place_counters(one)


def place_counters(optimizer: Optimizer) -> None:
    """Put step counters where the optimizer reads them: the fused form reads them on the device."""
    for group in optimizer.param_groups:
        there = group.get("fused") or group.get("capturable")
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(weight.device if there else "cpu")


def fastest_settings(run: Run, optimizer: Optimizer) -> dict[str, bool]:
    """Return the group options that select it; none where the optimizer is best left alone."""
    groups, fast = optimizer.param_groups, run.config.speed == "fast"
    weights = [weight for group in groups for weight in group["params"]]
    chosen = any(group.get("fused") is not None or group.get("foreach") is not None
                 or group.get("capturable") or group.get("differentiable") for group in groups)
    kinds = {weight.device.type for weight in weights}
    ordinary = all(weight.is_floating_point() for weight in weights) and len(kinds) == 1
    if chosen or not ordinary or run.config.fsdp or run.config.mixed_precision == "fp16":
        return {}
    if fast and type(optimizer) in FUSED and kinds <= DEVICES:
        return {"fused": True, "foreach": False}
    if kinds != {"cpu"}:
        return {}
    on_device = any(isinstance(value, Tensor) for group in groups
                    for name, value in group.items() if name != "params")
    few = sum(weight.numel() for weight in weights) <= FEW
    return {"foreach": True} if type(optimizer) in SAME_BITS and few and not on_device else {}
