"""Optimizers that compute what Keras's compute, on the parameters of a torch net.

``Model.compile("nadam", ...)`` takes them by name, with Keras's defaults. Each is an ordinary torch
optimizer: ``optimizers.Nadam(net.parameters(), lr=0.001)`` trains any net, in any loop. Arguments
are named as in Keras, except ``params`` and ``lr``, which schedulers of torch look for.

base.py has what they share. adam.py has Adam, AdamW, Adamax, Nadam and ScheduleFreeAdamW; rates.py
has RMSprop, Adagrad, Adadelta, Adafactor and Ftrl; directions.py has Lion, Lamb and Muon. SGD is
torch's. named.py finds them by name.
"""

from torchkeras.keras.optimizers.adam import Adam, Adamax, AdamW, Nadam, ScheduleFreeAdamW
from torchkeras.keras.optimizers.directions import Lamb, Lion, Muon
from torchkeras.keras.optimizers.rates import Adadelta, Adafactor, Adagrad, Ftrl, RMSprop

__all__ = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion",
           "Muon", "Nadam", "RMSprop", "ScheduleFreeAdamW"]
