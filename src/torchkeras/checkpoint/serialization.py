"""Convert values to JSON plus tensors and back: what a checkpoint may hold, without any code."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchkeras.checkpoint.weight_file import safetensors_dtype
from torchkeras.core.errors import bad_type
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.types import Value
from torchkeras.state.module_state import storage_key

PLAIN = frozenset({type(None), bool, int, float, str})  # JSON has these as they are
ALLOWED = ("None, bools, numbers, text, tensors, arrays, "
           "and lists, tuples, dicts and deques of these")

SPARE_COPIES = 1 << 20  # bytes that may be copied beyond twice the size of the tensors
NO_STATE_HINT = "Without resume and save_every no state is kept."
MemoryPlace: TypeAlias = tuple[Value, ...]  # what place_of gives: where a tensor lies in memory


class TensorJSONEncoder:
    """Splits values into JSON and copies of the tensors in them.

    Args:
        known: tensors that are saved elsewhere: their places in memory, and their names there.
        copy: False only checks that everything can be saved, and copies nothing.
        lent: places in memory that nobody writes to while the result is used: not copied.

    Example:
        >>> encoder = TensorJSONEncoder()
        >>> encoder.pack({"lr": 0.1, "betas": (0.9, 0.99)}, "options")
        {'dict': [['lr', 0.1], ['betas', {'tuple': [0.9, 0.99]}]]}
    """

    def __init__(self, known: Mapping[MemoryPlace, str] | None = None, copy: bool = True,
                 lent: Collection[MemoryPlace] = ()) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.owners: dict[MemoryPlace, str] = dict(known or {})
        self.taken = set(self.owners.values())
        self.copy, self.lent = copy, lent
        self.held: list[Tensor] = []

    def pack(self, value: Value, name: str) -> Value:
        """Return the value as JSON; copy its tensors to main memory under the name."""
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
            return {tag: [[self.pack_key(key, name),
                           one if type(one) in PLAIN else self.pack(one, child_name(name, key))]
                          for key, one in value.items()]}
        raise bad_type(name, received=f"a {type(value).__name__}",
                       expected=f"what can be saved: {ALLOWED}",
                       fix="Leave it out of the state_dict, or turn it into one of these. "
                           f"{NO_STATE_HINT}")

    def pack_items(self, values: Collection[Value], name: str) -> list[Value]:
        """Return the items of a sequence as JSON."""
        return [one if type(one) in PLAIN else self.pack(one, child_name(name, number))
                for number, one in enumerate(values)]

    def pack_numbers(self, value: Tensor | np.ndarray | np.generic | bytes,
                     name: str) -> dict[str, str]:
        """Copy a tensor, an array or bytes; return its kind and the name of the copy."""
        if isinstance(value, bytes):
            content = torch.frombuffer(bytearray(value) or bytearray(1), dtype=torch.uint8)
            return {"bytes": self.keep(content[:len(value)], name)}
        if isinstance(value, Tensor):
            ordinary = type(value) in (Tensor, torch.nn.Parameter) and not value.is_quantized
            if not ordinary or value.layout != torch.strided:
                raise bad_type(
                    name, received=f"a {type(value).__name__} of layout {value.layout}",
                    expected="an ordinary tensor", fix=NO_STATE_HINT)
            return {"tensor": self.keep(value.detach(), name)}
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise bad_type(name, received=f"an array of {array.dtype}",
                           expected=f"what can be saved: {ALLOWED}")
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {kind: self.keep(torch.from_numpy(np.array(array)), name)}

    def keep(self, tensor: Tensor, name: str) -> str:
        """Copy a tensor unless its memory was copied already; return the name of the copy."""
        place = storage_key(tensor)
        if tensor.numel() and place in self.owners:
            return self.owners[place]
        if safetensors_dtype(tensor.dtype) is None:
            raise bad_type(name, received=f"a tensor of {tensor.dtype}",
                           expected="a dtype that safetensors holds", fix=NO_STATE_HINT)
        while name in self.tensors or name in self.taken:
            name += "'"
        needed = self.copy and place not in self.lent
        self.tensors[name] = tensor.to(
            "cpu", copy=True, memory_format=torch.contiguous_format) if needed else tensor
        self.owners[place] = name
        self.held.append(tensor)  # otherwise its memory could be reused by another tensor
        return name

    def pack_key(self, key: object, name: str) -> Value:
        """Return the key of a dict as JSON."""
        if type(key) in PLAIN:
            return key
        if type(key) is tuple:
            return {"tuple": [self.pack_key(one, name) for one in key]}
        raise bad_type(name, received=f"a key of type {type(key).__name__}",
                       expected="keys of text or numbers")


def child_name(name: str, key: object) -> str:
    """Return the name of an item of a container that has a name."""
    return f"{name}.{key}" if name else str(key)


class TensorReader:
    """Looks up tensors by name and counts the bytes that are copied of them.

    A few bytes of JSON could ask for a large tensor again and again.

    Args:
        tensors: the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.met = tensors, set[str]()
        self.once = self.copied = 0

    def copy_of(self, name: object) -> Tensor:
        """Return a tensor that is to be copied; refuse to copy the same one too often."""
        tensor = tensor_named(name, self.tensors)
        self.once += 0 if name in self.met else tensor.nbytes
        self.copied += tensor.nbytes
        self.met.add(str(name))
        if self.copied > 2 * self.once + SPARE_COPIES:
            raise CheckpointCorruptError(f"the tensor {name!r} is mentioned too often")
        return tensor


def unpack(node: Value, tensors: Mapping[str, Tensor] | TensorReader) -> Value:
    """Return the value that :meth:`TensorJSONEncoder.pack` turned into JSON."""
    tensors = tensors if isinstance(tensors, TensorReader) else TensorReader(tensors)
    if isinstance(node, list):
        return [unpack(one, tensors) for one in node]
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise CheckpointCorruptError(f"a value of {len(node)} kinds")
    (tag, inner), = node.items()
    if tag == "tensor":
        return tensor_named(inner, tensors.tensors)
    if tag in ("array", "number", "bytes"):
        return unpack_numbers(tag, tensors.copy_of(inner))
    if not isinstance(inner, list):
        raise CheckpointCorruptError(f"a {tag} that is not a list")
    return unpack_container(tag, inner, tensors)


def unpack_container(tag: str, inner: list[Value], tensors: TensorReader) -> Value:
    """Return the tuple, deque or dict that was packed."""
    if tag == "tuple":
        return tuple(unpack(one, tensors) for one in inner)
    if tag == "deque":
        items = (unpack(one, tensors) for one in inner[1:])
        return deque(items, maxlen=whole_or_none(inner[:1]))
    if tag in ("dict", "counter"):
        pairs = {unpack(key, tensors): unpack(one, tensors)
                 for key, one in map(unpack_pair, inner)}
        return Counter(pairs) if tag == "counter" else pairs
    raise CheckpointCorruptError(f"a value of the unknown kind {tag!r}")


def whole_or_none(given: list[Value]) -> int | None:
    """Return the maximum length of a deque; None for one without a limit."""
    if len(given) == 1 and (given[0] is None or (type(given[0]) is int and given[0] >= 0)):
        length: int | None = given[0]
        return length
    raise CheckpointCorruptError("a deque without a length")


def unpack_pair(item: object) -> tuple[Value, Value]:
    """Return the key and the value of an item of a packed dict."""
    if not isinstance(item, list) or len(item) != 2 or isinstance(item[0], list):
        raise CheckpointCorruptError("a dict whose items are not pairs")
    return item[0], item[1]


def tensor_named(name: object, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor of a name; raise where there is none."""
    if not isinstance(name, str) or name not in tensors:
        raise CheckpointCorruptError(f"the tensor {name!r} is missing")
    return tensors[name]


def unpack_numbers(tag: str, tensor: Tensor) -> Value:
    """Return a tensor as the array, the number or the bytes that it was."""
    if tag == "bytes":
        return tensor.numpy().tobytes()
    return tensor.numpy().copy() if tag == "array" else tensor.numpy()[()]
