"""Copy Python's own iterators, so that a copy can be read in place of the original."""

from __future__ import annotations

import ast
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

ITERABLES: tuple[Any, ...] = ([], (), "", b"", bytearray(), range(0), range(2**70), set(), {},
                              {}.values(), {}.items())
REVERSIBLES: tuple[Any, ...] = ([], {}, range(0))
NATIVE = frozenset({
    *(type(iter(one)) for one in ITERABLES), *(type(reversed(one)) for one in REVERSIBLES),
    enumerate, zip, map, filter, reversed, itertools.count, itertools.cycle,
    itertools.repeat, itertools.chain, itertools.islice, itertools.accumulate, itertools.compress,
    itertools.dropwhile,
    itertools.takewhile, itertools.filterfalse, itertools.starmap, itertools.zip_longest,
    itertools.pairwise,
    itertools.product, itertools.permutations, itertools.combinations,
    itertools.combinations_with_replacement})


class NotCopyable(Exception):
    """An iterator that cannot be copied: a generator, or one that reads from a generator."""


def copy_iterator(one: Any, copies: dict[int, Any]) -> Any:
    """Copy an iterator, with the iterators that it reads from; it continues from the same place.

    Args:
        one: the iterator.
        copies: the copies so far by the id of the original: what two iterators read from is
            copied once.

    Raises:
        NotCopyable: it cannot be copied.
    """
    if id(one) not in copies:
        copies[id(one)] = rebuild(one, copies)
    return copies[id(one)]


def rebuild(one: Any, copies: dict[int, Any]) -> Any:
    """Build an iterator from what ``__reduce_ex__`` of another says; that one does not move."""
    if type(one) not in NATIVE:
        raise NotCopyable(type(one).__name__)
    if type(one) is itertools.count:
        return copy_count(one)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns that 3.14 cannot do this any more
            warnings.simplefilter("ignore", DeprecationWarning)
            make, arguments, *state = one.__reduce_ex__(4)
            found = make(*copy_arguments(arguments, copies))
            if state and state[0] is not None:
                found.__setstate__(copy_arguments(state[0], copies))
    except (TypeError, ValueError) as error:
        raise NotCopyable(type(one).__name__) from error
    return found


def copy_count(one: object) -> Any:
    """Copy an ``itertools.count``, whose ``repr`` says where it is."""
    arguments = repr(one).removeprefix("count").replace(")", ",)")
    try:
        return itertools.count(*ast.literal_eval(arguments))
    except (ValueError, SyntaxError) as error:
        raise NotCopyable("count") from error


def copy_arguments(value: object, copies: dict[int, Any]) -> Any:
    """Return the arguments that an iterator is made of, with copies of the iterators among them."""
    if type(value) is tuple:
        return tuple(copy_arguments(one, copies) for one in value)
    return copy_iterator(value, copies) if issubclass(type(value), Iterator) else value


def inputs_of(one: Any) -> list[Any]:
    """Return what a copyable iterator reads from and calls, other iterators excepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        waiting = [] if type(one) is itertools.count else list(one.__reduce_ex__(4)[1:])
    found = []
    while waiting:
        value = waiting.pop()
        if type(value) is tuple:
            waiting += value
        elif type(value) in NATIVE:
            found += inputs_of(value)
        else:
            found.append(value)
    return found
