"""Turn what a user gives as data into batches, and read these batches.

``source.py`` is the door: :func:`batches` takes arrays, frames, Datasets, DataLoaders or iterables
(``kinds.py`` recognises which, ``arrays.py`` makes a Dataset of arrays) and returns ``Batches``,
which the loop iterates over once an epoch. ``sizes.py`` counts what is known of them before,
``empty.py`` has the errors of an epoch without one, and ``fit_data.py`` the pair that a run has.
``Batches`` selects from tensors in memory if it can (``memory.py`` over ``located.py``), makes
tensors of arrays in ready batches (``ready.py``), moves batches to the device (``resident.py``,
``reuse.py``) and begins where an interrupted run stopped (``start.py``). Each batch is then split
into inputs, labels and weights for the net (``batch.py``) and its samples are counted
(``samples.py``). The outputs of a pass are joined by ``joined.py`` and read as classes or
probabilities by ``outputs.py``. ``fingerprint.py``, ``contents.py`` and ``named.py`` describe data
and functions so that ranks and resumed runs can compare them. What users call themselves:
``ArrayDataset``, ``cache``, ``ImageFolder``, ``text.py``, ``seeded``, ``data_iter``,
``split_validation``.
"""

from torchkeras.core.former import missing
from torchkeras.data import batch
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.cache import cache
from torchkeras.data.empty import OutOfData
from torchkeras.data.images import ImageFolder
from torchkeras.data.iterate import data_iter
from torchkeras.data.seeded import seeded
from torchkeras.data.source import Batches, batches
from torchkeras.data.text import Vocabulary, clean_text, pad, text_dataset
from torchkeras.data.validation import split_validation

__all__ = ["ArrayDataset", "Batches", "ImageFolder", "OutOfData", "Vocabulary", "batch", "batches",
           "cache", "clean_text", "data_iter", "pad", "seeded", "split_validation", "text_dataset"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
