"""Keep ``from torchkeras.saving import load_checkpoint`` working, as older scripts write it."""

from torchkeras.training.loading import load_weights
from torchkeras.training.saving import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint"]
