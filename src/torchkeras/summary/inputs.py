"""What to feed a net: real data, or made-up samples of a shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from torchkeras.core.errors import bad_type, bad_value, whole_number

CALLS = "Call summary(net, input_shape=(3, 32, 32)), summary(net, features) or summary(net, input_data_args=(a, b))."


@dataclass(frozen=True)
class Asked:
    """The arguments by which a user says what to feed; a shape stands under ``input_shape`` only, data under both."""

    input_shape: Any
    input_data: Any
    input_dtype: Any
    batch_size: int
    input_data_args: Any
    input_data_kwargs: Mapping[str, Any] | None


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: int | None  # None: the data have no dimension at all
    shown: int  # what stands for ``samples`` in a printed shape
    scale: float = 1.0  # sizes are told for this part of what is run


def gather(net: nn.Module, asked: Asked, made_up_samples: int) -> Inputs:
    """The inputs on the net's device; made-up ones hold ``made_up_samples`` where the user named no number."""
    if asked.batch_size != -1:
        whole_number("batch_size", asked.batch_size, least=1)
    which = _which(asked)
    samples: int | None
    if which == "input_shape" and not holds_tensor(asked.input_shape):
        unknown = asked.batch_size == -1
        count = made_up_samples if unknown else asked.batch_size
        args, kwargs = _made_up(asked.input_shape, count, dtypes(net, asked.input_dtype))
        samples, scale = count, 1 / count if unknown else 1.0
    else:
        args, kwargs = _given(which, asked)
        samples, scale = count_samples((args, kwargs)), 1.0
        if asked.batch_size not in (-1, samples):
            raise bad_value("batch_size", received=asked.batch_size, expected=f"-1, or {samples} as in the data")
    place = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), None)
    return Inputs(moved(args, place), moved(kwargs, place), samples, asked.batch_size, scale)


def _which(asked: Asked) -> str:
    """The name of the one argument that says what to feed."""
    names = ("input_shape", "input_data", "input_data_args", "input_data_kwargs")
    named = [name for name in names if getattr(asked, name) is not None]
    if not named or (len(named) > 1 and named != ["input_data_args", "input_data_kwargs"]):
        raise bad_value("input_shape" if not named else named[0],
                        received=" and ".join(named) or "neither a shape nor data (input_shape, input_data)",
                        expected="one way to say what to feed", fix=CALLS)
    return named[0]


def _given(name: str, asked: Asked) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Real data as positional and keyword arguments."""
    if name in ("input_data_args", "input_data_kwargs"):
        args = asked.input_data_args
        listed = tuple(args) if type(args) in (tuple, list) else () if args is None else (args,)
        return listed, dict(asked.input_data_kwargs or {})
    data = getattr(asked, name)
    if not holds_tensor(data):
        raise bad_type(name, received=f"{str(data)[:80]} ({type(data).__name__})",
                       expected="a tensor, or a tuple, list or dict of tensors", fix=CALLS)
    if isinstance(data, Mapping):
        return (), dict(data)
    return (data,) if isinstance(data, (Tensor, PackedSequence)) else tuple(data), {}


def _made_up(shapes: Any, samples: int, kinds: Sequence[torch.dtype]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor for the shape, for each shape of a list, or for each name of a dict."""
    names = list(shapes) if isinstance(shapes, Mapping) else None
    listed = list(shapes.values()) if isinstance(shapes, Mapping) else [shapes] if not several(shapes) else shapes
    if len(kinds) not in (1, len(listed)):
        raise bad_value("input_dtype", received=f"{len(kinds)} dtypes", expected=f"1, or {len(listed)} as the shapes")
    each = kinds if len(kinds) == len(listed) else [kinds[0]] * len(listed)
    values = [made_up_tensor(shape, samples, kind) for shape, kind in zip(listed, each, strict=True)]
    return (tuple(values), {}) if names is None else ((), dict(zip(names, values, strict=True)))


def several(shapes: Any) -> bool:
    """Whether this is a list of shapes, not one shape."""
    return isinstance(shapes, (tuple, list)) and any(isinstance(one, (tuple, list)) for one in shapes)


def made_up_tensor(shape: Any, samples: int, dtype: torch.dtype) -> Tensor:
    """Samples of a shape: zeros for ids, classes and flags; else numbers that leave the global random state alone."""
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, Integral) for size in shape):
        raise bad_type("input_shape", received=f"{str(shape)[:80]} ({type(shape).__name__})",
                       expected="a tuple of ints (one sample, without the batch) or a list of such tuples", fix=CALLS)
    if any(size < 1 for size in shape):
        raise bad_value("input_shape", received=tuple(shape), expected="dimensions of 1 or more, without the batch",
                        fix=CALLS)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.zeros(samples, *shape, dtype=dtype)
    return torch.rand(samples, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(dtype)


def dtypes(net: nn.Module, asked: Any) -> list[torch.dtype]:
    """The dtypes asked for; else the one that the net computes in."""
    if asked is None:
        return [next((one.dtype for one in net.parameters() if one.is_floating_point()), torch.float32)]
    # torch.LongTensor and its like are not dtypes, but have one
    found: list[Any] = [getattr(one, "dtype", one) for one in (asked if isinstance(asked, (tuple, list)) else [asked])]
    for dtype in found:
        if not isinstance(dtype, torch.dtype):
            raise bad_type("input_dtype", received=repr(dtype), expected="a torch.dtype", fix="Pass torch.int64.")
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, first to last."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(item)


def holds_tensor(value: Any) -> bool:
    """Whether this is data and not a shape."""
    return next(tensors(value), None) is not None


def count_samples(value: Any) -> int | None:
    """The length of the first tensor that has one."""
    return next((tensor.shape[0] for tensor in tensors(value) if tensor.dim()), None)


def count_bytes(found: Iterable[Tensor]) -> int:
    """What tensors take in memory; an uninitialised one nothing."""
    return sum(one.numel() * one.element_size() for one in found if not is_lazy(one))


def moved(value: Any, device: torch.device | None) -> Any:
    """The same structure with its tensors on the device."""
    if isinstance(value, (Tensor, PackedSequence)):
        return value if device is None else value.to(device)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
