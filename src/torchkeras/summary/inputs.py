"""Inputs of the forward pass: the user's data, or generated samples of a shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.core.modes import eval_mode
from torchkeras.core.packing import Call, call_for_fields, call_for_several
from torchkeras.core.types import Data, Tree

CALLS = ("Call summary(net, input_shape=(3, 32, 32)), summary(net, features) "
         "or summary(net, input_data_args=(a, b)).")

Shapes: TypeAlias = Any  # a shape, several in a list or dict, or data in their place
Dtypes: TypeAlias = torch.dtype | type | Sequence[torch.dtype | type] | None


@dataclass(frozen=True)
class InputSpec:
    """The user's arguments that define the inputs; ``input_shape`` may hold data, too."""

    input_shape: Shapes
    input_data: Data
    input_dtype: Dtypes
    batch_size: int
    input_data_args: Data
    input_data_kwargs: Mapping[str, Any] | None


class _Arguments(NamedTuple):
    """Arguments of forward as the user gave them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: int | None  # None: the data have no dimension at all
    shown: int  # replaces ``samples`` in a printed shape
    scale: float = 1.0  # printed sizes are those of the run times this


def make_inputs(net: nn.Module, spec: InputSpec, made_up_samples: int) -> Inputs:
    """Return the inputs of one forward pass, on the net's device."""
    if spec.batch_size != -1:
        whole_number("batch_size", spec.batch_size, least=1)
    which = _source_name(spec)
    place = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), None)
    samples: int | None
    if which == "input_shape" and not holds_tensor(spec.input_shape):
        unknown = spec.batch_size == -1
        count = made_up_samples if unknown else spec.batch_size
        data = _made_up(spec.input_shape, count, input_dtypes(net, spec.input_dtype))
        samples, scale = count, 1 / count if unknown else 1.0
    else:
        data = _given(which, spec)
        samples = count_samples(data)
        scale = 1 / samples if spec.batch_size == -1 and samples and alike(data) else 1.0
        if spec.batch_size not in (-1, samples):
            raise bad_value("batch_size", received=spec.batch_size,
                            expected=f"-1, or {samples} as in the data")
    args, kwargs = _arguments(net, to_device(data, place))
    return Inputs(args, kwargs, samples, spec.batch_size, scale)


def _arguments(net: nn.Module, data: Data) -> Call:
    """Return the arguments of forward: the data, or what the user gave for each."""
    if isinstance(data, _Arguments):
        return data.args, data.kwargs
    with eval_mode(net):
        if isinstance(data, Mapping):
            return call_for_fields(net, data)
        return call_for_several(net, data)


def _source_name(spec: InputSpec) -> str:
    """Return the name of the one argument that defines the inputs."""
    names = ("input_shape", "input_data", "input_data_args", "input_data_kwargs")
    named = [name for name in names if getattr(spec, name) is not None]
    if not named or (len(named) > 1 and named != ["input_data_args", "input_data_kwargs"]):
        received = " and ".join(named) or "neither a shape nor data (input_shape, input_data)"
        raise bad_value("input_shape" if not named else named[0], received=received,
                        expected="one way to define the inputs", fix=CALLS)
    return named[0]


def _given(name: str, spec: InputSpec) -> Any:
    """Return the user's data: a tuple, list or dict of inputs, or arguments as they are."""
    if name in ("input_data_args", "input_data_kwargs"):
        args = spec.input_data_args
        listed = tuple(args) if type(args) in (tuple, list) else () if args is None else (args,)
        return _Arguments(listed, dict(spec.input_data_kwargs or {}))
    data = getattr(spec, name)
    if not holds_tensor(data):
        raise bad_type(name, received=f"{str(data)[:80]} ({type(data).__name__})",
                       expected="a tensor, or a tuple, list or dict of tensors", fix=CALLS)
    return data if type(data) in (tuple, list) or isinstance(data, Mapping) else (data,)


def _made_up(shapes: Shapes, samples: int,
             kinds: Sequence[torch.dtype]) -> tuple[Any, ...] | dict[str, Any]:
    """Return a tensor for the shape, for each shape of a list, or for each name of a dict."""
    names = list(shapes) if isinstance(shapes, Mapping) else None
    listed = shapes if is_shape_list(shapes) else [shapes]
    if isinstance(shapes, Mapping):
        listed = list(shapes.values())
    if len(kinds) not in (1, len(listed)):
        raise bad_value("input_dtype", received=f"{len(kinds)} dtypes",
                        expected=f"1, or {len(listed)} as the shapes")
    each = kinds if len(kinds) == len(listed) else [kinds[0]] * len(listed)
    values = [
        made_up_tensor(shape, samples, kind) for shape, kind in zip(listed, each, strict=True)]
    return tuple(values) if names is None else dict(zip(names, values, strict=True))


def is_shape_list(shapes: object) -> bool:
    """Tell whether this is a list of shapes, not one shape."""
    return isinstance(shapes, (tuple, list)) and any(
        isinstance(one, (tuple, list)) for one in shapes)


def made_up_tensor(shape: object, samples: int, dtype: torch.dtype) -> Tensor:
    """Return samples of a shape: zeros of integer and bool dtypes, else random numbers."""
    if not isinstance(shape, (tuple, list)) or not all(
            isinstance(size, Integral) for size in shape):
        raise bad_type(
            "input_shape", received=f"{str(shape)[:80]} ({type(shape).__name__})",
            expected="a tuple of ints (one sample, without the batch) or a list of such tuples",
            fix=CALLS)
    if any(size < 1 for size in shape):
        raise bad_value("input_shape", received=tuple(shape),
                        expected="dimensions of 1 or more, without the batch", fix=CALLS)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.zeros(samples, *shape, dtype=dtype)
    own = torch.Generator().manual_seed(0)  # the global random state stays as it is
    return torch.rand(samples, *shape, generator=own, dtype=torch.float32).to(dtype)


def input_dtypes(net: nn.Module, given: Dtypes) -> list[torch.dtype]:
    """Return the dtypes that the user named, else the one of the net's parameters."""
    if given is None:
        floats = (one.dtype for one in net.parameters() if one.is_floating_point())
        return [next(floats, torch.float32)]
    # torch.LongTensor and the like are not dtypes, but have one
    listed = given if isinstance(given, (tuple, list)) else [given]
    found: list[Any] = [getattr(one, "dtype", one) for one in listed]
    for dtype in found:
        if not isinstance(dtype, torch.dtype):
            raise bad_type("input_dtype", received=repr(dtype), expected="a torch.dtype",
                           fix="Pass torch.int64.")
    return found


def tensors(value: Tree) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists and dicts, first to last."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(item)


def holds_tensor(value: Tree) -> bool:
    """Tell whether this is data and not a shape."""
    return next(tensors(value), None) is not None


def count_samples(value: Tree) -> int | None:
    """Return the length of the first tensor that has a dimension."""
    return next((tensor.shape[0] for tensor in tensors(value) if tensor.dim()), None)


def alike(value: Tree) -> bool:
    """Tell whether all tensors have one length, which then is the number of samples."""
    return len({tensor.shape[0] for tensor in tensors(value) if tensor.dim()}) == 1


def count_bytes(found: Iterable[Tensor]) -> int:
    """Return the bytes of tensors; an uninitialized one has none."""
    return sum(one.numel() * one.element_size() for one in found if not is_lazy(one))


def to_device(value: Tree, device: torch.device | None) -> Tree:
    """Return the same structure with its tensors on the device."""
    if isinstance(value, (Tensor, PackedSequence)):
        return value if device is None else value.to(device)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [to_device(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
