"""Predict batch by batch with ``StepRunner.predict``, which is ``forward`` unless overridden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.checks import explain
from torchkeras.core.communicator import Communicator
from torchkeras.core.errors import message
from torchkeras.core.modes import eval_mode, with_gradients_if_needed
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tree import children, is_container, leaves, map_tree, rebuild
from torchkeras.core.types import Batch, HasParts, Labels, Leaf, Preds
from torchkeras.data import batch as batches
from torchkeras.data import outputs
from torchkeras.data.batch import Items
from torchkeras.data.collected import collect_outputs
from torchkeras.data.joined import Path, is_only_loss, part_at, without_extras
from torchkeras.data.reuse import copy_leaf
from torchkeras.data.samples import size, split_any_layout
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.engine.steps import build_step
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import modules_of


class Predicted(NamedTuple):
    """The predictions for a batch."""

    preds: Preds
    labels: Labels  # as the data has them; else those of StepRunner.forward
    judged_by: Labels  # those of StepRunner.forward, which evaluate compares with
    samples: int | None
    batch: Batch


class Predictor:
    """Run a model over batches exactly as ``evaluate`` does: same step, mode and precision.

    A user's own ``forward`` gets batches without labels in the layout that ``fit`` or ``evaluate``
    last saw, with None in place of the labels. If there was none, the first batch finds out which
    layout it takes.

    Args:
        model: a KerasModel.
        run: gives the device and the communicator.
    """

    def __init__(self, model: Trainable, run: Run) -> None:
        kind = model.StepRunner
        self.net, self.known_items = model.net, model.batch_items
        self.modules = modules_of(model)
        self.step: StepRunner | None = None  # None: an old step, which is called with a batch
        self.own_predict = self.own_forward = False
        if isinstance(kind, type) and issubclass(kind, StepRunner):
            self.step = build_step(model, run, "val", False, "data")
            self.step.looking = self.step.labelled = False
            self.own_predict = not is_original(self.step.predict, StepRunner.predict)
            self.own_forward = self.own_predict or not is_original(
                self.step.forward, StepRunner.forward)
        self.items: int | None = None  # layout of batches without labels; None: as they are
        self.first: tuple[Batch, int | None] | None = None

    def __call__(self, batch: Batch) -> Predicted:
        """Return the net's predictions for a batch, and its labels."""
        count = samples_of(batch, self.net)
        # the mode is set for each batch: between two batches of a stream it is the caller's
        with eval_mode(*self.modules), torch.no_grad(), explain.in_forward(self.net, batch):
            preds, judged_by = with_gradients_if_needed(self.net, self.run, batch)
        if self.step is not None and not self.step.full_precision:
            preds = map_tree(to_float32, preds)
        count = rows_of_inputs(batch, self.net, preds, count)
        if self.first is None:
            self.first = (None if isinstance(preds, Tensor) else batch), count
        labels = labels_of(batch, self.net) if self.own_forward else judged_by
        return Predicted(preds, judged_by if labels is None else labels, judged_by, count, batch)

    def run(self, batch: Batch) -> tuple[Preds, Labels]:
        """Return predictions and labels of a batch."""
        if self.step is None:
            features, labels, _ = split_any_layout(batch, self.net)
            return batches.call(self.net, features), labels
        with self.step.autocast():
            if self.own_forward and self.first is None and lacks_labels(batch, self.net):
                return self.find_layout(self.step, batch)
            return self.predict(self.step, batch if self.items is None
                                else with_items(batch, self.items))

    def predict(self, step: StepRunner, batch: Batch) -> tuple[Preds, Labels]:
        """Return the step's predictions and labels for a batch in the right layout."""
        if self.own_predict:
            return step.predict(batch), labels_of(batch, self.net)
        preds, labels, *_ = step.forward(batch)
        if step.loss_fn is None and not self.own_forward and is_only_loss(preds):
            features = batches.split(batch, self.net)[0]
            preds = batches.call(self.net, features)  # without labels this net returns more
        return preds, labels

    def find_layout(self, step: StepRunner, batch: Batch) -> tuple[Preds, Labels]:
        """Predict the first batch without labels, in the first layout that the step takes."""
        found: Exception | None = None
        for items in layouts(self.known_items):
            with random_state_kept() as keep:
                try:
                    result = self.in_layout(step, batch, items)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    found = found or error
                    continue
                self.items = items
                keep()
                return result
        name = type(step).__name__
        raise ValueError(message(
            "data", f"batches without labels, which {name}.forward does not take "
            f"({type(found).__name__}: {found})",
            "batches as fit takes them, or a step that needs no labels",
            "Override StepRunner.predict(batch) to return what the net predicts from such a "
            "batch.")) from found

    def in_layout(self, step: StepRunner, batch: Batch, items: int) -> tuple[Preds, Labels]:
        """Predict the first batch in a layout."""
        features = features_of(batch)
        bare = items == 0 and self.known_items != 0
        if bare and isinstance(features, (Tensor, np.ndarray)):
            # "features, labels = batch" unpacks a bare tensor of two samples, but not of one
            with random_state_kept():
                self.predict(step, features[:1])
        return self.predict(step, with_items(batch, items))

    def one_each(self, path: Path, length: int) -> bool | None:
        """Return whether a list in the output has one item per sample, from the first sample alone.

        A batch of one sample is doubled. None where that tells nothing.
        """
        batch, count = (None, None) if self.first is None else self.first
        if batch is None or count is None:
            return None
        trial = twice(batch) if count == 1 else first_of(batch, count)
        if trial is None:
            return None
        with random_state_kept(), eval_mode(*self.modules), torch.no_grad():
            try:
                found = len(part_at(self.run(trial)[0], path))
            except Exception:  # a net may refuse a batch of another size in any way
                return None
        samples = 2 if count == 1 else 1
        return found == samples if found in (samples, length) else None


def to_float32(leaf: Leaf) -> Leaf:
    """Return a half-precision tensor as float32, which holds it exactly; others as they are."""
    half = isinstance(leaf, Tensor) and leaf.dtype in (torch.float16, torch.bfloat16)
    return leaf.float() if half else leaf


def is_original(method: object, function: object) -> bool:
    """Return whether a method is this function and no override."""
    return getattr(method, "__func__", method) is function


def to_main_memory(found: Predicted, model: HasParts, output: str, stream: bool,
                   with_labels: bool) -> Predicted:
    """Return predictions in main memory, in the requested form, with labels if requested."""
    preds = outputs.interpret(found.preds, model.loss_fn, output, model.net)
    labels, judged_by = (found.labels, found.judged_by) if with_labels else (None, None)
    if not stream:
        preds, judged_by = without_extras(preds), None
    # a net may reuse the memory of its output, and a loader that of a batch
    preds, labels, judged_by = map_tree(copy_leaf, outputs.to_cpu((preds, labels, judged_by)))
    return Predicted(preds, labels, judged_by, found.samples, None)


def concatenate(found: Iterable[Predicted], total: int | None, predictor: Predictor,
                communicator: Communicator, with_labels: bool) -> Predicted:
    """Concatenate the predictions of all batches along the samples."""
    def one_each(path: Path, length: int) -> bool | None:
        own = predictor.one_each(path, length) if communicator.is_main_process else None
        single: bool | None = communicator.broadcast(own)
        return single

    each = ((one.preds, one.labels, one.samples) for one in found)
    preds, labels = collect_outputs(each, total, one_each, with_labels)
    return Predicted(preds, labels, None, total, None)


@contextmanager
def random_state_kept() -> Iterator[Callable[[], None]]:
    """Restore the random state after a trial, unless the yielded function was called."""
    before, kept = random_states(), []
    try:
        yield lambda: kept.append(True)
    finally:
        if not kept:
            put_random_states(before)


def samples_of(batch: Batch, net: nn.Module) -> int | None:
    """Return the number of samples in a batch; None where it holds no tensor and no list."""
    try:
        return size(batch, net)
    except ValueError:
        flat = isinstance(batch, (tuple, list)) and not any(map(is_container, batch))
        return len(batch) if flat else None


def rows_of_inputs(batch: Batch, net: nn.Module, preds: Preds, count: int | None) -> int | None:
    """Return the number of samples of a batch without labels whose one input is a list of tensors.

    They are one for each sample, or one tuple of inputs: the outputs tell, if they have as many
    rows as each of the tensors.
    """
    alone = type(batch) in (tuple, list) and len(batch) == 1 and type(batch[0]) in (tuple, list)
    items = batches.split(batch, net)[0] if alone else None
    if not isinstance(items, Items):
        return count
    lengths = {len(one) if one.ndim else 0 for one in items}
    first = next((one for one in leaves(preds) if isinstance(one, Tensor) and one.ndim), None)
    rows = None if first is None or isinstance(preds, list) else len(first)
    return rows if rows is not None and lengths == {rows} else count


def labels_of(batch: Batch, net: nn.Module) -> Labels:
    """Return the labels of a batch in one of the usual layouts; None in any other."""
    try:
        return batches.split(batch, net)[1]
    except (TypeError, ValueError):
        return None


def lacks_labels(batch: Batch, net: nn.Module) -> bool:
    """Return whether a batch is only features: a tensor, a dict without labels, a list of one."""
    alone = isinstance(batch, (Tensor, np.ndarray, Mapping)) or (
        type(batch) in (tuple, list) and len(batch) == 1)
    return alone and labels_of(batch, net) is None


def layouts(known: int | None) -> list[int]:
    """Return the numbers of items to try: that of earlier batches, a pair, a list of one, none."""
    return list(dict.fromkeys([*([] if known is None else [known]), 2, 1, 0]))


def features_of(batch: Batch) -> Batch:
    """Return the features of a batch that lacks labels."""
    return batch[0] if type(batch) in (tuple, list) else batch


def with_items(batch: Batch, items: int) -> Batch:
    """Return features in a list of ``items``, filled with None; as they are for 0."""
    features = features_of(batch)
    return [features, *[None] * (items - 1)] if items else features


def first_of(node: Batch, count: int, top: bool = True) -> Batch:
    """Return the first of ``count`` samples as a batch; None where it cannot be told apart."""
    if isinstance(node, (Tensor, np.ndarray)):
        return node[:1] if node.ndim and len(node) == count else node
    if type(node) in (tuple, list) and len(node) == count and not top:
        rows = all(isinstance(one, Tensor) and has_rows(one, count) for one in node)
        return None if rows else node[:1]
    return map_children(node, lambda one: first_of(one, count, top=False))


def twice(node: Batch, top: bool = True) -> Batch:
    """Return a batch of one sample with that sample twice; None where it cannot be told apart."""
    if isinstance(node, Tensor):
        return torch.cat([node, node]) if has_rows(node, 1) else node
    if isinstance(node, np.ndarray):
        return np.concatenate([node, node]) if node.ndim and len(node) == 1 else node
    if type(node) in (tuple, list) and len(node) == 1 and not top:
        return None if isinstance(node[0], Tensor) and has_rows(node[0], 1) else node * 2
    return map_children(node, lambda one: twice(one, top=False))


def map_children(node: Batch, change: Callable[[Batch], Batch]) -> Batch:
    """Return a container with its parts changed; None where one of them cannot be."""
    if not is_container(node):
        return node
    before = children(node)
    after = [change(one) for one in before]
    lost = any(new is None and old is not None for new, old in zip(after, before, strict=True))
    return None if lost else rebuild(node, after)


def has_rows(tensor: Tensor, count: int) -> bool:
    """Return whether a tensor may have one row per sample."""
    return tensor.dim() > 0 and tensor.size(0) == count
