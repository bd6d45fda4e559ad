"""Models drawn as graphs: call layers and torch functions on symbolic inputs, and get an ordinary ``nn.Module``."""

from torchkeras.functional.building import build
from torchkeras.functional.drawing import Input
from torchkeras.functional.layers import Add, Concatenate, GlobalMaxPool1d, SeparableConv1d, SeparableConv2d
from torchkeras.functional.model import FunctionalModel
from torchkeras.functional.picture import to_svg

__all__ = ["Add", "Concatenate", "FunctionalModel", "GlobalMaxPool1d", "Input", "SeparableConv1d", "SeparableConv2d",
           "build", "to_svg"]
