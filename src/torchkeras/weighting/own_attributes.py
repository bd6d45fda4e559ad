"""Refuse to examine losses that could not be restored after being called."""

from __future__ import annotations

from torchkeras.core.errors import bad_value
from torchkeras.state.memento import Memento, memento_of
from torchkeras.weighting.denominator import LossStep

ONCE = "loss_fn: holds something that can be read only once, so it was not examined"
LOST = ("loss_fn: wrote to more numbers while it was examined than can be restored (2**24 in all), "
        "so the run does not start exactly as a loop of your own would; return what it is a mean "
        "over from StepRunner.count(batch), then it is not examined")


def memento_of_step(step: LossStep) -> Memento:
    """Record everything that computing the loss of a step may change."""
    own = (step,) if step.own else ()
    return memento_of(step.loss_fn, step.net, *own, but=(
        step.notes, step.facts, step.metrics_dict, step.optimizer, step.lr_scheduler))


def must_not_be_called(step: LossStep) -> bool:
    """Tell whether the loss of a step must not be called before its turn, and note it.

    Raises:
        ValueError: one update is made from several batches, or on several ranks, and it is not
            known what the loss is a mean over.
    """
    if not memento_of_step(step).one_shot:
        return False
    divided = step.process_strategy.splits_batches or step.config.gradient_accumulation_steps > 1
    if divided and step.stage == "train":
        raise bad_value("loss_fn",
                        received="a loss that holds something that can be read only once (a "
                        "generator, a file that is written), itself or in its net, so it was not "
                        "examined",
                        expected="to know what it is a mean over, where one update is made from "
                        "several batches (gradient_accumulation_steps) or by several processes",
                        fix="Return it from StepRunner.count(batch).")
    if ONCE not in step.notes:
        step.notes.append(ONCE)
    return True
