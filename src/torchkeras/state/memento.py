"""Record the state of any objects and functions, and restore it."""

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

from torchkeras.core import internals
from torchkeras.state import iterators as copying
from torchkeras.state import putting
from torchkeras.state.components import GENERATORS
from torchkeras.state.data_state import BYTES, ValueRecorder
from torchkeras.state.putting import ABSENT, is_dunder
from torchkeras.state.reach import globals_in_code, is_core_module, is_user_module, names_in_code

MAX_OBJECTS = 200_000  # that are visited
MAX_ITEMS = 1000  # a larger list or dict is taken for data, unless there is a budget for it
# methods that this library calls; Python calls those with two underscores
CALLED_METHODS = ("forward", "loss", "predict", "count", "update", "compute", "measure")
CONCURRENT_TYPES = (threading.Thread, queue.Queue, queue.SimpleQueue)  # changed by other threads
OTHER_PROCESSES = ("multiprocessing.queues", "multiprocessing.connection",
                   "multiprocessing.process", "multiprocessing.managers",
                   "multiprocessing.sharedctypes", "concurrent.")
# these keep what happens meanwhile, such as a stop request
RUN_MODULES = ("accelerate.", "torchkeras.engine.run", "torchkeras.engine.strategy",
               "torchkeras.core.communicator", "torchkeras.core.accumulation",
               "torchkeras.distributed.communicator", "torchkeras.distributed.stop",
               "torchkeras.distributed.strategies", "torchkeras.kerasmodel",
               "torchkeras.lightning.model", "torch.optim.")
SKIPPED_TYPES = (ModuleType, logging.Logger, str, bytes, int, float, complex, type(None),
                 torch.dtype, torch.device)
DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
CONTAINERS: tuple[Any, ...] = (dict, list, deque, set, tuple, frozenset)
DATA = (data.Dataset, data.DataLoader, data.Sampler)
ATOMIC_TYPES = frozenset({str, bytes, int, float, complex, bool, type(None)})
METHODS = (FunctionType, staticmethod, classmethod, property, functools.cached_property)


class Memento(ValueRecorder):
    """Record objects and all that they refer to: attributes, lists, dicts, arrays, generators.

    Functions refer to variables of closures, defaults, attributes, and the globals that they name;
    a user's classes refer to their attributes. Large lists and arrays are taken for data that does
    not change. What cannot be restored from outside (the position of a generator, a queue that a
    thread fills, a file that is written) sets ``one_shot``.

    Args:
        *roots: the objects and functions.
        but: objects that are not recorded.
        numbers: the budget for elements of larger arrays. Those of a ``Dataset`` are always data.
        items: the budget for items of larger containers, of which one in a hundred may refer to
            other objects.
        iterators: whether Python's own iterators may be replaced by copies within ``with``; else
            they can be read only once.

    Attributes:
        one_shot: whether any object cannot be restored.
        lost: whether a large tensor without a copy was written to; set by :meth:`restore`.
        changed: whether anything had to be restored; set by :meth:`restore`.

    Example:
        >>> from types import SimpleNamespace
        >>> counter = SimpleNamespace(calls=0, seen=[])
        >>> with Memento(counter):
        ...     counter.calls += 1
        ...     counter.seen.append("a")
        >>> counter
        namespace(calls=0, seen=[])
    """

    def __init__(self, *roots: object, but: Iterable[object] = (), numbers: int = 0, items: int = 0,
                 iterators: bool = False) -> None:
        self.one_shot = self.lost = self.changed = False
        self.iterators = iterators
        self.undo: list[Callable[[], bool]] = []
        self.versions: list[tuple[Tensor, int]] = []
        self.substitutes: list[Callable[[], bool]] = []  # put copies of iterators in their places
        self.empty_dicts: list[dict[Any, Any]] = []
        self.copies: dict[int, Any] = {}
        self.budget = {"numbers": numbers, "weights": numbers // 16, "items": items,
                       "deep": items // 100}
        self.names = set(CALLED_METHODS)  # names in code that was visited
        self.methods: dict[str, list[Any]] = {}  # methods that no visited code names so far
        self.recorders: dict[type, Callable[[Any], Iterable[Any]]] = {}
        self.layouts: dict[type, tuple[Any, list[Any]]] = {}
        # by id; the reference keeps an id from being used again
        self.seen: dict[int, Any] = {id(one): one for one in but}
        self.queue = deque[tuple[Iterable[Any], bool]]([(roots, True)])
        while self.queue and len(self.seen) < MAX_OBJECTS:
            some, self.uses_budget = self.queue.popleft()
            for one in some:
                if id(one) in self.seen:
                    continue
                way = self.recorders.get(type(one)) or self.recorder_for(type(one))
                if way is not record_nothing:
                    self.seen[id(one)] = one
                    if found := way(one):
                        roomy = self.uses_budget and not issubclass(type(one), DATA)
                        self.queue.append((found, roomy))
        self.recorders.clear()  # bound methods refer to this object, and it to them

    def __enter__(self) -> Memento:
        """Put copies of iterators in their places, so that the originals do not move."""
        for put in self.substitutes:
            put()
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Restore everything that has changed."""
        for one in self.empty_dicts:
            if one:
                one.clear()
                self.changed = True
        for put in self.undo:
            self.changed |= put()
        self.lost = self.lost or any(
            internals.version(one) != version for one, version in self.versions)
        self.changed |= self.lost
        for some in (self.undo, self.substitutes, self.empty_dicts, self.seen, self.copies,
                     self.versions):
            some.clear()  # free copies of weights now, not at the next garbage collection

    def recorder_for(self, kind: type) -> Callable[[Any], Iterable[Any]]:
        """Return the method that records objects of a type."""
        known = next((way for kinds, way in (
            (type, self.record_class), (SKIPPED_TYPES, record_nothing),
            (GENERATORS, self.record_generator), (Tensor, self.record_tensor),
            (np.ndarray, self.record_array), (BYTES, self.record_bytes),
            (io.IOBase, self.record_file), (FunctionType, self.record_function),
            (CellType, self.record_cell), (ContextVar, self.record_context),
            ((MethodType, BuiltinMethodType), self.record_method),
            (METHODS, self.record_descriptor), (partial, self.record_partial),
            (CONCURRENT_TYPES, self.record_one_shot)) if issubclass(kind, kinds)), None)
        found: Callable[[Any], Iterable[Any]] = known or self.record_object
        bases = [f"{base.__module__}." for base in kind.__mro__]
        copied = self.iterators and is_user_module(kind.__module__)
        if issubclass(kind, Iterator) and known is None and not copied or (
                bases[0].startswith(OTHER_PROCESSES)):
            found = self.record_one_shot
        elif any(base.startswith(RUN_MODULES) for base in bases):
            found = record_nothing
        self.recorders[kind] = found
        return found

    def with_copied_iterators(self, values: list[Any]) -> list[Any]:
        """Return the values with copies in place of iterators; the same list without any."""
        if not self.iterators or not any(type(one) in copying.NATIVE for one in values):
            return values
        try:
            found = [copying.copy_iterator(one, self.copies) if type(one) in copying.NATIVE else one
                     for one in values]
        except copying.NotCopyable:
            self.one_shot = True
            return values
        for one in values:
            if type(one) in copying.NATIVE:
                self.seen[id(one)] = one
                self.queue.append((copying.inputs_of(one), self.uses_budget))
        return found

    def record(self, put: Callable[[list[Any]], bool], values: list[Any]) -> list[Any]:
        """Record values together with the function that restores them; return them."""
        self.undo.append(partial(put, values))
        if (others := self.with_copied_iterators(values)) is not values:
            self.substitutes.append(partial(put, others))
        return values

    def record_method(self, one: MethodType | BuiltinMethodType) -> Iterable[Any]:
        """Return the object and the function of a method, to be visited."""
        return (one.__self__, one.__func__) if isinstance(one, MethodType) else (one.__self__,)

    def record_descriptor(self, one: object) -> Iterable[Any]:
        """Return the function in a property, static method or class method."""
        name = "fget" if isinstance(one, property) else (
            "func" if isinstance(one, functools.cached_property) else "__func__")
        return (getattr(one, name),)

    def record_partial(self, one: partial[Any]) -> Iterable[Any]:
        """Return the function and the arguments of a ``functools.partial``."""
        return (one.func, one.args, one.keywords, *self.record_object(one))

    def record_cell(self, cell: CellType) -> Iterable[Any]:
        """Record a variable of a closure, which may have no value yet."""
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        return self.record(partial(putting.restore_cell, cell), [value])

    def record_context(self, one: ContextVar[Any]) -> Iterable[Any]:
        """Record a context variable."""
        return self.record(partial(putting.restore_context, one), [one.get(ABSENT)])

    def record_function(self, one: FunctionType) -> Iterable[Any]:
        """Record the defaults, attributes and globals of a function."""
        found = [*(one.__closure__ or ()), *self.record_attributes(one), one.__kwdefaults__]
        if one.__defaults__:
            found += self.record(partial(putting.restore_defaults, one, one.__defaults__),
                                 list(one.__defaults__))
        if is_user_module(one.__globals__.get("__name__")):
            names = names_in_code(one.__code__)
            self.visit_methods(names)
            found += self.record_globals(one.__globals__, names, globals_in_code(one.__code__))
        return found

    def visit_methods(self, names: frozenset[str]) -> None:
        """Queue the methods that code names."""
        for name in names - self.names:
            self.names.add(name)
            if name in self.methods:
                self.queue.append((self.methods.pop(name), self.uses_budget))

    def record_globals(self, space: dict[str, Any], names: Iterable[str],
                       used: Iterable[str]) -> list[Any]:
        """Record the globals that a function uses, and what it names in a user's modules."""
        found = {name: space.get(name, ABSENT) for name in used}
        values = self.record(partial(putting.restore_names, space, list(found)),
                             list(found.values()))
        for name, value in found.items():
            module = sys.modules.get(name) if value is ABSENT else value
            if not issubclass(type(module), ModuleType):
                continue
            variables = vars(module)
            if is_user_module(variables.get("__name__")):
                inner = [name for name in names if not is_dunder(name) and name in variables]
                put = partial(putting.restore_names, variables, inner)
                values = values + self.record(put, [variables[name] for name in inner])
        return values

    def record_class(self, kind: type) -> Iterable[Any]:
        """Record the attributes of a user's class; its methods are visited once code names them."""
        if is_core_module(kind.__module__):
            return ()
        names = [name for name in vars(kind) if not is_dunder(name)]
        values = self.record(partial(putting.restore_class, kind, names),
                             [vars(kind)[name] for name in names])
        found = [value for value in values if not issubclass(type(value), METHODS)]
        for name, value in vars(kind).items() if is_user_module(kind.__module__) else ():
            if issubclass(type(value), METHODS):
                used = is_dunder(name) or name in self.names
                (found if used else self.methods.setdefault(name, [])).append(value)
        return (*found, *kind.__mro__[1:])

    def record_object(self, one: object) -> Iterable[Any]:
        """Record the attributes or items of an object, and its class."""
        found = [*self.record_items(one), type(one)]
        if issubclass(type(one), nn.Module):
            for buffer in (self.dict_of(one).get("_buffers") or {}).values():
                if buffer is not None and id(buffer) not in self.seen:
                    self.seen[id(buffer)] = buffer
                    self.record_tensor(buffer, always=True)
        return found + self.record_attributes(one)

    def record_items(self, one: Any) -> list[Any]:
        """Record the items of a container in memory; clearing other mappings could empty a file."""
        base = next((base for base in CONTAINERS if issubclass(type(one), base)), None)
        if base is None or not self.fits("items", base.__len__(one), MAX_ITEMS):
            return []
        if base is dict:
            return self.record_dict(one)
        values = list(base.__iter__(one))
        if base in (list, deque):
            self.record(partial(putting.restore_values, one), values)
        elif base is set:
            self.undo.append(partial(putting.restore_values, one, values))
        return self.to_visit(values)

    def to_visit(self, values: list[Any]) -> list[Any]:
        """Return the values that may refer to others; none if a large container has many."""
        found = [value for value in values if type(value) not in ATOMIC_TYPES]
        return found if self.fits("deep", len(found), MAX_ITEMS) else []

    def record_dict(self, mapping: dict[Any, Any]) -> list[Any]:
        """Record the items of a dict."""
        names, values = putting.items_of(mapping)
        self.record(partial(putting.restore_mapping, mapping, names), values)
        return self.to_visit(values)

    def record_attributes(self, one: object) -> list[Any]:
        """Record the attributes of an object, in slots too."""
        found: list[Any] = []
        if own := self.dict_of(one):
            for value in self.record_dict(own):
                # an nn.Module has a dozen of them
                if type(value) in (dict, OrderedDict) and not value:
                    self.seen[id(value)] = value
                    self.empty_dicts.append(value)
                else:
                    found.append(value)
        elif own is not None:
            self.empty_dicts.append(own)
        for slot in self.layouts.get(type(one), (None, []))[1]:
            found += self.record(partial(putting.restore_slot, slot, one),
                                 [putting.slot_value(slot, one)])
        return found

    def dict_of(self, one: Any) -> Any:
        """Return an object's ``__dict__`` without calling its class; None where it has none."""
        if issubclass(type(one), threading.local):
            return threading.local.__getattribute__(one, "__dict__")
        if type(one) not in self.layouts:
            home = next((vars(base)["__dict__"] for base in type(one).__mro__
                         if "__dict__" in vars(base)), None)
            slot = home if type(home) in DESCRIPTORS else None
            self.layouts[type(one)] = slot, list(slots(type(one)))
        home = self.layouts[type(one)][0]
        return None if home is None else home.__get__(one)


def record_nothing(one: object) -> Iterable[Any]:
    """Return nothing: such objects hold no state."""
    return ()


def slots(kind: type) -> Iterator[Any]:
    """Yield the slots that classes written in Python give their objects."""
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if type(slot := vars(base).get(name)).__name__ == "member_descriptor":
                yield slot


def memento_of(*roots: object, but: Iterable[object] = ()) -> Memento:
    """Return the memento of a loss, net or step for a trial, with room for larger data."""
    return Memento(*roots, but=but, numbers=2**24, items=10**6, iterators=True)
