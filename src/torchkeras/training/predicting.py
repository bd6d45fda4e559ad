"""Predictions: each batch goes through ``StepRunner.predict``, which is ``forward`` unless a user says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchkeras.checks import explain
from torchkeras.core.errors import message
from torchkeras.core.modes import evaluating, measured
from torchkeras.core.tree import children, is_container, map_tree, rebuild
from torchkeras.data import batch as batches
from torchkeras.data import outputs
from torchkeras.data.joined import Path, at, collected, is_only_loss, without_extras
from torchkeras.data.reuse import copied
from torchkeras.data.samples import parts_of, size
from torchkeras.distributed.communicator import Alone
from torchkeras.engine.loop import build_step
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.state.components import modules_of
from torchkeras.state.rng import put_random_states, random_states


class Predicted(NamedTuple):
    """What came of a batch."""

    preds: Any
    labels: Any  # as the data has them; where its layout has none, those of StepRunner.forward
    judged_by: Any  # the labels of StepRunner.forward, which evaluate compares with
    samples: int | None
    batch: Any


class Predictor:
    """Run a model over batches exactly as ``evaluate`` does: in the same step, mode and precision.

    A batch without labels is given to a user's own ``forward`` in the layout that ``fit`` or ``evaluate`` last saw,
    with None in the place of the labels. Where there was none, the first batch finds out which layout it takes.

    Args:
        model: a KerasModel.
        run: with which device and processes.
    """

    def __init__(self, model: Any, run: Run) -> None:
        kind = model.StepRunner
        self.net, self.known_items = model.net, model.batch_items
        self.modules = modules_of(model)
        self.step: Any = None  # where it is of the older kind, which is called with a batch and learns
        self.own_predict = self.own_forward = False
        if isinstance(kind, type) and issubclass(kind, StepRunner):
            self.step = build_step(model, run, "val", False, "data")
            self.step.looking = self.step.labelled = False
            self.own_predict = not is_original(self.step.predict, StepRunner.predict)
            self.own_forward = self.own_predict or not is_original(self.step.forward, StepRunner.forward)
        self.items: int | None = None  # in which layout batches without labels are given; None as they are
        self.first: tuple[Any, int | None] | None = None

    def __call__(self, batch: Any) -> Predicted:
        """Return what the net predicts for a batch, and its labels."""
        count = samples_of(batch, self.net)
        # the mode is set for each batch: between two batches of a stream the net is the caller's
        with evaluating(*self.modules), torch.no_grad(), explain.in_forward(self.net, batch):
            preds, judged_by = measured(self.net, self.run, batch)
        if self.step is not None and not self.step.plain:
            preds = map_tree(in_full, preds)
        if self.first is None:
            self.first = (None if isinstance(preds, Tensor) else batch), count
        labels = labels_of(batch, self.net) if self.own_forward else judged_by
        return Predicted(preds, judged_by if labels is None else labels, judged_by, count, batch)

    def run(self, batch: Any) -> tuple[Any, Any]:
        """Return predictions and labels of a batch."""
        if self.step is None:
            features, labels, _ = parts_of(batch, self.net)
            return batches.call(self.net, features), labels
        with self.step.autocast():
            if self.own_forward and self.first is None and lacks_labels(batch, self.net):
                return self.find_layout(batch)
            return self.one(batch if self.items is None else laid_out(batch, self.items))

    def one(self, batch: Any) -> tuple[Any, Any]:
        """Return what the step makes of a batch in the right layout."""
        if self.own_predict:
            return self.step.predict(batch), labels_of(batch, self.net)
        preds, labels, *_ = self.step.forward(batch)
        if self.step.loss_fn is None and not self.own_forward and is_only_loss(preds):
            features = batches.split(batch, self.net)[0]
            preds = batches.call(self.net, features)  # this net tells more when it is given no labels
        return preds, labels

    def find_layout(self, batch: Any) -> tuple[Any, Any]:
        """Return the same of the first batch without labels, in the first layout that the step takes."""
        found: Exception | None = None
        for items in layouts(self.known_items):
            with untouched() as keep:
                try:
                    result = self.in_layout(batch, items)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    found = found or error
                    continue
                self.items = items
                keep()
                return result
        step = type(self.step).__name__
        raise ValueError(message(
            "data", f"batches without labels, which {step}.forward does not take ({type(found).__name__}: {found})",
            "batches as fit takes them, or a step that does without labels",
            "Override StepRunner.predict(batch) to return what the net predicts from such a batch.")) from found

    def in_layout(self, batch: Any, items: int) -> tuple[Any, Any]:
        """Return the result of the first batch in a layout."""
        features = features_of(batch)
        if items == 0 and self.known_items != 0 and isinstance(features, (Tensor, np.ndarray)):
            # "features, labels = batch" takes a bare tensor of two samples apart, but none of one sample
            with untouched():
                self.one(features[:1])
        return self.one(laid_out(batch, items))

    def one_each(self, path: Path, length: int) -> bool | None:
        """Return whether a list of the output has an item for each sample, told from the first sample alone.

        A batch of one sample is doubled. None where that tells nothing.
        """
        batch, count = (None, None) if self.first is None else self.first
        if batch is None or count is None:
            return None
        trial = doubled(batch) if count == 1 else first_of(batch, count)
        if trial is None:
            return None
        with untouched(), evaluating(*self.modules), torch.no_grad():
            try:
                found = len(at(self.run(trial)[0], path))
            except Exception:  # a net may refuse a batch of another size in any way
                return None
        samples = 2 if count == 1 else 1
        return found == samples if found in (samples, length) else None


def in_full(leaf: Any) -> Any:
    """Return what was computed in half precision as float32, which holds it exactly."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.float16, torch.bfloat16) else leaf


def is_original(method: Any, function: Any) -> bool:
    """Return whether a method is this function and no override."""
    return getattr(method, "__func__", method) is function


def prepared(found: Predicted, model: Any, output: str, stream: bool, with_labels: bool) -> Predicted:
    """Return what is needed of a batch in main memory: outputs as they are to be read, labels where they are wanted."""
    preds = outputs.read(found.preds, model.loss_fn, output, model.net)
    labels, judged_by = (found.labels, found.judged_by) if with_labels else (None, None)
    if not stream:
        preds, judged_by = without_extras(preds), None
    # a net may write into its output again, and a loader into the memory of a batch
    preds, labels, judged_by = map_tree(copied, outputs.to_cpu((preds, labels, judged_by)))
    return Predicted(preds, labels, judged_by, found.samples, None)


def joined(found: Iterable[Predicted], total: int | None, predictor: Predictor, together: Alone,
           with_labels: bool) -> Predicted:
    """Return what all batches gave as one, by samples."""
    def one_each(path: Path, length: int) -> bool | None:
        single: bool | None = together.from_main(predictor.one_each(path, length) if together.main else None)
        return single

    preds, labels = collected(((one.preds, one.labels, one.samples) for one in found), total, one_each, with_labels)
    return Predicted(preds, labels, None, total, None)


@contextmanager
def untouched() -> Iterator[Any]:
    """Put the random state back after a trial, unless the trial is kept."""
    before, kept = random_states(), []
    try:
        yield lambda: kept.append(True)
    finally:
        if not kept:
            put_random_states(before)


def samples_of(batch: Any, net: Any) -> int | None:
    """Return how many samples a batch has; None where it holds no tensor and no list."""
    try:
        return size(batch, net)
    except ValueError:
        return len(batch) if isinstance(batch, (tuple, list)) and not any(map(is_container, batch)) else None


def labels_of(batch: Any, net: Any) -> Any:
    """Return the labels of a batch in one of the usual layouts; None in any other."""
    try:
        return batches.split(batch, net)[1]
    except (TypeError, ValueError):
        return None


def lacks_labels(batch: Any, net: Any) -> bool:
    """Return whether a batch is features alone: one tensor, a dict without labels, or either in a list by itself."""
    alone = isinstance(batch, (Tensor, np.ndarray, Mapping)) or (type(batch) in (tuple, list) and len(batch) == 1)
    return alone and labels_of(batch, net) is None


def layouts(known: int | None) -> list[int]:
    """Return the numbers of items to try: that of earlier batches first, then a pair, a list of one, the bare value."""
    return list(dict.fromkeys([*([] if known is None else [known]), 2, 1, 0]))


def features_of(batch: Any) -> Any:
    """Return the features of a batch that lacks labels."""
    return batch[0] if type(batch) in (tuple, list) else batch


def laid_out(batch: Any, items: int) -> Any:
    """Return features in a list of so many items, with None for what there is not; bare for 0."""
    features = features_of(batch)
    return [features, *[None] * (items - 1)] if items else features


def first_of(node: Any, count: int, top: bool = True) -> Any:
    """Return the first sample of a batch of several as a batch; None where it cannot be told apart."""
    if isinstance(node, (Tensor, np.ndarray)):
        return node[:1] if node.ndim and len(node) == count else node
    if type(node) in (tuple, list) and len(node) == count and not top:
        return None if all(isinstance(one, Tensor) and has_rows(one, count) for one in node) else node[:1]
    return each_part(node, lambda one: first_of(one, count, top=False))


def doubled(node: Any, top: bool = True) -> Any:
    """Return a batch of one sample with that sample twice; None where it cannot be told apart."""
    if isinstance(node, Tensor):
        return torch.cat([node, node]) if has_rows(node, 1) else node
    if isinstance(node, np.ndarray):
        return np.concatenate([node, node]) if node.ndim and len(node) == 1 else node
    if type(node) in (tuple, list) and len(node) == 1 and not top:
        return None if isinstance(node[0], Tensor) and has_rows(node[0], 1) else node * 2
    return each_part(node, lambda one: doubled(one, top=False))


def each_part(node: Any, change: Any) -> Any:
    """Return a container with its parts changed; None where one of them cannot be."""
    if not is_container(node):
        return node
    before = children(node)
    after = [change(one) for one in before]
    lost = any(new is None and old is not None for new, old in zip(after, before, strict=True))
    return None if lost else rebuild(node, after)


def has_rows(tensor: Tensor, count: int) -> bool:
    """Return whether a tensor may have a row for each sample."""
    return tensor.dim() > 0 and tensor.size(0) == count
