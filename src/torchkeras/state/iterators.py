"""Copy the iterators of Python itself, so that the copy can be read in the place of the original."""

from __future__ import annotations

import ast
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

SOURCES: tuple[Any, ...] = ([], (), "", b"", bytearray(), range(0), range(2**70), set(), {}, {}.values(), {}.items())
TURNED: tuple[Any, ...] = ([], {}, range(0))
NATIVE = frozenset({
    *(type(iter(one)) for one in SOURCES), *(type(reversed(one)) for one in TURNED),
    enumerate, zip, map, filter, reversed, itertools.count, itertools.cycle,
    itertools.repeat, itertools.chain, itertools.islice, itertools.accumulate, itertools.compress, itertools.dropwhile,
    itertools.takewhile, itertools.filterfalse, itertools.starmap, itertools.zip_longest, itertools.pairwise,
    itertools.product, itertools.permutations, itertools.combinations, itertools.combinations_with_replacement})


class NoCopy(Exception):
    """An iterator of which there is no copy: a generator, or one that reads from such."""


def copied(one: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of an iterator that goes on from the same place, with copies of the iterators that it reads from.

    Args:
        one: the iterator.
        copies: by the id of the original; two that read from one iterator still do so as copies.

    Raises:
        NoCopy: it cannot be copied.
    """
    if id(one) not in copies:
        copies[id(one)] = made(one, copies)
    return copies[id(one)]


def made(one: Any, copies: dict[int, Any]) -> Any:
    """Return a new iterator as one tells how to make it; it does not move by that."""
    if type(one) not in NATIVE:
        raise NoCopy(type(one).__name__)
    if type(one) is itertools.count:
        return counting(one)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: that 3.14 cannot do it any more
            make, arguments, *state = one.__reduce_ex__(4)
            found = make(*inside(arguments, copies))
            if state and state[0] is not None:
                found.__setstate__(inside(state[0], copies))
    except (TypeError, ValueError) as error:
        raise NoCopy(type(one).__name__) from error
    return found


def counting(one: Any) -> Any:
    """Return a copy of an ``itertools.count``, which shows in its text where it is."""
    try:
        return itertools.count(*ast.literal_eval(repr(one).removeprefix("count").replace(")", ",)")))
    except (ValueError, SyntaxError) as error:
        raise NoCopy("count") from error


def inside(value: Any, copies: dict[int, Any]) -> Any:
    """Return what an iterator is made of, with copies of the iterators in it."""
    if type(value) is tuple:
        return tuple(inside(one, copies) for one in value)
    return copied(value, copies) if issubclass(type(value), Iterator) else value


def sources(one: Any) -> list[Any]:
    """Return what an iterator that can be copied reads from and calls, but for iterators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        waiting, found = ([] if type(one) is itertools.count else list(one.__reduce_ex__(4)[1:])), []
    while waiting:
        value = waiting.pop()
        if type(value) is tuple:
            waiting += value
        elif type(value) in NATIVE:
            found += sources(value)
        else:
            found.append(value)
    return found
