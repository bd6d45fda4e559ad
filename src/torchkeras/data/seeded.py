"""Random transforms that are the same in every process, with any number of workers, at any time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from torchkeras.core.errors import bad_type, whole_number
from torchkeras.core.rng import cpu_random_states, put_random_states
from torchkeras.core.types import Data

MASK = 2**64 - 1


class seeded(Dataset[Any]):  # noqa: N801 (called like a function)
    """Make random transforms repeatable: each sample is seeded by seed, epoch and its index.

    A plain Dataset draws from the global generators in whatever state they are, and in loader
    workers from generators whose state cannot be restored. Wrapped in this, a sample is the same
    with 0, 1 or 8 workers, in any order, and in a run that was interrupted in an epoch and resumed.
    It costs about ten microseconds a sample. Generators that the dataset makes for itself
    (``numpy.random.default_rng()``) are not seeded.

    Args:
        dataset: a Dataset that is read by index and draws from ``random``, ``numpy.random`` or
            torch.
        seed: another seed gives other draws. From 0 to 2**32 - 1. Default 0.

    Raises:
        TypeError: ``dataset`` cannot be read by index.
        ValueError: ``seed`` is out of range.

    Example:
        >>> class Noise(Dataset):
        ...     def __len__(self): return 3
        ...     def __getitem__(self, index): return torch.rand(())
        >>> noise = seeded(Noise(), seed=1)
        >>> noise[2] == noise[2], noise[2] == noise[1]
        (tensor(True), tensor(False))
        >>> first = noise[2]
        >>> noise.set_epoch(1)  # fit does this as an epoch begins
        >>> noise[2] == first
        tensor(False)
    """

    def __init__(self, dataset: Data, seed: int = 0) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise bad_type("dataset", received=f"a {type(dataset).__name__}",
                           expected="a Dataset with __len__ and __getitem__",
                           fix="A stream has no sample numbers: seed inside its __iter__.")
        whole_number("seed", seed, least=0, most=2**32 - 1)
        self.dataset, self.seed = dataset, seed
        # in shared memory, as workers that persist between epochs have copies of all else
        epoch: Any = torch.zeros((), dtype=torch.int64)
        self.epoch: Tensor = epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Change the draws; ``fit`` calls this as an epoch begins."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        before = cpu_random_states() if get_worker_info() is None else None
        number = mix_numbers(self.seed, int(self.epoch), int(index) % len(self))
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        torch.default_generator.manual_seed(number)
        try:
            return self.dataset[index]
        finally:
            if before is not None:
                put_random_states(before)


def mix_numbers(*numbers: int) -> int:
    """Mix ints to one of 64 bits that depends on all of them (SplitMix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state ^ number) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state
