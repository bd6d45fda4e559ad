"""Prove on a user's own net and data that a stopped run is resumed exactly."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchkeras.core.errors import bad_type, whole_number
from torchkeras.core.rng import begin_generators
from torchkeras.core.types import Data, Leaf, Source, Value
from torchkeras.data import batches
from torchkeras.data.source import data_components
from torchkeras.engine.callback import Callback
from torchkeras.engine.trainable import Trainable
from torchkeras.state import generators
from torchkeras.state.components import components_of
from torchkeras.state.generators import rng_state, set_rng_state
from torchkeras.state.module_state import bare_state_dict
from torchkeras.state.optimizer_state import optimizer_state

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel

SHOWN = 5  # differences of a kind


@dataclass(frozen=True)
class ResumeReport:
    """The result of a trial: ``identical``, compared steps, differences, and notes of the runs."""

    identical: bool
    steps: int
    differences: list[str]
    notes: list[str]

    def __str__(self) -> str:
        verdict = "bit for bit the same" if self.identical else "NOT the same"
        return "\n  ".join([
            f"stopped and resumed twice within {self.steps} training steps: {verdict}",
            *self.differences, *self.notes])


class StopAt(Callback):
    """Stops a run at a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, model: Trainable) -> None:
        """Request a stop at the step."""
        if model.run.global_step == self.step and model.run.stage == "train":
            model.run.stop("to be resumed")


def verify_resume(model: KerasModel, train_data: Data, val_data: Data, steps: int,
                  options: dict[str, Value]) -> ResumeReport:
    """Train a copy of a model without a stop, and another with two stops; compare the results."""
    whole_number("steps", steps, least=4)
    if isinstance(train_data, Iterator):
        raise bad_type(
            "train_data", received=f"a {type(train_data).__name__}, which can be read only once",
            expected="data that can be read again", fix="Pass a list, a Dataset or a DataLoader.")
    known = batches(train_data, name="train_data", batch_size=options.get("batch_size")).length
    each = (steps + 1) // 2 if known is None else min((steps + 1) // 2, known)
    sources = [one for one in (train_data, val_data) if one is not None]
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is not None and not options.get("cpu"):
        begin_generators(kind)
    before, numbers = rng_state(*sources), integer_attributes(sources)
    options = {"epochs": 2, "steps_per_epoch": each, "patience": None, "quiet": True,
               "val_data": val_data, **options}
    try:
        with tempfile.TemporaryDirectory(prefix="torchkeras-") as folder:
            whole, _ = train_copies(model, train_data, [None], Path(folder) / "whole", options)
            set_rng_state(before, *sources)
            restore_integers(numbers)
            stops = [max(each // 2, 1), each + max(each // 2, 1), None]
            path = Path(folder) / "broken"
            broken, notes = train_copies(model, train_data, stops, path, options)
    finally:
        set_rng_state(before, *sources)
        restore_integers(numbers)
    found = differences(whole, broken)
    return ResumeReport(not found, 2 * each, found, notes)


def train_copies(model: KerasModel, train_data: Data, stops: list[int | None], path: Path,
                 options: dict[str, Value]) -> tuple[dict[str, dict[str, Value]], list[str]]:
    """Train a copy, resumed by a fresh copy after each stop; return its final state and notes."""
    notes: list[str] = []
    bare = copy.copy(model)
    bare.run = None  # type: ignore[assignment]
    listeners = options.get("callbacks") or []
    for stop in stops:
        other = copy.deepcopy(bare)
        check_copies(bare, other)
        callbacks = [*copy.deepcopy(listeners), *([] if stop is None else [StopAt(stop)])]
        with warnings.catch_warnings():
            # a scheduler marks its optimizer's step, and a copy of the optimizer has lost the mark
            warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
            frame = other.fit(train_data, ckpt_path=path, resume=True,
                              **{**options, "callbacks": callbacks})
        notes += [note for note in getattr(other.run, "notes", [])
                  if note not in notes and note.startswith("save")]
    modules = other.learners()
    optimizers = components_of(other).optimizers
    left: dict[str, dict[str, Value]] = {
        "weights": {name: value for module in modules
                    for name, value in bare_state_dict(module).items()},
        "optimizer": flatten(
            {name: optimizer_state(one, modules) for name, one in optimizers.items()}),
        "history": {str(name): list(column) for name, column in frame.to_dict("list").items()},
        "random": flatten(rng_state())}
    return left, notes


def check_copies(model: Trainable, other: Trainable) -> None:
    """Refuse an optimizer that copy.deepcopy does not copy whole: torch copies its state_dict."""
    copies = components_of(other).optimizers
    for name, one in components_of(model).optimizers.items():
        lost = set(vars(one)) - set(vars(copies[name])) if name in copies else {name}
        if lost := {attribute for attribute in lost if not attribute.startswith("_")} - {"step"}:
            raise bad_type(
                name,
                received=f"{type(one).__name__}, of which a copy lacks {', '.join(sorted(lost))}",
                expected="an optimizer that copy.deepcopy copies whole",
                fix="Write its __getstate__ and __setstate__ so that they keep all attributes.")


def integer_attributes(sources: list[Source]) -> list[tuple[object, dict[str, int]]]:
    """Return the integers that a user's samplers and datasets keep: some count with them."""
    return [(one, generators.int_attributes(one)) for source in sources
            for one in data_components(source) if not type(one).__module__.startswith("torch.")]


def restore_integers(found: list[tuple[object, dict[str, int]]]) -> None:
    """Restore what :func:`integer_attributes` returned."""
    for one, numbers in found:
        if numbers:
            vars(one).update(numbers)


def flatten(tree: Leaf, name: str = "") -> dict[str, Value]:
    """Return the values in nested dicts and lists, by their path."""
    if isinstance(tree, dict):
        items: Iterable[tuple[object, Leaf]] = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {name: tree}
    return {path: value for key, one in items
            for path, value in flatten(one, f"{name}.{key}" if name else str(key)).items()}


def differences(before: Mapping[str, Mapping[str, Value]],
                after: Mapping[str, Mapping[str, Value]]) -> list[str]:
    """Return the differences in words; none where all is the same to the last bit."""
    found = []
    for kind, values in before.items():
        other = after[kind]
        names = [name for name in {**values, **other}
                 if not same(values.get(name), other.get(name))]
        found += [f"{kind}: {name}{distance(values.get(name), other.get(name))}"
                  for name in names[:SHOWN]]
        found += [f"{kind}: and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return found


def same(one: object, other: object) -> bool:
    """Return whether two values are the same; NaN equals NaN here."""
    if isinstance(one, list) and isinstance(other, list):
        return repr(one) == repr(other)
    if not hasattr(one, "shape") or not hasattr(other, "shape"):
        return type(one) is type(other) and repr(one) == repr(other)
    a, b = torch.as_tensor(one), torch.as_tensor(other)
    return a.dtype == b.dtype and a.shape == b.shape and bool(
        ((a == b) | ((a != a) & (b != b))).all())


def distance(one: object, other: object) -> str:
    """Return how far apart two values are, in words, where that can be computed."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        most = float((one.cpu().double() - other.cpu().double()).abs().max())
        return f" differs by up to {most:.2g}"
    return " differs"
