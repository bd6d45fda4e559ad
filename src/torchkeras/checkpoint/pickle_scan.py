"""Find out what a pickle of weights would make without running it.

A pickle is a program. Torch lets it call a few dozen functions, some of which allocate any amount
of memory or take hours. So it is first interpreted with placeholders in place of values; anything
that weights do not need is refused.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pickle import UnpicklingError, decode_long
from struct import unpack_from

import torch

from torchkeras.checkpoint.pickle_calls import CALLS, PARAMETER, TENSOR_CLASSES
from torchkeras.checkpoint.pickle_items import (
    MAX_ATTRIBUTES,
    SIZES,
    Item,
    Placeholder,
    are_tensor_attributes,
    check_key,
    copy_cost,
    is_size,
    is_small_dict,
    kind_of,
    parts_of,
)

MAX_TUPLE_DEPTH = 100  # tuples in one another
ORDERED_DICT_NAMES = set(dir(OrderedDict))
CONSTANTS: dict[int, bool | None] = {ord("N"): None, 0x88: True, 0x89: False}
NUMBERS = {ord("J"): ("<i", 4), ord("K"): ("<B", 1), ord("M"): ("<H", 2), ord("G"): (">d", 8)}


class Scan:
    """Interprets the pickles that follow one another in some bytes.

    Args:
        data: the bytes.
        max_objects: how many objects they may make.

    Attributes:
        made: how many objects they make.
        claimed: the bytes of numbers that their tensors have, each view of a storage once.
        storages: the bytes of each storage that they name.
    """

    def __init__(self, data: bytes, max_objects: int) -> None:
        self.data, self.max_objects = data, max_objects
        self.position = self.made = self.claimed = 0
        self.steps = {code: step for codes, step in (
            (b"hj", self.recall), (b"JKMG", self.number), (b"N\x88\x89", self.constant),
            (b"XU\x8a", self.text), (b"c", self.name), (b"\x80", self.version), (b"(", self.mark),
            (b"aesu", self.fill), (b")t\x85\x86\x87", self.pack), (b"]}\x8f", self.empty),
            (b"Q", self.numbers), (b"R\x81", self.call), (b"b", self.build)) for code in codes}
        self.storages: dict[str, int] = {}
        self.views: set[tuple[Item, ...]] = set()
        self.names: dict[bytes, Placeholder] = {}
        self.allowed = {one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
                        for one in torch.serialization.get_safe_globals()}

    def read(self) -> Item:
        """Interpret one pickle and return its value; stop early where it makes too much."""
        self.stack: list[Item] = []
        self.marks: list[list[Item]] = []
        self.memo: dict[int, Item] = {}
        data, steps = self.data, self.steps
        while True:
            code = data[self.position]
            self.position += 1
            if code == 0x71:  # BINPUT; with LONG_BINPUT a third of all instructions
                self.memo[data[self.position]] = self.stack[-1]
                self.position += 1
            elif code == 0x72:
                self.memo[unpack_from("<I", data, self.position)[0]] = self.stack[-1]
                self.position += 4
            elif code in steps:
                steps[code](code)
            elif code == 0x2E:  # STOP
                return self.stack.pop()
            else:
                raise UnpicklingError(f"holds the instruction {code:#x}")
            if self.made > self.max_objects:
                return None

    def recall(self, code: int) -> None:
        """Interpret BINGET and LONG_BINGET: push what the memo has under a number."""
        form, width = ("<B", 1) if code == 0x68 else ("<I", 4)
        self.stack.append(self.memo[unpack_from(form, self.data, self.position)[0]])
        self.position += width

    def number(self, code: int) -> None:
        """Interpret BININT, BININT1, BININT2 and BINFLOAT: push a number."""
        form, width = NUMBERS[code]
        self.stack.append(unpack_from(form, self.data, self.position)[0])
        self.position += width

    def constant(self, code: int) -> None:
        """Interpret NONE, NEWTRUE and NEWFALSE: push one of these."""
        self.stack.append(CONSTANTS[code])

    def text(self, code: int) -> None:
        """Interpret BINUNICODE, SHORT_BINSTRING and LONG1: push text, or an integer of any size."""
        form, width = ("<I", 4) if code == 0x58 else ("<B", 1)
        begin = self.position + width
        end = begin + unpack_from(form, self.data, self.position)[0]
        if end > len(self.data):
            raise EOFError
        one = self.data[begin:end]
        self.stack.append(
            decode_long(one) if code == 0x8A else one.decode("utf-8", "surrogatepass"))
        self.position = end

    def name(self, code: int) -> None:
        """Interpret GLOBAL: push what a name in a module stands for."""
        end = self.data.index(b"\n", self.data.index(b"\n", self.position) + 1)
        self.stack.append(self.named(self.data[self.position:end]))
        self.position = end + 1

    def version(self, code: int) -> None:
        """Interpret PROTO: skip the version of the pickle protocol."""
        self.position += 1

    def mark(self, code: int) -> None:
        """Interpret MARK: start a group of values."""
        self.made += 1
        self.marks.append(self.stack)
        self.stack = []

    def pop_items(self, count: int) -> list[Item]:
        """Pop the last values; with a count of 0 all that follow the last mark."""
        if not count:
            items, self.stack = self.stack, self.marks.pop()
            return items
        items = self.stack[-count:]
        if len(items) < count:
            raise UnpicklingError("takes from an empty stack")
        del self.stack[-count:]
        return items

    def fill(self, code: int) -> None:
        """Interpret APPEND, APPENDS, SETITEM and SETITEMS: add to a list or a dict."""
        items = self.pop_items({0x61: 1, 0x73: 2}.get(code, 0))
        self.add_items(self.stack[-1], items, "list" if code in (0x61, 0x65) else "dict")

    def pack(self, code: int) -> None:
        """Interpret EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2 and TUPLE3: push a tuple."""
        self.made += 1
        count = 0 if code == 0x74 else code - 0x84
        made = make_tuple([] if code == 0x29 else self.pop_items(count))
        self.stack.append(made)  # not in one line: TUPLE replaces the stack

    def empty(self, code: int) -> None:
        """Interpret EMPTY_LIST, EMPTY_DICT and EMPTY_SET: push one of these."""
        self.made += 1
        self.stack.append(Placeholder({0x5D: "list", 0x7D: "dict"}.get(code, "set"), []))

    def numbers(self, code: int) -> None:
        """Interpret BINPERSID: push the storage of a tensor."""
        self.made += 1
        self.stack.append(self.storage(self.stack.pop()))

    def call(self, code: int) -> None:
        """Interpret REDUCE and NEWOBJ: push what a call makes."""
        self.made += 1
        what, given = self.pop_items(2)
        self.stack.append(self.called(what, given, new=code == 0x81))

    def build(self, code: int) -> None:
        """Interpret BUILD: give attributes to an object."""
        state = self.stack.pop()
        self.made += 1 + copy_cost(state)
        check_attributes(self.stack[-1], state)

    def named(self, line: bytes) -> Placeholder:
        """Return what a global name stands for; refuse one that weights do not need."""
        if line in self.names:
            return self.names[line]
        module, _, name = line.decode().partition("\n")
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        found = vars(torch).get(name) if module == "torch" else None
        storage = name.removesuffix("Storage")
        if isinstance(found, (torch.dtype, torch.qscheme)):
            made = Placeholder("type", name=full, item=getattr(found, "itemsize", 1))
        elif module in ("torch", "torch.cuda", "torch.storage") and storage in SIZES:
            made = Placeholder("storage class", name=full, item=SIZES[storage])
        elif full in CALLS or full in ("torch.Tensor", "torch._tensor._rebuild_from_type_v2"):
            made = Placeholder("name", name=full)
        elif full in self.allowed:
            made = Placeholder("allowed", name=full)
        else:
            raise UnpicklingError(f"names {full[:80]}, which is no part of weights")
        self.names[line] = made
        return made

    def storage(self, given: Item) -> Placeholder:
        """Return the storage of a persistent id; in torch's old format it may be part of one."""
        kind, of, key, where, count, *view = parts_of(given)
        if kind != "storage" or kind_of(of) != "storage class" or not (
                type(key) is str and type(where) is str and is_size(count)):
            raise UnpicklingError("names a storage in an unknown way")
        size, part = count * of.item, ""
        self.storages[key] = max(size, self.storages.get(key, 0))
        if view not in ([], [None]):
            one, begin, length = parts_of(view[0])
            if len(view) > 1 or type(one) is not str or not is_size(begin) or not is_size(length):
                raise UnpicklingError("names a part of a storage in an unknown way")
            part = f" {one} {begin} {length}"
        return Placeholder("storage", name=key + part, size=size, item=of.item)

    def called(self, what: Item, given: Item, new: bool = False) -> Placeholder:
        """Return what a call makes; refuse arguments that torch.save does not write."""
        arguments, name = parts_of(given), what.name if isinstance(what, Placeholder) else ""
        self.made += sum(map(copy_cost, arguments))
        if kind_of(what) == "allowed":  # by the user, with torch.serialization.add_safe_globals
            return Placeholder("allowed", name=name)
        rebuilds = name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4
        if kind_of(what) == "name" and rebuilds:
            function, of, inner, state = arguments
            made = self.called(function, inner)
            if kind_of(of) == "allowed" or (
                    made.kind == "tensor" and kind_of(of) == "name" and of.name in TENSOR_CLASSES
                    and are_tensor_attributes(state)):
                return made
        elif kind_of(what) == "name" and name in CALLS and new == (name == PARAMETER):
            kind, matches = CALLS[name]
            if matches(arguments):
                if kind == "tensor":
                    self.claim(name, arguments)
                return Placeholder(kind, arguments[0].parts if kind == "size" else [],
                                   size=sum(map(copy_cost, arguments)) * 4)
        raise UnpicklingError(f"calls {name[:80]} in an unknown way")

    def claim(self, name: str, arguments: list[Item]) -> None:
        """Count the bytes of a tensor that is a view of a storage."""
        self.made += 2
        if kind_of(arguments[0]) == "storage":
            storage, offset, shape, strides = arguments[:4]
            view = storage.name, offset, *parts_of(shape), None, *parts_of(strides)
            if view not in self.views:
                self.views.add(view)
                item = arguments[6].item if name.endswith("v3") else storage.item
                self.claimed += math.prod(parts_of(shape)) * item

    def add_items(self, target: Item, items: list[Item], kind: str) -> None:
        """Add items to a list, or alternating keys and values to a dict."""
        accepting = ("list",) if kind == "list" else ("dict", "ordered", "counter")
        if kind_of(target) not in accepting:
            raise UnpicklingError("adds items to a value that is no container")
        values = items
        if kind == "dict":
            keys, values = items[::2], items[1::2]
            for key in keys:
                if type(key) is not str:
                    check_key(key)
            self.made += len(keys) // 4
            target.size += len(keys)
            items = keys if len(target.parts) < MAX_ATTRIBUTES else []
        target.parts.extend(items)
        for one in values:
            if type(one) is Placeholder and one.kind in ("name", "storage class"):
                raise UnpicklingError("keeps a function")


def make_tuple(items: list[Item]) -> Placeholder:
    """Return a tuple; refuse too many in one another."""
    deep = 0
    for one in items:
        if type(one) is Placeholder and one.kind == "tuple" and one.size > deep:
            deep = one.size
    if deep >= MAX_TUPLE_DEPTH:
        raise UnpicklingError(f"holds more than {MAX_TUPLE_DEPTH} tuples in one another")
    return Placeholder("tuple", items, size=deep + 1)


def check_attributes(target: Item, state: Item) -> None:
    """Refuse attributes other than those of a state dict, which must not hide its methods."""
    if kind_of(target) != "allowed" and not (
            kind_of(target) == "ordered" and is_small_dict(state, ORDERED_DICT_NAMES)):
        raise UnpicklingError("gives attributes to an object that takes none")
