"""Let BatchNorm normalise each process's part of a batch, or the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from torchkeras.core.errors import bad_value
from torchkeras.core.modes import BATCH_NORMS
from torchkeras.engine.run import Run


@contextmanager
def each_its_own(learners: list[nn.Module], run: Run) -> Iterator[None]:
    """Leave BatchNorm as it is: every process normalises its own part of a batch."""
    if any(isinstance(module, BATCH_NORMS) and not isinstance(module, nn.SyncBatchNorm)
           for one in learners for module in one.modules()):
        run.notes.append("BatchNorm: each process normalises its own part of a batch; "
                         "sync_batchnorm=True takes the whole batch")
    yield


@contextmanager
def synchronised(learners: list[nn.Module], run: Run) -> Iterator[None]:
    """Synchronise BatchNorm over all processes, keeping weights and buffers; undo it on exit."""
    if run.accelerator.device.type == "cpu":
        raise bad_value("sync_batchnorm", received="True on the CPU", expected="False there",
                        fix="torch has SyncBatchNorm for accelerators only.")
    places = [(parent, name, child) for one in learners for parent in one.modules()
              for name, child in parent.named_children()
              if isinstance(child, BATCH_NORMS) and not isinstance(child, nn.SyncBatchNorm)]
    for parent, name, child in places:
        setattr(parent, name,
                nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
