"""Take one batch of validation data through everything that measures, before anything is trained."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checks import metric_checks, preflight
from torchkeras.core.errors import bad_value
from torchkeras.core.modes import evaluating
from torchkeras.core.tree import map_tree
from torchkeras.data import Batches
from torchkeras.data import batch as batches
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.state.memento import memento_of
from torchkeras.state.peek import Unread, first_batch
from torchkeras.state.rng import put_random_states, random_states
from torchkeras.weighting import examination, weighing


def rehearse(run: Run, kind: type, make: Callable[[], Any], train: Batches, val: Batches) -> Exception | None:
    """Take the first validation batch through net, loss and metrics, and leave no trace.

    Weights, buffers, modes, gradients, random state, metrics, the data and the attributes of net and loss are as they
    were. Where that cannot be promised it is left out, and a note of the run says why.

    Args:
        run: the run that is about to begin.
        kind: the class of the steps.
        make: builds the step of a validation pass.
        train: the training data.
        val: the validation data.

    Returns:
        What is wrong with it, to be raised once the first training batch was found to be right: an error of the net
        itself is no error of the validation data. None where all is well.
    """
    if left_out(run, kind, train, val):
        return None
    step = make()
    try:
        with untouched(step):
            return tried(run, step, val)
    except Unread as why:
        run.notes.append(f"val_data: looked at when its turn comes: {why}")
        return None


def left_out(run: Run, kind: type, train: Batches, val: Batches) -> bool:
    """Return whether there is no rehearsal.

    A step of the user's own says itself what happens to a batch. A run that goes on was rehearsed when it began. FSDP
    fetches and drops the parts of a net in the order of training. Of a stream that is both, training gets the first
    batch.
    """
    own = not issubclass(kind, StepRunner) or kind.__call__ is not StepRunner.__call__
    divided = run.config.fsdp and run.together.world > 1
    return own or divided or run.trained > 0 or (val.source is train.source and isinstance(val.source, Iterator))


def tried(run: Run, step: StepRunner, val: Batches) -> Exception | None:
    """Return what is wrong with the first batch, in all processes alike."""
    batch: Any = None
    try:
        with run.together.same_fate():
            batch = first_batch(val)
        with run.together.same_fate():
            measure_once(step, batches.to_device(batch, run.accelerator.device))
    except Unread:
        raise
    except Exception as error:
        return named(error, batch, val.name)
    return None


def measure_once(step: StepRunner, batch: Any) -> None:
    """Take a batch through net, loss and metrics, on copies of the metrics."""
    with torch.no_grad():
        preds, labels, loss = step.try_out(batch)
    preflight.check_number(loss)
    if not bool(loss.isfinite()) and "hold NaN" in (why := preflight.blame(batch)):
        raise bad_value(step.argument, received=f"a first loss of {loss.item()}; {why}", expected="finite numbers",
                        fix="Clean the data.")
    if type(step).measure is StepRunner.measure:
        if step.metrics_dict:  # a label that the loss leaves out may be one that a metric would refuse
            look = examination.look(step, batch) if examination.needed(step, divided=False) else None
            examination.tell_metrics(step, look or step.facts.found)
        metric_checks.check_metrics(step.metrics_dict, weighing.scores(preds), labels)


def named(error: Exception, batch: Any, argument: str) -> Exception:
    """Return an error that names the data; it holds on to no tensors of the batch."""
    traceback.clear_frames(error.__traceback__)
    if batch is None:
        error.add_note(f"{argument}: raised as its first batch was read, before training.")
    if batch is None or str(error).startswith(argument):
        return error
    found = bad_value(argument, received=f"a first batch ({layout(batch)}) at which {type(error).__name__}: {error}",
                      expected="batches that net, loss and metrics take as they take those of training",
                      fix="Compare its shapes and types with those of train_data.")
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    found.__context__, found.__suppress_context__ = error, True  # it would fill a screen
    return found


def layout(batch: Any) -> str:
    """Return the shapes and types in a batch, in few words."""
    found: list[str] = []

    def tell(leaf: Any) -> Any:
        kind = str(getattr(leaf, "dtype", type(leaf).__name__)).removeprefix("torch.")
        found.append(f"{kind} {tuple(leaf.shape)}" if hasattr(leaf, "shape") else kind)
        return leaf

    map_tree(tell, batch)
    return ", ".join(found[:8]) + (", ..." if found[8:] else "")


@contextmanager
def untouched(step: StepRunner) -> Iterator[None]:
    """Evaluate within; afterwards net, loss and random state are bit for bit as they were.

    Raises:
        Unread: that cannot be promised.
    """
    modules = [one for one in (step.net, step.loss_fn) if isinstance(one, nn.Module)]
    states, memento = random_states(), memento_of(*vars(step).values(), type(step))
    if memento.once:
        raise Unread("the net, the loss or a metric holds what can be read only once")
    kept = [(value, value.detach().clone()) for value in changeable(modules)]
    weights = [weight for module in modules for weight in module.parameters()]
    homes = [(weight, weight.data) for weight in weights if type(weight.data) is Tensor]
    bare = [weight for weight in weights if weight.grad is None]
    try:
        with memento, evaluating(*modules), eager():
            yield
    finally:
        for weight, home in homes:
            if weight.data_ptr() != home.data_ptr():
                weight.data = home  # forward gave it other memory
        with torch.no_grad():
            for value, before in kept:
                value.detach().copy_(before)
        for weight in bare:
            weight.grad = None
        put_random_states(states)


def changeable(modules: list[nn.Module]) -> list[Tensor]:
    """Return the weights that a forward may change: it may bound those that learn, and frozen ones may follow them.

    Copies take no more room than training does: where much more is frozen than learns, nothing follows what learns.
    """
    every: list[Tensor] = list({id(weight): weight for module in modules for weight in module.parameters()}.values())
    learning = [weight for weight in every if weight.requires_grad]
    return every if sum(map(size, every)) <= 3 * sum(map(size, learning)) else learning


def size(weight: Tensor) -> int:
    """Return the bytes of a weight."""
    return weight.numel() * weight.element_size()


def eager() -> Any:
    """Return a context in which nothing is compiled: what is compiled first decides what is compiled next."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
