"""What of a run cannot be saved in mid-epoch, or will not come out the same: said before the first step."""

from __future__ import annotations

from typing import Any

from torchkeras.checkpoint.metric_state import counted
from torchkeras.checkpoint.serialization import Packer
from torchkeras.data import Batches, seeded
from torchkeras.data.source import holders, stateful
from torchkeras.data.start import numbered


def unsaved_metrics(metrics: dict[str, Any]) -> list[str]:
    """Why the state of a run cannot be written in mid-epoch, if it cannot."""
    found = []
    for name, metric in metrics.items():
        try:
            Packer().pack(counted(metric), f"metrics_dict[{name!r}]")
        except (TypeError, ValueError) as error:
            found.append(f"at the end of epochs only, because of what a metric keeps: {error}")
    return found


def inexact(train: Batches) -> list[str]:
    """What of the data will not come out the same in an epoch that was stopped."""
    source: Any = train.source
    if train.memory is not None or isinstance(source, list) or stateful(source):
        return []
    if not numbered(source):
        return [f"{train.name} does not tell where it is: in a run that goes on it is read again up to there"]
    if source.num_workers and not any(isinstance(one, seeded) for one in holders(source)):
        return ["random numbers that a Dataset draws in loader workers are others in an epoch that was stopped; "
                "torchkeras.data.seeded(dataset) makes them the same"]
    return []
