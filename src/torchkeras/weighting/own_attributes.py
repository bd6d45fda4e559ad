"""Say which losses are not called before training: those that would not be afterwards what they were before."""

from __future__ import annotations

from typing import Any

from torchkeras.core.errors import bad_value
from torchkeras.state.memento import Memento, memento_of

ONCE = "loss_fn: holds something that can be read only once, so it was not looked at"
LOST = ("loss_fn: wrote to more numbers than are kept while it was looked at (2**24 in all), so it does not begin as "
        "in a loop of your own; say what it is a mean over in StepRunner.count(batch), then it is not looked at")


def memento_of_step(step: Any) -> Memento:
    """Return the memento of all that the loss of a step may change: loss, net, and a step of the user's own."""
    own = (step,) if step.own else ()
    return memento_of(step.loss_fn, step.net, *own, but=(
        step.notes, step.facts, step.metrics_dict, step.optimizer, step.lr_scheduler))


def left_alone(step: Any) -> bool:
    """Tell whether the loss of a step must not be called before its turn, and note it.

    Raises:
        ValueError: several batches, or parts of one, make one update, and nobody has said how the loss counts.
    """
    if not memento_of_step(step).once:
        return False
    divided = step.together.world > 1 or step.accelerator.gradient_accumulation_steps > 1
    if divided and step.stage == "train":
        raise bad_value("loss_fn", received="a loss that holds something that can be read only once (a generator, a "
                        "file that is written), itself or by its net, so it was not looked at", expected="to know what "
                        "it is a mean over, where one update is made of several batches (gradient_accumulation_steps) "
                        "or of the parts of several processes", fix="Say it in StepRunner.count(batch).")
    if ONCE not in step.notes:
        step.notes.append(ONCE)
    return True
