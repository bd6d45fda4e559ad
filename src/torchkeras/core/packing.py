"""Decide how a net takes several inputs: as its arguments, or together as one tuple or dict."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.modes import with_gradients
from torchkeras.core.restored import restored_state
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.signature import Signature, signature_of, unwrapped
from torchkeras.core.tree import leaves
from torchkeras.core.types import Leaf, Preds

Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments by place and by name
# for each net whose signature does not tell: its forward, and the answer for a number of inputs
FOUND: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, bool]]] = (
    weakref.WeakKeyDictionary())


def call_for_several(net: nn.Module, features: Sequence[Any]) -> Call:
    """Return how to call a net with several inputs in a tuple or list.

    The parameters of forward tell, where only one way is possible. Where both are, as for
    ``forward(self, x, mask=None)`` or ``forward(self, *inputs)`` with two inputs, the net is run
    both ways once, without a trace, and gets the way that works. One input is always an argument.

    Raises:
        ValueError: both ways work, and give different results.
    """
    taken, count = signature_of(net), len(features)
    apart: Call = (tuple(features), {})
    together: Call = ((tuple(features),), {})
    if count < 2 or (taken is not None and taken.least > 1):
        return apart
    if taken is not None and taken.most is not None and taken.most < count:
        return together if taken.most else apart
    return together if takes_together(net, apart, together, count) else apart


def call_for_fields(net: nn.Module, features: Mapping[Any, Any]) -> Call:
    """Return how to call a net with named inputs: by name, or with the dict as the one input.

    Names that forward does not take are left out.

    Raises:
        TypeError: forward takes neither these names nor one dict.
    """
    taken = signature_of(net)
    together: Call = ((features,), {})
    if taken is None:
        apart: Call = ((), dict(features))
        return together if takes_together(net, apart, together, tuple(features)) else apart
    known = {name: value for name, value in features.items() if taken.open or taken.takes(name)}
    if taken.required <= set(known) and known:
        return (), known
    if known or taken.least > 1 or taken.most == 0:
        raise no_dict(net, features, taken)
    return together


def no_dict(net: nn.Module, features: Mapping[Any, Any], taken: Signature | None) -> TypeError:
    """Return the error for a net that takes neither the names nor the dict."""
    return bad_type(
        "features", received="a dict with the keys " + ", ".join(map(repr, features)),
        expected=f"the inputs of {type(net).__name__}.forward{taken.text if taken else ''}",
        fix="Rename the keys of the batch to these, or override StepRunner.forward.")


def takes_together(net: nn.Module, apart: Call, together: Call, kind: object) -> bool:
    """Tell whether a net takes its inputs in one container; found out once for each kind."""
    inner = unwrapped(net)
    key = getattr(inner.forward, "__func__", inner.forward)
    known = FOUND.get(inner)
    if known is None or known[0] is not key:  # forward may be replaced on the object
        known = FOUND[inner] = (key, {})
    if kind not in known[1]:
        known[1][kind] = find_out(inner, apart, together)
    return known[1][kind]


def find_out(net: nn.Module, apart: Call, together: Call) -> bool:
    """Run a net both ways without a trace; tell whether it takes one container."""
    if not can_be_tried(net):
        return False
    first, second = attempt(net, apart), attempt(net, together)
    if isinstance(second, Exception):
        if isinstance(first, Exception):
            first.add_note(f"With all inputs in one container: {type(second).__name__}: {second}")
            raise first
        return False
    if isinstance(first, Exception):
        return True
    if not are_equal(first, second):
        taken = signature_of(net)
        raise bad_value(
            "data", received="several inputs, of which " + type(net).__name__ + ".forward"
            + (taken.text if taken else "") + " makes one thing as arguments and another in one "
            "container", expected="a forward that takes them in one way only",
            fix="Give forward a parameter without a default for each input, or override "
                "StepRunner.forward.")
    return False


def can_be_tried(net: nn.Module) -> bool:
    """Tell whether a trial leaves no trace.

    It would fix the sizes of lazy layers; parts of a sharded net would wait for each other.
    """
    return not any(is_lazy(one) or hasattr(one, "placements") for one in net.parameters())


def add_note(error: Exception, net: nn.Module) -> None:
    """Note on an error of a net with several inputs that the other way was not tried."""
    taken = signature_of(net)
    if not can_be_tried(unwrapped(net)) and (taken is None or taken.least <= 1):
        error.add_note("The inputs were given one by one: lazy and sharded nets are not tried in "
                       "another way. For one that takes a tuple, give forward that one parameter.")


def attempt(net: nn.Module, call: Call) -> Preds | Exception:
    """Return what a net gives, or the error that it raises; leave no trace in it."""
    states = random_states()
    with restored_state(net):
        try:
            return with_gradients(lambda given: net(*given[0], **given[1]), call)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a net may refuse its inputs in any way
            return error
        finally:
            put_random_states(states)


def are_equal(left: Preds, right: Preds) -> bool:
    """Tell whether two outputs are the same."""
    first, second = list(leaves(left)), list(leaves(right))
    return len(first) == len(second) and all(map(is_equal, first, second))


def is_equal(left: Leaf, right: Leaf) -> bool:
    """Tell whether two values are the same; NaN equals NaN."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left.nan_to_num(), right.nan_to_num())
    return type(left) is type(right)
