"""What is done by one process and by several: each case gives its numbers, drawn from a seed.

``CASES`` must come out the same, ``OWN`` differ from one process by their nature (dropout, BatchNorm) and are compared
among the processes, ``REFUSED`` are errors that every process must raise. What a case gives under a name that begins
with ``own_`` is each process's own.
"""

import importlib

from tests.distributed.cases.registry import CASES, OWN, REFUSED, WORLD, WORLDS, case

SUBJECTS = ("samples", "data", "updates", "losses", "metrics", "course", "nets", "counts", "predictions", "apart", "refusals")
for subject in SUBJECTS:  # in this order, which is that in which a launch works through them
    importlib.import_module(f"tests.distributed.cases.{subject}")

__all__ = ["CASES", "OWN", "REFUSED", "WORLD", "WORLDS", "case"]
