"""The nets that are too long for a line."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Scale(nn.Module):
    """One parameter: what a step then costs is the library's own."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x * self.factor


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size (but for the stride), and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
                         nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, the basic block of He and others, 2015."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve twice and add."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


def resnet18(classes: int = 10) -> nn.Sequential:
    """ResNet-18 for images of 32 by 32: a first convolution of size 3, no first pooling."""
    widths, blocks = [64, 64, 128, 256, 512], []
    for stage, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        blocks += [Residual(inputs, outputs, 1 if stage == 0 else 2), Residual(outputs, outputs, 1)]
    return nn.Sequential(conv(3, 64, 3), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(512, classes))


class Attention(nn.Module):
    """Each place looks at those before it, then a small MLP, both added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width))
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then think."""
        batch, length, width = x.shape
        parts = self.before(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(x)


class GPT(nn.Module):
    """A small decoder; gives (samples, vocabulary, places), which is what cross entropy takes."""

    def __init__(self, vocabulary: int, length: int, width: int = 384, heads: int = 6, layers: int = 6) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Attention(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores for the next token at every place."""
        places = self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.blocks(self.tokens(ids) + places)).transpose(1, 2)
