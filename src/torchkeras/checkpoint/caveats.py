"""List, before the first step, what a checkpoint cannot save or resume exactly in mid-epoch."""

from __future__ import annotations

from collections.abc import Mapping

from torchkeras.checkpoint.metric_state import metric_state_dict
from torchkeras.checkpoint.serialization import TensorJSONEncoder
from torchkeras.core.types import Metric, Source
from torchkeras.data import Batches, seeded
from torchkeras.data.source import data_components, has_state_dict
from torchkeras.data.start import is_index_based


def unsaved_metrics(metrics: Mapping[str, Metric]) -> list[str]:
    """Return why no checkpoint can be written in mid-epoch: metrics whose state cannot be saved."""
    found = []
    for name, metric in metrics.items():
        try:
            TensorJSONEncoder().pack(metric_state_dict(metric), f"metrics_dict[{name!r}]")
        except (TypeError, ValueError) as error:
            found.append("only at the end of epochs, because the state of a metric cannot be "
                         f"saved: {error}")
    return found


def inexact_data(train: Batches) -> list[str]:
    """Return what about the data will differ when an epoch is resumed in the middle."""
    source: Source = train.source
    if train.memory is not None or isinstance(source, list) or has_state_dict(source):
        return []
    if not is_index_based(source):
        return [f"{train.name} has no position that can be saved: a resumed run reads it again "
                "from its beginning, up to where the run was stopped"]
    if source.num_workers and not any(isinstance(one, seeded) for one in data_components(source)):
        return ["random numbers that a Dataset draws in DataLoader workers differ in the rest of "
                "a resumed epoch; torchkeras.data.seeded(dataset) makes them the same"]
    return []
