"""Restore what objects held, and tell whether it had changed, calling only Python's methods."""

from __future__ import annotations

from collections import OrderedDict, deque
from contextvars import ContextVar
from types import CellType, FunctionType
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

ABSENT = object()  # the value of a name that does not exist
Slot: TypeAlias = Any  # a member descriptor: what __slots__ puts into a class


def same_objects(now: list[Any], values: list[Any]) -> bool:
    """Tell whether two lists hold the same objects."""
    return len(now) == len(values) and all(map(lambda one, other: one is other, now, values))


def items_of(mapping: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """Return the keys and the values of a dict, in order."""
    kind = OrderedDict if issubclass(type(mapping), OrderedDict) else dict
    return list(kind.keys(mapping)), list(kind.values(mapping))


def restore_mapping(mapping: dict[Any, Any], names: list[Any], values: list[Any]) -> bool:
    """Restore the items of a dict."""
    now = items_of(mapping)
    if same_objects(now[1], values) and same_objects(now[0], names):
        return False
    kind = OrderedDict if issubclass(type(mapping), OrderedDict) else dict
    kind.clear(mapping)
    for name, value in zip(names, values, strict=True):
        kind.__setitem__(mapping, name, value)
    return True


def restore_values(container: Any, values: list[Any]) -> bool:
    """Restore the values of a list, deque or set."""
    kind: Any = next(kind for kind in (list, deque, set) if issubclass(type(container), kind))
    if same_objects(list(kind.__iter__(container)), values):
        return False
    kind.clear(container)
    (set.update if kind is set else kind.extend)(container, values)
    return True


def restore_names(space: dict[str, Any], names: list[str], values: list[Any]) -> bool:
    """Restore the values of some names in a dict."""
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


def restore_class(kind: type, names: list[str], values: list[Any]) -> bool:
    """Restore the attributes of a class."""
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
    """Tell whether a name begins and ends with two underscores."""
    return name.startswith("__") and name.endswith("__")


def restore_cell(cell: CellType, values: list[Any]) -> bool:
    """Restore a variable of a closure."""
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


def restore_context(variable: ContextVar[Any], values: list[Any]) -> bool:
    """Restore a context variable; one that had no value keeps the new one."""
    if variable.get(ABSENT) is values[0]:
        return False
    if values[0] is not ABSENT:
        variable.set(values[0])
    return True


def slot_value(slot: Slot, one: object) -> Any:
    """Return the value of an object's slot; ABSENT where it has none."""
    try:
        return slot.__get__(one)
    except AttributeError:
        return ABSENT


def restore_slot(slot: Slot, one: object, values: list[Any]) -> bool:
    """Restore the value of an object's slot."""
    if slot_value(slot, one) is values[0]:
        return False
    if values[0] is not ABSENT:
        slot.__set__(one, values[0])
    else:
        slot.__delete__(one)
    return True


def restore_defaults(function: FunctionType, found: tuple[Any, ...], values: list[Any]) -> bool:
    """Restore the defaults of a function."""
    changed = not same_objects(list(function.__defaults__ or ()), values)
    function.__defaults__ = found if same_objects(list(found), values) else tuple(values)
    return changed


def restore_bytes(one: Any, values: bytes) -> bool:
    """Restore a bytearray or an ``array.array`` of numbers."""
    if bytes(one) == values:
        return False
    one[:] = type(one)(values) if type(one) is bytearray else type(one)(one.typecode, values)
    return True


def restore_text(file: Any, value: str | bytes, place: int) -> bool:
    """Restore the text and the position of a file in memory."""
    if file.closed:
        return True
    changed: bool = file.getvalue() != value or file.tell() != place
    if file.getvalue() != value:
        file.seek(0)
        file.truncate()
        file.write(value)
    file.seek(place)
    return changed


def restore_position(file: IO[Any], place: int) -> bool:
    """Restore the position in a file."""
    if file.closed:
        return True
    changed = bool(file.tell() != place)
    file.seek(place)
    return changed


def restore_array(array: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> bool:
    """Restore the values of an array."""
    if array.dtype == object:
        if array.shape == values.shape and (
                same_objects(array.ravel().tolist(), values.ravel().tolist())):
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
    """Tell whether a tensor's memory was freed, as FSDP does between uses of the weights."""
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def restore_tensor(tensor: Tensor, values: Tensor) -> bool:
    """Restore the values of a tensor; NaN is not equal to itself and is written again."""
    if is_freed(tensor):
        return False
    if (tensor.shape, tensor.dtype, tensor.device) != (values.shape, values.dtype, values.device):
        tensor.data = values
        return True
    if torch.equal(tensor, values):
        return False
    changed = not torch.allclose(tensor.detach(), values, rtol=0.0, atol=0.0, equal_nan=True)
    with torch.no_grad():
        tensor.detach().copy_(values)
    return changed
