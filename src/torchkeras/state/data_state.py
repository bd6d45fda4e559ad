"""Record the values of tensors, arrays, random generators and files, to restore them later."""

from __future__ import annotations

import array
import io
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.types import State
from torchkeras.state import putting
from torchkeras.state.components import RandomGenerator
from torchkeras.state.generators import generator_state, set_generator_state
from torchkeras.state.reach import is_core_module

NUMBERS = 4096  # a larger array is taken for data, unless there is a budget for it
BYTES = (bytearray, array.array)


class ValueRecorder:
    """Record values that refer to no other objects.

    Attributes:
        one_shot: whether something cannot be restored.
        versions: tensors without a copy, and torch's version counters of them.
        undo: calls that restore everything; each returns whether it had changed.
        budget: how many more numbers and items of large containers may be recorded.
        uses_budget: whether the object that is being recorded may use the budget.
        iterators: whether losses and nets are recorded, not data.
    """

    one_shot: bool
    versions: list[tuple[Tensor, int]]
    iterators: bool
    uses_budget: bool
    undo: list[Callable[[], bool]]
    budget: dict[str, int]

    def fits(self, what: str, size: int, least: int) -> bool:
        """Tell whether a value is recorded: it is small, or within the budget that is left."""
        if size > least and self.uses_budget and size <= self.budget[what]:
            self.budget[what] -= size
            return True
        return size <= least

    def record_one_shot(self, one: object) -> Iterable[Any]:
        """Note that something cannot be restored."""
        self.one_shot = True
        return ()

    def record_generator(self, one: RandomGenerator) -> Iterable[Any]:
        """Record the state of a random generator."""
        if not issubclass(type(one), random.SystemRandom):  # it has no state
            self.undo.append(partial(restore_generator, one, generator_state(one)))
        return ()

    def record_tensor(self, one: Tensor, always: bool = False) -> Iterable[Any]:
        """Record the values of a tensor."""
        if type(one) not in (Tensor, nn.Parameter) or one.layout != torch.strided or (
                one.is_nested or one.is_meta or one.is_inference() or putting.is_freed(one)):
            return ()
        what = "weights" if type(one) is nn.Parameter else "numbers"
        if always or self.fits(what, one.numel(), NUMBERS):
            self.undo.append(partial(putting.restore_tensor, one, one.detach().clone()))
        elif self.uses_budget:
            self.versions.append((one, internals.version(one)))
        return ()

    def record_array(self, one: np.ndarray[Any, Any]) -> Iterable[Any]:
        """Record an array; a memory-mapped file is not restored."""
        if type(one) is np.memmap and one.mode in ("r+", "w+") and self.iterators:
            self.one_shot = True
        elif one.flags.writeable and self.fits("numbers", one.size, NUMBERS):
            self.undo.append(partial(putting.restore_array, one, one.copy()))
            return one.ravel().tolist() if one.dtype == object else ()
        return ()

    def record_bytes(self, one: bytearray | array.array[Any]) -> Iterable[Any]:
        """Record a bytearray, or an ``array.array`` of numbers."""
        if type(one) in (bytearray, array.array) and self.fits("numbers", len(one), NUMBERS):
            self.undo.append(partial(putting.restore_bytes, one, bytes(one)))
        return ()

    def record_file(self, file: Any) -> Iterable[Any]:
        """Record the position in a file that is read; what is written stays written."""
        if any(file is one for one in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
            return ()
        if not is_core_module(type(file).__module__):
            self.one_shot = True
        elif file.closed:
            return ()
        elif type(file) in (io.StringIO, io.BytesIO):
            self.undo.append(partial(putting.restore_text, file, file.getvalue(), file.tell()))
        elif file.writable() or not file.seekable():
            self.one_shot = True
        else:
            self.undo.append(partial(putting.restore_position, file, file.tell()))
        return ()


def restore_generator(one: RandomGenerator, state: State) -> bool:
    """Restore a random generator; tell whether it had moved."""
    moved = pickle.dumps(generator_state(one)) != pickle.dumps(state)
    set_generator_state(one, state)
    return moved
