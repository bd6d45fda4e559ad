"""When a learning-rate schedule moves: with every update, or with every epoch."""

from __future__ import annotations

from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from torchkeras.engine.checks import bad_value

PER_STEP = (torch_schedulers.OneCycleLR, torch_schedulers.CyclicLR)  # their lengths are given in updates


def interval_of(scheduler: Any, asked: str = "auto") -> str:
    """``"step"`` or ``"epoch"``: as asked, else by the kind of scheduler."""
    plateau = isinstance(scheduler, torch_schedulers.ReduceLROnPlateau)
    if plateau and asked == "step":
        raise bad_value("lr_interval", received="'step' for ReduceLROnPlateau", expected="'epoch' or 'auto'",
                        fix="It needs the monitored number, which an epoch has and a step has not.")
    if asked != "auto":
        return asked
    inner = getattr(scheduler, "_schedulers", [scheduler])  # SequentialLR and ChainedScheduler hold others
    return "step" if any(isinstance(one, PER_STEP) for one in inner) else "epoch"


def check_length(scheduler: Any, updates: int) -> None:
    """Refuse a OneCycleLR that would be over before the run is: torch fails at the step after its last."""
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        left = scheduler.total_steps - scheduler.last_epoch
        if updates > left:
            raise bad_value("lr_scheduler", received=f"OneCycleLR with {left} of {scheduler.total_steps} steps left",
                            expected=f"one for the {updates} updates of this run",
                            fix=f"Build it with total_steps={updates}, or ask for fewer epochs.")


def end_of_epoch(scheduler: Any, watched: float | None) -> None:
    """Move a per-epoch schedule; ReduceLROnPlateau waits for an epoch that has the watched number."""
    if not isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
        scheduler.step()
    elif watched is not None:
        scheduler.step(watched)
