"""What a pickle of weights would make, found out without making it: claims, calls and keys are judged first.

A pickle is a program. Torch lets it call a few dozen functions, some of which make things of any size that is named
to them, or take hours. So it is first run on kinds in place of values; what is not known here is refused.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError, decode_long
from struct import unpack_from
from typing import Any

import torch

DEEP, KEY, PARTS = 100, 8, 100  # tuples in one another; those of a key; the parts of a key, each as often as it is met
SIZES = {"Double": 8, "Float": 4, "Half": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
         "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8, "QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1,
         "QUInt2x4": 1, "Untyped": 1}  # bytes of a number in a storage
OWN = set(dir(OrderedDict))
ATOMS = (int, str, float, bool, bytes, type(None))
FIXED: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False}
NUMBERS = {ord("J"): ("<i", 4), ord("K"): ("<B", 1), ord("M"): ("<H", 2), ord("G"): (">d", 8)}


class Thing:
    """A value that is not made: its kind, and what must be known of it.

    Args:
        kind: "list", "dict", "name" and so on.
        parts: the items of a list or tuple, the first keys of a dict.
        name: of what a name stands for; the key of a storage.
        size: bytes of a storage; how deep a tuple is.
        item: bytes of one number.
    """

    __slots__ = ("item", "kind", "name", "parts", "size")

    def __init__(self, kind: str, parts: Any = (), name: str = "", size: int = 0, item: int = 1) -> None:
        self.kind, self.parts, self.name, self.size, self.item = kind, parts, name, size, item


class Scan:
    """What pickles make, one after another in the same bytes.

    Args:
        data: the bytes.
        most: how many objects they may make.

    Attributes:
        made: how many they make.
        claimed: the bytes of numbers that their tensors have, each view of a memory once.
        storages: the bytes of each storage that they name.
    """

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.most = data, most
        self.place = self.made = self.claimed = 0
        self.storages: dict[str, int] = {}
        self.views: set[Any] = set()
        self.names: dict[bytes, Thing] = {}
        self.allowed = {one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
                        for one in torch.serialization.get_safe_globals()}

    def read(self) -> Any:
        """Go through one pickle and return what it is of; stop where it makes too much, or what is not known."""
        data, at, stack, marks, memo = self.data, self.place, [], [], {}  # type: ignore[var-annotated]
        stack: list[Any]
        while True:
            code = data[at]
            at += 1
            if code == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif code == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif code == 0x72:  # LONG_BINPUT
                memo[unpack_from("<I", data, at)[0]] = stack[-1]
                at += 4
            elif code == 0x6A:  # LONG_BINGET
                stack.append(memo[unpack_from("<I", data, at)[0]])
                at += 4
            elif code in NUMBERS:
                form, width = NUMBERS[code]
                stack.append(unpack_from(form, data, at)[0])
                at += width
            elif code in FIXED:
                stack.append(FIXED[code])
            elif code == 0x28:  # MARK
                marks.append(stack)
                stack = []
            elif code == 0x58 or code in (0x55, 0x8A):  # BINUNICODE, SHORT_BINSTRING, LONG1
                length = unpack_from("<I", data, at)[0] if code == 0x58 else data[at]
                at += 4 if code == 0x58 else 1
                if at + length > len(data):
                    raise EOFError
                one = data[at:at + length]
                at += length
                stack.append(decode_long(one) if code == 0x8A else one.decode("utf-8", "surrogatepass"))
            elif code == 0x63:  # GLOBAL
                end = data.index(b"\n", data.index(b"\n", at) + 1)
                stack.append(self.named(data[at:end]))
                at = end + 1
            elif code == 0x51:  # BINPERSID
                stack.append(self.storage(stack.pop()))
            elif code in (0x80, 0x2E):  # PROTO, STOP
                if code == 0x2E:
                    self.place = at
                    return stack.pop()
                at += 1
            elif code in (0x61, 0x65, 0x73, 0x75):  # APPEND, APPENDS, SETITEM, SETITEMS
                count = {0x61: 1, 0x73: 2}.get(code)
                if count is None:
                    items, stack = stack, marks.pop()
                else:
                    items, stack[-count:] = stack[-count:], []
                put(stack[-1], items, "list" if code in (0x61, 0x65) else "dict")
            else:
                self.made += 1
                if self.made > self.most:
                    return None
                if code == 0x74:  # TUPLE
                    items, stack = stack, marks.pop()
                    stack.append(packed(items))
                elif code in (0x85, 0x86, 0x87):  # TUPLE1 to TUPLE3
                    items = stack[-(code - 0x84):]
                    if len(items) != code - 0x84:
                        raise UnpicklingError("takes from an empty stack")
                    stack[-len(items):] = [packed(items)]
                elif code == 0x29:  # EMPTY_TUPLE
                    stack.append(packed([]))
                elif code in (0x5D, 0x7D, 0x8F):  # EMPTY_LIST, EMPTY_DICT, EMPTY_SET
                    stack.append(Thing({0x5D: "list", 0x7D: "dict"}.get(code, "set"), []))
                elif code in (0x52, 0x81):  # REDUCE, NEWOBJ
                    given, what = stack.pop(), stack.pop()
                    stack.append(self.called(what, given, new=code == 0x81))
                elif code == 0x62:  # BUILD
                    state = stack.pop()
                    check_state(stack[-1], state)
                else:
                    raise UnpicklingError(f"holds the instruction {code:#x}")

    def named(self, line: bytes) -> Thing:
        """Return what a name stands for."""
        if line not in self.names:
            module, _, name = line.decode().partition("\n")
            full = f"{module.replace('__builtin__', 'builtins')}.{name}"
            found = vars(torch).get(name) if module == "torch" else None
            if isinstance(found, (torch.dtype, torch.qscheme)):
                self.names[line] = Thing("type", name=full, item=getattr(found, "itemsize", 1))
            elif module in ("torch", "torch.cuda", "torch.storage") and name.removesuffix("Storage") in SIZES:
                self.names[line] = Thing("storage class", name=full, item=SIZES[name.removesuffix("Storage")])
            elif full in CALLS or full in ("torch.Tensor", "torch._tensor._rebuild_from_type_v2"):
                self.names[line] = Thing("name", name=full)
            elif full in self.allowed:
                self.names[line] = Thing("allowed", name=full)
            else:
                raise UnpicklingError(f"names {full[:80]}, which is no part of weights")
        return self.names[line]

    def storage(self, given: Any) -> Thing:
        """Return the storage that a persistent id stands for; torch's older format may say it is part of another."""
        kind, of, key, where, count, *view = parts_of(given)
        if kind != "storage" or kind_of(of) != "storage class" or not (
                type(key) is str and type(where) is str and whole(count)) or view not in ([], [None]):
            if not (len(view) == 1 and kind == "storage" and kind_of(of) == "storage class" and type(key) is str
                    and type(where) is str and whole(count) and viewed(parts_of(view[0]), count)):
                raise UnpicklingError("names a storage in a way of its own")
        size = count * of.item
        self.storages[key] = max(size, self.storages.get(key, 0))
        return Thing("storage", name=key, size=size, item=of.item)

    def called(self, what: Any, given: Any, new: bool = False) -> Thing:
        """Return what a call makes; refuse one with arguments that torch.save does not write."""
        arguments, name = parts_of(given), what.name if isinstance(what, Thing) else ""
        if kind_of(what) == "allowed":  # by whoever reads, with torch.serialization.add_safe_globals
            return Thing("allowed", name=name)
        if kind_of(what) == "name" and name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            made = self.called(arguments[0], arguments[1 + 1])
            if made.kind == "tensor" and arguments[1].name in ("torch.Tensor", PARAMETER) or (
                    kind_of(arguments[1]) == "allowed"):
                return made
        elif kind_of(what) == "name" and name in CALLS and new == (name == PARAMETER):
            kind, right = CALLS[name]
            if right(arguments):
                if kind == "tensor":
                    self.claim(name, arguments)
                return Thing(kind, [])
        raise UnpicklingError(f"calls {name[:80]} in a way of its own")

    def claim(self, name: str, arguments: list[Any]) -> None:
        """Count the bytes of a tensor that is a view of a storage."""
        if kind_of(arguments[0]) == "storage":
            storage, offset, shape, strides = arguments[:4]
            view = storage.name, offset, *parts_of(shape), None, *parts_of(strides)
            if view not in self.views:
                self.views.add(view)
                item = arguments[6].item if name.endswith("v3") else storage.item
                self.claimed += math.prod(parts_of(shape)) * item


def packed(items: list[Any]) -> Thing:
    """Return a tuple."""
    deep = 0
    for one in items:
        if type(one) is Thing and one.kind == "tuple" and one.size > deep:
            deep = one.size
    if deep >= DEEP:
        raise UnpicklingError(f"holds more than {DEEP} tuples in one another")
    return Thing("tuple", items, size=deep + 1)


def put(target: Any, items: list[Any], kind: str) -> None:
    """Put items into a list, or names and values into a dict."""
    if kind_of(target) not in ((kind,) if kind == "list" else ("dict", "ordered", "counter")):
        raise UnpicklingError("puts things into what takes none")
    if kind == "list":
        target.parts.extend(items)
        values = items
    else:
        values = items[1::2]
        for key in items[:2 * len(values):2]:
            if type(key) is not str:
                check_key(key)
        target.parts.extend(items[:20:2] if len(target.parts) < 20 else ())
    for one in values:
        if type(one) is Thing and one.kind in ("name", "storage class"):
            raise UnpicklingError("keeps a function")


def check_key(key: Any) -> None:
    """Refuse a key, or an item of a set, that takes long to look up."""
    left, level = [key], 0
    seen = 0
    while left:
        seen, level = seen + len(left), level + 1
        if seen > PARTS or level > KEY:
            raise UnpicklingError("has a key of too many parts")
        if not all(type(one) in ATOMS or kind_of(one) in ("tuple", "type", "bytes", "other") for one in left):
            raise UnpicklingError("has a key that is none")
        left = [part for one in left if kind_of(one) == "tuple" for part in one.parts[:PARTS + 1]]


def check_state(target: Any, state: Any) -> None:
    """Refuse attributes but those that a state dict has: they may not hide its methods."""
    if kind_of(target) == "allowed":
        return
    if kind_of(target) != "ordered" or kind_of(state) not in ("dict", "ordered") or len(state.parts) >= 10 or not all(
            type(name) is str and name not in OWN for name in state.parts):
        raise UnpicklingError("gives attributes to what has none")


def kind_of(value: Any) -> str:
    """Return the kind of what is not made; none of what is there."""
    return value.kind if type(value) is Thing else ""


def parts_of(value: Any) -> list[Any]:
    """Return the items of a tuple."""
    if kind_of(value) not in ("tuple", "size"):
        raise UnpicklingError("gives no tuple where one is due")
    return value.parts  # type: ignore[no-any-return]


def whole(value: Any) -> bool:
    """Return whether a value can be a size or a place."""
    return type(value) is int and 0 <= value < 1 << 62


def wholes(value: Any) -> bool:
    """Return whether a value is a shape."""
    return kind_of(value) in ("tuple", "size") and all(map(whole, value.parts)) and len(value.parts) <= 64


def viewed(view: list[Any], count: int) -> bool:
    """Return whether a part of a storage lies in it."""
    return len(view) == 3 and type(view[0]) is str and whole(view[1]) and whole(view[2]) and view[1] + view[2] <= count


def is_view(given: list[Any]) -> bool:
    """Return whether the first four arguments of a tensor are a storage, an offset, a shape and strides."""
    return kind_of(given[0]) == "storage" and whole(given[1]) and wholes(given[2]) and wholes(given[3])


def kinds(*wanted: str, least: int | None = None) -> Callable[[list[Any]], bool]:
    """Return what tells whether arguments are of these kinds; of the last there may be fewer."""
    def right(given: list[Any]) -> bool:
        return (len(wanted) if least is None else least) <= len(given) <= len(wanted) and all(
            (type(one) is Thing and one.kind in kind.split("|")) or type(one).__name__ in kind.split("|")
            for one, kind in zip(given, wanted, strict=False))

    return right


def text_as(*codings: str) -> Callable[[list[Any]], bool]:
    """Return what tells whether arguments are a text and one of these codings."""
    return lambda given: len(given) == 2 and type(given[0]) is str and given[1] in codings


def of_keys(given: list[Any]) -> bool:
    """Return whether the argument of a set is a list of what may be in one."""
    if len(given) != 1 or kind_of(given[0]) != "list":
        return False
    for one in given[0].parts:
        check_key(one)
    return True


def of_pairs(given: list[Any]) -> bool:
    """Return whether the argument of a dict is none, or a list of names and values."""
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


def quantizer(given: Any) -> bool:
    """Return whether a value says how a tensor is quantized."""
    return kind_of(given) == "tuple" and len(given.parts) in (3, 4) and kind_of(given.parts[0]) == "type" and all(
        type(one) in (int, float) or kind_of(one) in ("tensor", "list") for one in given.parts[1:])


PARAMETER = "torch.nn.parameter.Parameter"
HOOKS = "ordered|NoneType"
VIEW = ("storage", "int", "tuple|size", "tuple|size")


def view_and(*more: str, least: int) -> Callable[[list[Any]], bool]:
    """Return what tells whether arguments are those of a view of a storage, and more."""
    right = kinds(*VIEW, *more, least=least)
    return lambda given: right(given) and is_view(given)


def sparse(given: list[Any]) -> bool:
    """Return whether arguments are those of a sparse tensor."""
    if len(given) != 2 or kind_of(given[0]) != "layout" or kind_of(given[1]) != "tuple":
        return False
    tensors = [one for one in given[1].parts if kind_of(one) == "tensor"]
    rest = given[1].parts[len(tensors):]
    return given[1].parts[:len(tensors)] == tensors and len(tensors) in (2, 3) and (
        1 <= len(rest) <= 2 and wholes(rest[0]) and all(type(one) is bool for one in rest[1:]))


UTILS = "torch._utils._rebuild_"
CALLS: dict[str, tuple[str, Callable[[list[Any]], bool]]] = {
    UTILS + "tensor": ("tensor", view_and(least=4)),
    UTILS + "tensor_v2": ("tensor", view_and("bool", HOOKS, "dict|NoneType", least=6)),
    UTILS + "tensor_v3": ("tensor", view_and("bool", HOOKS, "type", "dict|NoneType", least=7)),
    UTILS + "qtensor": ("tensor", lambda given: view_and("tuple", "bool", HOOKS, least=7)(given) and quantizer(given[4])),
    UTILS + "sparse_tensor": ("tensor", sparse),
    UTILS + "parameter": ("tensor", kinds("tensor", "bool", HOOKS)),
    UTILS + "parameter_with_state": ("tensor", kinds("tensor", "bool", HOOKS, "dict|tuple|NoneType")),
    PARAMETER: ("tensor", kinds("tensor", "bool", least=1)),
    "torch.serialization._get_layout": ("layout", kinds("str")),
    "torch.Size": ("size", lambda given: len(given) == 1 and wholes(given[0])),
    "torch.device": ("other", kinds("str", "int", least=1)),
    "collections.OrderedDict": ("ordered", of_pairs),
    "collections.Counter": ("counter", kinds("dict", least=0)),
    "builtins.set": ("set", of_keys),
    "builtins.complex": ("other", kinds("float", "float")),
    "builtins.bytearray": ("bytearray", lambda given: not given or text_as("latin-1", "latin1")(given)),
    "_codecs.encode": ("bytes", text_as("latin1", "latin-1")),
}
