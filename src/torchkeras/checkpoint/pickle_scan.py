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
ATTRIBUTES = 100  # that an object may be given
ORDERED, PARAMETERS = set(dir(OrderedDict)), set(dir(torch.nn.Parameter))
COPIED = ("list", "dict", "ordered", "counter", "set", "bytes", "bytearray")
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
        self.steps = {code: step for codes, step in (
            (b"hj", self.recall), (b"JKMG", self.number), (b"N\x88\x89", self.constant), (b"XU\x8a", self.text),
            (b"c", self.name), (b"\x80", self.version), (b"(", self.mark), (b"aesu", self.fill),
            (b")t\x85\x86\x87", self.pack), (b"]}\x8f", self.empty), (b"Q", self.numbers), (b"R\x81", self.call),
            (b"b", self.build)) for code in codes}
        self.storages: dict[str, int] = {}
        self.views: set[Any] = set()
        self.names: dict[bytes, Thing] = {}
        self.allowed = {one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
                        for one in torch.serialization.get_safe_globals()}

    def read(self) -> Any:
        """Go through one pickle and return what it is of; stop where it makes too much, or what is not known."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        data, steps = self.data, self.steps
        while True:
            code = data[self.place]
            self.place += 1
            if code == 0x71:  # BINPUT, LONG_BINPUT and so on: a third of all
                self.memo[data[self.place]] = self.stack[-1]
                self.place += 1
            elif code == 0x72:
                self.memo[unpack_from("<I", data, self.place)[0]] = self.stack[-1]
                self.place += 4
            elif code in steps:
                steps[code](code)
            elif code == 0x2E:  # STOP
                return self.stack.pop()
            else:
                raise UnpicklingError(f"holds the instruction {code:#x}")
            if self.made > self.most:
                return None

    def recall(self, code: int) -> None:
        """BINGET, LONG_BINGET: again what was kept under a number."""
        form, width = ("<B", 1) if code == 0x68 else ("<I", 4)
        self.stack.append(self.memo[unpack_from(form, self.data, self.place)[0]])
        self.place += width

    def number(self, code: int) -> None:
        """BININT, BININT1, BININT2, BINFLOAT: a number."""
        form, width = NUMBERS[code]
        self.stack.append(unpack_from(form, self.data, self.place)[0])
        self.place += width

    def constant(self, code: int) -> None:
        """NONE, NEWTRUE, NEWFALSE: one of these."""
        self.stack.append(FIXED[code])

    def text(self, code: int) -> None:
        """BINUNICODE, SHORT_BINSTRING, LONG1: a text, or a number of any length."""
        form, width = ("<I", 4) if code == 0x58 else ("<B", 1)
        begin = self.place + width
        end = begin + unpack_from(form, self.data, self.place)[0]
        if end > len(self.data):
            raise EOFError
        one = self.data[begin:end]
        self.stack.append(decode_long(one) if code == 0x8A else one.decode("utf-8", "surrogatepass"))
        self.place = end

    def name(self, code: int) -> None:
        """GLOBAL: what a module calls so."""
        end = self.data.index(b"\n", self.data.index(b"\n", self.place) + 1)
        self.stack.append(self.named(self.data[self.place:end]))
        self.place = end + 1

    def version(self, code: int) -> None:
        """PROTO: the version of pickles."""
        self.place += 1

    def mark(self, code: int) -> None:
        """MARK: what follows belongs together."""
        self.made += 1
        self.marks.append(self.stack)
        self.stack = []

    def top(self, count: int) -> list[Any]:
        """Take the last values; all that follow a mark where no count is given."""
        if not count:
            items, self.stack = self.stack, self.marks.pop()
            return items
        items = self.stack[-count:]
        if len(items) < count:
            raise UnpicklingError("takes from an empty stack")
        del self.stack[-count:]
        return items

    def fill(self, code: int) -> None:
        """APPEND, APPENDS, SETITEM, SETITEMS: into a list or a dict."""
        items = self.top({0x61: 1, 0x73: 2}.get(code, 0))
        self.put(self.stack[-1], items, "list" if code in (0x61, 0x65) else "dict")

    def pack(self, code: int) -> None:
        """EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3: a tuple."""
        self.made += 1
        made = packed([] if code == 0x29 else self.top(0 if code == 0x74 else code - 0x84))
        self.stack.append(made)

    def empty(self, code: int) -> None:
        """EMPTY_LIST, EMPTY_DICT, EMPTY_SET: one of these."""
        self.made += 1
        self.stack.append(Thing({0x5D: "list", 0x7D: "dict"}.get(code, "set"), []))

    def numbers(self, code: int) -> None:
        """BINPERSID: the numbers of a tensor."""
        self.made += 1
        self.stack.append(self.storage(self.stack.pop()))

    def call(self, code: int) -> None:
        """REDUCE, NEWOBJ: what a call makes."""
        self.made += 1
        what, given = self.top(2)
        self.stack.append(self.called(what, given, new=code == 0x81))

    def build(self, code: int) -> None:
        """BUILD: attributes."""
        state = self.stack.pop()
        self.made += 1 + weight(state)
        check_built(self.stack[-1], state)

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
                type(key) is str and type(where) is str and whole(count)):
            raise UnpicklingError("names a storage in a way of its own")
        size, part = count * of.item, ""
        self.storages[key] = max(size, self.storages.get(key, 0))
        if view not in ([], [None]):
            one, begin, length = parts_of(view[0])
            if len(view) > 1 or type(one) is not str or not whole(begin) or not whole(length):
                raise UnpicklingError("names a part of a storage in a way of its own")
            part = f" {one} {begin} {length}"
        return Thing("storage", name=key + part, size=size, item=of.item)

    def called(self, what: Any, given: Any, new: bool = False) -> Thing:
        """Return what a call makes; refuse one with arguments that torch.save does not write."""
        arguments, name = parts_of(given), what.name if isinstance(what, Thing) else ""
        self.made += sum(map(weight, arguments))
        if kind_of(what) == "allowed":  # by whoever reads, with torch.serialization.add_safe_globals
            return Thing("allowed", name=name)
        if kind_of(what) == "name" and name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            function, of, inner, state = arguments
            made = self.called(function, inner)
            if kind_of(of) == "allowed" or (made.kind == "tensor" and kind_of(of) == "name" and of.name in TENSORS
                                            and attributes(state)):
                return made
        elif kind_of(what) == "name" and name in CALLS and new == (name == PARAMETER):
            kind, right = CALLS[name]
            if right(arguments):
                if kind == "tensor":
                    self.claim(name, arguments)
                return Thing(kind, arguments[0].parts if kind == "size" else [], size=sum(map(weight, arguments)) * 4)
        raise UnpicklingError(f"calls {name[:80]} in a way of its own")

    def claim(self, name: str, arguments: list[Any]) -> None:
        """Count the bytes of a tensor that is a view of a storage."""
        self.made += 2
        if kind_of(arguments[0]) == "storage":
            storage, offset, shape, strides = arguments[:4]
            view = storage.name, offset, *parts_of(shape), None, *parts_of(strides)
            if view not in self.views:
                self.views.add(view)
                item = arguments[6].item if name.endswith("v3") else storage.item
                self.claimed += math.prod(parts_of(shape)) * item

    def put(self, target: Any, items: list[Any], kind: str) -> None:
        """Put items into a list, or names and values into a dict."""
        if kind_of(target) not in (("list",) if kind == "list" else ("dict", "ordered", "counter")):
            raise UnpicklingError("puts things into what takes none")
        values = items
        if kind == "dict":
            keys, values = items[::2], items[1::2]
            for key in keys:
                if type(key) is not str:
                    check_key(key)
            self.made += len(keys) // 4
            target.size += len(keys)
            items = keys if len(target.parts) < ATTRIBUTES else []
        target.parts.extend(items)
        for one in values:
            if type(one) is Thing and one.kind in ("name", "storage class"):
                raise UnpicklingError("keeps a function")


def packed(items: list[Any]) -> Thing:
    """Return a tuple."""
    deep = 0
    for one in items:
        if type(one) is Thing and one.kind == "tuple" and one.size > deep:
            deep = one.size
    if deep >= DEEP:
        raise UnpicklingError(f"holds more than {DEEP} tuples in one another")
    return Thing("tuple", items, size=deep + 1)


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


def check_built(target: Any, state: Any) -> None:
    """Refuse attributes but those that a state dict has: they may not hide its methods."""
    if kind_of(target) != "allowed" and not (kind_of(target) == "ordered" and named_dict(state, ORDERED)):
        raise UnpicklingError("gives attributes to what has none")


def attributes(state: Any) -> bool:
    """Return whether a value is of attributes that a tensor was given, which hide none of its own."""
    every = state.parts if kind_of(state) == "tuple" else [state]
    return all(one is None or named_dict(one, PARAMETERS) for one in every)


def named_dict(value: Any, own: set[str]) -> bool:
    """Return whether a value is a small dict of names, none of which is among these."""
    return kind_of(value) in ("dict", "ordered") and value.size <= ATTRIBUTES and all(
        type(name) is str and name not in own for name in value.parts)


def weight(value: Any) -> int:
    """Return how many objects a copy of a value counts for: it may be named again and again."""
    if type(value) is str:
        return len(value) // 512
    if type(value) is not Thing:
        return 0
    return max(value.size, len(value.parts)) // 4 if value.kind in COPIED else len(value.parts) // 8


def kind_of(value: Any) -> str:
    """Return the kind of what is not made; none of what is there."""
    return value.kind if type(value) is Thing else ""


def parts_of(value: Any) -> list[Any]:
    """Return the items of a tuple."""
    if kind_of(value) not in ("tuple", "size"):
        raise UnpicklingError("gives no tuple where one is due")
    return value.parts


def whole(value: Any) -> bool:
    """Return whether a value can be a size or a place."""
    return type(value) is int and 0 <= value < 1 << 62


def wholes(value: Any) -> bool:
    """Return whether a value is a shape."""
    return kind_of(value) in ("tuple", "size") and all(map(whole, value.parts)) and len(value.parts) <= 64


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
TENSORS = ("torch.Tensor", PARAMETER)
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
    UTILS + "qtensor": ("tensor", lambda given: view_and("tuple", "bool", HOOKS, least=7)(given)
                        and quantizer(given[4])),
    UTILS + "sparse_tensor": ("tensor", sparse),
    UTILS + "parameter": ("tensor", kinds("tensor", "bool", HOOKS)),
    UTILS + "parameter_with_state": (
        "tensor", lambda given: kinds("tensor", "bool", HOOKS, "dict|tuple|NoneType")(given) and attributes(given[3])),
    PARAMETER: ("tensor", kinds("tensor", "bool", least=1)),
    "torch.serialization._get_layout": ("layout", kinds("str")),
    "torch.Size": ("size", lambda given: len(given) == 1 and wholes(given[0])),
    "torch.device": ("other", kinds("str", "int", least=1)),
    "collections.OrderedDict": ("ordered", of_pairs),
    "collections.Counter": ("counter", kinds("dict", least=0)),
    "builtins.set": ("set", of_keys),
    "builtins.complex": ("other", kinds("float", "float")),
    "builtins.bytearray": (
        "bytearray", lambda given: kinds("bytes", least=0)(given) or text_as("latin-1", "latin1")(given)),
    "_codecs.encode": ("bytes", text_as("latin1", "latin-1")),
}
