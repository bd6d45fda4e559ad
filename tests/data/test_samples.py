"""Counting the samples of a batch, in every layout."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from torchkeras.data.samples import size

X, Y = torch.randn(4, 3), torch.arange(4)
IMAGES = tuple(torch.randn(3, 5 + one, 8) for one in range(2))
BOXES = tuple({"boxes": torch.ones(one, 4), "labels": torch.ones(one)} for one in (3, 5))


class Detector(nn.Module):
    """Takes a list of images, and maybe what is to be found in them."""

    def forward(self, images, targets=None):
        return images


@pytest.mark.parametrize(("batch", "count"), [
    ((X, torch.ones(9)), 9), ([X, Y], 4), (X, 4), ((X,), 4), (torch.empty(0, 3), 0),
    ({"scale": torch.tensor(1.0), "more": {"x": np.zeros((7, 2))}}, 7),
    ((["a", "b"], torch.ones(2)), 2), ((torch.ones(2, 3), ["a", "b"]), 2),
    (((X, torch.ones(4, 9)), Y), 4), ((X, (Y, torch.ones(4, 2))), 4), ((X, (Y, list("abcd"))), 4),
    ({"edges": torch.ones(2, 9), "x": torch.ones(6, 1), "y": torch.ones(6, 1)}, 6),
    ((torch.ones(5, 4, 2), torch.ones(4)), 4),
    ((pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]), torch.ones(2)), 2),
    (SimpleNamespace(num_graphs=5, x=X), 5), (SimpleNamespace(batch_size=torch.Size([6, 2])), 6),
    ((IMAGES, BOXES), 2), ((IMAGES[:1], BOXES[:1]), 1), ((IMAGES, (1, 0)), 2),
    ((IMAGES, (torch.tensor(1), torch.tensor(0))), 2), ((IMAGES, torch.tensor([1, 0])), 2),
    ((tuple(torch.randn(3, 8, 8) for _ in range(2)), BOXES), 2),
    ((tuple(torch.randn(3, 8, 8) for _ in range(5)), tuple(torch.ones(one, 4) for one in (1, 2, 3, 2, 1))), 5)])
def test_samples_are_counted_by_the_labels_then_by_the_features(batch, count):
    assert size(batch, Detector()) == count


def test_a_packed_sequence_counts_sequences_not_steps():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert size(packed) == 2
    assert len(packed.data) == 4


@pytest.mark.parametrize("empty", [None, "text", 3, [], {"a": 1}, torch.tensor(2.0),
                                   {"edges": torch.ones(2, 9), "x": torch.ones(6, 1)}])
def test_where_nothing_tells_it_is_an_error_that_names_the_way_out(empty):
    with pytest.raises(ValueError, match=r"batch: received a .* expected a tensor of shape \(N, ...\)") as caught:
        size(empty)
    assert "StepRunner.count" in str(caught.value)
