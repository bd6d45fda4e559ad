"""Around the loop of a run whose state is kept: begin from a saved one, write as often as was asked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.manager import Keeper
from torchkeras.checkpoint.store import Vault
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.data import Batches
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.run import Keeps, Run
from torchkeras.engine.steps import step_of
from torchkeras.state.components import components_of


@contextmanager
def kept(model: Any, run: Run, callbacks: CallbackList, best: Best, train: Batches, val: Batches | None,
         vault: Vault | None, saved: dict[str, Any] | None) -> Iterator[None]:
    """While the loop runs, write its state as often as was asked; begin from a saved one, if there is one."""
    if not run.config.keeps_state:
        yield
        return
    step_of(model, run, "train", True, train.name)  # what it keeps for itself is saved, and put back
    keeper = Keeper(model, run, callbacks, best, train, val, vault)
    if saved is not None:
        with undone(model, run, saved):
            keeper.go_on(saved)
    run.keeper = keeper
    train.begins, train.between = keeper.begins, keeper.between
    try:
        keeper.begin_run(fresh=saved is None)
        yield
    finally:
        run.keeper = Keeps()
        train.begins = train.between = None
        keeper.wait()


@contextmanager
def undone(model: Any, run: Run, saved: dict[str, Any]) -> Iterator[None]:
    """If a state turns out not to fit after all, nothing stays half put back; the session undoes the weights."""
    number = saved["number"]
    found = components_of(model)
    parts = [*found.optimizers.values(), *found.schedulers.values(),
             *(one for one in found.others.values() if hasattr(one, "state_dict"))]
    before = [copy.deepcopy(one.state_dict()) for one in parts]
    groups = [(one, len(one.param_groups)) for one in found.optimizers.values()]
    learning = [(weight, weight.requires_grad) for module in model.learners() for weight in module.parameters()]
    try:
        yield
    except Exception as error:
        for optimizer, count in groups:
            del optimizer.param_groups[count:]
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        for weight, learns in learning:
            weight.requires_grad_(learns)
        run.trained = run.updates = 0
        raise CheckpointCorruptError(f"state {number} does not fit this run "
                                     f"({type(error).__name__}: {error})") from error
