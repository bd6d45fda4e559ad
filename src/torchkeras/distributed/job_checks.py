"""Refuse a job whose processes were given different things, or a model that they cannot share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchkeras.core.errors import bad_value
from torchkeras.data import Batches
from torchkeras.data.fingerprint import sample_fingerprint
from torchkeras.engine.run import Run
from torchkeras.state.components import components_of


def parts_of(model: Any) -> dict[str, Any]:
    """Return the parts of a step that may learn: net, loss, and modules among step objects."""
    return {"net": model.net, "loss_fn": model.loss_fn, **{
        name: one for name, one in model.step_objects.items() if isinstance(one, nn.Module)}}


def check_reachable(model: Any, parts: Mapping[str, Any]) -> None:
    """Refuse learning parameters in no module of a step: their gradients would not be shared."""
    shared = {id(weight) for part in parts.values() if isinstance(part, nn.Module)
              for weight in part.parameters()}
    found = components_of(model)
    names = {id(weight): f"{name}.{path}" for name, module in found.modules.items()
             for path, weight in module.named_parameters()}
    alone = [names.get(id(weight), f"some in {name}") for name, one in found.optimizers.items()
             for group in one.param_groups for weight in group["params"]
             if weight.requires_grad and id(weight) not in shared]
    if alone:
        raise bad_value("KerasModel",
                        received="parameters that learn outside of the modules that a step is "
                        f"given: {', '.join(alone[:5])}",
                        expected="parameters of the net, of a loss that is a module itself, "
                        "or of modules given as step objects, in several processes",
                        fix="Put them into one of these; a functools.partial of a loss may become "
                        "a module.")


def check_apart(parts: Mapping[str, Any]) -> None:
    """Refuse modules that share learning parameters: each would add their gradients again."""
    owners: dict[int, str] = {}
    for name, part in parts.items():
        for weight in part.parameters() if isinstance(part, nn.Module) else ():
            if weight.requires_grad and owners.setdefault(id(weight), name) != name:
                raise bad_value(name,
                                received="a module that shares parameters with "
                                f"{owners[id(weight)]}",
                                expected="modules that have their parameters for themselves, in "
                                "several processes",
                                fix=f"Leave {name} out, and reach it through "
                                f"{owners[id(weight)]}'s forward.")


@contextmanager
def whole_windows(model: Any, run: Run) -> Iterator[None]:
    """Refuse an update by a step object's optimizer before the gradients are shared."""
    def check(optimizer: Any, *_: Any) -> None:
        if not run.accelerator.sync_gradients:
            raise bad_value("StepRunner",
                            received="a step that updates with an optimizer of its own in the "
                            "middle of an accumulation window",
                            expected="updates where a window ends: in several processes gradients "
                            "are shared there",
                            fix="Ask self.accelerator.sync_gradients before its step().")

    hooks = [one.register_step_pre_hook(check) for one in model.step_objects.values()
             if isinstance(one, Optimizer)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_same(model: Any, run: Run) -> None:
    """Refuse a job whose processes were given different things."""
    weights = {name: tuple(value.shape) for name, value in model.net.state_dict().items()
               if hasattr(value, "shape")}
    own = {"fit": repr(replace(run.config, ckpt_path="")), "net": repr(weights),
           "metrics_dict": repr(list(model.metrics_dict)),
           "train_data": description_of(run.data.train), "val_data": description_of(run.data.val)}
    for rank, other in enumerate(run.communicator.all_gather(own)[1:], start=1):
        for argument, value in run.communicator.broadcast(own).items():
            if other[argument] != value:
                raise bad_value(argument,
                                received=f"{shortened(other[argument])} in process {rank}",
                                expected=f"{shortened(value)}, as in process 0",
                                fix="Every process runs the same script: seed what is random in "
                                "it before, for example with torchkeras.seed_everything(0).")


def description_of(data: Batches | None) -> str:
    """Describe data without reading it."""
    if data is None:
        return "no data"
    known = sample_fingerprint(data.source)
    return f"{data.length} batches, {data.samples} samples" + (
        "" if known is None else f" ({known})")


def shortened(text: str) -> str:
    """Return a text, cut so that it fits into a message."""
    return text if len(text) <= 200 else text[:200] + "..."
