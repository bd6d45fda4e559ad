"""Begin a pass over the data at its first batch or, when a run is resumed, in the middle.

On resume, the random generators are set to where they were as the pass began, so that the loader
draws the same for it; then the batches that were done are skipped, by their indices if the data has
some; then the generators are set to where the run was interrupted.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from torchkeras.core.rng import random_states
from torchkeras.core.types import Source, State

if TYPE_CHECKING:
    from torchkeras.data.memory import InMemoryLoader


def no_op() -> None:
    """Do nothing: an ordinary start has no state to restore."""


class ResumePoint:
    """The start of one pass.

    Args:
        skip: batches of the pass that are done.
        first: sets the generators to where they were as the pass began.
        restore: sets everything back to where it was after those batches; called once, before the
            next batch is read.
        state: the ``state_dict`` of a source that has one, at that moment.
        total: for a source that cannot start again, the batches that it yielded in all passes.
        again: whether persistent workers were there already: starting them draws a seed, which the
            interrupted run did not draw for this pass.
    """

    def __init__(self, skip: int = 0, first: Callable[[], None] = no_op,
                 restore: Callable[[], None] = no_op, state: State | None = None,
                 total: int | None = None, again: bool = False) -> None:
        self.skip, self.first, self.state, self.total, self.again = skip, first, state, total, again
        self.waiting: Callable[[], None] | None = restore

    def restore(self) -> None:
        """Restore the state of the moment before the next batch; do nothing on later calls."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting()

    def left(self, steps: int | None) -> int | None:
        """Return how many of ``steps`` batches are left of the pass."""
        return None if steps is None else steps - self.skip

    def rest(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items after those that are done."""
        if self.again:
            self.first()
        rest = iter(items)
        for _ in islice(rest, self.skip if self.total is None else self.total):
            pass
        self.restore()
        for item in rest:  # noqa: UP028 ("yield from" would close the user's generator)
            yield item

    def in_memory(self, memory: InMemoryLoader) -> Iterator[Any]:
        """Yield the rest of a pass over tensors in memory; skipped batches are drawn if need be."""
        if not memory.ordered:
            return iter(memory.batches(self.rest(memory.batch_sampler)))
        return self.restore_after_first(memory.batches(memory.batch_sampler, self.skip))

    def restore_after_first(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches; reading the first draws the random numbers of the pass."""
        for batch in batches:
            self.restore()
            yield batch

    def batches_of(self, source: Source) -> Iterable[Any]:
        """Return the rest of a pass over any source."""
        if not (self.skip or self.again) and self.total is None and self.state is None:
            whole: Iterable[Any] = source
            return whole
        if self.state is not None:
            return self.restored(source)
        if is_index_based(source):
            return resumed_loader(source, self)
        return self.rest(source)

    def restored(self, source: Source) -> Iterator[Any]:
        """Yield the rest of a pass over a source that has loaded its ``state_dict``.

        An iterator object draws for the pass as it is made, a generator function with its first
        batch. Whether it also draws for each batch is found out by reading it twice.
        """
        source.load_state_dict(self.state)
        rest = iter(source)
        if self.waiting is not no_op and inspect.isgenerator(rest):
            early = draws_once(rest)
            rest.close()
            self.first()
            source.load_state_dict(self.state)
            rest = iter(source)
            if early:
                first = list(islice(rest, 1))
                self.restore()
                yield from first
        self.restore()
        for item in rest:  # noqa: UP028 (as above)
            yield item


def draws_once(items: Iterator[Any]) -> bool:
    """Tell whether reading the first item draws from the global generators, and the second not."""
    moments = [rng_position()]
    for _ in range(2):
        given = list(islice(items, 1))
        # the end of the data draws for nothing that follows
        moments.append(rng_position() if given else moments[-1])
    return moments[0] != moments[1] == moments[2]


def rng_position() -> tuple[Any, ...]:
    """Return the position of the global generators."""
    states = random_states()
    _, key, *place = states["numpy"]
    return states["python"], key.tobytes(), place, states["torch"].numpy().tobytes()


def is_index_based(source: Source) -> bool:
    """Tell whether a source is a DataLoader that makes each batch from a list of indices."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return False
    return type(source).__iter__ is DataLoader.__iter__ and source.batch_sampler is not None


class RemainingIndices:
    """A batch sampler for a DataLoader: the index lists of a pass, without the first few."""

    def __init__(self, batch_sampler: Iterable[Any], start: ResumePoint) -> None:
        self.batch_sampler, self.start = batch_sampler, start

    def __iter__(self) -> Iterator[Any]:
        # once the first index is asked for: DataLoaders also make iterators that they do not use
        start, self.start = self.start, ResumePoint()
        yield from start.rest(self.batch_sampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]


def resumed_loader(loader: DataLoader[Any], start: ResumePoint) -> DataLoader[Any]:
    """Return a copy of a loader whose next pass begins in the middle."""
    other = copy.copy(loader)
    # torch refuses to set these attributes on a DataLoader; a copy never iterated has no state
    indices: Any = loader.batch_sampler
    other.__dict__.update(batch_sampler=RemainingIndices(indices, start), _iterator=None)
    return other
