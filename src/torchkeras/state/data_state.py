"""Take down numbers, random generators and places in files."""

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

from torchkeras.state import putting
from torchkeras.state.generators import put_state, state_of
from torchkeras.state.reach import of_core

NUMBERS = 4096  # a larger array is data, unless more are asked for
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
BYTES = (bytearray, array.array)


class DataKeeper:
    """Keep what objects hold that refer to no others; each ``kept_...`` returns what is to be looked through next.

    Attributes:
        once: whether there is a thing that cannot be put back.
        versions: tensors of which there is no copy, and the numbers by which torch counts what is written to them.
        back: puts everything back.
        left: how much more there is room for.
        roomy: whether the object in hand may use that room.
        iterators: whether losses and nets are kept, not data.
    """

    once: bool
    versions: list[tuple[Tensor, int]]
    iterators: bool
    roomy: bool
    back: list[Callable[[], bool]]
    left: dict[str, int]

    def fits(self, what: str, size: int, least: int) -> bool:
        """Tell whether something is kept: it is small, or there is room for it."""
        if size > least and self.roomy and size <= self.left[what]:
            self.left[what] -= size
            return True
        return size <= least

    def kept_once(self, one: Any) -> Iterable[Any]:
        """Keep account of what cannot be put back."""
        self.once = True
        return ()

    def kept_generator(self, one: Any) -> Iterable[Any]:
        """Take down the state of a random generator."""
        if not issubclass(type(one), random.SystemRandom):  # that has no state
            self.back.append(partial(put_generator, one, state_of(one)))
        return ()

    def kept_tensor(self, one: Any, always: bool = False) -> Iterable[Any]:
        """Take down the numbers of a tensor."""
        if type(one) not in (Tensor, nn.Parameter) or one.layout != torch.strided or one.is_nested or (
                one.is_meta or one.is_inference() or putting.is_freed(one)):
            return ()
        if always or self.fits("weights" if type(one) is nn.Parameter else "numbers", one.numel(), NUMBERS):
            self.back.append(partial(putting.put_numbers, one, one.detach().clone()))
        elif self.roomy:
            self.versions.append((one, one._version))
        return ()

    def kept_array(self, one: Any) -> Iterable[Any]:
        """Take down an array; one in a file is written by whoever writes it."""
        if type(one) is np.memmap and one.mode in ("r+", "w+") and self.iterators:
            self.once = True
        elif one.flags.writeable and self.fits("numbers", one.size, NUMBERS):
            self.back.append(partial(putting.put_array, one, one.copy()))
            return one.ravel().tolist() if one.dtype == object else ()
        return ()

    def kept_bytes(self, one: Any) -> Iterable[Any]:
        """Take down an array of bytes or of C's numbers."""
        if type(one) in (bytearray, array.array) and self.fits("numbers", len(one), NUMBERS):
            self.back.append(partial(putting.put_bytes, one, bytes(one)))
        return ()

    def kept_file(self, file: Any) -> Iterable[Any]:
        """Take down how far a file was read; what is written stays written."""
        if any(file is one for one in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
            return ()
        if not of_core(type(file).__module__):
            self.once = True
        elif file.closed:
            return ()
        elif type(file) in (io.StringIO, io.BytesIO):
            self.back.append(partial(putting.put_text, file, file.getvalue(), file.tell()))
        elif file.writable() or not file.seekable():
            self.once = True
        else:
            self.back.append(partial(putting.put_place, file, file.tell()))
        return ()


def put_generator(one: Any, state: Any) -> bool:
    """Put a random generator back to where it was; return whether it had moved."""
    moved = pickle.dumps(state_of(one)) != pickle.dumps(state)
    put_state(one, state)
    return moved
