"""The form in which an optimizer walks through its weights while a run lasts: the quickest one that is allowed.

torch's optimizers come in up to three forms. One goes from weight to weight; ``foreach`` does each operation for all
weights at once; ``fused`` does everything in one call, and rounds differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, optim

from torchkeras.core.optimizers import each_of
from torchkeras.engine.run import Run

SAME_BITS = (optim.Adam, optim.AdamW, optim.RMSprop, optim.Adadelta, optim.Adamax)  # of these two forms, on a CPU
FUSED = (optim.Adam, optim.AdamW, optim.SGD, optim.Adagrad)
FEW = 50_000  # numbers in all weights; many do not stay in the processor's cache from one operation to the next


@contextmanager
def form(run: Run, optimizer: Any) -> Iterator[None]:
    """On a CPU, unless its owner chose one, set an optimizer's form; afterwards it is as it was.

    On accelerators torch chooses ``foreach`` itself.
    """
    before: list[tuple[Any, list[dict[str, Any]]]] = []
    for one in each_of(optimizer).values():
        settings = quickest(run, one)
        before.append((one, [{name: group[name] for name in settings} for group in one.param_groups]))
        for group in one.param_groups:
            group.update(settings)
        if settings.get("fused"):
            run.notes.append(f"fast: {type(one).__name__} in its fused form")
    try:
        yield
    finally:
        for one, groups in before:
            for group, old in zip(one.param_groups, groups, strict=False):  # a callback may have added groups
                group.update(old)


def quickest(run: Run, optimizer: Any) -> dict[str, bool]:
    """The settings of that form; none where the optimizer is best left alone."""
    groups, fast = optimizer.param_groups, run.config.speed == "fast"
    weights = [weight for group in groups for weight in group["params"]]
    chosen = any(group.get("fused") is not None or group.get("foreach") is not None or group.get("capturable")
                 or group.get("differentiable") for group in groups)
    ordinary = all(weight.is_floating_point() and weight.is_cpu for weight in weights)
    if chosen or not ordinary or run.config.fsdp or run.config.mixed_precision == "fp16":
        return {}
    if fast and type(optimizer) in FUSED:
        return {"fused": True, "foreach": False}
    moving = any(isinstance(value, Tensor) for group in groups for name, value in group.items() if name != "params")
    few = sum(weight.numel() for weight in weights) <= FEW
    return {"foreach": True} if type(optimizer) in SAME_BITS and few and not moving else {}
