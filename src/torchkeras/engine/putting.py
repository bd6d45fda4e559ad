"""Give objects back what they held, where they hold something else now. Only Python's own methods are called."""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import suppress
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


def put_mapping(mapping: Any, names: list[Any], values: list[Any]) -> None:
    """Give a dict its items back."""
    now = in_mapping(mapping)
    if not (same(now[1], values) and same(now[0], names)):
        kind = OrderedDict if issubclass(type(mapping), OrderedDict) else dict
        kind.clear(mapping)
        for name, value in zip(names, values, strict=True):
            kind.__setitem__(mapping, name, value)


def put_values(container: Any, values: list[Any]) -> None:
    """Give a list, deque or set its values back."""
    kind: Any = next(kind for kind in (list, deque, set) if issubclass(type(container), kind))
    if not same(list(kind.__iter__(container)), values):
        kind.clear(container)
        (set.update if kind is set else kind.extend)(container, values)


def put_names(space: dict[str, Any], names: list[str], values: list[Any]) -> None:
    """Give some names in a dict their values back."""
    for name, value in zip(names, values, strict=True):
        if value is ABSENT:
            space.pop(name, None)
        elif space.get(name, ABSENT) is not value:
            space[name] = value


def put_class(kind: type, names: list[str], values: list[Any]) -> None:
    """Give a class its attributes back."""
    found = dict(zip(names, values, strict=True))
    now = {name: value for name, value in vars(kind).items() if not is_dunder(name)}
    for name in now.keys() - found.keys():
        type.__delattr__(kind, name)
    for name, value in found.items():
        if now.get(name, ABSENT) is not value:
            type.__setattr__(kind, name, value)


def is_dunder(name: str) -> bool:
    """Tell whether a name is one of Python's own."""
    return name.startswith("__") and name.endswith("__")


def put_cell(cell: Any, values: list[Any]) -> None:
    """Give a variable of a closure its value back."""
    if values[0] is not ABSENT:
        cell.cell_contents = values[0]
        return
    with suppress(ValueError):  # it is empty still
        del cell.cell_contents


def put_context(variable: Any, values: list[Any]) -> None:
    """Give a variable of a context its value back; one that had none keeps the new one."""
    if values[0] is not ABSENT and variable.get(ABSENT) is not values[0]:
        variable.set(values[0])


def in_slot(slot: Any, one: Any) -> Any:
    """Return what is in a slot of an object."""
    try:
        return slot.__get__(one)
    except AttributeError:
        return ABSENT


def put_slot(slot: Any, one: Any, values: list[Any]) -> None:
    """Give a slot of an object its value back."""
    if values[0] is not ABSENT:
        slot.__set__(one, values[0])
    elif in_slot(slot, one) is not ABSENT:
        slot.__delete__(one)


def put_defaults(function: Any, found: tuple[Any, ...], values: list[Any]) -> None:
    """Give a function the defaults back that it had."""
    function.__defaults__ = found if same(list(found), values) else tuple(values)


def put_bytes(one: Any, values: bytes) -> None:
    """Give a bytearray or an ``array.array`` its numbers back."""
    if bytes(one) != values:
        one[:] = type(one)(values) if type(one) is bytearray else type(one)(one.typecode, values)


def put_text(file: Any, value: Any, place: int) -> None:
    """Give a file in memory its text back."""
    if not file.closed:
        if file.getvalue() != value:
            file.seek(0)
            file.truncate()
            file.write(value)
        file.seek(place)


def put_place(file: Any, place: int) -> None:
    """Go back to where a file was read."""
    if not file.closed:
        file.seek(place)


def put_array(array: Any, values: Any) -> None:
    """Give an array its numbers, or the objects in it, back."""
    if array.dtype == object:
        if array.shape != values.shape or not same(array.ravel().tolist(), values.ravel().tolist()):
            array[...] = values
        return
    if array.shape != values.shape:
        array.resize(values.shape, refcheck=False)
    if array.tobytes() != values.tobytes():
        np.copyto(array, values)


def is_freed(tensor: Tensor) -> bool:
    """Tell whether the memory of a tensor was given back, as FSDP does with weights between their uses."""
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def put_numbers(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor its numbers back; NaN is not equal to itself and is written again."""
    if is_freed(tensor):
        return
    if tensor.shape != values.shape or tensor.dtype != values.dtype or tensor.device != values.device:
        tensor.data = values
    elif not torch.equal(tensor, values):
        with torch.no_grad():
            tensor.detach().copy_(values)
