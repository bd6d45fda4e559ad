"""Layers that torch lacks: their parameters, their arithmetic, and what they refuse."""

import pytest
import torch
from torch import nn

from torchkeras.functional import (
    Add,
    Concatenate,
    GlobalMaxPool1d,
    SeparableConv1d,
    SeparableConv2d,
)


def count(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize(("sizes", "expected"), [
    ((7, 64, 3), 533), ((64, 32, 3), 2272), ((7, 64, 5), 547), ((64, 32, 5), 2400), ((7, 64, 7), 561),
    ((64, 32, 7), 2528),
])
def test_a_separable_convolution_has_the_known_number_of_parameters(sizes, expected):
    assert count(SeparableConv1d(*sizes)) == expected != count(nn.Conv1d(*sizes))


@pytest.mark.parametrize(("layer", "plain", "shape"), [(SeparableConv1d, nn.Conv1d, (9,)),
                                                       (SeparableConv2d, nn.Conv2d, (9, 9))])
def test_a_separable_convolution_is_one_convolution_whose_kernel_is_a_product(layer, plain, shape):
    options = {"stride": 2, "padding": 1, "dilation": 2}
    separable = layer(3, 5, 3, depth_multiplier=2, **options).double()
    whole = plain(3, 5, 3, **options).double()
    depth, point = separable.depthwise.weight[:, 0], separable.pointwise.weight.flatten(1)
    kernels = point[:, :, *[None] * len(shape)] * depth
    whole.load_state_dict({"weight": kernels.unflatten(1, (3, 2)).sum(2), "bias": separable.pointwise.bias})
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    assert torch.allclose(separable(x), whole(x))
    assert not torch.allclose(separable(x), whole(-x))  # control
    assert count(layer(3, 5, 3, bias=False)) == count(layer(3, 5, 3)) - 5


def test_global_max_pool_keeps_the_largest_of_each_channel():
    x = torch.tensor([[[1.0, 7.0, 3.0], [-1.0, -9.0, -5.0]]])
    assert GlobalMaxPool1d()(x).tolist() == [[7, -1]]


def test_branches_are_joined_and_added_one_by_one_or_in_a_list():
    a, b, c = torch.ones(2, 3), torch.full((2, 3), 2.0), torch.full((2, 3), 4.0)
    assert torch.equal(Add()(a, b, c), Add()([a, b, c]))
    assert Add()((a, c)).unique().tolist() == [5]
    assert Concatenate()(a, b).tolist() == Concatenate()([a, b]).tolist() == [[1, 1, 1, 2, 2, 2]] * 2
    assert Concatenate(dim=0)([a, b]).shape == (4, 3)
    assert repr(Concatenate(dim=0)) == "Concatenate(dim=0)"


def test_adding_leaves_the_branches_as_they_are():
    a, b = torch.ones(2), torch.ones(2)
    Add()(a, b)
    assert a.tolist() == b.tolist() == [1, 1]


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda: SeparableConv1d(0, 4, 3), ValueError, "in_channels.*at least 1"),
    (lambda: SeparableConv2d(3, 4.0, 3), TypeError, "out_channels.*float"),
    (lambda: GlobalMaxPool1d()(torch.ones(2, 3)), ValueError, "2 dimensions.*channels, length"),
    (lambda: Add()([torch.ones(2)]), ValueError, "1 tensor.*two or more.*list"),
])
def test_what_cannot_be_right_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
