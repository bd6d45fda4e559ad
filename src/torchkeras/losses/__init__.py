"""Losses and penalties beside torch's own.

A loss is called as ``loss_fn(preds, labels)`` and has a ``reduction``, so that sample weights can
be used with it.

base.py has ``Loss``, which reduces the ``values`` that a subclass computes. distances.py, logs.py,
hinges.py, entropies.py, focal.py and whole_batch.py have Keras's losses, robust.py further ones for
rare and for wrong labels. Penalties on
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
from torchkeras.losses.focal import (
    BinaryFocalCrossentropy,
    CategoricalFocalCrossentropy,
    CategoricalGeneralizedCrossEntropy,
)
from torchkeras.losses.hinges import CategoricalHinge, Hinge, SquaredHinge
from torchkeras.losses.layers import L1L2, LayerPenalty, regularized
from torchkeras.losses.logs import LogCosh, MeanSquaredLogarithmicError, Poisson
from torchkeras.losses.penalties import L1Loss, L2Loss, PenalizedLoss, Penalty
from torchkeras.losses.robust import FocalLoss, SCELoss
from torchkeras.losses.whole_batch import CTC, Circle, Dice, Tversky

__all__ = [
    "CTC", "L1L2", "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy", "CategoricalGeneralizedCrossEntropy", "CategoricalHinge",
    "Circle", "CosineSimilarity", "Dice", "FocalLoss", "Hinge", "Huber", "KLDivergence", "L1Loss",
    "L2Loss", "LayerPenalty", "LogCosh", "Loss", "MeanAbsoluteError", "MeanAbsolutePercentageError",
    "MeanSquaredError", "MeanSquaredLogarithmicError", "PenalizedLoss", "Penalty", "Poisson",
    "SCELoss", "SparseCategoricalCrossentropy", "SquaredHinge", "Tversky", "decay_groups",
    "regularized"]
