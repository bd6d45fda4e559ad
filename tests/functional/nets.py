"""Nets that the tests draw."""

import torch
from torch import nn
from torch.nn import functional

from torchkeras.functional import (
    Concatenate,
    FunctionalModel,
    GlobalMaxPool1d,
    Input,
    SeparableConv1d,
    build,
)

MAX_WORDS, MAX_LEN = 10_000, 200


def text_net(length: int = MAX_LEN) -> FunctionalModel:
    """Three branches of separable convolutions over embedded words, joined for one logit."""
    tokens = Input((length,), torch.int64, name="tokens")
    words = nn.Embedding(MAX_WORDS, 7)(tokens).transpose(1, 2)
    branches = []
    for kernel in (3, 5, 7):
        x = nn.MaxPool1d(2)(SeparableConv1d(7, 64, kernel)(words).relu())
        branches.append(GlobalMaxPool1d()(SeparableConv1d(64, 32, kernel)(x).relu()))
    return build(tokens, nn.Linear(96, 1)(Concatenate()(branches)))


def small() -> FunctionalModel:
    """A shared convolution, BatchNorm, dropout, a residual, a constant, and the batch's size in a view."""
    x = Input((3, 6, 6), name="x")
    shared = nn.Conv2d(3, 3, 3, padding=1)
    y = functional.relu(nn.BatchNorm2d(3)(shared(x))) + x
    y = nn.Dropout(0.5)(shared(y)) * nn.Parameter(torch.full((3, 1, 1), 2.0)) - torch.arange(6.0)
    return build(x, {"class": nn.Linear(108, 4)(y.view(y.shape[0], -1)), "mean": y.mean(dim=(1, 2, 3))})
