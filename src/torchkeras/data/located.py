"""Find the tensors behind a Dataset, and notice when they are changed: by a callback, say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from torchkeras.core import internals
from torchkeras.core.tree import map_tree, rebuild
from torchkeras.core.types import Data, Tree
from torchkeras.data.arrays import ArrayDataset, WholeBatches
from torchkeras.data.fingerprint import whole_numbers
from torchkeras.data.pinning import index_on
from torchkeras.data.validation import Part

Index = Tensor | slice


class SampleTensors:
    """Tensors whose rows are samples, and the marks by which changes of them are noticed.

    Args:
        tree: the tensors, nested as batches are.
        indices: the rows that are samples; None: all rows.
        places: where the tensors were found: object, attribute, value.
    """

    def __init__(self, tree: Tree, indices: Tensor | None,
                 places: list[tuple[Any, str, Any]]) -> None:
        self.tree, self.indices, self.places = tree, indices, places
        self.tensors = tensors_in(tree)
        self.flat = type(tree) in (tuple, list) and all(isinstance(one, Tensor) for one in tree)
        self.row_bytes = sum(one[:1].nbytes for one in self.tensors)  # bytes of one sample
        self.requires_grad = any(one.requires_grad for one in self.tensors)
        self.watched = [one for one in (*self.tensors, indices) if one is not None]
        self.marks = {id(one): (one, internals.version(one), one.data_ptr())
                      for one in self.watched if not one.is_inference()}
        self.arrays: dict[int, Any] = {}  # indices of Subsets as arrays, by id(Subset.indices)
        self.origin: SampleTensors | None = None  # for a copy on another device: the original

    def changed(self) -> bool:
        """Tell whether tensors or indices were replaced, or numbers were written into them.

        Writing through numpy's view of the same memory is not noticed.
        """
        if self.origin is not None:
            return self.origin.changed()
        for holder, name, value in self.places:
            if getattr(holder, name, None) is not value:
                return True
        for one, version, memory in self.marks.values():  # noqa: SIM110 (before each batch: fast)
            if internals.version(one) != version or one.data_ptr() != memory:
                return True
        return False

    def rows(self, index: Index) -> list[Tensor]:
        """Return copies of some samples, which a net may write into."""
        if isinstance(index, Tensor):  # once for all tensors
            index = index_on(index, self.watched[0].device)
        own = index if self.indices is None else select_rows(self.indices, index)
        return [select_rows(one, own) for one in self.tensors]

    @property
    def few(self) -> bool:
        """Tell whether a copy needs only the rows of a Subset, which are fewer than all."""
        return self.indices is not None and len(self.indices) < len(self.tensors[0])

    @property
    def nbytes(self) -> int:
        """Return the bytes of a copy."""
        if self.few:
            return self.row_bytes * len(self.watched[-1])
        return sum(one.nbytes for one in self.watched)

    def on(self, device: torch.device, before: SampleTensors | None) -> SampleTensors:
        """Return the same on another device; reuse copies of ``before`` that are unchanged."""
        few, indices = self.few, self.indices
        kept = {} if before is None else before.unchanged_copies(indices if few else None)
        rows = [one if id(one) in kept or not few else select_rows(one, self.watched[-1])
                for one in self.tensors]
        copies = iter([kept[id(one)] if id(one) in kept else copy_to(row, device)
                       for one, row in zip(self.tensors, rows, strict=True)])
        chosen = None if few or indices is None else copy_to(indices, device)
        other = SampleTensors(map_tree(lambda _: next(copies), self.tree), chosen, [])
        other.origin = self
        return other

    def unchanged_copies(self, rows: Tensor | None) -> dict[int, Tensor]:
        """Return the copies that are still those of their originals, by the originals' ids.

        Args:
            rows: the only rows that a copy is to have; None: all.
        """
        origin = self.origin
        if origin is None or origin.few != (rows is not None) or (
                rows is not None and not torch.equal(rows, origin.watched[-1])):
            return {}
        return {id(one): copy for one, copy in zip(origin.tensors, self.tensors, strict=True)
                if shows_changes(one)
                and origin.marks.get(id(one)) == (one, internals.version(one), one.data_ptr())}


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on another device."""
    return tensor.to(device)


def shows_changes(tensor: Tensor) -> bool:
    """Tell whether every change of a tensor is noticed: not if numpy or a process shares it."""
    return not tensor.is_inference() and (not tensor.is_cpu or tensor.untyped_storage().resizable())


def select_rows(tensor: Tensor, index: Index) -> Tensor:
    """Return a copy of some rows, with the memory layout of stacked samples."""
    if isinstance(index, slice):
        return tensor[index].clone(memory_format=torch.contiguous_format)
    return tensor.index_select(0, index.to(tensor.device))


def locate(dataset: Data) -> SampleTensors:
    """Find the tensors behind a Dataset, or a Subset, that :func:`is_selectable` accepts."""
    base, subsets = unwrap_subsets(dataset)
    chosen, arrays = None, {}
    for one in subsets:
        as_range = type(one.indices) is range
        array = one.indices if as_range else whole_numbers(one.indices)
        arrays[id(one.indices)] = array
        indices = positions(array, len(one.dataset))  # type: ignore[arg-type]
        chosen = indices if chosen is None else indices[chosen]
    held, name = held_tensors(base)
    places = [(one, name, getattr(one, name)) for one in subsets for name in ("indices", "dataset")]
    tree = as_collated(held) if type(base) is ArrayDataset else held
    found = SampleTensors(tree, chosen, [*places, (base, name, held)])
    found.arrays = arrays
    return found


def unwrap_subsets(dataset: Data) -> tuple[Any, list[Subset[Any]]]:
    """Return the Dataset inside of Subsets, and these Subsets, the outermost first."""
    subsets: list[Subset[Any]] = []
    while type(dataset) in (Subset, Part):
        subsets.append(dataset)
        dataset = dataset.dataset
    return dataset, subsets


def held_tensors(dataset: Data) -> tuple[Any, str]:
    """Return the tensors of a Dataset, and the name of the attribute that holds them."""
    name = "tensors" if isinstance(dataset, TensorDataset) else "tree"
    return getattr(dataset, name), name


def is_selectable(dataset: Data, whole: bool) -> bool:
    """Tell whether a Dataset does nothing but select from tensors.

    Args:
        dataset: a Dataset that is no Subset.
        whole: whether its loader fetches a whole batch at once, as that of an ArrayDataset does.
            Its tensors may require grad, or have any layout.
    """
    if type(dataset) is WholeBatches:
        return whole
    known = not whole and type(dataset) in (ArrayDataset, TensorDataset)
    return known and all(map(selects_like_stack, tensors_in(held_tensors(dataset)[0])))


def positions(indices: Data, samples: int) -> Tensor:
    """Return the indices of a Subset as a tensor, with negative ones counted from the end."""
    if type(indices) is range:
        found = torch.arange(indices.start, indices.stop, indices.step)
    else:
        found = torch.as_tensor(indices, dtype=torch.int64)
    negative = len(found) and int(found.min()) < 0
    return torch.where(found < 0, found + samples, found) if negative else found


def tensors_in(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree."""
    found: list[Tensor] = []
    map_tree(found.append, tree)
    return found


def as_collated(tree: Tree) -> Any:
    """Return a tree with the containers of torch's default collate: lists in place of tuples."""
    if type(tree) in (tuple, list):
        return [as_collated(one) for one in tree]
    if isinstance(tree, dict):
        return rebuild(tree, [as_collated(one) for one in tree.values()])
    return tree


def selects_like_stack(tensor: Tensor) -> bool:
    """Tell whether selecting rows of a tensor gives what stacking them does, layout included."""
    ordinary = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_contiguous()
    return ordinary and not tensor.requires_grad and tensor.dim() > 0
