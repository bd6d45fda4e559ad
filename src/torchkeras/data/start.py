"""Where a pass over the data begins: at its first batch, or in the middle, when a stopped run goes on.

What a loader draws for a pass is drawn again, from where the random generators were as the pass began; then the batches
that were done are left out, by their numbers where the data has numbers; then the generators are put to where the run
was stopped.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from torchkeras.state.rng import random_states


def nothing() -> None:
    """What is done before and after at an ordinary start."""


class Start:
    """The start of one pass.

    Args:
        skip: batches of the pass that are done.
        first: puts the generators to where they were as the pass began.
        then: puts back all that is to be as it was after those batches; called once, before the next batch is read.
        state: what a source with a ``state_dict`` of its own said there.
        total: for a source that cannot start again, the batches that it gave in all passes.
        again: whether workers that live on from pass to pass were there already: starting them draws a seed, which the
            stopped run did not draw for this pass.
    """

    def __init__(self, skip: int = 0, first: Callable[[], None] = nothing, then: Callable[[], None] = nothing,
                 state: Any = None, total: int | None = None, again: bool = False) -> None:
        self.skip, self.first, self.state, self.total, self.again = skip, first, state, total, again
        self.waiting: Callable[[], None] | None = then

    def then(self) -> None:
        """The moment before the next batch."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting()

    def left(self, steps: int | None) -> int | None:
        """Batches that are left of a pass of so many."""
        return None if steps is None else steps - self.skip

    def rest(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items after those that are done."""
        if self.again:
            self.first()
        rest = iter(items)
        for _ in islice(rest, self.skip if self.total is None else self.total):
            pass
        self.then()
        for item in rest:  # noqa: UP028 ("yield from" would close a user's generator, which goes on in the next pass)
            yield item

    def in_memory(self, memory: Any) -> Iterator[Any]:
        """The rest of a pass over tensors in memory; a sampler that draws as it goes draws for the batches left out."""
        if not memory.ordered:
            return iter(memory.batches(self.rest(memory.loader.batch_sampler)))
        return self.after(memory.batches(memory.loader.batch_sampler, self.skip))

    def after(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches, of which reading the first draws what is to be drawn for the pass."""
        for batch in batches:
            self.then()
            yield batch

    def of(self, source: Any) -> Iterable[Any]:
        """The rest of a pass over any source."""
        if not (self.skip or self.again) and self.total is None and self.state is None:
            return source
        if self.state is not None:
            return self.loaded(source)
        if numbered(source):
            return beginning_at(source, self)
        return self.rest(source)

    def loaded(self, source: Any) -> Iterator[Any]:
        """The rest of a pass over a source that was put to where it was.

        An iterator draws for the pass as it is made. A generator function does so with its first batch, which tells
        nothing of whether it draws for each batch: it is read twice to find out.
        """
        source.load_state_dict(self.state)
        rest = iter(source)
        if self.waiting is not nothing and inspect.isgenerator(rest):
            early = draws_once(rest)
            rest.close()
            self.first()
            source.load_state_dict(self.state)
            rest = iter(source)
            if early:
                first = list(islice(rest, 1))
                self.then()
                yield from first
        self.then()
        for item in rest:  # noqa: UP028 ("yield from" would close it)
            yield item


def draws_once(items: Iterator[Any]) -> bool:
    """Whether the first item is drawn for, from the global generators, and the second is not."""
    moments = [moment()]
    for _ in range(2):
        given = list(islice(items, 1))
        moments.append(moment() if given else moments[-1])  # an end draws for nothing that is to come
    return moments[0] != moments[1] == moments[2]


def moment() -> tuple[Any, ...]:
    """Where the global generators are."""
    states = random_states()
    _, key, *place = states["numpy"]
    return states["python"], key.tobytes(), place, states["torch"].numpy().tobytes()


def numbered(source: Any) -> bool:
    """Whether a source is a DataLoader whose batches are lists of sample numbers first."""
    return (isinstance(source, DataLoader) and type(source).__iter__ is DataLoader.__iter__
            and source.batch_sampler is not None and not isinstance(source.dataset, IterableDataset))


class Numbers:
    """The lists of sample numbers of a pass, from some batch on: what a DataLoader takes for a batch sampler."""

    def __init__(self, batch_sampler: Any, start: Start) -> None:
        self.batch_sampler, self.start = batch_sampler, start

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, Start()  # as the first number is asked for: loaders make iterators to spare
        yield from start.rest(self.batch_sampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)


def beginning_at(loader: DataLoader[Any], start: Start) -> DataLoader[Any]:
    """The same loader, whose next pass begins in the middle."""
    other = copy.copy(loader)
    # torch refuses to set these on a finished DataLoader; a copy never iterated over has no state yet
    other.__dict__.update(batch_sampler=Numbers(loader.batch_sampler, start), _iterator=None)
    return other
