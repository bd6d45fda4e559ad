"""Take down the state of objects of any make, and put it back."""

from __future__ import annotations

import io
import logging
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.engine.generators import put_state, state_of

OBJECTS = 200_000  # that are looked through
ITEMS = 1000  # a larger list or dict is data
NUMBERS = 4096  # a larger array is data
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
ON_THEIR_OWN = (threading.Thread, queue.Queue, queue.SimpleQueue)  # they change while nobody calls them
OTHER_PROCESSES = ("multiprocessing.queues", "multiprocessing.connection", "multiprocessing.process", "concurrent.")
OF_THE_RUN = ("accelerate.", "torchkeras.engine.run", "torchkeras.engine.together")  # a stop may be asked for meanwhile
PASSED_BY = (type, FunctionType, ModuleType, logging.Logger, str, bytes, int, float, complex, type(None))


class Memento:
    """Keep what objects hold, and all that they refer to: attributes, small lists, dicts and arrays, generators.

    Large lists and arrays are taken for data that nobody changes. What only its owner can put back (the place of an
    iterator, a queue that a thread fills) shows in ``once``.

    Args:
        *roots: the objects.

    Attributes:
        once: whether any of them holds such a thing.

    Example:
        >>> from types import SimpleNamespace
        >>> counter = SimpleNamespace(calls=0, seen=[])
        >>> memento = Memento(counter)
        >>> counter.calls += 1
        >>> counter.seen.append("a")
        >>> memento.restore()
        >>> counter
        namespace(calls=0, seen=[])
    """

    def __init__(self, *roots: Any) -> None:
        self.once = False
        self.back: list[Callable[[], None]] = []
        self.held: dict[int, Any] = {}  # a reference keeps an id from being given to another object
        waiting = deque(roots)
        while waiting and len(self.held) < OBJECTS:
            one = waiting.popleft()
            if id(one) not in self.held and not isinstance(one, PASSED_BY) and (
                    not type(one).__module__.startswith(OF_THE_RUN)):
                self.held[id(one)] = one
                waiting.extend(self.kept(one))

    def restore(self) -> None:
        """Put everything back that has changed."""
        for put in self.back:
            put()

    def kept(self, one: Any) -> Iterable[Any]:
        """Take down one object; return what it refers to."""
        if isinstance(one, GENERATORS):
            state = state_of(one)
            self.back.append(lambda: put_state(one, state))
            return ()
        if isinstance(one, (Tensor, np.ndarray)):
            self.keep_numbers(one)
            return ()
        if isinstance(one, io.IOBase):
            self.keep_place(one)
            return ()
        if isinstance(one, (Iterator, *ON_THEIR_OWN)) or type(one).__module__.startswith(OTHER_PROCESSES):
            self.once = True
            return ()
        if isinstance(one, MethodType):
            return (one.__self__,)
        if isinstance(one, nn.Module):
            for buffer in one.buffers(recurse=False):
                self.keep_numbers(buffer, most=buffer.numel())
        return (*self.keep_items(one), *self.keep_attributes(one))

    def keep_numbers(self, one: Any, most: int = NUMBERS) -> None:
        """Take down an array that is small, and the buffers of a module."""
        if isinstance(one, np.ndarray):
            if one.size <= most and one.dtype != object and one.flags.writeable:
                values = one.copy()
                self.back.append(lambda: None if one.tobytes() == values.tobytes() else np.copyto(one, values))
        elif type(one) in (Tensor, nn.Parameter) and one.layout == torch.strided and one.numel() <= most and (
                one.device.type != "meta" and not one.is_inference()):
            copy = one.detach().clone()
            self.back.append(lambda: None if torch.equal(one, copy) else put_numbers(one, copy))

    def keep_place(self, file: Any) -> None:
        """Take down how far a file was read; what is written stays written."""
        if not file.closed and file.seekable() and file.readable() and not file.writable():
            place = file.tell()
            self.back.append(lambda: None if file.closed else file.seek(place) and None)

    def keep_items(self, one: Any) -> Iterable[Any]:
        """Take down a container that is no data."""
        if isinstance(one, tuple):
            return one if len(one) <= ITEMS else ()
        # only what is in memory: to clear another kind of mapping could empty a file
        if not isinstance(one, (list, deque, dict, set)) or len(one) > ITEMS:
            return ()
        if isinstance(one, dict):
            items = list(one.items())
            self.back.append(lambda: put_mapping(one, items))
            return [value for _, value in items]
        values = list(one)
        self.back.append(lambda: put_values(one, values))
        return values

    def keep_attributes(self, one: Any) -> Iterable[Any]:
        """Take down the attributes of an object, in slots too."""
        found = []
        if isinstance(own := getattr(one, "__dict__", None), dict):
            items = list(own.items())
            self.back.append(lambda: put_mapping(own, items))
            found += [value for _, value in items]
        for slot in slots(type(one)):
            with suppress(AttributeError):  # it is not set
                value = slot.__get__(one)
                self.back.append(partial(slot.__set__, one, value))
                found.append(value)
        return found


def slots(kind: type) -> Iterator[Any]:
    """Yield the slots that classes written in Python give their objects."""
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if type(slot := vars(base).get(name)).__name__ == "member_descriptor":
                yield slot


def put_mapping(mapping: Any, items: list[tuple[Any, Any]]) -> None:
    """Give a dict its items back, where they are others now."""
    now = list(mapping.items())
    if len(now) != len(items) or any(a is not c or b is not d for (a, b), (c, d) in zip(now, items, strict=True)):
        mapping.clear()
        mapping.update(items)


def put_values(container: Any, values: list[Any]) -> None:
    """Give a list, deque or set its values back, where they are others now."""
    now = list(container)
    if len(now) != len(values) or any(a is not b for a, b in zip(now, values, strict=True)):
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(values)


def put_numbers(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor its numbers back."""
    with torch.no_grad():
        tensor.detach().copy_(values)
