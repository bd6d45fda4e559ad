"""Explain a source without a batch: none at all, or none left for another epoch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader

from torchkeras.core.errors import bad_value, message, mistake
from torchkeras.core.types import Source
from torchkeras.data.sizes import length_of


class OutOfData(ValueError):
    """A source that gave batches before has none left for a new epoch."""


def no_batch(name: str, source: Source) -> ValueError:
    """Return the error for a source that has never given a batch."""
    if isinstance(source, DataLoader):
        count = length_of(source.dataset)
        found = (f"dataset of {'unknown' if count is None else count} samples, "
                 f"batch_size={source.batch_size}, drop_last={source.drop_last}")
        drops = source.drop_last and count != 0
        return bad_value(name, received=f"a DataLoader of 0 batches ({found})",
                         expected="at least one batch",
                         fix="Pass drop_last=False or a smaller batch_size." if drops
                         else "Check what the dataset reads.")
    return bad_value(name, received=f"a {type(source).__name__} that gives no batch",
                     expected="at least one batch",
                     fix="A generator can be read only once: make a new one."
                     if isinstance(source, Iterator) else "Check what it reads.")


def out_of_data(name: str) -> OutOfData:
    """Return the error for a source that cannot start again."""
    steps = "validation_steps" if name == "val_data" else "steps_per_epoch"
    fix = (f"Give {steps} that all epochs together can fill, or an iterable that can start again, "
           "such as a list or a DataLoader.")
    return mistake(OutOfData(message(f"{name} ran out of data", "no batch in this epoch",
                                     "at least one batch an epoch", fix)))
