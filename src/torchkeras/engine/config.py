"""Record the arguments of one call of ``fit``, checked once and never changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

import numpy as np

from torchkeras.core.errors import (
    bad_type,
    bad_value,
    check_bool,
    check_min_delta,
    check_str,
    is_real,
    kind_of,
    one_of,
    positive_number,
    whole_number,
)
from torchkeras.core.interval import every_or_listed, parse

PRECISIONS = ("no", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """The arguments of ``fit`` that are not data."""

    epochs: int = 10
    ckpt_path: str | None = "checkpoint"
    patience: int | None = 5
    min_delta: float = 0.0
    restore_best: bool = True
    monitor: str = "val_loss"
    mode: str = "auto"
    mixed_precision: str = "no"
    cpu: bool = False
    gradient_accumulation_steps: int = 1
    initial_epoch: int = 0
    validation_freq: int | tuple[int, ...] = 1
    class_weight: Mapping[int, float] | None = None
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    lr_interval: str = "auto"
    seed: int | None = None
    sync_batchnorm: bool = False
    find_unused_parameters: bool = False
    fsdp: bool = False
    speed: str = "exact"
    resume: bool = False
    save_every: int | str | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        check_str("monitor", self.monitor, "val_loss")
        for one in fields(self):
            if isinstance(one.default, bool):
                check_bool(one.name, getattr(self, one.name))
        whole_number("epochs", self.epochs, least=1)
        whole_number("patience", self.patience, least=1, optional=True)
        check_min_delta(self.min_delta)
        whole_number("gradient_accumulation_steps", self.gradient_accumulation_steps, least=1)
        whole_number("initial_epoch", self.initial_epoch, least=0)
        object.__setattr__(self, "validation_freq", every_or_listed(self.validation_freq))
        whole_number("seed", self.seed, least=0, most=2**32 - 1, optional=True)
        positive_number("clip_grad_norm", self.clip_grad_norm)
        positive_number("clip_grad_value", self.clip_grad_value)
        one_of("mode", self.mode, ("auto", "min", "max"))
        one_of("lr_interval", self.lr_interval, ("auto", "step", "epoch"))
        one_of("speed", self.speed, ("exact", "fast"))
        one_of("mixed_precision", self.mixed_precision, PRECISIONS)
        if self.fsdp and self.mixed_precision == "fp16":
            raise bad_value("mixed_precision", received="'fp16' with fsdp=True",
                            expected="'no' or 'bf16' there",
                            fix="'bf16' needs no scaling of the loss, which with divided gradients "
                            "was never tried on several accelerators.")
        if self.initial_epoch >= self.epochs:
            raise bad_value("initial_epoch", fix="Pass a larger epochs.",
                            received=f"{self.initial_epoch} with epochs={self.epochs}",
                            expected="fewer finished epochs than epochs")
        check_class_weight(self.class_weight)
        whole_number("keep", self.keep, least=1)
        self.check_keeping()
        self.as_plain_numbers()

    @classmethod
    def of(cls, arguments: Mapping[str, Any], **changed: object) -> FitConfig:
        """Return the configuration among the arguments of a call of ``fit``."""
        return cls(**{name: arguments[name] for name in cls.__slots__} | changed)

    def as_plain_numbers(self) -> None:
        """Convert numpy's numbers to Python's, for files and other processes."""
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())
        if self.class_weight is not None:
            plain = {int(index): float(weight) for index, weight in self.class_weight.items()}
            object.__setattr__(self, "class_weight", plain)

    def check_keeping(self) -> None:
        """Raise if a checkpoint of the run is requested without a path."""
        parse(self.save_every)
        if self.keeps_state and self.ckpt_path is None:
            raise bad_value("ckpt_path", received="None with resume or save_every",
                            expected="a path",
                            fix="The run's state is kept in the folder <ckpt_path>.state.")

    def to_share(self) -> dict[str, object]:
        """Return the arguments for logs and reports.

        Of the path, only the file name is returned: folders may contain a person's name.
        """
        path = self.ckpt_path
        return asdict(self) | {"ckpt_path": None if path is None else os.path.basename(path)}

    @property
    def keeps_state(self) -> bool:
        """Return whether checkpoints of the run are written."""
        return self.resume or self.save_every is not None


def check_class_weight(weights: Mapping[int, float] | None) -> None:
    """Raise unless class weights are ``{class index: weight of at least 0}``."""
    if weights is None:
        return
    expected = "a dict of class index to weight, such as {0: 1.0, 1: 5.0}"
    if not isinstance(weights, Mapping) or not weights:
        fix = "" if isinstance(weights, Mapping) else "For an array: dict(enumerate(weights))."
        raise bad_type("class_weight", received=kind_of(weights), expected=expected, fix=fix)
    for index, weight in weights.items():
        received = f"{index!r}: {weight!r}"
        if isinstance(index, bool) or not isinstance(index, Integral) or not is_real(weight):
            raise bad_type("class_weight", received=received, expected=expected)
        if index < 0 or not 0 <= float(weight) < float("inf"):
            raise bad_value("class_weight", received=received, expected=expected)
