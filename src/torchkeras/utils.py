"""Provide small helpers for notebooks."""

from __future__ import annotations

import gc
from datetime import datetime

import torch
from torch import nn

from torchkeras.core.errors import one_of, whole_number
from torchkeras.core.former import missing
from torchkeras.core.rng import seed_all
from torchkeras.core.screen import detect, print_safely

COLOURS = {"black": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36,
           "white": 37, "purple": 35}
DISPLAY_TYPES = {"plain": "", "highlight": "1;", "underline": "4;", "shine": "5;",
                 "inverse": "7;", "invisible": "8;"}


def seed_everything(seed: int = 42, *, deterministic: bool = False) -> int:
    """Seed Python, numpy and torch on every device.

    DataLoader workers take their seeds from torch's, so they follow. Two things do not: hashes of
    strings, which ``PYTHONHASHSEED`` fixes only when it is set before Python starts, and GPU
    operations that add in any order.

    Args:
        seed: from 0 to 2**32 - 1, the range that numpy takes.
        deterministic: also ask torch for deterministic GPU operations, which can be slower.

    Returns:
        The seed.

    Raises:
        TypeError: the seed is not an int.
        ValueError: the seed is out of range.

    Example:
        >>> seed_everything(7)
        7
        >>> first = torch.rand(3)
        >>> torch.equal(torch.rand(3), first), seed_everything(7), torch.equal(torch.rand(3), first)
        (False, 7, True)
    """
    whole_number("seed", seed, least=0, most=2**32 - 1)
    seed_all(seed)
    if deterministic:
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return seed


def printlog(info: object) -> None:
    """Print a rule with date and time, then a text.

    Args:
        info: what to print.

    Example:
        >>> printlog("step 1: prepare data")
        <BLANKLINE>
        ================================================================================20...
        step 1: prepare data
        <BLANKLINE>
    """
    print_safely(f"\n{'=' * 80}{datetime.now():%Y-%m-%d %H:%M:%S}\n{info}\n")


def colorful(text: object, color: str = "red", display_type: str = "plain") -> str:
    r"""Colour a text for a terminal.

    Args:
        text: what to colour.
        color: black, red, green, yellow, blue, magenta (or purple), cyan or white.
        display_type: plain, highlight, underline, shine, inverse or invisible.

    Raises:
        ValueError: there is no such colour or type.

    Example:
        >>> colorful("best", "green")
        '\x1b[32mbest\x1b[0m'
    """
    one_of("color", color, COLOURS)
    one_of("display_type", display_type, DISPLAY_TYPES)
    return f"\x1b[{DISPLAY_TYPES[display_type]}{COLOURS[color]}m{text}\x1b[0m"


def is_jupyter() -> bool:
    """Tell whether this runs in a notebook, which can show a live view.

    Example:
        >>> is_jupyter()
        False
    """
    return detect() == "notebook"


def delete_object(net: nn.Module) -> None:
    """Free the memory of a net that may still be referenced: its weights are gone afterwards.

    Args:
        net: the module to empty.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> delete_object(net)
        >>> net.weight.device.type
        'meta'
    """
    net.to("meta")
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
