"""Is it better, is it over: decisions about one watched number."""

from __future__ import annotations

import math
import re

from torchkeras.core.errors import bad_value, did_you_mean

FALLING = re.compile(r"loss|err|mae|mse|mape|perplexity|ppl|nll|distance|divergence")
RISING = re.compile(r"acc|auc|f1|precision|recall|iou|dice|ks$|r2|score|topk|top_?\d|map$|bleu|corr")


class Monitor:
    """Watches one number: the best value is the best; ``patience`` epochs without an improvement are the end.

    Two questions, two memories. *Is it the best?* compares with all that was seen, and with what the run began with
    (:meth:`begin_with`). *Does it still improve?* compares the epochs of this run alone, and an improvement of at most
    ``min_delta`` is none. So a small improvement is kept, and does not keep the run going.

    NaN and infinity are never better. An epoch without the number (no validation that time) is not counted.
    """

    def __init__(self, name: str, mode: str, patience: int | None = None, min_delta: float = 0.0) -> None:
        self.name, self.mode, self.patience, self.min_delta = name, mode, patience, min_delta
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.reference: float | None = None  # what patience measures improvement from
        self.improved = False
        self.misses = 0

    def begin_with(self, value: float) -> None:
        """Take weights of before the run as epoch 0: only better ones are best; patience has not begun."""
        self.best, self.best_epoch = value, 0

    def see(self, epoch: int, value: float) -> bool:
        """Take in an epoch's number; True when it is the best so far."""
        self.improved = math.isfinite(value) and (self.best is None or self.beats(value, self.best))
        if self.improved:
            self.best, self.best_epoch = value, epoch
        if math.isfinite(value) and (self.reference is None or self.beats(value, self.reference, self.min_delta)):
            self.reference, self.misses = value, 0
        else:
            self.misses += 1
        return self.improved

    def beats(self, value: float, other: float, by: float = 0.0) -> bool:
        """Whether a value is strictly better than another, by more than so much."""
        return value - by > other if self.mode == "max" else value + by < other

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.misses >= self.patience


def direction(name: str, mode: str, higher_is_better: bool | None) -> tuple[str, str]:
    """``("min" or "max", why)``: as asked, else as the metric says, else by the name."""
    if mode != "auto":
        return mode, "as given"
    if higher_is_better is not None:
        return ("max" if higher_is_better else "min"), "as the metric says"
    if FALLING.search(name.lower()):
        return "min", "by its name"
    if RISING.search(name.lower()):
        return "max", "by its name"
    return "min", "its name tells nothing: pass mode='max' if higher is better"


def check_monitor(name: str, known: list[str]) -> None:
    """Refuse to watch a number that the run will not produce."""
    if name not in known:
        unmeasured = name.startswith("val_") and not any(one.startswith("val_") for one in known)
        raise bad_value("monitor", received=repr(name), expected="one of " + ", ".join(known),
                        fix="Pass val_data to measure on." if unmeasured else did_you_mean(name, known))
