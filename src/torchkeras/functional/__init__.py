"""Nets drawn as graphs: call layers and torch functions on symbolic inputs, get an ``nn.Module``.

Drawing: ``Input`` (drawing.py) gives a ``Symbol`` (symbol.py), a tensor with a shape and no values.
Every torch function and module called on it goes through drawing.py, which works out the shapes on
fake tensors (shapes.py), refuses what no net could keep (refusals.py), and returns new symbols;
each holds the ``Step`` that made it. echo.py records modules that are called after ``build``.

Building: ``build`` (building.py) collects the steps between inputs and outputs, reruns them with
another batch size, and writes them as plain records (plan.py), from which ``FunctionalModel``
(model.py) generates its forward. Conversions of that net: picture.py draws it as SVG; config.py
turns it into JSON-ready data and back, after checking.py has refused unsafe data; data.py encodes
single values. layers.py has layers that torch lacks.
"""

from torchkeras.functional import config  # noqa: F401 (FunctionalModel.get_config needs it)
from torchkeras.functional.building import build
from torchkeras.functional.drawing import Input
from torchkeras.functional.layers import (
    Add,
    Concatenate,
    GlobalMaxPool1d,
    SeparableConv1d,
    SeparableConv2d,
)
from torchkeras.functional.model import FunctionalModel
from torchkeras.functional.picture import to_svg

__all__ = ["Add", "Concatenate", "FunctionalModel", "GlobalMaxPool1d", "Input", "SeparableConv1d",
           "SeparableConv2d", "build", "to_svg"]
