"""Split a batch into inputs, labels and weights: by the net's signature, position, then name."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core import packing
from torchkeras.core.errors import bad_value
from torchkeras.core.packing import call_for_fields, call_for_several, no_dict
from torchkeras.core.signature import Signature, signature_of, takes_third
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Labels, Leaf, LossFn
from torchkeras.data.pinning import is_ordinary, moved_by_itself

LABEL_KEYS = ("labels", "label", "y", "targets", "target")
SHAPES = "(x,), (x, y), (x, y, sample_weight), a dict or one value"
# for each net that was trained or measured: the inputs that had names, and the names that were
# taken for labels though forward has a parameter of that name
SEEN: weakref.WeakKeyDictionary[nn.Module, tuple[set[Any], set[Any]]] = weakref.WeakKeyDictionary()
HINT = ("Put several inputs into x as a tuple or a dict, or override StepRunner.forward for "
        "another layout.")


class Items(list[Any]):
    """Inputs with one item per sample, such as images of unequal sizes; passed on as a list."""


def split(batch: Batch, net: nn.Module | None = None, loss_fn: LossFn | None = None, *,
          whole_numbers: bool = True, labelled: bool = True) -> tuple[Any, Any, Any]:
    """Split a batch of any usual layout into features, labels and weights.

    Parameters that ``net.forward`` requires are inputs. A tuple or list goes by position:
    ``(x, y)``, ``(x, y, sample_weight)``, or ``(x1, x2, y)`` for a net that requires two inputs. In
    a dict, a dataclass or a namedtuple, fields that forward takes are inputs; the labels are under
    the first of "labels", "label", "y", "targets", "target" that forward does not take, or else
    takes with a default. A namedtuple or dataclass with other names goes by position.

    Args:
        batch: one batch, as a loader or an iterable gives it.
        net: the net whose forward decides; None goes by position and name alone.
        loss_fn: the loss; if it requires a third argument, it gets the third item as it is.
        whole_numbers: whether a third item of whole numbers is weights. From a loader it may be an
            index, so there only 0 and 1 are accepted.
        labelled: False where labels are not needed, as in predict. Then an optional input that has
            the name of labels is refused, since nothing tells which it is.

    Returns:
        ``(features, labels, weights)``; labels and weights are None where the batch has none.

    Raises:
        ValueError: there are more items than inputs, labels and weights, or none; the third item is
            no weight per sample; in predict, nothing tells whether a field is an input.

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
        if len(batch) == 2 and type(batch[0]) is Tensor:
            return batch[0], batch[1], None  # the usual batch, without the checks below
        found = split_by_position(batch, net, loss_fn, whole_numbers)
        return found if found[2] is None or not labelled else beside_labels(found, loss_fn)
    if isinstance(batch, Tensor):
        return batch, None, None
    fields = fields_of(batch)
    if fields is None:
        return split_object(batch, net)
    return split_fields(batch, fields, net, loss_fn, labelled)


def beside_labels(found: tuple[Any, Any, Any], loss_fn: LossFn | None) -> tuple[Any, Any, Any]:
    """Put weights beside the labels for a loss that asks for it, so that metrics see them too."""
    asked = (getattr(one, "weights_beside", None)
             for one in (loss_fn, getattr(loss_fn, "module", None)))
    beside = next((one for one in asked if one is not None), None)
    return found if beside is None else (found[0], beside(*found[1:]), None)


def split_by_position(batch: Batch, net: nn.Module | None, loss_fn: LossFn | None,
                      whole_numbers: bool) -> tuple[Any, Any, Any]:
    """Split a tuple or list: one item, a pair, or three and more by what net and loss require."""
    if net is not None and isinstance(batch[0], Mapping):
        SEEN.setdefault(net, (set(), set()))[0].update(batch[0])
    if len(batch) == 2:
        features, labels = batch
        listed = type(features) in (tuple, list)
        return (as_inputs(features, labels, net) if listed else features), labels, None
    if len(batch) == 1:
        listed = type(batch[0]) in (tuple, list)
        return as_inputs(batch[0], None, net) if listed else batch[0], None, None
    taken = signature_of(net)
    inputs = 1 if taken is None else taken.least
    together = len(batch) == 3 and isinstance(batch[0], (tuple, list, Mapping))  # x, y, weights
    if inputs > 1 and len(batch) in (inputs, inputs + 1) and not together:
        return tuple(batch[:inputs]), (batch[inputs] if len(batch) > inputs else None), None
    if len(batch) != 3:
        raise bad_value("batch", received=f"{len(batch)} items", expected=SHAPES, fix=HINT)
    features, labels, third = batch
    if third is None or takes_third(loss_fn):
        return features, labels, third
    return features, labels, sample_weights(third, labels, whole_numbers)


def as_inputs(features: Batch, labels: Labels, net: nn.Module | None) -> Any:
    """Return a list of inputs as it is, or as :class:`Items` if it has one item per sample."""
    return Items(features) if is_one_per_sample(features, labels, signature_of(net)) else features


def is_one_per_sample(items: Batch, labels: Labels, taken: Signature | None) -> bool:
    """Tell whether a list holds one item for each sample, not one for each input of the net.

    It does if there are as many labels as items, and the tensors in it are not all of that length.
    """
    if not items or not all(isinstance(one, Tensor) for one in items):
        return False
    if labels is None:
        return taken is not None and taken.most == 1
    countable = isinstance(labels, (list, tuple)) or (isinstance(labels, Tensor) and labels.ndim)
    count = len(labels) if countable else None
    lengths = {len(one) if one.ndim else None for one in items}
    if count != len(items):
        return False
    listed = isinstance(labels, (list, tuple))
    if (listed and not are_several_outputs(labels, lengths)) or (not listed and lengths != {count}):
        return True
    # as many items as samples, and each as long: does the net take that many inputs?
    return taken is not None and taken.most is not None and taken.most < len(items)


def are_several_outputs(labels: Labels, lengths: set[int | None]) -> bool:
    """Tell whether labels are tensors as long as the inputs: one for each of several outputs."""
    return len(lengths) == 1 and all(isinstance(one, Tensor) and one.ndim for one in labels) and (
        {len(one) for one in labels} == lengths)


def fields_of(batch: Batch) -> dict[Any, Any] | None:
    """Return the fields of a dict, a namedtuple or a dataclass; None for any other value."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "_asdict") and not hasattr(batch, "to"):  # a PackedSequence is one value
        return dict(batch._asdict())
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def split_fields(batch: Batch, fields: dict[Any, Any], net: nn.Module | None,
                 loss_fn: LossFn | None, labelled: bool) -> tuple[Any, Any, Any]:
    """Split a batch that has named fields."""
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
    """Return the name of the labels: one that forward does not take, else one with a default."""
    named, taken = [key for key in LABEL_KEYS if key in fields], signature_of(net)
    if taken is None or net is None:
        return named[0] if named else None
    apart = [key for key in named if not taken.takes(key)]
    inputs, labels = SEEN.setdefault(net, (set(), set()))
    optional = [key for key in named
                if key not in taken.required and (labelled or key not in inputs)]
    if labelled:
        labels.update(optional[:1] if not apart else ())
    elif not apart and optional and optional[0] not in {"labels", "label", *labels}:
        key = optional[0]
        raise bad_value("data", expected="a batch that tells whether it is an input or the labels",
                        received=f"a dict with {key!r}, which forward{taken.text} can do without",
                        fix=f"Pass ({{...}},) where it is an input, or leave {key!r} out where it "
                            "is not.")
    return next(iter(apart or optional), None)


def layout_notes(batch: Batch, net: nn.Module, loss: bool) -> list[str]:
    """Return notes on how a batch is read: labels found by name alone, fields that are left out.

    Args:
        batch: the batch.
        net: whose forward takes it.
        loss: whether a loss takes the labels, not the net itself.
    """
    features = batch[0] if type(batch) in (list, tuple) and batch else batch
    taken = signature_of(net)
    fields = None if isinstance(features, Tensor) else fields_of(features)
    if fields is None or taken is None:
        return []
    key = label_key(fields, net) if features is batch else None
    left = [name for name in unused_fields(fields, net) if name != key]
    names = ", ".join(map(repr, left))
    found = [f"batch: forward takes no {names}, which is left out"] if left else []
    if loss and key is not None and taken.takes(key):
        found.append(f"batch[{key!r}] is taken as the labels, by its name; forward could take it "
                     "as an input too")
    return found




def split_object(batch: Batch, net: nn.Module | None) -> tuple[Any, Any, Any]:
    """Split an object that has its parts as attributes, such as a batch of graphs."""
    taken = signature_of(net)
    if not callable(getattr(batch, "to", None)) or isinstance(batch, tuple):
        return batch, None, None
    key = next((key for key in LABEL_KEYS
                if has_value(batch, key) and not (taken and taken.takes(key))), None)
    labels = None if key is None else getattr(batch, key)
    known = [name for name in (taken.names if taken else ()) if has_value(batch, name)]
    if taken is not None and known and taken.required <= set(known):
        return {name: getattr(batch, name) for name in known}, labels, None
    return batch, labels, None


def has_value(batch: Batch, name: str) -> bool:
    """Tell whether an object has an attribute that holds data, not a method."""
    value = getattr(batch, name, None)
    return value is not None and not callable(value)


def sample_weights(third: object, labels: Labels, whole_numbers: bool) -> Tensor:
    """Return the third item of a batch as weights: a number per sample, of shape (N,) or (N, 1)."""
    expected = f"{SHAPES}, where sample_weight is a float tensor of shape (N,) or (N, 1)"
    if not isinstance(third, Tensor):
        raise bad_value("batch", received=f"a {type(third).__name__} as third item",
                        expected=expected, fix=HINT)
    one_each = third.ndim == 1 or (third.ndim == 2 and third.shape[1] == 1)
    fits = not isinstance(labels, Tensor) or labels.shape[:1] == third.shape[:1]
    if not one_each or not fits or third.is_complex():
        found = f"a third item of shape {tuple(third.shape)} and type {third.dtype}"
        beside = (f" beside labels of shape {tuple(labels.shape)}" if isinstance(labels, Tensor)
                  else "")
        raise bad_value("batch", received=found + beside, expected=expected, fix=HINT)
    if third.dtype == torch.bool:
        return third.to(torch.get_default_dtype())
    exact = whole_numbers or third.is_floating_point()
    if not exact and not bool(((third == 0) | (third == 1)).all()):
        raise bad_value("batch", expected="sample weights as floats",
                        received=f"whole numbers ({third.dtype}) as third item, which may be "
                                 "weights or an index of the samples",
                        fix="Weights: let the Dataset give them as floats. An index or an id: "
                            "leave it out of the batch, or override StepRunner.forward, which "
                            "returns (preds, labels).")
    return third


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move every tensor of a batch to a device, in any nesting of containers.

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
    # CUDA has read pageable memory before the call returns, and torch keeps pinned memory until it
    # is read. MPS does not hold the source; a copy to the CPU can be read before it is complete.
    on_cuda = device.type == "cuda"

    def move(leaf: Leaf) -> Leaf:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=on_cuda and is_ordinary(leaf))
        return moved_by_itself(leaf, device) if callable(getattr(leaf, "to", None)) else leaf

    return map_tree(move, batch)


def call(net: nn.Module, features: Batch) -> Any:
    """Call a net with the features of a batch: one input, several, or named ones.

    Args:
        net: Called as ``net(...)``, so its hooks run.
        features: A tuple or list gives several inputs, or the one input of a net whose forward
            takes one tuple (see :mod:`torchkeras.core.packing`); a dict gives keywords, or the one
            input of a net whose forward takes none of them. Keys that forward does not take are
            left out. Anything else is the one input.

    Returns:
        What the net returns.

    Raises:
        TypeError: The net takes neither the keywords nor one dict.

    Example:
        >>> import torch
        >>> features = {"input1": torch.ones(4, 2), "input2": torch.ones(4, 3)}
        >>> call(torch.nn.Bilinear(2, 3, 1), features).shape
        torch.Size([4, 1])
    """
    if isinstance(features, Tensor):
        return net(features)
    if type(features) in (tuple, list):
        args, names = call_for_several(net, features)
        try:
            return net(*args, **names)
        except Exception as error:
            packing.add_note(error, net)
            raise
    if isinstance(features, Items):
        return net(list(features))
    if isinstance(features, Mapping):
        return call_with_fields(net, features)
    return net(features)


def call_with_fields(net: nn.Module, features: Mapping[Any, Any]) -> Any:
    """Call a net with named inputs."""
    args, names = call_for_fields(net, features)
    try:
        return net(*args, **names)
    except TypeError as error:  # a net that expects a tensor and got the whole dict
        if args and "dict" in str(error):
            raise no_dict(net, features, signature_of(net)) from None
        raise


def unused_fields(features: Batch, net: nn.Module) -> list[str]:
    """Return the names of the fields that forward does not take, which :func:`call` leaves out."""
    taken = signature_of(net)
    if not isinstance(features, Mapping) or taken is None or taken.open:
        return []
    unknown = [str(name) for name in features if not taken.takes(name)]
    return unknown if len(unknown) < len(features) else []
