"""Take down the state of objects and functions of any make, and put it back."""

from __future__ import annotations

import functools
import io
import logging
import queue
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from torchkeras.state import iterators as copying
from torchkeras.state import putting
from torchkeras.state.data_state import BYTES, GENERATORS, DataKeeper
from torchkeras.state.putting import ABSENT, is_dunder
from torchkeras.state.reach import globals_of, names_of, of_core, of_user

OBJECTS = 200_000  # that are looked through
ITEMS = 1000  # a larger list or dict is data, unless more are asked for
CALLED = ("forward", "loss", "predict", "count", "update", "compute", "measure")  # by this library; dunders by Python
ON_THEIR_OWN = (threading.Thread, queue.Queue, queue.SimpleQueue)  # they change while nobody calls them
OTHER_PROCESSES = ("multiprocessing.queues", "multiprocessing.connection", "multiprocessing.process",
                   "multiprocessing.managers", "multiprocessing.sharedctypes", "concurrent.")
# a stop may be asked for meanwhile
OF_THE_RUN = ("accelerate.", "torchkeras.engine.run", "torchkeras.distributed.communicator",
              "torchkeras.kerasmodel", "torchkeras.lightning.model", "torch.optim.")
PLAIN = (ModuleType, logging.Logger, str, bytes, int, float, complex, type(None), torch.dtype, torch.device)
DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
CONTAINERS: tuple[Any, ...] = (dict, list, deque, set, tuple, frozenset)
DATA = (data.Dataset, data.DataLoader, data.Sampler)
SIMPLE = frozenset({str, bytes, int, float, complex, bool, type(None)})
METHODS = (FunctionType, staticmethod, classmethod, property, functools.cached_property)


class Memento(DataKeeper):
    """Keep what objects hold, and all that they refer to: attributes, lists, dicts and arrays, generators.

    Functions hold something too: variables of closures, defaults, attributes, and the globals that they name; so do
    classes of a user's. Large lists and arrays are taken for data that nobody changes. What only its owner can put back
    (the place of a generator, a queue that a thread fills, a file that is written) shows in ``once``.

    Args:
        *roots: the objects and functions.
        but: objects that are left alone.
        numbers: how many numbers there may be in larger arrays, all together. Those of a ``Dataset`` are data always.
        items: how many items there may be in larger containers, all together; one in a hundred may hold something.
        iterators: whether what is called within may get copies of Python's own iterators in their place, see
            ``with``; else they count as read once.

    Attributes:
        once: whether any of them holds a thing that cannot be put back.
        lost: whether a large tensor of which there is no copy was written to, known when all is put back.
        changed: whether anything had to be put back, known then too.

    Example:
        >>> from types import SimpleNamespace
        >>> counter = SimpleNamespace(calls=0, seen=[])
        >>> with Memento(counter):
        ...     counter.calls += 1
        ...     counter.seen.append("a")
        >>> counter
        namespace(calls=0, seen=[])
    """

    def __init__(self, *roots: Any, but: Iterable[Any] = (), numbers: int = 0, items: int = 0,
                 iterators: bool = False) -> None:
        self.once = self.lost = self.changed = False
        self.iterators = iterators
        self.back: list[Callable[[], bool]] = []
        self.versions: list[tuple[Tensor, int]] = []
        self.lend: list[Callable[[], bool]] = []  # puts copies of iterators in their places
        self.empty: list[dict[Any, Any]] = []
        self.copies: dict[int, Any] = {}
        self.left = {"numbers": numbers, "weights": numbers // 16, "items": items, "deep": items // 100}
        self.names, self.methods = set(CALLED), dict[str, list[Any]]()  # what code names; methods nobody named so far
        self.ways: dict[type, Callable[[Any], Iterable[Any]]] = {}
        self.parts: dict[type, tuple[Any, list[Any]]] = {}
        self.held: dict[int, Any] = {id(one): one for one in but}  # a reference keeps an id from being given again
        self.waiting = deque[tuple[Iterable[Any], bool]]([(roots, True)])
        while self.waiting and len(self.held) < OBJECTS:
            some, self.roomy = self.waiting.popleft()
            for one in some:
                if id(one) not in self.held and (way := self.ways.get(type(one)) or self.way(type(one))) is not passed:
                    self.held[id(one)] = one
                    if found := way(one):
                        self.waiting.append((found, self.roomy and not issubclass(type(one), DATA)))
        self.ways.clear()  # they hold this object, and it them

    def __enter__(self) -> Memento:
        """Let what is called within read copies of iterators."""
        for put in self.lend:
            put()
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Put everything back that has changed."""
        for one in self.empty:
            if one:
                one.clear()
                self.changed = True
        for put in self.back:
            self.changed |= put()
        self.lost = self.lost or any(one._version != version for one, version in self.versions)
        self.changed |= self.lost
        for some in (self.back, self.lend, self.empty, self.held, self.copies, self.versions):
            some.clear()  # copies of weights are not to wait for the garbage collector

    def way(self, kind: type) -> Callable[[Any], Iterable[Any]]:
        """Return what takes down objects of a type."""
        found = next((way for kinds, way in (
            (type, self.kept_class), (PLAIN, passed), (GENERATORS, self.kept_generator), (Tensor, self.kept_tensor),
            (np.ndarray, self.kept_array), (BYTES, self.kept_bytes), (io.IOBase, self.kept_file),
            (FunctionType, self.kept_function), (CellType, self.kept_cell), (ContextVar, self.kept_context),
            ((MethodType, BuiltinMethodType), self.kept_method), (METHODS, self.kept_descriptor),
            (partial, self.kept_partial), (ON_THEIR_OWN, self.kept_once)) if issubclass(kind, kinds)), self.kept_object)
        bases = [f"{base.__module__}." for base in kind.__mro__]
        if issubclass(kind, Iterator) and found == self.kept_object and not (
                self.iterators and of_user(kind.__module__)) or bases[0].startswith(OTHER_PROCESSES):
            found = self.kept_once
        elif any(base.startswith(OF_THE_RUN) for base in bases):
            found = passed
        self.ways[kind] = found
        return found

    def exchanged(self, values: list[Any]) -> list[Any]:
        """Return the values with copies of the iterators among them; the same list where there are none."""
        if not self.iterators or not any(type(one) in copying.NATIVE for one in values):
            return values
        try:
            found = [copying.copied(one, self.copies) if type(one) in copying.NATIVE else one for one in values]
        except copying.NoCopy:
            self.once = True
            return values
        for one in values:
            if type(one) in copying.NATIVE:
                self.held[id(one)] = one
                self.waiting.append((copying.sources(one), self.roomy))
        return found

    def keep(self, put: Callable[[list[Any]], bool], values: list[Any]) -> list[Any]:
        """Keep values, by what puts them where they belong; return them."""
        self.back.append(partial(put, values))
        if (others := self.exchanged(values)) is not values:
            self.lend.append(partial(put, others))
        return values

    def kept_method(self, one: Any) -> Iterable[Any]:
        """Return what a method belongs to."""
        return (one.__self__, one.__func__) if isinstance(one, MethodType) else (one.__self__,)

    def kept_descriptor(self, one: Any) -> Iterable[Any]:
        """Return the function in a property or another part of a class."""
        name = "fget" if isinstance(one, property) else (
            "func" if isinstance(one, functools.cached_property) else "__func__")
        return (getattr(one, name),)

    def kept_partial(self, one: Any) -> Iterable[Any]:
        """Return what a function was given beforehand."""
        return (one.func, one.args, one.keywords, *self.kept_object(one))

    def kept_cell(self, cell: Any) -> Iterable[Any]:
        """Take down a variable of a closure, which may have no value yet."""
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        return self.keep(partial(putting.put_cell, cell), [value])

    def kept_context(self, one: Any) -> Iterable[Any]:
        """Take down a variable of a context."""
        return self.keep(partial(putting.put_context, one), [one.get(ABSENT)])

    def kept_function(self, one: Any) -> Iterable[Any]:
        """Take down what a function holds and names."""
        found = [*(one.__closure__ or ()), *self.attributes(one), one.__kwdefaults__]
        if one.__defaults__:
            found += self.keep(partial(putting.put_defaults, one, one.__defaults__), list(one.__defaults__))
        if of_user(one.__globals__.get("__name__")):
            names = names_of(one.__code__)
            self.release(names)
            found += self.named(one.__globals__, names, globals_of(one.__code__))
        return found

    def release(self, names: frozenset[str]) -> None:
        """Look into the methods that code names."""
        for name in names - self.names:
            self.names.add(name)
            if name in self.methods:
                self.waiting.append((self.methods.pop(name), self.roomy))

    def named(self, space: dict[str, Any], names: Iterable[str], used: Iterable[str]) -> list[Any]:
        """Take down the globals that a function uses, and what it names in modules of the user's."""
        found = {name: space.get(name, ABSENT) for name in used}
        values = self.keep(partial(putting.put_names, space, list(found)), list(found.values()))
        for name, value in found.items():
            module = sys.modules.get(name) if value is ABSENT else value
            if issubclass(type(module), ModuleType) and of_user(vars(module).get("__name__")):
                inner = [name for name in names if not is_dunder(name) and name in vars(module)]
                kept = [vars(module)[name] for name in inner]
                values = values + self.keep(partial(putting.put_names, vars(module), inner), kept)
        return values

    def kept_class(self, kind: Any) -> Iterable[Any]:
        """Take down the attributes of a class that is no part of torch, numpy or Python; keep its methods in mind."""
        if of_core(kind.__module__):
            return ()
        names = [name for name in vars(kind) if not is_dunder(name)]
        values = self.keep(partial(putting.put_class, kind, names), [vars(kind)[name] for name in names])
        found = [value for value in values if not issubclass(type(value), METHODS)]
        for name, value in vars(kind).items() if of_user(kind.__module__) else ():
            if issubclass(type(value), METHODS):
                used = is_dunder(name) or name in self.names
                (found if used else self.methods.setdefault(name, [])).append(value)
        return (*found, *kind.__mro__[1:])

    def kept_object(self, one: Any) -> Iterable[Any]:
        """Take down what an object holds, and its class."""
        found = [*self.items(one), type(one)]
        if issubclass(type(one), nn.Module):
            for buffer in (self.own(one).get("_buffers") or {}).values():
                if buffer is not None and id(buffer) not in self.held:
                    self.held[id(buffer)] = buffer
                    self.kept_tensor(buffer, always=True)
        return found + self.attributes(one)

    def items(self, one: Any) -> list[Any]:
        """Take down what is in a container in memory: to clear another kind of mapping could empty a file."""
        base = next((base for base in CONTAINERS if issubclass(type(one), base)), None)
        if base is None or not self.fits("items", base.__len__(one), ITEMS):
            return []
        if base is dict:
            return self.mapped(one)
        values = list(base.__iter__(one))
        if base in (list, deque):
            self.keep(partial(putting.put_values, one), values)
        elif base is set:
            self.back.append(partial(putting.put_values, one, values))
        return self.deep(values)

    def deep(self, values: list[Any]) -> list[Any]:
        """Return those of the values that may hold something; of a large container only where they are few."""
        found = [value for value in values if type(value) not in SIMPLE]
        return found if self.fits("deep", len(found), ITEMS) else []

    def mapped(self, mapping: Any) -> list[Any]:
        """Take down a dict."""
        names, values = putting.in_mapping(mapping)
        self.keep(partial(putting.put_mapping, mapping, names), values)
        return self.deep(values)

    def attributes(self, one: Any) -> list[Any]:
        """Take down the attributes of an object, in slots too."""
        found: list[Any] = []
        if own := self.own(one):
            for value in self.mapped(own):
                if type(value) in (dict, OrderedDict) and not value:  # an nn.Module has a dozen of them
                    self.held[id(value)] = value
                    self.empty.append(value)
                else:
                    found.append(value)
        elif own is not None:
            self.empty.append(own)
        for slot in self.parts.get(type(one), (None, []))[1]:
            found += self.keep(partial(putting.put_slot, slot, one), [putting.in_slot(slot, one)])
        return found

    def own(self, one: Any) -> Any:
        """Return the attributes of an object, without a word to its class; None where it has no dict."""
        if issubclass(type(one), threading.local):
            return threading.local.__getattribute__(one, "__dict__")
        if type(one) not in self.parts:
            home = next((vars(base)["__dict__"] for base in type(one).__mro__ if "__dict__" in vars(base)), None)
            self.parts[type(one)] = home if type(home) in DESCRIPTORS else None, list(slots(type(one)))
        home = self.parts[type(one)][0]
        return None if home is None else home.__get__(one)


def passed(one: Any) -> Iterable[Any]:
    """Return nothing: such objects hold nothing."""
    return ()


def slots(kind: type) -> Iterator[Any]:
    """Yield the slots that classes written in Python give their objects."""
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if type(slot := vars(base).get(name)).__name__ == "member_descriptor":
                yield slot


def memento_of(*roots: Any, but: Iterable[Any] = ()) -> Memento:
    """Return the memento of a loss, a net or a step that is about to be tried out: there is room for queues in it."""
    return Memento(*roots, but=but, numbers=2**24, items=10**6, iterators=True)
