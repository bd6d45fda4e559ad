"""Arrays in memory as a Dataset whose loader fetches a whole batch by one selection per tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree, rebuild
from torchkeras.core.types import Batch, Tree, Value

ACCEPTED = ("a numpy array, torch tensor, pandas DataFrame or Series, list of numbers, or a tuple "
            "or dict of these")


class ArrayDataset(Dataset[Any]):
    """Train on arrays that fit into memory, several times faster than sample by sample.

    Floats of 64 bits from numpy, pandas and lists become ``dtype``, or torch's default dtype;
    integers become int64, except uint8 (images), which stays, as bool does. Torch tensors keep
    their dtype.

    Args:
        tree: Arrays whose first dimension counts the samples, in any nesting of tuples, lists and
            dicts: ``(x, y)``, ``(x, y, sample_weight)``, ``((x1, x2), y)``,
            ``{"image": x, "label": y}``.
        name: The name of this data in errors.
        dtype: The dtype of floats of 64 bits that are no torch tensors: float64 for a net of
            float64.

    Raises:
        ValueError: The lengths differ, or there is no sample.
        TypeError: Something is no array, or an array does not hold numbers.

    Example:
        >>> import numpy as np
        >>> dataset = ArrayDataset((np.zeros((10, 3)), np.arange(10)))
        >>> len(dataset)
        10
        >>> x, y = next(iter(dataset.loader(batch_size=4, shuffle=False)))
        >>> x.dtype, y
        (torch.float32, tensor([0, 1, 2, 3]))
    """

    def __init__(self, tree: Tree, *, name: str = "data", dtype: torch.dtype | None = None) -> None:
        self.tree = _tensors(name, tree, torch.get_default_dtype() if dtype is None else dtype)
        _check_lengths(name, self.tree)

    def __len__(self) -> int:
        return len(next(_named_leaves("", self.tree))[1])

    def __getitem__(self, index: int) -> Any:
        return map_tree(lambda tensor: tensor[index], self.tree)

    def loader(self, batch_size: int, shuffle: bool, drop_last: bool = False,
               generator: torch.Generator | None = None) -> DataLoader[Any]:
        """Return a DataLoader that gives the batches of a TensorDataset of the same samples.

        Args:
            batch_size: Samples a batch.
            shuffle: A new order every epoch, drawn from torch's global random state.
            drop_last: Leave out a last batch that is not full.
            generator: The generator to draw from, in place of torch's global random state.

        Returns:
            A DataLoader of ``[x, y]`` for ``(x, y)``, else of batches nested like the data.

        Example:
            >>> dataset = ArrayDataset(torch.arange(5))
            >>> list(dataset.loader(batch_size=2, shuffle=False, drop_last=True))
            [tensor([0, 1]), tensor([2, 3])]
        """
        return DataLoader(WholeBatches(self.tree), batch_size, shuffle, drop_last=drop_last,
                          collate_fn=as_it_is, generator=generator)


class WholeBatches(ArrayDataset):
    """The samples of an ArrayDataset, fetched a batch at a time.

    This is a class of its own because torch's default collate, which a DataLoader or Subset of the
    user's would apply, expects a list of samples from ``__getitems__`` and would stack x upon y.
    """

    def __getitems__(self, indices: Sequence[int]) -> Any:
        index = torch.tensor(indices, dtype=torch.int64)
        batch = map_tree(lambda one: one.index_select(0, index.to(one.device)), self.tree)
        return list(batch) if type(batch) is tuple else batch


def as_it_is(batch: Batch) -> Batch:
    """Return a batch unchanged: the ``collate_fn`` of loaders that fetch whole batches.

    Its name, like those of the classes here, is part of saved states: a resumed run compares them.
    """
    return batch


def wide_dtype(net: nn.Module) -> torch.dtype | None:
    """Return float64 for a net whose floating point parameters all are of float64; else None."""
    found = {weight.dtype for weight in net.parameters() if weight.is_floating_point()}
    return torch.float64 if found == {torch.float64} else None


def is_array(value: object) -> bool:
    """Tell whether this is one array: a tensor, an ndarray, or a frame, which has ``to_numpy``."""
    return isinstance(value, (Tensor, np.ndarray)) or callable(getattr(value, "to_numpy", None))


def is_number_list(value: object) -> bool:
    """Tell whether this is a list, maybe nested, of numbers (or text, which is refused later)."""
    if not isinstance(value, list):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, (Number, str))


def _tensors(name: str, node: Tree, dtype: torch.dtype) -> Tree:
    """Return the tree with a tensor in place of each array."""
    if isinstance(node, Tensor):
        return node
    if is_array(node) or is_number_list(node):
        return _tensor(name, node, dtype)
    if isinstance(node, Mapping):
        return {key: _tensors(f"{name}[{key!r}]", value, dtype) for key, value in node.items()}
    if isinstance(node, (tuple, list)):
        return rebuild(node, [_tensors(f"{name}[{number}]", item, dtype)
                              for number, item in enumerate(node)])
    raise bad_type(name, received=f"a {type(node).__name__}", expected=ACCEPTED,
                   fix="Convert it with numpy.asarray, or write a Dataset.")


def _tensor(name: str, value: Value, dtype: torch.dtype) -> Tensor:
    array = _numpy(name, value)
    if array.dtype.kind not in "biufc":
        raise bad_type(name, received=f"an array of type {array.dtype}",
                       expected="numbers or bools",
                       fix="Encode text, categories and dates as numbers, then convert with "
                           ".astype('float32').")
    with warnings.catch_warnings():
        # Frames and memory maps are read-only; batches are copies, so nothing writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return array_to_tensor(array, dtype)


def array_to_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return an array of numbers as a tensor, whose memory it shares where no dtype changes.

    Args:
        array: numbers or bools.
        dtype: the dtype of floats of 64 bits and more.
    """
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64, copy=False)
    elif array.dtype.kind == "f" and array.dtype.itemsize >= 8:
        array = array.astype(np.float64, copy=False)
    # torch knows no foreign byte order and no negative stride.
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    tensor = torch.from_numpy(array)
    return tensor.to(dtype) if tensor.dtype == torch.float64 else tensor


def _numpy(name: str, value: Value) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise bad_value(
                name, received="lists of different lengths", expected="rows of one length",
                fix="Pad them, or write a Dataset and pass a collate_fn to its DataLoader."
            ) from error
    array = value.to_numpy()
    return _mixed_frame(name, value) if array.dtype.kind == "O" else array


def _mixed_frame(name: str, frame: Value) -> np.ndarray:
    """Return a frame whose columns have different types, or types of pandas' own, as an array."""
    is_table = hasattr(frame, "columns")
    columns = (list(zip(frame.columns, frame.dtypes, strict=True)) if is_table
               else [(frame.name, frame.dtype)])
    others = [f"{column!r} ({dtype})" for column, dtype in columns if dtype.kind not in "biuf"]
    if others:
        raise bad_type(name, received="values that are not numbers in column " + ", ".join(others),
                       expected="numbers or bools in every column",
                       fix="Encode or drop these columns, e.g. with pandas.get_dummies.")
    kinds = {dtype.kind for _, dtype in columns}
    dtype = np.bool_ if kinds == {"b"} else np.float64 if "f" in kinds else np.int64
    try:
        found: np.ndarray = frame.to_numpy(dtype=dtype)
    except (TypeError, ValueError) as error:
        raise bad_value(name, received="missing values in a column of integers or bools",
                        expected="no missing values",
                        fix="Fill them with .fillna(...) or drop them with .dropna().") from error
    return found


def _check_lengths(name: str, tree: Tree) -> None:
    lengths = {path: len(tensor) if tensor.ndim else None
               for path, tensor in _named_leaves(name, tree)}
    found = ", ".join(f"{path} of length {length}" for path, length in lengths.items())
    if not lengths or None in lengths.values():
        raise bad_value(name, received=found or "no array",
                        expected="arrays whose first dimension counts the samples",
                        fix="Leave single numbers out.")
    if len(set(lengths.values())) > 1:
        raise bad_value(name, received=found,
                        expected="one length: row i of each belongs to sample i",
                        fix="Drop or add the same rows everywhere.")
    if 0 in lengths.values():
        raise bad_value(name, received=f"0 samples ({found})", expected="at least one sample",
                        fix="Check the slice or the filter that made it.")


def _named_leaves(name: str, node: Tree) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
        return
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, item in items:
        yield from _named_leaves(f"{name}[{key!r}]", item)
