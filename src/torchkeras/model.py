"""Keep ``from torchkeras.model import Model`` working, as older scripts write it."""

from torchkeras.keras.model import Model

__all__ = ["Model"]
