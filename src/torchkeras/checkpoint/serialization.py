"""Values as JSON and tensors: what a saved state may hold, and nothing that could run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchkeras.checkpoint.weight_file import code_of
from torchkeras.core.errors import bad_type
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.state.module_state import place_of

ALLOWED = "None, bools, numbers, text, tensors, arrays, and lists, tuples, dicts and deques of these"
PLAIN = frozenset({type(None), bool, int, float, str})  # JSON has these as they are

SPARE = 1 << 20  # bytes of copies that may be made beyond twice what there is
WITHOUT = "Without resume and save_every no state is kept."


class Packer:
    """Takes values apart into what JSON can say and copies of the tensors in them.

    Args:
        known: tensors that are kept elsewhere, by where they are in memory, and their names there.
        copy: False finds out whether all can be saved, and copies nothing.
        lent: places in memory that nobody writes to while what was packed is needed, so that they are not copied.

    Example:
        >>> packer = Packer()
        >>> packer.pack({"lr": 0.1, "betas": (0.9, 0.99)}, "options")
        {'dict': [['lr', 0.1], ['betas', {'tuple': [0.9, 0.99]}]]}
    """

    def __init__(self, known: Mapping[tuple[Any, ...], str] | None = None, copy: bool = True,
                 lent: Collection[tuple[Any, ...]] = ()) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.owners: dict[tuple[Any, ...], str] = dict(known or {})
        self.taken = set(self.owners.values())
        self.copy, self.lent = copy, lent
        self.held: list[Tensor] = []

    def pack(self, value: Any, name: str) -> Any:
        """The value in JSON; its tensors are copied to main memory under the name."""
        if type(value) in PLAIN:
            return value
        if isinstance(value, (Tensor, np.ndarray, np.generic, bytes)):
            return self.pack_numbers(value, name)
        if type(value) is list:
            return self.pack_items(value, name)
        if type(value) is tuple:
            return {"tuple": self.pack_items(value, name)}
        if isinstance(value, deque):
            return {"deque": [value.maxlen, *self.pack_items(value, name)]}
        if isinstance(value, dict):
            tag = "counter" if isinstance(value, Counter) else "dict"
            return {tag: [[self.key(key, name), one if type(one) in PLAIN else self.pack(one, under(name, key))]
                          for key, one in value.items()]}
        raise bad_type(name, received=f"a {type(value).__name__}", expected=f"what can be saved: {ALLOWED}",
                       fix=f"Leave it out of the state_dict, or turn it into one of these. {WITHOUT}")

    def pack_items(self, values: Iterable[Any], name: str) -> list[Any]:
        """Return the items of a list, tuple or deque in JSON."""
        return [one if type(one) in PLAIN else self.pack(one, under(name, number)) for number, one in enumerate(values)]

    def pack_numbers(self, value: Any, name: str) -> Any:
        """Tensors, arrays and bytes: a copy, and where it is."""
        if isinstance(value, bytes):
            return {"bytes": self.keep(torch.frombuffer(bytearray(value) or bytearray(1), dtype=torch.uint8)
                                       [:len(value)], name)}
        if isinstance(value, Tensor):
            if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_quantized:
                raise bad_type(name, received=f"a {type(value).__name__} of layout {value.layout}",
                               expected="an ordinary tensor", fix=WITHOUT)
            return {"tensor": self.keep(value.detach(), name)}
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise bad_type(name, received=f"an array of {array.dtype}", expected=f"what can be saved: {ALLOWED}")
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {kind: self.keep(torch.from_numpy(np.array(array)), name)}

    def keep(self, tensor: Tensor, name: str) -> str:
        """Copy a tensor, unless the same memory was met under another name."""
        place = place_of(tensor)
        if tensor.numel() and place in self.owners:
            return self.owners[place]
        if code_of(tensor.dtype) is None:
            raise bad_type(name, received=f"a tensor of {tensor.dtype}", expected="a type that safetensors holds",
                           fix=WITHOUT)
        while name in self.tensors or name in self.taken:
            name += "'"
        needed = self.copy and place not in self.lent
        self.tensors[name] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) if needed else tensor
        self.owners[place] = name
        self.held.append(tensor)  # else another could come to lie where it lay
        return name

    def key(self, key: Any, name: str) -> Any:
        """A dict's key."""
        if type(key) in PLAIN:
            return key
        if type(key) is tuple:
            return {"tuple": [self.key(one, name) for one in key]}
        raise bad_type(name, received=f"a key of type {type(key).__name__}", expected="keys of text or numbers")


def under(name: str, key: Any) -> str:
    """The name of what lies in something that has a name."""
    return f"{name}.{key}" if name else str(key)


class Mentions:
    """Tensors by name, with an account of the bytes that are copied of them: a name takes few bytes in JSON.

    Args:
        tensors: the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.met = tensors, set[str]()
        self.once = self.copied = 0

    def copy_of(self, name: Any) -> Tensor:
        """Return a tensor that is to be copied; refuse to copy the same again and again."""
        tensor = found(name, self.tensors)
        self.once += 0 if name in self.met else tensor.nbytes
        self.copied += tensor.nbytes
        self.met.add(name)
        if self.copied > 2 * self.once + SPARE:
            raise CheckpointCorruptError(f"the tensor {name!r} is mentioned too often")
        return tensor


def unpack(node: Any, tensors: Mapping[str, Tensor] | Mentions) -> Any:
    """The value that was packed."""
    tensors = tensors if isinstance(tensors, Mentions) else Mentions(tensors)
    if isinstance(node, list):
        return [unpack(one, tensors) for one in node]
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise CheckpointCorruptError(f"a value of {len(node)} kinds")
    (tag, inner), = node.items()
    if tag in ("tensor", "array", "number", "bytes"):
        return found(inner, tensors.tensors) if tag == "tensor" else numbers(tag, tensors.copy_of(inner))
    if not isinstance(inner, list):
        raise CheckpointCorruptError(f"a {tag} that is no list")
    return container(tag, inner, tensors)


def container(tag: str, inner: list[Any], tensors: Mentions) -> Any:
    """The tuple, deque or dict that was packed."""
    if tag == "tuple":
        return tuple(unpack(one, tensors) for one in inner)
    if tag == "deque":
        return deque((unpack(one, tensors) for one in inner[1:]), maxlen=whole_or_none(inner[:1]))
    if tag in ("dict", "counter"):
        items = {unpack(key, tensors): unpack(one, tensors) for key, one in map(pair, inner)}
        return Counter(items) if tag == "counter" else items
    raise CheckpointCorruptError(f"a value of the unknown kind {tag!r}")


def whole_or_none(given: list[Any]) -> int | None:
    """Return the length that a deque is bounded to; None for one without a bound."""
    if len(given) == 1 and (given[0] is None or (type(given[0]) is int and given[0] >= 0)):
        length: int | None = given[0]
        return length
    raise CheckpointCorruptError("a deque without a length")


def pair(item: Any) -> tuple[Any, Any]:
    """A dict's item."""
    if not isinstance(item, list) or len(item) != 2 or isinstance(item[0], list):
        raise CheckpointCorruptError("a dict whose items are no pairs")
    return item[0], item[1]


def found(name: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a name."""
    if not isinstance(name, str) or name not in tensors:
        raise CheckpointCorruptError(f"the tensor {name!r} is missing")
    return tensors[name]


def numbers(tag: str, tensor: Tensor) -> Any:
    """Return a tensor as the array, the number or the bytes that it was."""
    if tag == "bytes":
        return tensor.numpy().tobytes()
    return tensor.numpy().copy() if tag == "array" else tensor.numpy()[()]
