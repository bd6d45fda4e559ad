"""Holding out the last samples."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchkeras.data import ArrayDataset, batches, split_validation

X, Y, W = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10), np.ones(10)


def test_the_last_samples_are_held_out_in_order():
    for data in ((X, Y, W), [X, Y, W], (pd.DataFrame(X), pd.Series(Y), W.tolist()), ArrayDataset((X, Y, W))):
        (x, y, w), (val_x, val_y, val_w) = split_validation(data, 0.3)
        assert y.tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert val_y.tolist() == [7, 8, 9]
        assert (len(x), len(w), len(val_x), len(val_w)) == (7, 7, 3, 3)
        assert np.allclose(torch.cat([x, val_x]), X)


def test_nested_inputs_and_dicts_are_split_alike():
    train, val = split_validation({"in": (X, X), "label": Y}, 0.2)
    assert train["in"][1].shape == (8, 3)
    assert val["label"].tolist() == [8, 9]


def test_a_dataset_is_split_into_subsets():
    train, val = split_validation(TensorDataset(torch.tensor(X), torch.tensor(Y)), 0.2)
    assert torch.cat([y for _, y in batches(train, name="data", batch_size=3)]).tolist() == list(range(8))
    assert [int(y) for _, y in val] == [8, 9]


@pytest.mark.parametrize(("count", "fraction", "held_out"), [(10, 0.9, 9), (100, 0.07, 7), (3, 0.1, 1), (10, 0.25, 3)])
def test_the_cut_is_exact_where_binary_fractions_are_not(count, fraction, held_out):
    train, val = split_validation(np.arange(count), fraction)
    assert (len(train), len(val)) == (count - held_out, held_out)


def test_the_plain_product_would_leave_nothing_to_train_on():
    assert int(10 * (1 - 0.9)) == 0


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, True, "0.2", None, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_split: received .* expected a number between 0 and 1. Pass 0.2"):
        split_validation((X, Y), fraction)


def test_nothing_left_for_training_is_refused():
    for data in (X[:1], TensorDataset(torch.ones(1))):
        with pytest.raises(ValueError, match="0.2 of 1 samples; expected at least one sample left for training"):
            split_validation(data, 0.2)
    with pytest.raises(ValueError, match="train_data: received a TensorDataset of 0 samples"):
        split_validation(TensorDataset(torch.ones(0)), 0.2)


class Stream(IterableDataset):
    """Samples without numbers."""

    def __iter__(self):
        return iter(range(10))


@pytest.mark.parametrize("data", [DataLoader(TensorDataset(torch.ones(4))), [(X, Y)], iter([X]), Stream()],
                         ids=lambda data: type(data).__name__)
def test_data_that_brings_its_own_batches_is_refused_with_the_fix(data):
    with pytest.raises(TypeError, match="together with validation_split; expected .* Pass val_data.*random_split"):
        split_validation(data, 0.2)


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match="train_data: received None"):
        split_validation(None, 0.2)
