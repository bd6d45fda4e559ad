"""Layers that Keras has and torch has not, with torch's conventions: channels first, and its initial weights.

Where they differ from Keras's: ``Concatenate`` joins dimension 1, the channels, by default; inputs that are not padded
stay so (``padding=0``); there are no activations inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_value, whole_number


class _SeparableConv(nn.Module):
    """Each channel by itself, then all channels at each place."""

    conv: Callable[..., nn.Module]

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, depth_multiplier: int = 1, bias: bool = True) -> None:
        super().__init__()
        for argument, value in (("in_channels", in_channels), ("out_channels", out_channels),
                                ("depth_multiplier", depth_multiplier)):
            whole_number(argument, value, least=1)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.depth_multiplier, self.bias = depth_multiplier, bias
        between = in_channels * depth_multiplier
        self.depthwise = type(self).conv(in_channels, between, kernel_size, stride, padding, dilation,
                                         groups=in_channels, bias=False)
        self.pointwise = type(self).conv(between, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve twice."""
        return self.pointwise(self.depthwise(x))


class SeparableConv1d(_SeparableConv):
    """Convolve sequences with far fewer weights: each channel by itself, then a kernel of size 1 over all channels.

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
    """Convolve images with far fewer weights: each channel by itself, then a kernel of size 1 over all channels.

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
    """Keep the largest value of each channel, wherever in the sequence it is: ``(N, C, L)`` becomes ``(N, C)``.

    Raises:
        ValueError: the input has not three dimensions.

    Example:
        >>> GlobalMaxPool1d()(torch.tensor([[[1.0, 5.0, 2.0]]]))
        tensor([[5.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The largest along the last dimension."""
        if x.dim() != 3:
            raise bad_value("x", received=f"a tensor of {x.dim()} dimensions", expected="(samples, channels, length)",
                            fix="Put the channels first: x.transpose(1, 2).")
        return x.amax(dim=-1)


class Concatenate(nn.Module):
    """Join branches: tensors that are alike but in one dimension, one after the other.

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
        """Join tensors, given one by one or in one list."""
        return torch.cat(listed(values), dim=self.dim)

    def extra_repr(self) -> str:
        """What the layer is shown with."""
        return f"dim={self.dim}"


class Add(nn.Module):
    """Add branches up, as a residual connection does.

    Example:
        >>> Add()([torch.ones(2), torch.ones(2), torch.ones(2)])
        tensor([3., 3.])
    """

    def forward(self, *values: Any) -> Tensor:
        """The sum of tensors, given one by one or in one list."""
        return reduce(torch.add, listed(values))


def listed(values: tuple[Any, ...]) -> list[Tensor]:
    """Tensors that came one by one, or in one list or tuple."""
    found = list(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else list(values)
    if len(found) < 2:
        raise bad_value("values", received=f"{len(found)} tensor", expected="two or more", fix="Pass a list: [a, b].")
    return found
