"""Around a run: what is set up before it and put back after it, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from torchkeras.checks import preflight
from torchkeras.core import modes
from torchkeras.engine import device
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.moments import add_failure
from torchkeras.engine.run import Run, nothing
from torchkeras.engine.signals import signals
from torchkeras.state.components import components_of
from torchkeras.state.rng import Untouched, seed_all, streams


@contextmanager
def session(model: Any, run: Run, callbacks: CallbackList, before: Untouched,
            last_batch: int | None) -> Iterator[None]:
    """Device, modes, signals; a run that fails before its first update leaves weights and random state as they were."""
    previous, model.run, run.active = model.run, run, True
    metrics = [metric for one in run.tools.metrics.values() for metric in one.values()]
    # FSDP divides a net where it is: whole, it may not fit the device
    parts = components_of(model)
    others = [one for one in (model.loss_fn, *parts.modules.values()) if one is not model.net]
    whole = nn.Identity() if run.config.fsdp and run.together.world > 1 else model.net
    with (signals(run), run.together.watching(), modes.training(model.net),
          preflight.batchnorm_watch(model.net, smallest_part(last_batch, run.together.world)),
          device.placed(run.accelerator.device, whole, *others, *metrics, optimizers=parts.optimizers.values())):
        try:
            if run.config.seed is not None:
                seed_all(run.config.seed)
            with streams(run.together):
                yield
        except BaseException as error:
            tell(callbacks, error)
            if run.updates == 0:
                if changed := before.restore():
                    error.add_note("Weights that do not learn were changed by other means, and are not as they were "
                                   f"before fit: {', '.join(changed[:5])}")
                model.run = previous
            raise
        finally:
            run.active, run.running, run.logs = False, dict, {}  # holds on to no batch, step or listener
            run.step_runners.clear()
            run.after_step = nothing
            run.step_states.clear()
    if run.exit_code:
        raise SystemExit(run.exit_code)


def smallest_part(batch: int | None, world: int) -> int | None:
    """Samples in the smallest part of a batch, where every process has one."""
    return None if batch is None else max(batch // world, 1)


def tell(callbacks: CallbackList, error: BaseException) -> None:
    """Tell listeners about an error; what goes wrong in them does not take its place."""
    try:
        callbacks.announce_end("on_exception")
    except Exception as second:
        add_failure(error, second, "on_exception")
