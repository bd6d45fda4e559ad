"""What can be known to be wrong before anything is updated: the parts, and the first batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checks import broadcast
from torchkeras.core.errors import bad_type, bad_value, instance_not_class
from torchkeras.core.modes import BATCH_NORMS
from torchkeras.core.optimizers import each_of, kind_of, needs_closure, titled
from torchkeras.data import batch as batches
from torchkeras.state.components import components_of

CLASS_LOSSES = {"CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"}
BINARY_LOSSES = {"BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
ELEMENT_LOSSES = BINARY_LOSSES | {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "mse_loss", "l1_loss",
                                  "smooth_l1_loss", "huber_loss"}
RESERVED = {"loss", "epoch", "lr"}


def check_parts(net: Any, loss_fn: Any, optimizer: Any, lr_scheduler: Any) -> None:
    """Refuse parts of the wrong kind when a model is put together."""
    instance_not_class("net", net)
    instance_not_class("loss_fn", loss_fn)
    check_part("optimizer", optimizer, "param_groups", "a torch optimizer or a name, or a list or dict of optimizers")
    check_part("lr_scheduler", lr_scheduler, "step", "a torch scheduler, or a list or dict of them")
    if not isinstance(net, nn.Module):
        raise bad_type("net", received=type(net).__name__, expected="an nn.Module")
    if loss_fn is not None and not callable(loss_fn):
        raise bad_type("loss_fn", received=type(loss_fn).__name__, expected="a loss, a function or a name")
    if any(isinstance(one, nn.parameter.UninitializedParameter) for one in net.parameters()):
        raise bad_value("net", received="a net with lazy layers that have no sizes yet", expected="a net with sizes",
                        fix="Run one batch through it first: net(features).")


def check_metric_name(name: Any) -> None:
    """Refuse a metric name that would hide another column of the history."""
    if not isinstance(name, str) or not name or name in RESERVED:
        raise bad_value("metrics_dict", received=f"the name {name!r}",
                        expected="a text that is none of " + ", ".join(sorted(map(repr, RESERVED))),
                        fix="Give the metric another name.")


def check_part(argument: str, part: Any, needed: str, expected: str) -> None:
    """Refuse an optimizer or schedule of the wrong kind; of a list or dict, each must be right."""
    each = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else [part]
    if part is not None and not each:
        raise bad_value(argument, received="an empty list or dict", expected=f"{expected}, or None")
    for one in each:
        instance_not_class(argument, one)
        if one is not None and not hasattr(one, needed):
            raise bad_type(argument, received=type(one).__name__, expected=expected)


def check_learning(model: Any) -> list[str]:
    """Refuse an optimizer that would train nothing; what no optimizer holds is told in notes.

    Args:
        model: what has a net, a loss, optimizers, schedules and step objects.
    """
    net, optimizer = model.net, model.optimizer
    if not any(weight.requires_grad for weight in net.parameters()):
        raise bad_value("net", received="a net in which no parameter requires grad",
                        expected="at least one that can learn", fix="Set requires_grad_(True) on what should train.")
    parts = components_of(model)
    check_schedulers(model.lr_scheduler, list(parts.optimizers.values()))
    check_shared(optimizer)
    held = {id(weight) for one in parts.optimizers.values() for group in one.param_groups for weight in group["params"]}
    missing = {name: [path for path, weight in module.named_parameters()
                      if weight.requires_grad and id(weight) not in held] for name, module in parts.modules.items()}
    own = {id(weight) for module in parts.modules.values() for weight in module.parameters()}
    if len(missing["net"]) == sum(weight.requires_grad for weight in net.parameters()) and not held.intersection(own):
        raise bad_value("optimizer", received="an optimizer that holds none of the net's parameters",
                        expected="one built on this net",
                        fix=f"Build it after the net is final: {kind_of(optimizer)}(net.parameters(), ...).")
    whose = {"net": "the net", "loss_fn": "the loss"}
    return [f"optimizer: {len(paths)} parameters of {whose.get(name, name)} are not in it: {', '.join(paths[:5])}"
            for name, paths in missing.items() if paths]


def check_schedulers(lr_scheduler: Any, optimizers: list[Any]) -> None:
    """Refuse a schedule that moves the rate of another optimizer."""
    for key, one in each_of(lr_scheduler).items():
        own = getattr(one, "optimizer", None)
        if own is not None and not any(own is other for other in optimizers):
            raise bad_value(titled("lr_scheduler", key), received="a scheduler built on another optimizer",
                            expected="one built on this model's optimizer",
                            fix=f"Build it anew: {type(one).__name__}(model.optimizer, ...).")


def check_shared(optimizer: Any) -> None:
    """Refuse several optimizers that hold the same parameter: each would update it."""
    seen: set[int] = set()
    for key, one in each_of(optimizer).items():
        own = {id(weight) for group in one.param_groups for weight in group["params"]}
        if own & seen:
            raise bad_value(titled("optimizer", key), received="parameters that another optimizer holds too",
                            expected="each parameter in one of them")
        seen |= own


def check_closure(optimizer: Any, config: Any, world: int) -> None:
    """Refuse an optimizer that calls the net itself where our step cannot give it what it needs.

    Args:
        optimizer: one, or several.
        config: the FitConfig of the run.
        world: how many processes there are.
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
            raise bad_value(titled("optimizer", key), received=f"{name}, which computes the loss of a batch as often "
                            f"as it likes, {found}", expected=f"{name} alone, on whole batches, in one process",
                            fix="Give larger batches, or an optimizer that steps once a batch, such as Adam; or write "
                                "a StepRunner whose __call__ steps it.")


def name_of(loss_fn: Any) -> str:
    """Return the name under which torch knows a loss; what was added to it, and what wraps it, is seen through."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    loss_fn = getattr(loss_fn, "module", loss_fn)
    return type(loss_fn).__name__ if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__name__", "")


def check_has_loss(loss_fn: Any, labels: Any, argument: str = "train_data") -> None:
    """Refuse to learn from nothing."""
    if loss_fn is None:
        raise bad_type("loss_fn", received="None, and the net's output has no 'loss'", expected="a loss or its name",
                       fix="Pass loss_fn=..., or let the net return a dict with 'loss'.")
    if labels is None:
        raise bad_value(argument, received="a batch without labels", expected="(x, y) or (x, y, sample_weight)",
                        fix="Or override StepRunner.forward to say what preds and labels are.")


def check_labels(loss: Any, loss_fn: Any, preds: Any, labels: Any, argument: str) -> None:
    """Look at the first batch for labels that the loss cannot take, or would take wrongly.

    Args:
        loss: what is called with predictions and labels: the loss itself, or a verb of the user's that calls it.
        loss_fn: the loss itself.
        preds: the net's output.
        labels: the labels.
        argument: what the message calls the data.

    Raises:
        ValueError: they do not fit.
    """
    if loss is None or labels is None:
        return
    if callable(parts := getattr(loss_fn, "each_output", None)):
        for one, own_preds, own_labels in parts(preds, labels):
            check_labels(one, one, own_preds, own_labels, argument)
        return
    if isinstance(preds, Tensor) and isinstance(labels, Tensor) and loss is loss_fn:  # a verb may change them first
        if name_of(loss_fn) in CLASS_LOSSES:
            check_class_labels(loss_fn, preds, labels, argument)
        elif name_of(loss_fn) in ELEMENT_LOSSES:
            check_element_labels(loss_fn, preds, labels, argument)
    broadcast.check_broadcast(loss, preds, labels, argument)


def check_class_labels(loss_fn: Any, preds: Tensor, labels: Tensor, argument: str) -> None:
    """Refuse class indices other than int64, one for each prediction, within the net's outputs."""
    name, expected = name_of(loss_fn), tuple(preds.shape[:1] + preds.shape[2:])
    if labels.is_floating_point():
        if labels.shape == preds.shape and "nll" not in name.lower() and preds.dim() > 1 and preds.shape[1] > 1:
            return  # class probabilities
        if labels.shape == preds.shape and preds.dim() > 1 and preds.shape[1] == 1:
            raise bad_value("loss_fn", received=f"{name} for a net with one output, of which the loss is always 0",
                            expected="an output for each class", fix="Use bce_with_logits, or widen the net to 2.")
        raise bad_value(argument, received=f"labels of {labels.dtype} and shape {tuple(labels.shape)}",
                        expected=f"int64 class numbers for {name}", fix="Use labels.long().")
    if tuple(labels.shape) != expected:
        raise bad_value(argument, received=f"labels of shape {tuple(labels.shape)} for net output "
                        f"{tuple(preds.shape)}", expected=f"shape {expected} for {name}",
                        fix="Use labels.squeeze(1) for a column too many.")
    if labels.dtype != torch.int64:
        raise bad_value(argument, received=f"labels of {labels.dtype}", expected=f"int64 for {name}",
                        fix="Use labels.long().")
    classes = preds.shape[1] if preds.dim() > 1 else len(preds)
    used = labels[labels != option(loss_fn, "ignore_index", -100)]
    wrong = used[(used < 0) | (used >= classes)]
    if len(wrong):
        raise bad_value(argument, received=f"labels with the class {int(wrong[0])}, and the net has {classes} outputs",
                        expected=f"classes from 0 to {classes - 1}", fix="Count classes from 0, or widen the net.")


def option(loss_fn: Any, name: str, default: Any) -> Any:
    """Return an option of a loss: an attribute, or a keyword that was bound to it."""
    if isinstance(loss_fn, functools.partial):
        return loss_fn.keywords[name] if name in loss_fn.keywords else option(loss_fn.func, name, default)
    return getattr(loss_fn, name, default)


def check_element_labels(loss_fn: Any, preds: Tensor, labels: Tensor, argument: str) -> None:
    """Refuse labels that are not floating point, or not of the shape of the predictions."""
    name = name_of(loss_fn)
    one_each = preds.numel() == labels.numel() == 1 and name not in BINARY_LOSSES  # () and (1,) are one number
    if preds.shape != labels.shape and not one_each:
        raise broadcast.bad_shapes(argument, preds, labels, name)
    if not labels.is_floating_point():
        raise bad_value(argument, received=f"labels of {labels.dtype}", expected=f"floating point for {name}",
                        fix="Use labels.float().")
    if name in {"BCELoss", "binary_cross_entropy"} and not bool(((preds >= 0) & (preds <= 1)).all()):
        raise bad_value("loss_fn", received=f"{name} on net outputs outside 0..1", expected="probabilities",
                        fix="End the net with nn.Sigmoid(), or use BCEWithLogitsLoss.")


def check_number(loss: Any) -> None:
    """Refuse a loss that is not one number."""
    if not isinstance(loss, Tensor):
        raise bad_type("loss_fn", received=f"a result of type {type(loss).__name__}", expected="a scalar tensor",
                       fix="Return the tensor itself: no .item(), no numpy.")
    if loss.numel() != 1:
        raise bad_value("loss_fn", received=f"a result of shape {tuple(loss.shape)}", expected="one number",
                        fix="Use reduction='mean', or .mean().")


def check_loss(loss: Any, why: Callable[[], str], counts: bool = True) -> None:
    """Refuse a first loss that is not one finite number which the net can learn from; ``why`` tells what spoiled it."""
    check_number(loss)
    if not loss.requires_grad:
        raise bad_value("loss_fn", received="a loss without a gradient", expected="one that depends on the net",
                        fix="Do not call .detach(), .item() or torch.no_grad() on the way from the net to the loss.")
    if counts and not bool(loss.isfinite()):
        raise bad_value("train_data", received=f"a first loss of {loss.item()}: {why()}", expected="finite numbers",
                        fix="Clean or scale the data, or lower what the net puts out.")


def check_classes(labels: Any) -> None:
    """Refuse class weights beside labels that are no classes."""
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.numel() == len(labels) and not bool(
            (labels == labels.round()).all()):
        raise bad_value("class_weight", received="labels that are no whole numbers", expected="a class for each sample",
                        fix="Give sample weights: fit((x, y, weight)).")


def check_weighed(weights: Any, weighed: bool) -> None:
    """Refuse class weights at which a step of the user's own never looks."""
    if weights is not None and not weighed:
        raise bad_value("class_weight", received="weights that nothing looks at: this StepRunner has a loss of its own",
                        expected="a StepRunner.loss that calls super().loss(preds, labels, weights)",
                        fix="Leave class_weight out and weigh there.")


def check_parts_of_loss(parts: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Refuse parts of a loss that are no numbers, or whose names are taken."""
    for name, value in parts.items():
        if name in RESERVED or name in metrics:
            raise bad_value("loss_fn", received=f"a part of the loss with the name {name!r}", expected="a name that is "
                            "no metric's and none of " + ", ".join(sorted(map(repr, RESERVED))), fix="Rename it.")
        if math.prod(tuple(getattr(value, "shape", ()))) != 1 or isinstance(value, (str, Mapping, list, tuple)):
            raise bad_value("loss_fn", received=f"a part {name!r} that is no number", expected="one number",
                            fix="Reduce it, for example with .mean().")


def blame(batch: Any) -> str:
    """Which part of a batch is not finite."""
    features, labels, _ = batches.split(batch)
    for part, value in (("features", features), ("labels", labels)):
        for tensor in leaves(value):
            if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all()):
                return f"the {part} of the first batch hold NaN or infinity"
    return "features and labels are finite, the net's output is not"


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested tuples, lists and dicts."""
    if isinstance(value, (Mapping, tuple, list)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(one)
    else:
        yield value


@contextmanager
def batchnorm_watch(net: nn.Module, last_batch: int | None) -> Iterator[None]:
    """Refuse, at the first batch, an epoch whose last batch has one sample, when BatchNorm could not take it."""
    hooks: list[Any] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not net.training:
            return  # the validation data are looked at first
        if module.training and inputs[0].shape[2:].numel() == 1:
            raise bad_value("train_data", received="a last batch of 1 sample",
                            expected=f"at least 2 for {type(module).__name__}, which needs a variance",
                            fix="Use a DataLoader with drop_last=True, or another batch_size.")
        for hook in hooks:
            hook.remove()

    if last_batch == 1:
        hooks += [one.register_forward_pre_hook(look) for one in net.modules() if isinstance(one, BATCH_NORMS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
