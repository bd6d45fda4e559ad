"""All that a run is made of, taken down at the boundary between two steps, and put back: first looked at, then set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.data import Batches
from torchkeras.data.fingerprint import content
from torchkeras.engine.checks import bad_value
from torchkeras.engine.config import FitConfig
from torchkeras.engine.netstate import growing_names, hidden_buffers, put_buffers
from torchkeras.engine.netstate import put_weights as put_weights
from torchkeras.engine.netstate import weights_in as weights_in
from torchkeras.engine.wrappers import bare_parameters

CHOSEN = ("foreach", "fused", "capturable", "differentiable", "params")  # how an optimizer computes, not what
FREE = ("epochs", "ckpt_path", "seed", "initial_epoch", "patience", "resume", "save_every", "keep")
SHOWN = 5  # differences that an error lists


def names_of(modules: list[nn.Module]) -> dict[int, str]:
    """The name of every parameter, by its identity."""
    return {id(weight): f"{number}.{name}" for number, module in enumerate(modules)
            for name, weight in bare_parameters(module)}


def optimizer_state(optimizer: Any, modules: list[nn.Module]) -> dict[str, Any]:
    """What an optimizer remembers, by the names of the parameters."""
    names = names_of(modules)
    found = optimizer.state_dict()
    order = [[names.get(id(weight), "") for weight in group["params"]] for group in optimizer.param_groups]
    groups = [{name: value for name, value in group.items() if name not in CHOSEN} for group in found["param_groups"]]
    more = {name: value for name, value in found.items() if name not in ("state", "param_groups")}
    return {"kind": type(optimizer).__name__, "order": order, "groups": groups, "state": found["state"], "more": more}


def put_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Put it back; torch's own loading makes numbers of other types than the weights' to theirs, which is undone."""
    now = optimizer.state_dict()
    groups = [{**own, **group} for own, group in zip(now["param_groups"], saved["groups"], strict=True)]
    optimizer.load_state_dict({**saved["more"], "state": saved["state"], "param_groups": groups})
    for state, loaded in zip(saved["state"].values(), in_order(optimizer, saved["state"]), strict=True):
        for name, value in state.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)
            elif isinstance(value, Tensor):
                loaded[name] = loaded[name].clone()  # it may lie in the file that was read


def in_order(optimizer: Any, numbered: Mapping[int, Any]) -> list[Any]:
    """The state of each parameter of which there is some, by the numbers of ``state_dict``."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [optimizer.state[weights[number]] for number in numbered]


def learning(modules: list[nn.Module]) -> list[bool]:
    """Which parameters learn."""
    return [weight.requires_grad for module in modules for weight in module.parameters()]


def facts(model: Any, config: FitConfig, train: Batches, val: Batches | None, world: int) -> dict[str, Any]:
    """What must be the same, or is worth saying where it is not, when a run goes on."""
    asked = {name: getattr(config, name) for name in FitConfig.__dataclass_fields__ if name not in FREE}
    asked["class_weight"] = None if config.class_weight is None else {
        int(index): float(weight) for index, weight in config.class_weight.items()}
    metrics = [f"{name}: {type(one).__name__}" for name, one in model.metrics_dict.items()]
    return {"asked": asked, "world": world, "metrics_dict": metrics,
            "net": [signature(module) for module in model.learners()],
            "optimizer": type(model.optimizer).__name__, "lr_scheduler": type(model.lr_scheduler).__name__,
            "train_data": told(train), "val_data": told(val)}


def signature(module: nn.Module) -> dict[str, str]:
    """Names, shapes and types of a module's weights; the shapes of some buffers follow the data."""
    found = {name: f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "other"
             for name, value in weights_in(module).items()}
    return found | dict.fromkeys(growing_names(module), "buffer")


def told(data: Batches | None) -> dict[str, Any]:
    """What is known of data without reading it."""
    if data is None:
        return {"length": None, "samples": None, "batch size": None, "contents": None, "kind": "no data"}
    return {"length": data.length, "samples": data.samples, "batch size": getattr(data.source, "batch_size", None),
            "contents": content(data.source), "kind": type(data.source).__name__}


def check_parts(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a state of another net, optimizer or schedule, and list what differs."""
    for argument in ("net", "optimizer", "lr_scheduler"):
        if saved[argument] != now[argument]:
            raise bad_value(argument, received=f"another than the run was stopped with: "
                            f"{differences(saved[argument], now[argument])}", expected="the same",
                            fix="Build it as it was, or pass resume=False to begin anew.")


def check_data(saved: Mapping[str, Any], now: Mapping[str, Any], inside: bool) -> list[str]:
    """Refuse other data in mid-epoch, since its remaining batches would be others; between epochs say what changed."""
    changed = [(name, saved[name], now[name]) for name in ("train_data", "metrics_dict", "world")
               if saved[name] != now[name]]
    for name, before, after in changed if inside else []:
        argument = "num_processes" if name == "world" else name
        raise bad_value(argument, received=f"{differences(before, after)} (as the run was stopped; now)",
                        expected="the same, since the run was stopped in the middle of an epoch",
                        fix="Give what was given then; after the end of that epoch it may change.")
    changed += [("val_data", saved["val_data"], now["val_data"])] if saved["val_data"] != now["val_data"] else []
    asked = saved["asked"], now["asked"]
    changed += [(name, asked[0].get(name), value) for name, value in asked[1].items() if asked[0].get(name) != value]
    return [f"resume: {name} has changed: {differences(before, after)}" for name, before, after in changed]


def differences(before: Any, after: Any) -> str:
    """What differs, in few words."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return "; ".join(differences(*both) for both in zip(before, after, strict=True) if both[0] != both[1])
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"{before!r} became {after!r}"
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    text = "; ".join(f"{name}: {before.get(name, 'missing')} became {after.get(name, 'missing')}"
                     for name in names[:SHOWN])
    return text + (f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_optimizer(optimizer: Any, modules: list[nn.Module], saved: Mapping[str, Any]) -> None:
    """Refuse a state whose parameters or groups are not those of the optimizer."""
    now = optimizer_state(optimizer, modules)
    if now["order"] != saved["order"]:
        before, after = ([name for group in one["order"] for name in group] for one in (saved, now))
        sizes = [[len(group) for group in one["order"]] for one in (saved, now)]
        raise bad_value("optimizer", received=f"groups of {sizes[1]} parameters where the run had {sizes[0]}"
                        if sizes[0] != sizes[1] else "its parameters in another order: " + differences(
                            dict(enumerate(before)), dict(enumerate(after))),
                        expected="the groups and the order of the stopped run", fix="Build the optimizer as it was.")


def whole(model: Any, run: Any, best: Any, train: Batches, val: Batches | None, position: dict[str, Any],
          ranks: list[Any]) -> dict[str, Any]:
    """Everything, in plain values and tensors that are not copied yet."""
    modules, scheduler, monitor = model.learners(), model.lr_scheduler, run.monitor
    rows = sum(epoch < position["epoch"] for epoch in run.history.get("epoch", ()))
    scaler = getattr(run.accelerator, "scaler", None)
    return {
        "position": position, "facts": facts(model, run.config, train, val, run.together.world),
        "run": {"trained": run.trained, "updates": run.updates},
        "history": {name: torch.tensor(column[:rows], dtype=torch.float64) for name, column in run.history.items()},
        "monitor": {name: getattr(monitor, name) for name in ("best", "best_epoch", "misses", "improved")},
        "kept": best.kept, "best": best, "net": [weights_in(module) for module in modules],
        "hidden": [hidden_buffers(module) for module in modules],  # no state dict has them
        "learning": learning(modules), "optimizer": optimizer_state(model.optimizer, modules),
        "lr_scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "data": {"train": train.position(), "val": None if val is None else val.position()}, "ranks": ranks}


def put_whole(model: Any, run: Any, best: Any, saved: dict[str, Any], history: bool = True) -> None:
    """Put everything back that does not belong to one process, or to the data."""
    modules = model.learners()
    for module, weights, hidden in zip(modules, saved["net"], saved.get("hidden", [{} for _ in modules]), strict=True):
        put_weights(module, weights)
        put_buffers(module, hidden)
    for weight, learns in zip((one for module in modules for one in module.parameters()), saved["learning"],
                              strict=True):
        weight.requires_grad_(learns)
    put_optimizer(model.optimizer, saved["optimizer"])
    scaler = getattr(run.accelerator, "scaler", None)
    for part, state in ((model.lr_scheduler, saved["lr_scheduler"]), (scaler, saved["scaler"])):
        if part is not None and state is not None:
            part.load_state_dict(copy.deepcopy(state))
    vars(run).update(saved["run"])
    if not history:
        return
    vars(run.monitor).update(saved["monitor"])
    run.history.clear()
    run.history.update({name: column.tolist() for name, column in saved["history"].items()})
    run.history["epoch"] = [int(epoch) for epoch in run.history.get("epoch", ())]
    best.take(saved["best"], saved["kept"])
