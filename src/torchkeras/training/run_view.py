"""Show a run to users: all of it can be read, nothing assigned."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from torchkeras.core.errors import mistake
from torchkeras.data.fit_data import NO_DATA
from torchkeras.engine.checkpointing import NoCheckpoint
from torchkeras.engine.run import Run, nothing
from torchkeras.engine.strategy import SingleProcess


class RunView:
    """Shows a run as ``model.run``, which is read and stopped.

    The loop alone writes a run: a number that a callback put into it would go into saved states,
    logs and the choice of the best weights.

    Args:
        run: what is shown.
    """

    __class__ = property(lambda self: Run)  # so isinstance says

    def __init__(self, run: Run) -> None:
        vars(self)["_run"] = run

    def __getattr__(self, name: str) -> Any:
        if name == "_run":  # copying asks before there is a run
            raise AttributeError(name)
        found = getattr(self._run, name)
        return found.apart() if name == "data" else found  # reading it moves nothing of the run

    def __setattr__(self, name: str, value: object) -> None:
        raise mistake(AttributeError(
            f"model.run.{name}: received an assignment; expected none: a run is written by the "
            "loop alone. model.run.stop('why') ends it; numbers of your own belong into a "
            "callback's attributes, or into what a StepRunner returns."))

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __dir__(self) -> list[str]:
        return dir(self._run)

    def __repr__(self) -> str:
        return repr(self._run)

    def __reduce__(self) -> tuple[Any, ...]:
        return RunView, (as_copied(self._run),)


def read_only(run: Run) -> Run:
    """Return a run that can be read and stopped."""
    return cast("Run", RunView(whole(run)))


def as_copied(run: Run) -> Run:
    """Return what a copy of a run holds: one under way goes on in the original alone.

    So a model that a callback copies or saves takes no data and no thread along, and can be fitted.
    """
    if not isinstance(run, Run) or not run.active:
        return run
    return dataclasses.replace(
        run, data=NO_DATA, strategy=SingleProcess(), checkpointer=NoCheckpoint(), executor=None,
        logs={}, places=None, step_runners={}, step_states={}, before_training=nothing,
        after_step=nothing, trouble=None, active=False, running_metrics=dict)


def whole(run: Run) -> Run:
    """Return the run that a view shows."""
    found: Run = vars(run).get("_run", run)
    return found
