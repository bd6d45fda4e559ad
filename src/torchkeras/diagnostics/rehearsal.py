"""Try one batch of validation data before training, so that its errors come first."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from torchkeras.checks import metric_checks, preflight
from torchkeras.core import internals
from torchkeras.core.errors import bad_value
from torchkeras.core.modes import eval_mode
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf
from torchkeras.data import Batches
from torchkeras.data import batch as batches
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.state.memento import memento_of
from torchkeras.state.peek import CannotPeek, first_batch
from torchkeras.weighting import examination, weighing


def rehearse(run: Run, kind: type, make: Callable[[], StepRunner]) -> Exception | None:
    """Run the first validation batch through net, loss and metrics, and restore everything.

    Weights, buffers, modes, gradients, random state, metrics, the data and the attributes of net
    and loss are restored. Where that is not possible the rehearsal is left out, and a note of the
    run says why.

    Args:
        run: the run that is about to begin.
        kind: the class of the steps.
        make: builds the step of a validation pass.

    Returns:
        The error of the validation batch, to be raised once the first training batch has passed:
        an error of the net itself is not the validation data's. None without an error.
    """
    train, val = run.data
    if val is None or is_skipped(run, kind, train, val):
        return None
    step = make()
    try:
        with untouched(step):
            return try_first_batch(run, step, val)
    except CannotPeek as why:
        run.notes.append(f"val_data: not tried before its turn: {why}")
        return None


def is_skipped(run: Run, kind: type, train: Batches, val: Batches) -> bool:
    """Tell whether the rehearsal is skipped.

    A user's own step decides what happens to a batch. A resumed run was rehearsed when it began.
    FSDP gathers and frees the weights in the order of training. From an iterator that is both
    training and validation data, training gets the first batch.
    """
    own = not issubclass(kind, StepRunner) or kind.__call__ is not StepRunner.__call__
    divided = run.strategy.shards_parameters
    shared = val.source is train.source and isinstance(val.source, Iterator)
    return own or divided or run.global_step > 0 or shared


def try_first_batch(run: Run, step: StepRunner, val: Batches) -> Exception | None:
    """Return the error of the first batch, on all ranks alike; None without one."""
    batch: Batch = None
    try:
        with run.communicator.raise_on_all_ranks():
            batch = first_batch(val)
        with run.communicator.raise_on_all_ranks():
            measure_once(step, batches.to_device(batch, run.accelerator.device))
    except CannotPeek:
        raise
    except Exception as error:
        return name_data(error, batch, val.name)
    return None


def measure_once(step: StepRunner, batch: Batch) -> None:
    """Run a batch through net and loss, and through copies of the metrics."""
    with torch.no_grad():
        preds, labels, loss = step.forward_and_loss(batch)
    preflight.check_number(loss)
    if not bool(loss.isfinite()) and "hold NaN" in (why := preflight.non_finite_part(batch)):
        raise bad_value(step.argument, received=f"a first loss of {loss.item()}; {why}",
                        expected="finite numbers", fix="Clean the data.")
    if type(step).measure is StepRunner.measure:
        if step.metrics_dict:  # a label that the loss ignores may be one that a metric refuses
            examined = examination.needs_examination(step, divided=False)
            look = examination.find_denominator(step, batch) if examined else None
            examination.set_left_out_labels(step, look or step.facts.found)
        metric_checks.check_metrics(step.metrics_dict, weighing.detach_predictions(preds), labels)


def name_data(error: Exception, batch: Batch, argument: str) -> Exception:
    """Return an error that names the data, without references to tensors of the batch."""
    traceback.clear_frames(error.__traceback__)
    if batch is None:
        error.add_note(f"{argument}: raised as its first batch was read, before training.")
    if batch is None or str(error).startswith(argument):
        return error
    found = bad_value(argument,
                      received=f"a first batch ({layout(batch)}) at which {type(error).__name__}: "
                      f"{error}",
                      expected="batches that net, loss and metrics take as they take those of "
                      "training", fix="Compare its shapes and types with those of train_data.")
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    found.__context__, found.__suppress_context__ = error, True  # not shown: it is too long
    return found


def layout(batch: Batch) -> str:
    """Describe the dtypes and shapes in a batch."""
    found: list[str] = []

    def tell(leaf: Leaf) -> Leaf:
        kind = str(getattr(leaf, "dtype", type(leaf).__name__)).removeprefix("torch.")
        found.append(f"{kind} {tuple(leaf.shape)}" if hasattr(leaf, "shape") else kind)
        return leaf

    map_tree(tell, batch)
    return ", ".join(found[:8]) + (", ..." if found[8:] else "")


@contextmanager
def untouched(step: StepRunner) -> Iterator[None]:
    """Evaluate within; afterwards net, loss and random state are restored bit for bit.

    Raises:
        CannotPeek: that is not possible.
    """
    held = vars(step)  # a step of the user's may keep neither
    modules = [one for one in (held.get("net"), held.get("loss_fn")) if isinstance(one, nn.Module)]
    states, memento = random_states(), memento_of(*vars(step).values(), type(step))
    if memento.one_shot:
        raise CannotPeek("the net, the loss or a metric holds what can be read only once")
    kept = [(value, value.detach().clone()) for value in writable_weights(modules)]
    weights = [weight for module in modules for weight in module.parameters()]
    homes = [(weight, weight.data) for weight in weights if type(weight.data) is Tensor]
    bare = [weight for weight in weights if weight.grad is None]
    try:
        with memento, eval_mode(*modules), force_eager():
            yield
    finally:
        for weight, home in homes:
            if weight.data_ptr() != home.data_ptr():
                weight.data = home  # forward moved it to other memory
        with torch.no_grad():
            for value, before in kept:
                value.detach().copy_(before)
        for weight in bare:
            weight.grad = None
        put_random_states(states)


def writable_weights(modules: list[nn.Module]) -> list[Tensor]:
    """Return the weights that a forward may change, unless far more are frozen than learn.

    Copies take no more memory than training does. Where far more is frozen than learns, a copy of
    what learns is enough: frozen weights do not follow it there.
    """
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    every: list[Tensor] = list(weights.values())
    learning = [weight for weight in every if weight.requires_grad]
    return every if sum(map(nbytes, every)) <= 3 * sum(map(nbytes, learning)) else learning


def nbytes(weight: Tensor) -> int:
    """Return the size of a weight in bytes."""
    return weight.numel() * weight.element_size()


def force_eager() -> AbstractContextManager[object]:
    """Return a context that compiles nothing, since that would affect later compilation."""
    compiler = internals.compiler_is_loaded()  # else set_stance would import it
    return torch.compiler.set_stance("force_eager") if compiler else nullcontext()
