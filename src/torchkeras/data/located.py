"""Where the samples of a Dataset lie in memory, and whether they were changed since: by a callback, say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from torchkeras.core.tree import map_tree, rebuild
from torchkeras.data.arrays import ArrayDataset, WholeBatches
from torchkeras.data.batch import to_device
from torchkeras.data.fingerprint import whole_numbers
from torchkeras.data.validation import Part

Index = Tensor | slice


class Located:
    """Tensors whose rows are samples, with what tells whether they are still the same.

    Args:
        tree: the tensors, nested as batches are.
        chosen: which rows are samples; None: all of them.
        places: what was found where: object, attribute, value.
    """

    def __init__(self, tree: Any, chosen: Tensor | None, places: list[tuple[Any, str, Any]]) -> None:
        self.tree, self.chosen, self.places = tree, chosen, places
        self.tensors = leaves(tree)
        self.flat = type(tree) in (tuple, list) and all(isinstance(one, Tensor) for one in tree)
        self.row = sum(one[:1].nbytes for one in self.tensors)
        self.learns = any(one.requires_grad for one in self.tensors)
        self.watched = [one for one in (*self.tensors, chosen) if one is not None]
        self.marks = {id(one): (one, one._version, one.data_ptr()) for one in self.watched if not one.is_inference()}
        self.arrays: dict[int, Any] = {}  # the indices of each Subset as an array, by the identity of what it holds
        self.origin: Located | None = None  # of a copy: what it was copied from

    def changed(self) -> bool:
        """Whether other tensors or indices were put in their places, or numbers were written into them.

        Writing through numpy's view of the same memory leaves no mark.
        """
        if self.origin is not None:
            return self.origin.changed()
        for holder, name, value in self.places:
            if getattr(holder, name, None) is not value:
                return True
        for one, version, memory in self.marks.values():  # noqa: SIM110 (asked before each batch; a loop is faster)
            if one._version != version or one.data_ptr() != memory:
                return True
        return False

    def rows(self, index: Index) -> list[Tensor]:
        """Copies of some samples, which a net may write into."""
        own = index if self.chosen is None else rows(self.chosen, index)
        return [rows(one, own) for one in self.tensors]

    def on(self, device: torch.device, before: Located | None) -> Located:
        """The same on another device: what was copied before is taken from there, unless it may have changed."""
        kept = {} if before is None or before.origin is None else {
            id(one): copy for one, copy in zip(before.origin.watched, before.watched, strict=True)
            if marked(one) and before.origin.marks.get(id(one)) == (one, one._version, one.data_ptr())}
        copies = [kept[id(one)] if id(one) in kept else to_device(one, device) for one in self.watched]
        waiting = iter(copies)
        other = Located(map_tree(lambda _: next(waiting), self.tree), next(waiting, None), [])
        other.origin = self
        return other


def marked(tensor: Tensor) -> bool:
    """Whether every change of a tensor leaves a mark: not in memory that torch shares with numpy or other processes."""
    return not tensor.is_inference() and (not tensor.is_cpu or tensor.untyped_storage().resizable())


def rows(tensor: Tensor, index: Index) -> Tensor:
    """A copy of some rows, laid out as stacked samples are."""
    if isinstance(index, slice):
        return tensor[index].clone(memory_format=torch.contiguous_format)
    return tensor.index_select(0, index.to(tensor.device))


def locate(dataset: Any) -> Located:
    """Find the tensors behind a Dataset for which :func:`can_be_selected_from` holds, or a Subset of one."""
    base, subsets = inside(dataset)
    chosen, arrays = None, {}
    for one in subsets:
        arrays[id(one.indices)] = array = one.indices if type(one.indices) is range else whole_numbers(one.indices)
        indices = positions(array, len(one.dataset))  # type: ignore[arg-type]
        chosen = indices if chosen is None else indices[chosen]
    held, name = held_by(base)
    places = [(one, name, getattr(one, name)) for one in subsets for name in ("indices", "dataset")]
    tree = as_collated(held) if type(base) is ArrayDataset else held
    found = Located(tree, chosen, [*places, (base, name, held)])
    found.arrays = arrays
    return found


def inside(dataset: Any) -> tuple[Any, list[Subset[Any]]]:
    """A Dataset without the Subsets around it, and those, the outermost first."""
    subsets: list[Subset[Any]] = []
    while type(dataset) in (Subset, Part):
        subsets.append(dataset)
        dataset = dataset.dataset
    return dataset, subsets


def held_by(dataset: Any) -> tuple[Any, str]:
    """The tensors of a Dataset, and the name of the attribute that holds them."""
    name = "tensors" if isinstance(dataset, TensorDataset) else "tree"
    return getattr(dataset, name), name


def can_be_selected_from(dataset: Any, whole: bool) -> bool:
    """Whether a Dataset does nothing but select from tensors.

    Args:
        dataset: a Dataset that is no Subset.
        whole: whether its loader takes a batch at once, as that of arrays does, which learn or lie in any order.
    """
    if type(dataset) is WholeBatches:
        return whole
    return not whole and type(dataset) in (ArrayDataset, TensorDataset) and all(map(plain, leaves(held_by(dataset)[0])))


def positions(indices: Any, samples: int) -> Tensor:
    """Return the indices of a Subset, from an array or a range; negative ones count from the end."""
    if type(indices) is range:
        found = torch.arange(indices.start, indices.stop, indices.step)
    else:
        found = torch.as_tensor(indices, dtype=torch.int64)
    return torch.where(found < 0, found + samples, found) if len(found) and int(found.min()) < 0 else found


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree."""
    found: list[Tensor] = []
    map_tree(found.append, tree)
    return found


def as_collated(tree: Any) -> Any:
    """A tree with the containers that torch's collate makes of it: lists in place of tuples."""
    if type(tree) in (tuple, list):
        return [as_collated(one) for one in tree]
    return rebuild(tree, [as_collated(one) for one in tree.values()]) if isinstance(tree, dict) else tree


def plain(tensor: Tensor) -> bool:
    """Whether selecting rows gives what stacking them gives, in its layout too."""
    return type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_contiguous() and (
        not tensor.requires_grad and tensor.dim() > 0)
