"""Keep the state of a run: begin from a saved one, and write it as often as requested."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.manager import CheckpointManager
from torchkeras.checkpoint.store import CheckpointStore
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.checkpointing import NoCheckpoint
from torchkeras.engine.run import Run
from torchkeras.engine.steps import step_of
from torchkeras.state.components import components_of


@contextmanager
def checkpointed(model: Any, run: Run, callbacks: CallbackList, best: Best,
                 store: CheckpointStore | None, saved: dict[str, Any] | None) -> Iterator[None]:
    """Write the state of the loop as often as requested; begin from a saved one, if any."""
    if not run.config.keeps_state:
        yield
        return
    train = run.data.train
    step_of(model, run, "train", True, train)  # what it keeps for itself is saved, and put back
    manager = CheckpointManager(model, run, callbacks, best, store)
    if saved is not None:
        with rolled_back(model, run, saved):
            manager.resume_from(saved)
    run.checkpointer = manager
    train.on_start, train.on_boundary = manager.data_starts, manager.boundary
    try:
        manager.begin_run(fresh=saved is None)
        yield
    finally:
        run.checkpointer, train.on_start, train.on_boundary = NoCheckpoint(), None, None
        manager.wait()


@contextmanager
def rolled_back(model: Any, run: Run, saved: dict[str, Any]) -> Iterator[None]:
    """Undo a partly loaded state that does not fit; the session undoes the weights."""
    number = saved["number"]
    found = components_of(model)
    parts = [*found.optimizers.values(), *found.schedulers.values(),
             *(one for one in found.others.values() if hasattr(one, "state_dict"))]
    before = [copy.deepcopy(one.state_dict()) for one in parts]
    groups = [(one, len(one.param_groups)) for one in found.optimizers.values()]
    learning = [(weight, weight.requires_grad) for module in model.learners()
                for weight in module.parameters()]
    try:
        yield
    except Exception as error:
        for optimizer, count in groups:
            del optimizer.param_groups[count:]
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        for weight, learns in learning:
            weight.requires_grad_(learns)
        run.global_step = run.optimizer_steps = 0
        raise CheckpointCorruptError(f"state {number} does not fit this run "
                                     f"({type(error).__name__}: {error})") from error
