"""Show a run to users: all of it can be read, nothing assigned."""

from __future__ import annotations

from typing import Any, cast

from torchkeras.core.errors import mistake
from torchkeras.engine.run import Run


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
        return getattr(self._run, name)

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
        return RunView, (self._run,)


def read_only(run: Run) -> Run:
    """Return a run that can be read and stopped."""
    return cast("Run", RunView(whole(run)))


def whole(run: Run) -> Run:
    """Return the run that a view shows."""
    found: Run = vars(run).get("_run", run)
    return found
