"""Keep ``from torchkeras.lightmodel import LightModel`` working, as older notebooks write it."""

from torchkeras.lightning.model import LightModel

__all__ = ["LightModel"]
