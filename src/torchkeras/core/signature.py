"""Read the parameters of a net's forward, by which a batch is split into inputs and labels."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from torchkeras.core import internals
from torchkeras.core.types import LossFn

Found = tuple[Any, "Signature | None"]  # a forward, and its parameters
CACHE: weakref.WeakKeyDictionary[nn.Module, Found] = weakref.WeakKeyDictionary()


class Signature(NamedTuple):
    """The parameters of a forward.

    Attributes:
        names: those that can be given by keyword, in their order.
        required: those of them that have no default.
        least: how many positional arguments there must be.
        most: how many there can be; None: any number.
        open: whether any other keyword is taken too (``**kwargs``).
        text: as Python writes it.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    least: int
    most: int | None
    open: bool
    text: str

    def takes(self, name: str) -> bool:
        """Tell whether a keyword is one of the named parameters."""
        return name in self.names


def signature_of(net: nn.Module | None) -> Signature | None:
    """Return what a net's forward takes, or None where code hides it.

    Wrappers of a net (DataParallel, DistributedDataParallel, torch.compile) accept anything and
    pass it on, so the net inside is read.
    """
    if net is None:
        return None
    inner = unwrapped(net)
    forward = inner.forward
    key = getattr(forward, "__func__", forward)
    found = CACHE.get(inner)
    if found is None or found[0] is not key:  # forward may be replaced on the object
        found = key, read_parameters(forward)
        CACHE[inner] = found
    return found[1]


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net inside of wrappers."""
    while True:
        inner = getattr(net, internals.COMPILED_NET, None)  # torch.compile
        if inner is None and isinstance(
                net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = net.module
        if inner is None:
            return net
        net = inner


def read_parameters(function: Callable[..., Any]) -> Signature | None:
    """Return the parameters of a bound function, or None if they cannot be known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    kinds = {one.kind for one in parameters}
    placed = [one for one in parameters
              if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    named = [one for one in parameters
             if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    open_names = inspect.Parameter.VAR_KEYWORD in kinds
    if open_names and not named and inspect.Parameter.VAR_POSITIONAL in kinds:
        return None  # (*args, **kwargs) says nothing
    return Signature(names=tuple(one.name for one in named),
                     required=frozenset(one.name for one in named if one.default is one.empty),
                     least=sum(one.default is one.empty for one in placed),
                     most=None if inspect.Parameter.VAR_POSITIONAL in kinds else len(placed),
                     open=open_names, text=str(signature))


def takes_third(loss_fn: LossFn | None) -> bool:
    """Tell whether a loss requires a third argument beside predictions and labels.

    Losses for noisy labels do: it is the index of each sample. An optional third argument, such as
    the class weights of ``torch.nn.functional.cross_entropy``, does not count.
    """
    if loss_fn is None:
        return False
    found = read_parameters(loss_fn.forward if isinstance(loss_fn, nn.Module) else loss_fn)
    return found is not None and found.least == 3
