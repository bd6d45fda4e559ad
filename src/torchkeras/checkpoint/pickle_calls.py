"""List the functions that a pickle of weights may call, and the arguments that each may get."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torchkeras.checkpoint.pickle_items import (
    Item,
    Placeholder,
    are_tensor_attributes,
    check_key,
    is_shape,
    is_view,
    kind_of,
)

Match: TypeAlias = Callable[[list[Item]], bool]  # tells whether arguments are those of a call


def match_kinds(*wanted: str, least: int | None = None) -> Match:
    """Return a function that tells whether arguments are of these kinds, ``least`` or more."""
    def matches(given: list[Item]) -> bool:
        return (len(wanted) if least is None else least) <= len(given) <= len(wanted) and all(
            (type(one) is Placeholder and one.kind in kind.split("|"))
            or type(one).__name__ in kind.split("|")
            for one, kind in zip(given, wanted, strict=False))

    return matches


def match_text(*codings: str) -> Match:
    """Return a function that tells whether arguments are a text and one of these codings."""
    return lambda given: len(given) == 2 and type(given[0]) is str and given[1] in codings


def match_set(given: list[Item]) -> bool:
    """Return whether the argument is a list of items that a set may have."""
    if len(given) != 1 or kind_of(given[0]) != "list":
        return False
    for one in given[0].parts:
        check_key(one)
    return True


def match_pairs(given: list[Item]) -> bool:
    """Return whether the argument of a dict is missing, or a list of keys and values."""
    if not given:
        return True
    if len(given) != 1 or kind_of(given[0]) != "list":
        return False
    for one in given[0].parts:
        if kind_of(one) not in ("tuple", "list") or len(one.parts) != 2:
            return False
        check_key(one.parts[0])
        if kind_of(one.parts[1]) in ("name", "storage class"):
            return False
    return True


def is_quantizer(given: Item) -> bool:
    """Return whether a value says how a tensor is quantized."""
    if kind_of(given) != "tuple" or len(given.parts) not in (3, 4):
        return False
    return kind_of(given.parts[0]) == "type" and all(
        type(one) in (int, float) or kind_of(one) in ("tensor", "list") for one in given.parts[1:])


PARAMETER = "torch.nn.parameter.Parameter"
TENSOR_CLASSES = ("torch.Tensor", PARAMETER)
HOOKS = "ordered|NoneType"
VIEW = ("storage", "int", "tuple|size", "tuple|size")


def match_view(*more: str, least: int) -> Match:
    """Return a function that tells whether arguments are a view of a storage, and more."""
    matches = match_kinds(*VIEW, *more, least=least)
    return lambda given: matches(given) and is_view(given)


def match_quantized(given: list[Item]) -> bool:
    """Return whether arguments are those of a quantized tensor."""
    return match_view("tuple", "bool", HOOKS, least=7)(given) and is_quantizer(given[4])


def match_parameter(given: list[Item]) -> bool:
    """Return whether arguments are those of a parameter with attributes."""
    return (match_kinds("tensor", "bool", HOOKS, "dict|tuple|NoneType")(given)
            and are_tensor_attributes(given[3]))


def match_size(given: list[Item]) -> bool:
    """Return whether the argument is a shape."""
    return len(given) == 1 and is_shape(given[0])


def match_bytearray(given: list[Item]) -> bool:
    """Return whether arguments are bytes, or a text and its coding."""
    return match_kinds("bytes", least=0)(given) or match_text("latin-1", "latin1")(given)


def match_sparse(given: list[Item]) -> bool:
    """Return whether arguments are those of a sparse tensor."""
    if len(given) != 2 or kind_of(given[0]) != "layout" or kind_of(given[1]) != "tuple":
        return False
    tensors = [one for one in given[1].parts if kind_of(one) == "tensor"]
    rest = given[1].parts[len(tensors):]
    return given[1].parts[:len(tensors)] == tensors and len(tensors) in (2, 3) and (
        1 <= len(rest) <= 2 and is_shape(rest[0]) and all(type(one) is bool for one in rest[1:]))


UTILS = "torch._utils._rebuild_"
CALLS: dict[str, tuple[str, Match]] = {
    UTILS + "tensor": ("tensor", match_view(least=4)),
    UTILS + "tensor_v2": ("tensor", match_view("bool", HOOKS, "dict|NoneType", least=6)),
    UTILS + "tensor_v3": ("tensor", match_view("bool", HOOKS, "type", "dict|NoneType", least=7)),
    UTILS + "qtensor": ("tensor", match_quantized),
    UTILS + "sparse_tensor": ("tensor", match_sparse),
    UTILS + "parameter": ("tensor", match_kinds("tensor", "bool", HOOKS)),
    UTILS + "parameter_with_state": ("tensor", match_parameter),
    PARAMETER: ("tensor", match_kinds("tensor", "bool", least=1)),
    "torch.serialization._get_layout": ("layout", match_kinds("str")),
    "torch.Size": ("size", match_size),
    "torch.device": ("other", match_kinds("str", "int", least=1)),
    "collections.OrderedDict": ("ordered", match_pairs),
    "collections.Counter": ("counter", match_kinds("dict", least=0)),
    "builtins.set": ("set", match_set),
    "builtins.complex": ("other", match_kinds("float", "float")),
    "builtins.bytearray": ("bytearray", match_bytearray),
    "_codecs.encode": ("bytes", match_text("latin1", "latin-1")),
}
