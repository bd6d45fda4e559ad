"""What makes several processes train one net: the same data, the same weights, shared gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.modes import BATCH_NORMS
from torchkeras.data import Batches
from torchkeras.data.fingerprint import content
from torchkeras.distributed import ddp
from torchkeras.distributed.fsdp import Shards, Undivided, check_divisible
from torchkeras.engine import device
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.run import Run, nothing
from torchkeras.state.components import components_of


@contextmanager
def lockstep(model: Any, run: Run, train: Batches, val: Batches | None) -> Iterator[None]:
    """In one of several processes: check that all were given the same, then share weights and gradients."""
    if run.together.world == 1:
        yield
        return
    if model.EpochRunner.__call__ is not EpochRunner.__call__:
        raise bad_type("EpochRunner", received="one with a __call__ of its own", expected="torchkeras' own in several "
                       "processes, which joins what they counted", fix="Override a StepRunner instead.")
    check_same(model, run, train, val)
    device.same_weights(run.together, *model.learners())
    run.notes.append(f"processes: {run.together.world}, which share every batch")
    check_apart(parts_of(model))
    check_reachable(model, parts_of(model))
    with (synchronised(model.learners(), run) if run.config.sync_batchnorm else each_its_own(model.learners(), run),
          whole_windows(model, run), sharded(model, run) if run.config.fsdp else replicated(model, run)):
        yield
    run.tools = run.tools._replace(replicas=dict, settle=nothing, shards=Undivided())


@contextmanager
def replicated(model: Any, run: Run) -> Iterator[None]:
    """Every process has the whole net and shares its gradients: DistributedDataParallel."""
    made: dict[tuple[bool, ...], Mapping[str, Any]] = {}

    def replicas() -> Mapping[str, Any]:
        """Made anew when the user has frozen or thawed something, since each waits for the gradients it began with."""
        learning = tuple(weight.requires_grad for module in model.learners() for weight in module.parameters())
        if learning not in made:
            made.clear()
            made[learning] = ddp.replicas(parts_of(model),
                                                find_unused_parameters=run.config.find_unused_parameters)
        return made[learning]

    run.tools = run.tools._replace(replicas=replicas,
                                   settle=lambda: device.same_buffers(run.together, *model.learners()))
    yield


def parts_of(model: Any) -> dict[str, Any]:
    """What a step is given that may learn: net, loss, and modules among the objects of the user's own step."""
    return {"net": model.net, "loss_fn": model.loss_fn, **{
        name: one for name, one in model.step_objects.items() if isinstance(one, nn.Module)}}


def check_reachable(model: Any, parts: Mapping[str, Any]) -> None:
    """Refuse parameters that learn where their gradients would be each process's own: in no module of a step."""
    shared = {id(weight) for part in parts.values() if isinstance(part, nn.Module) for weight in part.parameters()}
    found = components_of(model)
    names = {id(weight): f"{name}.{path}" for name, module in found.modules.items()
             for path, weight in module.named_parameters()}
    alone = [names.get(id(weight), f"some in {name}") for name, one in found.optimizers.items()
             for group in one.param_groups for weight in group["params"]
             if weight.requires_grad and id(weight) not in shared]
    if alone:
        raise bad_value("KerasModel", received=f"parameters that learn outside of the modules that a step is given: "
                        f"{', '.join(alone[:5])}", expected="parameters of the net, of a loss that is a module itself, "
                        "or of modules given as step objects, in several processes",
                        fix="Put them into one of these; a functools.partial of a loss may become a module.")


def check_apart(parts: Mapping[str, Any]) -> None:
    """Refuse modules that share parameters which learn: their gradients would be added up once for each module."""
    owners: dict[int, str] = {}
    for name, part in parts.items():
        for weight in part.parameters() if isinstance(part, nn.Module) else ():
            if weight.requires_grad and owners.setdefault(id(weight), name) != name:
                raise bad_value(name, received=f"a module that shares parameters with {owners[id(weight)]}",
                                expected="modules that have their parameters for themselves, in several processes",
                                fix=f"Leave {name} out, and reach it through {owners[id(weight)]}'s forward.")


@contextmanager
def whole_windows(model: Any, run: Run) -> Iterator[None]:
    """Refuse an update by an optimizer of the user's own step where the gradients are each process's own still."""
    def check(optimizer: Any, *_: Any) -> None:
        if not run.accelerator.sync_gradients:
            raise bad_value("StepRunner", received="a step that updates with an optimizer of its own in the middle of "
                            "an accumulation window", expected="updates where a window ends: in several processes "
                            "gradients are shared there", fix="Ask self.accelerator.sync_gradients before its step().")

    hooks = [one.register_step_pre_hook(check) for one in model.step_objects.values() if isinstance(one, Optimizer)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def sharded(model: Any, run: Run) -> Iterator[None]:
    """Every process has a part of the weights: FSDP."""
    check_divisible(model.net, {"optimizer": model.optimizer, **model.step_objects})
    shards = Shards(model.net, run, model.optimizer)
    others = [one for one in model.learners() if one is not model.net]
    parts = ddp.replicas({**parts_of(model), "net": None}) | {"net": shards.divided}

    def replicas() -> Mapping[str, Any]:
        shards.check_learning()
        return parts

    def settle() -> None:
        device.same_buffers(run.together, shards.divided, *others)
        shards.gather()

    run.notes.append("fsdp: the weights are divided between the processes")
    run.tools = run.tools._replace(replicas=replicas, settle=settle, shards=shards)
    with shards.learning():
        yield


def check_same(model: Any, run: Run, train: Batches, val: Batches | None) -> None:
    """Refuse a job whose processes were given different things."""
    weights = {name: tuple(value.shape) for name, value in model.net.state_dict().items() if hasattr(value, "shape")}
    own = {"fit": repr(replace(run.config, ckpt_path="")), "net": repr(weights),
           "metrics_dict": repr(list(model.metrics_dict)), "train_data": facts(train), "val_data": facts(val)}
    for rank, other in enumerate(run.together.gather(own)[1:], start=1):
        for argument, value in run.together.from_main(own).items():
            if other[argument] != value:
                raise bad_value(argument, received=f"{shortened(other[argument])} in process {rank}",
                                expected=f"{shortened(value)}, as in process 0",
                                fix="Every process runs the same script: seed what is random in it before, "
                                    "for example with torchkeras.seed_everything(0).")


def facts(data: Batches | None) -> str:
    """What is known of data without reading it."""
    if data is None:
        return "no data"
    known = content(data.source)
    return f"{data.length} batches, {data.samples} samples" + ("" if known is None else f" ({known})")


def shortened(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= 200 else text[:200] + "..."


@contextmanager
def each_its_own(learners: list[nn.Module], run: Run) -> Iterator[None]:
    """BatchNorm as it is: every process normalises its own part of a batch."""
    if any(isinstance(module, BATCH_NORMS) and not isinstance(module, nn.SyncBatchNorm)
           for one in learners for module in one.modules()):
        run.notes.append("BatchNorm: each process normalises its own part of a batch; "
                         "sync_batchnorm=True takes the whole batch")
    yield


@contextmanager
def synchronised(learners: list[nn.Module], run: Run) -> Iterator[None]:
    """BatchNorm over the parts of all processes, with the same weights and buffers; afterwards as it was."""
    if run.accelerator.device.type == "cpu":
        raise bad_value("sync_batchnorm", received="True on the CPU", expected="False there",
                        fix="torch has SyncBatchNorm for accelerators only.")
    places = [(parent, name, child) for one in learners for parent in one.modules()
              for name, child in parent.named_children()
              if isinstance(child, BATCH_NORMS) and not isinstance(child, nn.SyncBatchNorm)]
    for parent, name, child in places:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
