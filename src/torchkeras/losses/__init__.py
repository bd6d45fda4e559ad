"""Losses and penalties beside torch's own.

A loss is called as ``loss_fn(preds, labels)`` and has a ``reduction``, so that sample weights can
be used with it.

base.py has ``Loss``, which reduces the ``values`` that a subclass computes. distances.py and
entropies.py have Keras's losses, robust.py those for rare and for wrong labels. Penalties on
weights are added to a loss with ``+``: penalties.py has those on all weights, layers.py those on
marked layers. decay.py makes the parameter groups of an optimizer with ``weight_decay``.
"""

from torchkeras.losses.base import Loss
from torchkeras.losses.decay import decay_groups
from torchkeras.losses.distances import (
    CosineSimilarity,
    Huber,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
)
from torchkeras.losses.entropies import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    KLDivergence,
    SparseCategoricalCrossentropy,
)
from torchkeras.losses.layers import L1L2, LayerPenalty, regularized
from torchkeras.losses.penalties import L1Loss, L2Loss, PenalizedLoss, Penalty
from torchkeras.losses.robust import FocalLoss, SCELoss

__all__ = [
    "L1L2", "BinaryCrossentropy", "CategoricalCrossentropy", "CosineSimilarity", "FocalLoss",
    "Huber", "KLDivergence", "L1Loss", "L2Loss", "LayerPenalty", "Loss", "MeanAbsoluteError",
    "MeanAbsolutePercentageError", "MeanSquaredError", "PenalizedLoss", "Penalty", "SCELoss",
    "SparseCategoricalCrossentropy", "decay_groups", "regularized"]
