"""Take a batch apart: inputs, labels, weights. The net's own signature and the position decide, then a name."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree
from torchkeras.data.signature import Signature, signature_of, takes_third

LABEL_KEYS = ("labels", "label", "y", "targets", "target")
SHAPES = "(x,), (x, y), (x, y, sample_weight), a dict or one value"
# of the nets that were trained or measured: the inputs by name, and the labels that forward could have taken as input
SEEN: weakref.WeakKeyDictionary[nn.Module, tuple[set[Any], set[Any]]] = weakref.WeakKeyDictionary()
HINT = "Put several inputs into x as a tuple or a dict, or override StepRunner.forward for another layout."


class Items(list[Any]):
    """Inputs of which each belongs to one sample, such as images of unlike sizes: a net gets them as one list."""


def split(batch: Any, net: nn.Module | None = None, loss_fn: Any = None, *, whole_numbers: bool = True,
          labelled: bool = True) -> tuple[Any, Any, Any]:
    """Take a batch apart, in whichever of the usual layouts it came.

    What ``net.forward`` requires is an input. A tuple or list goes by position: ``(x, y)``, ``(x, y, sample_weight)``,
    or ``(x1, x2, y)`` for a net that requires two inputs. In a dict, a dataclass or a namedtuple, fields that forward
    takes are inputs; the labels are under the first of "labels", "label", "y", "targets", "target" that forward does
    not take, or else takes with a default. A namedtuple or dataclass with other names goes by position.

    Args:
        batch: one batch, as a loader or an iterable gives it.
        net: whose forward decides; None goes by position and name alone.
        loss_fn: a loss that requires a third argument gets the third item as it is.
        whole_numbers: whether a third item of whole numbers is weights. From a loader it may be an index, so there
            only 0 and 1 are taken.
        labelled: False where labels are not needed, as in predict. Then an optional input that has the name of labels
            is refused, since nothing tells which it is.

    Returns:
        ``(features, labels, weights)``; labels and weights are None where the batch has none.

    Raises:
        ValueError: there are more items than inputs, labels and weights, or none; the third item is no weight per
            sample; in predict, nothing tells whether a field is an input.

    Example:
        >>> import torch
        >>> x, y = torch.ones(4, 3), torch.zeros(4)
        >>> features, labels, weights = split([x, y])
        >>> features is x, labels is y, weights
        (True, True, None)
        >>> split({"image": x, "label": y})[0].keys()
        dict_keys(['image'])
    """
    kind = type(batch)
    if kind is list or kind is tuple:
        return split_by_position(batch, net, loss_fn, whole_numbers)
    if isinstance(batch, Tensor):
        return batch, None, None
    fields = fields_of(batch)
    if fields is None:
        return split_object(batch, net)
    return split_fields(batch, fields, net, loss_fn, labelled)


def split_by_position(batch: Any, net: nn.Module | None, loss_fn: Any, whole_numbers: bool) -> tuple[Any, Any, Any]:
    """Take a tuple or list apart: one item, a pair, or three and more of them by what forward and loss require."""
    if net is not None and isinstance(batch[0], Mapping):
        SEEN.setdefault(net, (set(), set()))[0].update(batch[0])
    if len(batch) == 2:
        features, labels = batch
        return (as_inputs(features, labels, net) if type(features) in (tuple, list) else features), labels, None
    if len(batch) == 1:
        return as_inputs(batch[0], None, net) if type(batch[0]) in (tuple, list) else batch[0], None, None
    taken = signature_of(net)
    inputs = 1 if taken is None else taken.least
    together = len(batch) == 3 and isinstance(batch[0], (tuple, list, Mapping))  # inputs, labels, weights
    if inputs > 1 and len(batch) in (inputs, inputs + 1) and not together:
        return tuple(batch[:inputs]), (batch[inputs] if len(batch) > inputs else None), None
    if len(batch) != 3:
        raise bad_value("batch", received=f"{len(batch)} items", expected=SHAPES, fix=HINT)
    features, labels, third = batch
    if third is None or takes_third(loss_fn):
        return features, labels, third
    return features, labels, weights_of(third, labels, whole_numbers)


def as_inputs(features: Any, labels: Any, net: nn.Module | None) -> Any:
    """Return a list of inputs as it is, or marked as one of samples, each of which is an item."""
    return Items(features) if one_a_sample(features, labels, signature_of(net)) else features


def one_a_sample(items: Any, labels: Any, taken: Signature | None) -> bool:
    """Tell whether a list holds one item for each sample, not one for each input of the net.

    The labels tell: there are as many of them, and the tensors in the list are not all of that length.
    """
    if not items or not all(isinstance(one, Tensor) for one in items):
        return False
    if labels is None:
        return taken is not None and taken.most == 1
    count = len(labels) if isinstance(labels, (list, tuple)) or (isinstance(labels, Tensor) and labels.ndim) else None
    lengths = {len(one) if one.ndim else None for one in items}
    if count != len(items):
        return False
    listed = isinstance(labels, (list, tuple))
    if (listed and not in_step(labels, lengths)) or (not listed and lengths != {count}):
        return True
    # as many items as samples, and each as long: the net says whether it takes so many inputs
    return taken is not None and taken.most is not None and taken.most < len(items)


def in_step(labels: Any, lengths: set[int | None]) -> bool:
    """Tell whether labels are one tensor for each of several outputs, as long as the inputs are."""
    return len(lengths) == 1 and all(isinstance(one, Tensor) and one.ndim for one in labels) and (
        {len(one) for one in labels} == lengths)


def fields_of(batch: Any) -> dict[Any, Any] | None:
    """Return the fields of a dict, a namedtuple or a dataclass; None for any other value."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "_asdict") and not hasattr(batch, "to"):  # a PackedSequence moves itself, and is one value
        return dict(batch._asdict())
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def split_fields(batch: Any, fields: dict[Any, Any], net: nn.Module | None, loss_fn: Any,
                 labelled: bool) -> tuple[Any, Any, Any]:
    """Take named fields apart."""
    taken, key = signature_of(net), label_key(fields, net, labelled)
    rest = {name: value for name, value in fields.items() if name != key}
    if isinstance(batch, Mapping):
        return rest, None if key is None else fields[key], None
    known = [name for name in rest if taken is not None and taken.takes(name)]
    if key is None and not known and 1 <= len(fields) <= 3:
        return split_by_position(tuple(fields.values()), net, loss_fn, whole_numbers=False)
    labels = None if key is None else fields[key]
    if known:
        return {name: rest[name] for name in known}, labels, None
    if key is None or (len(rest) > 1 and taken is not None and taken.most == 1):
        return batch, labels, None  # the net takes it whole
    values = tuple(rest.values())
    return (values[0] if len(values) == 1 else values), labels, None


def label_key(fields: Mapping[Any, Any], net: nn.Module | None, labelled: bool = True) -> Any:
    """Return the name of the labels: one that forward does not take, else one that it can do without."""
    named, taken = [key for key in LABEL_KEYS if key in fields], signature_of(net)
    if taken is None or net is None:
        return named[0] if named else None
    apart = [key for key in named if not taken.takes(key)]
    inputs, labels = SEEN.setdefault(net, (set(), set()))
    optional = [key for key in named if key not in taken.required and (labelled or key not in inputs)]
    if labelled:
        labels.update(optional[:1] if not apart else ())
    elif not apart and optional and optional[0] not in {"labels", "label", *labels}:
        raise bad_value("data", received=f"a dict with {optional[0]!r}, which forward{taken.text} can do without",
                        expected="what tells whether it is an input or the labels",
                        fix=f"Pass ({{...}},) where it is an input, or leave {optional[0]!r} out where it is not.")
    return next(iter(apart or optional), None)


def readings(batch: Any, net: nn.Module, loss: bool) -> list[str]:
    """Return what a reader should know of how a batch is taken: labels by their name alone, fields that are left out.

    Args:
        batch: the batch.
        net: whose forward takes it.
        loss: whether a loss takes the labels, not the net itself.
    """
    features, taken = batch[0] if type(batch) in (list, tuple) and batch else batch, signature_of(net)
    fields = None if isinstance(features, Tensor) else fields_of(features)
    if fields is None or taken is None:
        return []
    key = label_key(fields, net) if features is batch else None
    left = [name for name in left_out(fields, net) if name != key]
    found = [f"batch: forward takes no {', '.join(map(repr, left))}, which is left out"] if left else []
    if loss and key is not None and taken.takes(key):
        found.append(f"batch[{key!r}] is taken as the labels, by its name; forward could take it as an input too")
    return found


def split_object(batch: Any, net: nn.Module | None) -> tuple[Any, Any, Any]:
    """Take an object apart that has its parts as attributes, such as a batch of graphs."""
    taken = signature_of(net)
    if not callable(getattr(batch, "to", None)) or isinstance(batch, tuple):
        return batch, None, None
    key = next((key for key in LABEL_KEYS if has_value(batch, key) and not (taken and taken.takes(key))), None)
    labels = None if key is None else getattr(batch, key)
    known = [name for name in (taken.names if taken else ()) if has_value(batch, name)]
    if taken is not None and known and taken.required <= set(known):
        return {name: getattr(batch, name) for name in known}, labels, None
    return batch, labels, None


def has_value(batch: Any, name: str) -> bool:
    """Tell whether an object has an attribute that holds data, not a method."""
    value = getattr(batch, name, None)
    return value is not None and not callable(value)


def weights_of(third: Any, labels: Any, whole_numbers: bool) -> Tensor:
    """Return the third item of a batch as weights: one real number a sample, of shape (N,) or (N, 1)."""
    expected = f"{SHAPES}, where sample_weight is a float tensor of shape (N,) or (N, 1)"
    if not isinstance(third, Tensor):
        raise bad_value("batch", received=f"a {type(third).__name__} as third item", expected=expected, fix=HINT)
    one_each = third.ndim == 1 or (third.ndim == 2 and third.shape[1] == 1)
    fits = not isinstance(labels, Tensor) or labels.shape[:1] == third.shape[:1]
    if not one_each or not fits or third.is_complex():
        found = f"a third item of shape {tuple(third.shape)} and type {third.dtype}"
        beside = f" beside labels of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else ""
        raise bad_value("batch", received=found + beside, expected=expected, fix=HINT)
    if third.dtype == torch.bool:
        return third.to(torch.get_default_dtype())
    if not third.is_floating_point() and not whole_numbers and not bool(((third == 0) | (third == 1)).all()):
        raise bad_value("batch", received=f"whole numbers ({third.dtype}) as third item, which may be weights or an "
                        "index of the samples", expected="sample weights as floats",
                        fix="Weights: let the Dataset give them as floats. An index or an id: leave it out of the "
                            "batch, or override StepRunner.forward, which returns (preds, labels).")
    return third


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move every tensor of a batch, whatever containers it sits in.

    Args:
        batch: Any nesting of containers; their types are kept. Arrays and numbers stay as they are.
        device: Where to move to.

    Returns:
        The moved batch, or the same object when everything was there already.

    Example:
        >>> import torch
        >>> batch = (torch.ones(2), {"name": "a"})
        >>> to_device(batch, "cpu") is batch
        True
        >>> to_device(batch, "meta")[0].device
        device(type='meta')
    """
    device = torch.device(device)
    # A copy to the CPU that does not block can be read before it is complete.
    non_blocking = device.type != "cpu"

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=non_blocking)
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type) and not hasattr(leaf, "to"):
            return dataclasses.replace(leaf, **{name: to_device(value, device)
                                                for name, value in (fields_of(leaf) or {}).items()})
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return map_tree(move, batch)


def call(net: nn.Module, features: Any) -> Any:
    """Call a net with the features of a batch: one input, several, or named ones.

    Args:
        net: Called as ``net(...)``, so its hooks run.
        features: A tuple or list gives several inputs, or the one input of a net whose forward takes no more than one;
            a dict gives keywords, or the one input of a net whose forward takes none of them. Keys that forward does
            not take are left out. Anything else is the one input.

    Returns:
        What the net returns.

    Raises:
        TypeError: The net takes neither the keywords nor one dict.

    Example:
        >>> import torch
        >>> call(torch.nn.Bilinear(2, 3, 1), {"input1": torch.ones(4, 2), "input2": torch.ones(4, 3)}).shape
        torch.Size([4, 1])
    """
    if isinstance(features, Tensor):
        return net(features)
    if type(features) in (tuple, list):
        taken = signature_of(net)
        if taken is not None and taken.most == 1 and len(features) > 1:
            return net(tuple(features))
        return net(*features)
    if isinstance(features, Items):
        return net(list(features))
    if isinstance(features, Mapping):
        return call_with_fields(net, features)
    return net(features)


def call_with_fields(net: nn.Module, features: Mapping[Any, Any]) -> Any:
    """Call a net with named inputs."""
    taken = signature_of(net)
    if taken is None:  # compiled code can hide its signature
        return net(**features)
    known = {name: value for name, value in features.items() if taken.open or taken.takes(name)}
    if taken.required <= set(known) and known:
        return net(**known)
    refusal = bad_type("features", received="a dict with the keys " + ", ".join(map(repr, features)),
                       expected=f"the inputs of {type(net).__name__}.forward{taken.text}",
                       fix="Rename the keys of the batch to these, or override StepRunner.forward.")
    if known or taken.least > 1 or taken.most == 0:
        raise refusal
    try:
        return net(features)
    except TypeError as error:  # a net that wants a tensor, and not the dict it was given whole
        if "dict" in str(error):
            raise refusal from None
        raise


def left_out(features: Any, net: nn.Module) -> list[str]:
    """Return the names of fields that forward does not take, which :func:`call` leaves out."""
    taken = signature_of(net)
    if not isinstance(features, Mapping) or taken is None or taken.open or not any(map(taken.takes, features)):
        return []
    return [str(name) for name in features if not taken.takes(name)]
