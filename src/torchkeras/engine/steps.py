"""Build the steps of a run once for each stage: what they keep lives as long as the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.core.errors import bad_value
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.types import Stage
from torchkeras.engine.step import StepRunner
from torchkeras.state.components import Components, components_of

if TYPE_CHECKING:
    from torchkeras.data import Batches
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable

BARE: Any = SimpleNamespace(mixed_precision="no")
OURS = frozenset({name for kind in StepRunner.__mro__[:-1]  # not the user's attributes
                  for name in (*vars(kind), *kind.__annotations__)}
                 | {*vars(StepRunner(nn.Identity(), None, BARE)), "learning_rate"})
GIVEN = frozenset({"net", "loss_fn", "accelerator", "stage", "metrics_dict", "optimizer",
                   "lr_scheduler", "whole_numbers", "replicas", "current_microbatch"})
UNSET: dict[str, Any] = {"number": 0, "seen": None, "parts": {}}  # before the first batch
PER_PASS = ("bound", "grown", "gradient_norm", "known", "weighed", "labelled", "waiting", "terms",
            "whole_numbers", "measured_by", "count_undecided")


def step_of(model: Trainable, run: Run, stage: Stage, learning: bool, data: Batches) -> Any:
    """Return the step of a stage: built for its first pass, made ready again for later ones."""
    step: Any = run.step_runners.get((stage, learning))
    if step is not None and type(step) is model.StepRunner:
        parts = parts_of_step(model, run, learning)
        for name in parts.keys() & {*vars(step), "net", "loss_fn"}:
            setattr(step, name, parts[name])
        run.strategy.attach(step, parts)
        make_ready(step, run, stage, learning, data.name)
    else:
        states = random_states() if run.global_step else None
        step = run.step_runners[stage, learning] = build_step(
            model, run, stage, learning, data.name)
        if states is not None:
            put_random_states(states)  # a resumed run builds it once more
        run.notes += nets_for_each_stage(model, run.step_runners)
        run.checkpointer.step_built(step, stage)
    step.whole_numbers = data.of_arrays
    return step


def parts_of_step(model: Trainable, run: Run, learning: bool) -> dict[str, Any]:
    """Return net, loss and step objects, wrapped where several processes learn."""
    return {"net": model.net, "loss_fn": model.loss_fn, **model.step_objects,
            **run.strategy.wrapped(learning)}


def build_step(model: Trainable, run: Run, stage: Stage, learning: bool, argument: str) -> Any:
    """Return a step, ours or the user's; users' steps rely on these keywords."""
    objects, parts = run.objects, parts_of_step(model, run, learning)
    step = model.StepRunner(accelerator=run.strategy.accelerator_for(run.accelerator), stage=stage,
                            metrics_dict=objects.metrics[stage],
                            optimizer=objects.optimizer if learning else None,
                            lr_scheduler=objects.given_scheduler if learning else None, **parts)
    run.strategy.attach(step, parts)
    check_names(step)
    make_ready(step, run, stage, learning, argument)
    return step


def check_names(step: Any) -> None:
    """Refuse a user's step with attributes whose names the library's own steps need."""
    if not isinstance(step, StepRunner):
        return
    taken = [name for name, value in UNSET.items() if vars(step).get(name, value) != value]
    taken += [name for name in ("known", "waiting", "terms", "measured_by", "learning_rate",
                                "count_undecided") if name in vars(step)]
    if taken:
        raise bad_value("StepRunner",
                        received=f"one that keeps something of its own as {', '.join(taken)}",
                        expected="other names: StepRunner needs these for itself",
                        fix="Rename it in your class.")


def make_ready(step: Any, run: Run, stage: Stage, learning: bool, argument: str) -> None:
    """Let a step of ours begin a pass."""
    if not isinstance(step, StepRunner):
        return
    for name in PER_PASS:
        vars(step).pop(name, None)
    step.number, step.seen, step.parts = 0, None, {}
    step.config, step.process_strategy, step.facts, step.notes = (
        run.config, run.strategy, run.facts[stage], run.notes)
    step.per_step_schedule = run.objects.step_scheduler if learning else None
    step.rehearsing = learning and run.global_step == 0
    step.looking, step.argument = True, argument
    step.trouble = run.trouble if step.rehearsing else None


def own_attributes(step: Any, model: Any, parts: Components,
                   others: Any = ()) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a step that it was not given and that no other step keeps."""
    given = {id(one) for one in (
        model.net, model.loss_fn, model.optimizer, *model.step_objects.values())}
    given |= {id(value) for other in others for value in vars(other).values()} | tensors_of(parts)
    named = GIVEN | (OURS if isinstance(step, StepRunner) else set())
    yield from ((name, value) for name, value in vars(step).items()
                if name not in named and name not in model.step_objects and id(value) not in given)


def tensors_of(parts: Components) -> set[int]:
    """Return the parameters and buffers of a model, which are saved with its modules."""
    return {id(value) for module in parts.modules.values()
            for value in (*module.parameters(), *module.buffers())}


def nets_for_each_stage(model: Any, steps: Mapping[Any, Any]) -> list[str]:
    """Return a note on nets that both steps make: what one of them learns, the other lacks."""
    both = [steps.get(key) for key in (("train", True), ("val", False))]
    if None in both:
        return []
    parts = components_of(model)
    train, val = ({name: one for name, one in own_attributes(step, model, parts)
                   if isinstance(one, nn.Module) and not hasattr(one, "compute")
                   and any(True for _ in one.parameters())} for step in both)
    names = [f"StepRunner.{name}" for name, one in train.items() if val.get(name, one) is not one]
    return [f"{', '.join(names)}: made by each step for itself, so the step of the validation has "
            "another than that of the training; give it to KerasModel as a step object if it "
            "learns or changes"] if names else []
