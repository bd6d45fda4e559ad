"""Give objects back what they held, and tell whether they held something else. Only Python's own methods are called."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

ABSENT = object()  # the value of a name that was not there


def same(now: list[Any], values: list[Any]) -> bool:
    """Tell whether two lists hold the same objects."""
    return len(now) == len(values) and all(map(lambda one, other: one is other, now, values))


def in_mapping(mapping: Any) -> tuple[list[Any], list[Any]]:
    """Return the keys and the values of a dict, in order."""
    kind = OrderedDict if issubclass(type(mapping), OrderedDict) else dict
    return list(kind.keys(mapping)), list(kind.values(mapping))


def put_mapping(mapping: Any, names: list[Any], values: list[Any]) -> bool:
    """Give a dict its items back."""
    now = in_mapping(mapping)
    if same(now[1], values) and same(now[0], names):
        return False
    kind = OrderedDict if issubclass(type(mapping), OrderedDict) else dict
    kind.clear(mapping)
    for name, value in zip(names, values, strict=True):
        kind.__setitem__(mapping, name, value)
    return True


def put_values(container: Any, values: list[Any]) -> bool:
    """Give a list, deque or set its values back."""
    kind: Any = next(kind for kind in (list, deque, set) if issubclass(type(container), kind))
    if same(list(kind.__iter__(container)), values):
        return False
    kind.clear(container)
    (set.update if kind is set else kind.extend)(container, values)
    return True


def put_names(space: dict[str, Any], names: list[str], values: list[Any]) -> bool:
    """Give some names in a dict their values back."""
    changed = False
    for name, value in zip(names, values, strict=True):
        if space.get(name, ABSENT) is value:
            continue
        changed = True
        if value is ABSENT:
            space.pop(name, None)
        else:
            space[name] = value
    return changed


def put_class(kind: type, names: list[str], values: list[Any]) -> bool:
    """Give a class its attributes back."""
    found = dict(zip(names, values, strict=True))
    now = {name: value for name, value in vars(kind).items() if not is_dunder(name)}
    new = now.keys() - found.keys()
    for name in new:
        type.__delattr__(kind, name)
    changed = [name for name, value in found.items() if now.get(name, ABSENT) is not value]
    for name in changed:
        type.__setattr__(kind, name, found[name])
    return bool(new or changed)


def is_dunder(name: str) -> bool:
    """Tell whether a name is one of Python's own."""
    return name.startswith("__") and name.endswith("__")


def put_cell(cell: Any, values: list[Any]) -> bool:
    """Give a variable of a closure its value back."""
    try:
        now = cell.cell_contents
    except ValueError:
        now = ABSENT
    if now is values[0]:
        return False
    if values[0] is ABSENT:
        del cell.cell_contents
    else:
        cell.cell_contents = values[0]
    return True


def put_context(variable: Any, values: list[Any]) -> bool:
    """Give a variable of a context its value back; one that had none keeps the new one."""
    if variable.get(ABSENT) is values[0]:
        return False
    if values[0] is not ABSENT:
        variable.set(values[0])
    return True


def in_slot(slot: Any, one: Any) -> Any:
    """Return what is in a slot of an object."""
    try:
        return slot.__get__(one)
    except AttributeError:
        return ABSENT


def put_slot(slot: Any, one: Any, values: list[Any]) -> bool:
    """Give a slot of an object its value back."""
    if in_slot(slot, one) is values[0]:
        return False
    if values[0] is not ABSENT:
        slot.__set__(one, values[0])
    else:
        slot.__delete__(one)
    return True


def put_defaults(function: Any, found: tuple[Any, ...], values: list[Any]) -> bool:
    """Give a function the defaults back that it had."""
    changed = not same(list(function.__defaults__ or ()), values)
    function.__defaults__ = found if same(list(found), values) else tuple(values)
    return changed


def put_bytes(one: Any, values: bytes) -> bool:
    """Give a bytearray or an ``array.array`` its numbers back."""
    if bytes(one) == values:
        return False
    one[:] = type(one)(values) if type(one) is bytearray else type(one)(one.typecode, values)
    return True


def put_text(file: Any, value: Any, place: int) -> bool:
    """Give a file in memory its text back."""
    if file.closed:
        return True
    changed = file.getvalue() != value or file.tell() != place
    if file.getvalue() != value:
        file.seek(0)
        file.truncate()
        file.write(value)
    file.seek(place)
    return changed


def put_place(file: Any, place: int) -> bool:
    """Go back to where a file was read."""
    if file.closed:
        return True
    changed = bool(file.tell() != place)
    file.seek(place)
    return changed


def put_array(array: Any, values: Any) -> bool:
    """Give an array its numbers, or the objects in it, back."""
    if array.dtype == object:
        if array.shape == values.shape and same(array.ravel().tolist(), values.ravel().tolist()):
            return False
        array[...] = values
        return True
    if array.shape != values.shape:
        array.resize(values.shape, refcheck=False)
    if array.tobytes() == values.tobytes():
        return False
    np.copyto(array, values)
    return True


def is_freed(tensor: Tensor) -> bool:
    """Tell whether the memory of a tensor was given back, as FSDP does with weights between their uses."""
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def put_numbers(tensor: Tensor, values: Tensor) -> bool:
    """Give a tensor its numbers back; NaN is not equal to itself and is written again."""
    if is_freed(tensor):
        return False
    if tensor.shape != values.shape or tensor.dtype != values.dtype or tensor.device != values.device:
        tensor.data = values
        return True
    if torch.equal(tensor, values):
        return False
    changed = not torch.allclose(tensor.detach(), values, rtol=0.0, atol=0.0, equal_nan=True)
    with torch.no_grad():
        tensor.detach().copy_(values)
    return changed
