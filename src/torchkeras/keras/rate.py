"""The learning rate as an attribute of the optimizer, as in Keras: ``optimizer.learning_rate``.

torch reads the rate from ``param_groups`` alone. So a value that was written to the attribute goes
there, and the attribute is brought up to date, whenever the library looks at the optimizer.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from torchkeras.core.errors import bad_type, bad_value, kind_of

NAMES = ("learning_rate", "lr")
KNOWN = "rate_by_attribute"  # the names that stand for the rate, with their last values


def rate_of(optimizer: Any) -> float | None:
    """Return the rate of an optimizer's first group; None without one."""
    if optimizer is None or "lr" not in optimizer.param_groups[0]:
        return None
    return float(optimizer.param_groups[0]["lr"])


def set_rate(optimizer: Any, rate: object) -> None:
    """Set the rate of all groups of an optimizer; one that is a tensor stays one.

    Raises:
        TypeError: the rate is not a number.
        ValueError: it is negative or not finite.
    """
    try:
        number = float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise bad_type("learning_rate", received=kind_of(rate), expected="a number") from error
    if not 0 <= number < math.inf:
        raise bad_value("learning_rate", received=number,
                        expected="a finite number of at least 0")
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(number)
        else:
            group["lr"] = number


def sync_rate(optimizer: Any) -> Any:
    """Apply a rate that was set as an attribute, and bring the attributes up to date.

    An attribute of one of these names that the optimizer's class brings along is left alone.
    """
    if rate_of(optimizer) is None:
        return optimizer
    own = vars(optimizer)
    if KNOWN not in own:
        own[KNOWN] = {name: None for name in NAMES if not hasattr(optimizer, name)}
    known = own[KNOWN]
    for name, last in known.items():
        given = own.get(name, last)
        if given is not last and (last is None or given != last):
            set_rate(optimizer, given)
    rate = rate_of(optimizer)
    for name in known:
        known[name] = own[name] = rate
    return optimizer
