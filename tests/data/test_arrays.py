"""Arrays in memory: types, order, random state, errors."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from torchkeras.data import ArrayDataset

X, Y = torch.randn(23, 4), torch.arange(23)


def epochs_of(loader, seed=0, epochs=3):
    """Batches of some epochs, and the global random state after each."""
    torch.manual_seed(seed)
    return [(list(loader), torch.get_rng_state()) for _ in range(epochs)]


def same(left, right):
    """Whether two runs had the same batches and the same random states."""
    return all(torch.equal(state, other) and len(batches) == len(others) and
               all(type(batch) is type(twin) and all(map(torch.equal, batch, twin))
                   for batch, twin in zip(batches, others, strict=True))
               for (batches, state), (others, other) in zip(left, right, strict=True))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_and_random_state_are_those_of_a_plain_dataloader(shuffle, drop_last):
    ours = ArrayDataset((X, Y)).loader(5, shuffle, drop_last)
    plain = DataLoader(TensorDataset(X, Y), 5, shuffle, drop_last=drop_last)
    assert same(epochs_of(ours), epochs_of(plain))
    assert not same(epochs_of(ours, seed=1), epochs_of(plain))
    assert len(ours) == len(plain)


def test_the_epochs_of_one_run_differ_when_shuffled():
    first, second, _ = epochs_of(ArrayDataset((X, Y)).loader(23, True))
    assert not torch.equal(first[0][0][1], second[0][0][1])
    assert torch.equal(first[0][0][1].sort().values, second[0][0][1].sort().values)


@pytest.mark.parametrize(("array", "dtype"), [
    (np.zeros(3), torch.float32), (np.zeros(3, np.float32), torch.float32), (np.zeros(3, np.float16), torch.float16),
    (np.zeros(3, np.longdouble), torch.float32), (np.zeros(3, np.int32), torch.int64),
    (np.zeros(3, np.uint16), torch.int64),
    (np.zeros(3, np.uint8), torch.uint8), (np.zeros(3, bool), torch.bool), (np.zeros(3, ">f8"), torch.float32),
    (torch.zeros(3, dtype=torch.float64), torch.float64), (torch.zeros(3, dtype=torch.int32), torch.int32),
    ([1, 2, 3], torch.int64), ([1.0, 2, 3], torch.float32), ([[True], [False]], torch.bool),
    (pd.Series([1.5, 2.0]), torch.float32), (pd.Series([1, 2]), torch.int64),
    (pd.Series([1, 2], dtype="Int64"), torch.int64), (pd.DataFrame({"a": [1, 2], "b": [0.5, 1]}), torch.float32),
    (pd.DataFrame({"a": [True], "b": [0.5]}), torch.float32), (pd.DataFrame({"a": [True], "b": [2]}), torch.int64),
    (pd.Series([True, False], dtype="boolean"), torch.bool),
])
def test_types_become_what_torch_nets_expect(array, dtype):
    assert ArrayDataset(array).tree.dtype == dtype


def test_double_precision_follows_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert ArrayDataset(np.zeros(3)).tree.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert ArrayDataset(np.zeros(3)).tree.dtype == torch.float32


def test_values_survive_the_conversion():
    array = np.arange(12.0).reshape(4, 3)
    for given in (array, array.astype(">f8"), array.tolist(), pd.DataFrame(array), np.asfortranarray(array)):
        assert ArrayDataset(given).tree.tolist() == array.tolist()
    assert ArrayDataset(array[::-1]).tree.tolist() == array.tolist()[::-1]
    mixed = pd.DataFrame({"a": pd.Series([1, 2], dtype="Int64"), "b": [True, False]})
    assert ArrayDataset(mixed).tree.tolist() == [[1, 1], [2, 0]]


def test_a_read_only_array_is_shared_without_a_warning():
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    dataset = ArrayDataset(array)
    batch = next(iter(dataset.loader(4, False)))
    batch += 1
    assert dataset.tree.tolist() == [0, 1, 2, 3]
    assert dataset.tree.data_ptr() == array.ctypes.data


def test_batches_keep_the_nesting_of_the_data():
    pair = namedtuple("Pair", "a b")
    nested = ArrayDataset(((X, {"more": X}), pair(Y, [Y, Y])))
    (x1, more), labels = next(iter(nested.loader(6, False)))
    assert torch.equal(x1, X[:6])
    assert torch.equal(more["more"], X[:6])
    assert type(labels).__name__ == "Pair"
    assert type(labels.b) is list
    assert type(nested[0]) is tuple
    assert type(next(iter(nested.loader(6, False)))) is list
    assert torch.equal(next(iter(ArrayDataset(X).loader(6, False))), X[:6])
    assert torch.equal(next(iter(ArrayDataset({"x": X}).loader(6, False)))["x"], X[:6])


def test_a_dataloader_or_subset_made_by_the_user_collates_right():
    # x and y of one shape: stacking one upon the other would go unnoticed.
    dataset = ArrayDataset((X, -X))
    for source in (dataset, Subset(dataset, range(23))):
        x, y = next(iter(DataLoader(source, batch_size=6)))
        assert torch.equal(x, X[:6])
        assert torch.equal(y, -X[:6])


def test_different_lengths_are_listed_each_with_its_name():
    with pytest.raises(ValueError, match="train_data: received") as caught:
        ArrayDataset((np.zeros((5, 2)), {"label": [1, 2, 3, 4]}), name="train_data")
    assert "train_data[0] of length 5, train_data[1]['label'] of length 4; expected one length" in str(caught.value)
    assert "Drop or add the same rows" in str(caught.value)


@pytest.mark.parametrize(("tree", "error", "words"), [
    (np.zeros((0, 3)), ValueError, "received 0 samples .* at least one sample"),
    ((X, torch.tensor(1.0)), ValueError, r"data\[1\] of length None.*first dimension counts the samples"),
    ({}, ValueError, "received no array"),
    ((X, "text"), TypeError, r"data\[1\]: received a str; expected a numpy array"),
    ((X, DataLoader(TensorDataset(X))), TypeError, r"data\[1\]: received a DataLoader"),
    ((X, [["a"], ["b"]]), TypeError, r"data\[1\]: received an array of type <U1; expected numbers.*Encode"),
    ({"when": np.array(["2020-01-01"], "M8[D]")}, TypeError, r"data\['when'\]: received an array of type datetime64"),
    (np.array([{}, None]), TypeError, "array of type object"),
    ([[1, 2], [3]], ValueError, "lists of different lengths.*Pad them"),
    (pd.DataFrame({"age": [1.0], "city": ["Rome"], "when": [pd.Timestamp(0)]}), TypeError,
     r"not numbers in column 'city' \(.*\), 'when' \(datetime64.*get_dummies"),
    (pd.Series([True, None], dtype="boolean"), ValueError, "missing values.*fillna"),
    (pd.Series(["a", "b"], name="city"), TypeError, "not numbers in column 'city'"),
])
def test_errors_name_the_array_what_came_and_the_way_out(tree, error, words):
    with pytest.raises(error, match=words):
        ArrayDataset(tree)
