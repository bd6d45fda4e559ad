"""Layers of Keras that torch lacks, with torch's conventions: channels first, its initial weights.

They differ from Keras's as follows: ``Concatenate`` joins dimension 1, the channels, by default;
the default padding is 0, as in torch; no layer has an activation inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_value, whole_number

Size: TypeAlias = int | tuple[int, ...]


class _SeparableConv(nn.Module):
    """A depthwise convolution, then a pointwise one."""

    conv: Callable[..., nn.Module]

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size | str = 0, dilation: Size = 1, depth_multiplier: int = 1,
                 bias: bool = True) -> None:
        super().__init__()
        for argument, value in (("in_channels", in_channels), ("out_channels", out_channels),
                                ("depth_multiplier", depth_multiplier)):
            whole_number(argument, value, least=1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.padding, self.dilation = padding, dilation
        self.depth_multiplier, self.bias = depth_multiplier, bias
        between = in_channels * depth_multiplier
        self.depthwise = type(self).conv(in_channels, between, kernel_size, stride, padding,
                                         dilation, groups=in_channels, bias=False)
        self.pointwise = type(self).conv(between, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each channel, then all channels at each place."""
        found: Tensor = self.pointwise(self.depthwise(x))
        return found


class SeparableConv1d(_SeparableConv):
    """Convolve sequences with few weights: each channel alone, then all with a kernel of size 1.

    Args:
        in_channels: channels of the input, ``(N, in_channels, L)``.
        out_channels: channels of the output, ``(N, out_channels, L_out)``.
        kernel_size: of the first convolution.
        stride: of the first convolution. Default 1.
        padding: of the first convolution: an int, or "same". Default 0.
        dilation: of the first convolution. Default 1.
        depth_multiplier: channels that the first convolution makes of each. Default 1.
        bias: whether the second convolution has one; the first has none, as in Keras. Default True.

    Raises:
        TypeError: a number of channels is no int.
        ValueError: it is below 1.

    Example:
        >>> layer = SeparableConv1d(7, 64, kernel_size=3)
        >>> layer(torch.ones(2, 7, 200)).shape
        torch.Size([2, 64, 198])
        >>> sum(weight.numel() for weight in layer.parameters())
        533
    """

    conv = nn.Conv1d


class SeparableConv2d(_SeparableConv):
    """Convolve images with few weights: each channel alone, then all with a kernel of size 1.

    Args:
        in_channels: channels of the input, ``(N, in_channels, H, W)``.
        out_channels: channels of the output, ``(N, out_channels, H_out, W_out)``.
        kernel_size: of the first convolution: an int or a pair.
        stride: of the first convolution. Default 1.
        padding: of the first convolution: an int, a pair or "same". Default 0.
        dilation: of the first convolution. Default 1.
        depth_multiplier: channels that the first convolution makes of each. Default 1.
        bias: whether the second convolution has one; the first has none, as in Keras. Default True.

    Raises:
        TypeError: a number of channels is no int.
        ValueError: it is below 1.

    Example:
        >>> SeparableConv2d(3, 8, kernel_size=3, padding="same")(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 8, 32, 32])
    """

    conv = nn.Conv2d


class GlobalMaxPool1d(nn.Module):
    """Keep the largest value of each channel over the sequence: ``(N, C, L)`` becomes ``(N, C)``.

    Raises:
        ValueError: the input does not have three dimensions.

    Example:
        >>> GlobalMaxPool1d()(torch.tensor([[[1.0, 5.0, 2.0]]]))
        tensor([[5.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum along the last dimension."""
        if x.dim() != 3:
            raise bad_value("x", received=f"a tensor of {x.dim()} dimensions",
                            expected="(samples, channels, length)",
                            fix="Put the channels first: x.transpose(1, 2).")
        return x.amax(dim=-1)


class Concatenate(nn.Module):
    """Concatenate branches: tensors whose shapes differ in one dimension only.

    Args:
        dim: the dimension to join along. Default 1, the channels or features (Keras: the last).

    Example:
        >>> Concatenate()([torch.ones(2, 3), torch.zeros(2, 4)]).shape
        torch.Size([2, 7])
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *values: Any) -> Tensor:
        """Concatenate tensors, given one by one or in one list."""
        return torch.cat(as_list(values), dim=self.dim)

    def extra_repr(self) -> str:
        """Return the text for ``repr``."""
        return f"dim={self.dim}"


class Add(nn.Module):
    """Add branches up, as a residual connection does.

    Example:
        >>> Add()([torch.ones(2), torch.ones(2), torch.ones(2)])
        tensor([3., 3.])
    """

    def forward(self, *values: Any) -> Tensor:
        """Return the sum of tensors, given one by one or in one list."""
        return reduce(torch.add, as_list(values))


def as_list(values: tuple[Any, ...]) -> list[Tensor]:
    """Return tensors given one by one, or in one list or tuple, as a list."""
    whole = len(values) == 1 and isinstance(values[0], (tuple, list))
    found = list(values[0] if whole else values)
    if len(found) < 2:
        raise bad_value("values", received=f"{len(found)} tensor", expected="two or more",
                        fix="Pass a list: [a, b].")
    return found
