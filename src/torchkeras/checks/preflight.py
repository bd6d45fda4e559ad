"""Check the parts of a model and the first batch before the first update."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchkeras.core.errors import bad_type, bad_value, instance_not_class
from torchkeras.core.modes import BATCH_NORMS
from torchkeras.core.optimizers import argument_name, each_of, needs_closure, type_names
from torchkeras.core.types import Batch, HasParts, Labels, Leaf, OneOrMany
from torchkeras.data import batch as batches
from torchkeras.state.components import components_of

if TYPE_CHECKING:
    from torchkeras.engine.config import FitConfig

RESERVED = {"loss", "epoch", "lr"}


def check_parts(net: object, loss_fn: object, optimizer: object, lr_scheduler: object) -> None:
    """Raise if a part of a model is of the wrong kind."""
    instance_not_class("net", net)
    instance_not_class("loss_fn", loss_fn)
    check_part("optimizer", optimizer, "param_groups",
               "a torch optimizer or a name, or a list or dict of optimizers")
    check_part("lr_scheduler", lr_scheduler, "step", "a torch scheduler, or a list or dict of them")
    if not isinstance(net, nn.Module):
        raise bad_type("net", received=type(net).__name__, expected="an nn.Module")
    if loss_fn is not None and not callable(loss_fn):
        raise bad_type("loss_fn", received=type(loss_fn).__name__,
                       expected="a loss, a function or a name")
    if any(isinstance(one, nn.parameter.UninitializedParameter) for one in net.parameters()):
        raise bad_value("net", received="a net with lazy layers that have no sizes yet",
                        expected="a net with sizes",
                        fix="Run one batch through it first: net(features).")


def check_metric_name(name: object) -> None:
    """Raise if a metric's name would hide another column of the history."""
    if not isinstance(name, str) or not name or name in RESERVED:
        raise bad_value("metrics_dict", received=f"the name {name!r}",
                        expected="a text that is none of " + ", ".join(sorted(map(repr, RESERVED))),
                        fix="Give the metric another name.")


def check_part(argument: str, part: OneOrMany, needed: str, expected: str) -> None:
    """Raise if an optimizer or scheduler, or one of a list or dict, is of the wrong kind."""
    each: Collection[Any] = [part]
    if isinstance(part, (Mapping, list, tuple)):
        each = part.values() if isinstance(part, Mapping) else part
    if part is not None and not each:
        raise bad_value(argument, received="an empty list or dict", expected=f"{expected}, or None")
    for one in each:
        instance_not_class(argument, one)
        if one is not None and not hasattr(one, needed):
            raise bad_type(argument, received=type(one).__name__, expected=expected)


def check_learning(model: HasParts) -> list[str]:
    """Raise if an optimizer would train nothing; return notes on parameters in no optimizer.

    Args:
        model: an object with a net, a loss, optimizers, schedulers and step objects.
    """
    net, optimizer = model.net, model.optimizer
    if not any(weight.requires_grad for weight in net.parameters()):
        raise bad_value("net", received="a net in which no parameter requires grad",
                        expected="at least one that can learn",
                        fix="Set requires_grad_(True) on what should train.")
    parts = components_of(model)
    check_schedulers(model.lr_scheduler, list(parts.optimizers.values()))
    check_shared(optimizer)
    held = {id(weight) for one in parts.optimizers.values() for group in one.param_groups
            for weight in group["params"]}
    missing = {name: [path for path, weight in module.named_parameters()
                      if weight.requires_grad and id(weight) not in held]
               for name, module in parts.modules.items()}
    own = {id(weight) for module in parts.modules.values() for weight in module.parameters()}
    learning = sum(weight.requires_grad for weight in net.parameters())
    if len(missing["net"]) == learning and not held.intersection(own):
        raise bad_value("optimizer",
                        received="an optimizer that holds none of the net's parameters",
                        expected="one built on this net",
                        fix="Build it after the net is final: "
                        f"{type_names(optimizer)}(net.parameters(), ...).")
    whose = {"net": "the net", "loss_fn": "the loss"}
    return [f"optimizer: {len(paths)} parameters of {whose.get(name, name)} are not in it: "
            f"{', '.join(paths[:5])}" for name, paths in missing.items() if paths]


def check_schedulers(lr_scheduler: OneOrMany, optimizers: list[Optimizer]) -> None:
    """Raise if a scheduler was built on another optimizer."""
    for key, one in each_of(lr_scheduler).items():
        own = getattr(one, "optimizer", None)
        if own is not None and not any(own is other for other in optimizers):
            raise bad_value(argument_name("lr_scheduler", key),
                            received="a scheduler built on another optimizer",
                            expected="one built on this model's optimizer",
                            fix=f"Build it anew: {type(one).__name__}(model.optimizer, ...).")


def check_shared(optimizer: OneOrMany) -> None:
    """Raise if several optimizers hold the same parameter, which each would update."""
    seen: set[int] = set()
    for key, one in each_of(optimizer).items():
        own = {id(weight) for group in one.param_groups for weight in group["params"]}
        if own & seen:
            raise bad_value(argument_name("optimizer", key),
                            received="parameters that another optimizer holds too",
                            expected="each parameter in one of them")
        seen |= own


def check_closure(optimizer: OneOrMany, config: FitConfig, world: int) -> None:
    """Raise if an optimizer with a closure is used where the closure cannot be provided.

    Args:
        optimizer: one, or several.
        config: the FitConfig of the run.
        world: the world size.
    """
    for key, one in each_of(optimizer).items():
        if not needs_closure(one):
            continue
        name, found = type(one).__name__, ""
        if key is not None:
            found = "beside other optimizers"
        elif config.gradient_accumulation_steps > 1:
            found = f"with gradient_accumulation_steps={config.gradient_accumulation_steps}"
        elif config.mixed_precision == "fp16":
            found = "with mixed_precision='fp16'"
        elif world > 1:
            found = f"in {world} processes"
        if found:
            raise bad_value(argument_name("optimizer", key),
                            received=f"{name}, which computes the loss of a batch as often as it "
                            f"likes, {found}",
                            expected=f"{name} alone, on whole batches, in one process",
                            fix="Give larger batches, or an optimizer that steps once a batch, "
                            "such as Adam; or write a StepRunner whose __call__ steps it.")


def check_has_loss(loss_fn: object, labels: Labels, argument: str = "train_data") -> None:
    """Raise if there is no loss, or there are no labels."""
    if loss_fn is None:
        raise bad_type("loss_fn", received="None, and the net's output has no 'loss'",
                       expected="a loss or its name",
                       fix="Pass loss_fn=..., or let the net return a dict with 'loss'.")
    if labels is None:
        raise bad_value(argument, received="a batch without labels",
                        expected="(x, y) or (x, y, sample_weight)",
                        fix="Or override StepRunner.forward to say what preds and labels are.")


def check_number(loss: object) -> None:
    """Raise unless a loss is a tensor with one element."""
    if not isinstance(loss, Tensor):
        raise bad_type("loss_fn", received=f"a result of type {type(loss).__name__}",
                       expected="a scalar tensor",
                       fix="Return the tensor itself: no .item(), no numpy.")
    if loss.numel() != 1:
        raise bad_value("loss_fn", received=f"a result of shape {tuple(loss.shape)}",
                        expected="one number", fix="Use reduction='mean', or .mean().")


def check_loss(loss: Tensor, why: Callable[[], str], argument: str, counts: bool = True) -> None:
    """Raise unless the first loss is one finite number with a gradient."""
    check_number(loss)
    if not loss.requires_grad:
        raise bad_value("loss_fn", received="a loss without a gradient",
                        expected="one that depends on the net",
                        fix="Do not call .detach(), .item() or torch.no_grad() on the way from the "
                        "net to the loss.")
    if counts and not bool(loss.isfinite()):
        raise bad_value(argument, received=f"a first loss of {loss.item()}: {why()}",
                        expected="finite numbers",
                        fix="Clean or scale the data, or lower what the net puts out.")


def check_classes(labels: Labels) -> None:
    """Raise if class weights are given for labels that are not classes."""
    one_each = isinstance(labels, Tensor) and labels.is_floating_point() and (
        labels.numel() == len(labels))
    if one_each and not bool((labels == labels.round()).all()):
        raise bad_value("class_weight", received="labels that are no whole numbers",
                        expected="a class for each sample",
                        fix="Give sample weights: fit((x, y, weight)).")


def check_weighed(weights: object, weighed: bool) -> None:
    """Raise if class weights were given and a user's step ignores them."""
    if weights is not None and not weighed:
        raise bad_value("class_weight", received="weights that nothing looks at: this StepRunner "
                        "has a loss of its own", expected="a StepRunner.loss that calls "
                        "super().loss(preds, labels, weights)",
                        fix="Leave class_weight out and weigh there.")


def check_parts_of_loss(parts: Mapping[str, object], metrics: Mapping[str, object]) -> None:
    """Raise if parts of a loss are not numbers, or have names that are taken."""
    for name, value in parts.items():
        if name in RESERVED or name in metrics:
            raise bad_value("loss_fn", received=f"a part of the loss with the name {name!r}",
                            expected="a name that is no metric's and none of "
                            + ", ".join(sorted(map(repr, RESERVED))),
                            fix="Rename it.")
        shape = tuple(getattr(value, "shape", ()))
        if math.prod(shape) != 1 or isinstance(value, (str, Mapping, list, tuple)):
            raise bad_value("loss_fn", received=f"a part {name!r} that is no number",
                            expected="one number", fix="Reduce it, for example with .mean().")


def non_finite_part(batch: Batch) -> str:
    """Name the part of a batch that is not finite."""
    features, labels, _ = batches.split(batch)
    for part, value in (("features", features), ("labels", labels)):
        for tensor in leaves(value):
            if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all()):
                return f"the {part} of the first batch hold NaN or infinity"
    return "features and labels are finite, the net's output is not"


def leaves(value: Leaf) -> Iterator[Leaf]:
    """Yield the leaves of nested tuples, lists and dicts."""
    if isinstance(value, (Mapping, tuple, list)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(one)
    else:
        yield value


@contextmanager
def batchnorm_watch(net: nn.Module, last_batch: int | None) -> Iterator[None]:
    """Raise at the first batch if the last will have one sample, which BatchNorm cannot take."""
    hooks: list[Any] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not net.training:
            return  # validation data is tried first
        if module.training and inputs[0].shape[2:].numel() == 1:
            raise bad_value("train_data", received="a last batch of 1 sample",
                            expected=f"at least 2 for {type(module).__name__}, which needs a "
                            "variance",
                            fix="Use a DataLoader with drop_last=True, or another batch_size.")
        for hook in hooks:
            hook.remove()

    if last_batch == 1:
        hooks += [one.register_forward_pre_hook(look) for one in net.modules()
                  if isinstance(one, BATCH_NORMS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
