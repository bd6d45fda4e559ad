"""Prove on one's own net and data that a run which is stopped goes on exactly."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_type, whole_number
from torchkeras.data import batches
from torchkeras.data.source import holders
from torchkeras.engine.callback import Callback
from torchkeras.state import generators
from torchkeras.state.components import components_of
from torchkeras.state.generators import drawn, put_drawn
from torchkeras.state.module_state import weights_in
from torchkeras.state.optimizer_state import optimizer_state

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel

SHOWN = 5  # differences of a kind


@dataclass(frozen=True)
class ResumeReport:
    """What came of a trial: ``identical``, how many steps were compared, what differs, and what the runs noted."""

    identical: bool
    steps: int
    differences: list[str]
    notes: list[str]

    def __str__(self) -> str:
        verdict = "bit for bit the same" if self.identical else "NOT the same"
        lines = [f"stopped and resumed twice within {self.steps} training steps: {verdict}", *self.differences,
                 *self.notes]
        return "\n  ".join(lines)


class Stop(Callback):
    """Ends a run at a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, model: Any) -> None:
        """Ask for the end."""
        if model.run.trained == self.step and model.run.stage == "train":
            model.run.stop("to be resumed")


def verify_resume(model: KerasModel, train_data: Any, val_data: Any, steps: int, options: dict[str, Any]) -> Any:
    """Train a copy of a model without a break, and another with two; compare all that is left."""
    whole_number("steps", steps, least=4)
    if isinstance(train_data, Iterator):
        raise bad_type("train_data", received=f"a {type(train_data).__name__}, which can be read only once",
                       expected="data that can be read again", fix="Pass a list, a Dataset or a DataLoader.")
    known = batches(train_data, name="train_data", batch_size=options.get("batch_size")).length
    each = (steps + 1) // 2 if known is None else min((steps + 1) // 2, known)
    sources = [one for one in (train_data, val_data) if one is not None]
    before, numbers = drawn(*sources), whole_numbers(sources)
    options = {"epochs": 2, "steps_per_epoch": each, "patience": None, "quiet": True, "val_data": val_data, **options}
    try:
        with tempfile.TemporaryDirectory(prefix="torchkeras-") as folder:
            whole, _ = trained(model, train_data, [None], Path(folder) / "whole", options)
            put_drawn(before, *sources)
            put_numbers(numbers)
            stops = [max(each // 2, 1), each + max(each // 2, 1), None]
            broken, notes = trained(model, train_data, stops, Path(folder) / "broken", options)
    finally:
        put_drawn(before, *sources)
        put_numbers(numbers)
    found = differences(whole, broken)
    return ResumeReport(not found, 2 * each, found, notes)


def trained(model: KerasModel, train_data: Any, stops: list[int | None], path: Path,
            options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is left of a copy of a model that was stopped here and there, each time gone on with by a fresh copy."""
    notes: list[str] = []
    bare = copy.copy(model)
    bare.run = None
    listeners = options.get("callbacks") or []
    for stop in stops:
        other = copy.deepcopy(bare)
        check_copies(bare, other)
        callbacks = [*copy.deepcopy(listeners), *([] if stop is None else [Stop(stop)])]
        with warnings.catch_warnings():
            # a scheduler marks its optimizer's step, and a copy of the optimizer has lost the mark
            warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
            frame = other.fit(train_data, ckpt_path=path, resume=True, **{**options, "callbacks": callbacks})
        notes += [note for note in getattr(other.run, "notes", []) if note not in notes and note.startswith("save")]
    modules = other.learners()
    left = {"weights": {name: value for module in modules for name, value in weights_in(module).items()},
            "optimizer": flat({name: optimizer_state(one, modules)
                               for name, one in components_of(other).optimizers.items()}),
            "history": {name: list(column) for name, column in frame.to_dict("list").items()},
            "random": flat(drawn())}
    return left, notes


def check_copies(model: Any, other: Any) -> None:
    """Refuse a model of which a copy lacks something: torch copies of an optimizer what its state_dict has."""
    copies = components_of(other).optimizers
    for name, one in components_of(model).optimizers.items():
        lost = set(vars(one)) - set(vars(copies[name])) if name in copies else {name}
        if lost := {attribute for attribute in lost if not attribute.startswith("_")} - {"step"}:
            raise bad_type(name, received=f"{type(one).__name__}, of which a copy lacks {', '.join(sorted(lost))}",
                           expected="an optimizer that copy.deepcopy copies whole",
                           fix="Write its __getstate__ and __setstate__ so that they keep all attributes.")


def whole_numbers(sources: list[Any]) -> list[tuple[Any, dict[str, int]]]:
    """Return the numbers that samplers and datasets of a user's keep, some of which they count with."""
    return [(one, generators.whole_numbers(one)) for source in sources for one in holders(source)
            if not type(one).__module__.startswith("torch.")]


def put_numbers(found: list[tuple[Any, dict[str, int]]]) -> None:
    """Put these numbers back."""
    for one, numbers in found:
        if numbers:
            vars(one).update(numbers)


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The values in nested dicts and lists, under the way to them."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else None
    if items is None:
        return {name: tree}
    return {path: value for key, one in items
            for path, value in flat(one, f"{name}.{key}" if name else str(key)).items()}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, in words; none where all is the same to the last bit."""
    found = []
    for kind, values in before.items():
        other = after[kind]
        names = [name for name in {**values, **other} if not same(values.get(name), other.get(name))]
        found += [f"{kind}: {name}{distance(values.get(name), other.get(name))}" for name in names[:SHOWN]]
        found += [f"{kind}: and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same; NaN is NaN here."""
    if isinstance(one, list) and isinstance(other, list):
        return repr(one) == repr(other)
    if not hasattr(one, "shape") or not hasattr(other, "shape"):
        return type(one) is type(other) and repr(one) == repr(other)
    a, b = torch.as_tensor(one), torch.as_tensor(other)
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def distance(one: Any, other: Any) -> str:
    """How far apart two values are, where that can be said."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        return f" differs by up to {float((one.cpu().double() - other.cpu().double()).abs().max()):.2g}"
    return " differs"
