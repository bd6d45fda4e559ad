"""All that a run is made of, taken down at the boundary between two steps, and put back: first looked at, then set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torchkeras.checkpoint.state_schema import RUN, check_options
from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import each_of, kind_of, titled
from torchkeras.data import Batches
from torchkeras.data.contents import contents, order_of
from torchkeras.data.fingerprint import as_texts, content
from torchkeras.data.named import described, simple
from torchkeras.engine.config import FitConfig
from torchkeras.engine.steps import put_object, state_of_object, states_of_steps
from torchkeras.state.components import Components, components_of
from torchkeras.state.module_state import growing_names, hidden_buffers, put_buffers
from torchkeras.state.module_state import put_weights as put_weights
from torchkeras.state.module_state import weights_in as weights_in
from torchkeras.state.optimizer_state import (
    CHOSEN,
    groups_of,
    names_of,
    optimizer_state,
    put_loose,
    put_optimizer,
    with_groups,
)

FREE = ("epochs", "ckpt_path", "seed", "initial_epoch", "patience", "resume", "save_every", "keep")
SHOWN = 5  # differences that an error lists


def learning(modules: list[nn.Module]) -> list[bool]:
    """Which parameters learn."""
    return [weight.requires_grad for module in modules for weight in module.parameters()]


def facts(model: Any, config: FitConfig, train: Batches, val: Batches | None, world: int) -> dict[str, Any]:
    """What must be the same, or is worth saying where it is not, when a run goes on."""
    asked = {name: getattr(config, name) for name in FitConfig.__dataclass_fields__ if name not in FREE}
    asked["class_weight"] = None if config.class_weight is None else {
        int(index): float(weight) for index, weight in config.class_weight.items()}
    metrics = [f"{name}: {type(one).__name__}" for name, one in model.metrics_dict.items()]
    modules = components_of(model).modules
    return {"asked": asked, "world": world, "metrics_dict": metrics, **begun(model, train, val),
            "net": [signature(module) for module in modules.values()], "modules": list(modules),
            "optimizer": kind_of(model.optimizer), "lr_scheduler": kind_of(model.lr_scheduler)}


def begun(model: Any, train: Batches, val: Batches | None) -> dict[str, Any]:
    """What a run began with: its data, loss and rates as the script gives them. It is looked at once a run.

    Of the loss and the schedule, what the run itself has changed since then is left out.
    """
    own = vars(train)
    loss, schedule = described(model.loss_fn), schedule_options(model.lr_scheduler)
    if "begun" not in own:
        own["begun"] = {"train_data": told(train), "val_data": told(val), "loss_fn": loss, "schedule": schedule,
                        "rates": rates(model.optimizer)}
    first: dict[str, Any] = own["begun"]
    return {**first, "loss_fn": common(first["loss_fn"], loss), "schedule": common(first["schedule"], schedule)}


def common(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in both."""
    return {name: value for name, value in before.items() if after.get(name) == value}


def rates(optimizer: Any) -> list[dict[str, str]]:
    """The options of each group of an optimizer: learning rate, weight decay and so on, as text."""
    groups = getattr(optimizer, "param_groups", ())
    return [{name: repr(plain_number(value)) for name, value in group.items()
             if name not in (*CHOSEN, "initial_lr") and simple(plain_number(value))} for group in groups]


def plain_number(value: Any) -> Any:
    """A number that may be a tensor."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def schedule_options(scheduler: Any) -> dict[str, str]:
    """The options of a schedule, as text."""
    moves = ("last_epoch", "base_lrs")
    return {titled(name, key): repr(value) for key, one in each_of(scheduler).items()
            for name, value in one.state_dict().items()
            if not name.startswith("_") and name not in moves and simple(value)}


def signature(module: nn.Module) -> dict[str, str]:
    """Names, shapes and types of a module's weights; the shapes of some buffers follow the data."""
    found = {name: f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "other"
             for name, value in weights_in(module).items()}
    return found | dict.fromkeys(growing_names(module), "buffer")


def told(data: Batches | None) -> dict[str, Any]:
    """What is known of data without reading it."""
    if data is None:
        return {"length": None, "samples": None, "batch size": None, "chosen": None, "kind": "no data"}
    whole, unseen = contents(data.source, data.known_indices())
    return {"length": data.length, "samples": data.samples, "batch size": getattr(data.source, "batch_size", None),
            "chosen": content(data.source) if whole is None else None, "kind": type(data.source).__name__,
            **order_of(data.source), "checksum": whole, "unseen": unseen}


def add_older(now: dict[str, Any], saved: Mapping[str, Any], train: Batches, val: Batches | None) -> None:
    """Add what states of earlier versions say of the data, and later ones say otherwise."""
    for name, data in (("train_data", train), ("val_data", val)):
        if "contents" in saved.get(name, ()) and data is not None:
            now[name] = {**now[name], "contents": content(data.source, as_texts)}
        if "all contents" in saved.get(name, ()) and data is not None:
            now[name] = {**now[name], "all contents": contents(data.source, data.known_indices(), memoryview)[0]}


def check_parts(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a state of another net, optimizer or schedule, and list what differs."""
    older = "modules" not in saved  # such states have the net, and a loss with weights
    for argument in ("modules", "net", "optimizer", "lr_scheduler"):
        before, after = saved.get(argument, now[argument]), now[argument]
        if older and argument == "net":
            after = after[:len(before)]
        if before != after:
            raise bad_value("net, loss_fn or a step object" if argument == "modules" else argument,
                            received=f"another than the run was stopped with: {differences(before, after)}",
                            expected="the same", fix="Build it as it was, or pass resume=False to begin anew.")


def check_data(saved: Mapping[str, Any], now: Mapping[str, Any], inside: bool) -> list[str]:
    """Refuse other data in mid-epoch, since its remaining batches would be others; between epochs say what changed.

    So is another loss, of which the numbers of the epoch would mix. Compared is what both know: an older state knows
    less.
    """
    asked = {name: (saved["asked"][name], value) for name, value in now["asked"].items() if name in saved["asked"]}
    pairs = {name: shared(saved.get(name), now[name]) for name in ("train_data", "metrics_dict", "loss_fn", "world",
                                                                   "val_data")}
    changed = [(name, *pair) for name, pair in {**pairs, **asked}.items() if pair[0] != pair[1]]
    for name, before, after in changed if inside else []:
        if name in ("train_data", "metrics_dict", "loss_fn", "world", "class_weight"):
            raise bad_value("num_processes" if name == "world" else name,
                            received=f"{differences(before, after)} (as the run was stopped; now)",
                            expected="the same, since the run was stopped in the middle of an epoch",
                            fix="Give what was given then; after the end of that epoch it may change.")
    notes = [f"resume: {name} has changed: {differences(before, after)}" for name, before, after in changed]
    if not {"all contents", "checksum"} & saved["train_data"].keys():
        notes.append("resume: an older version wrote the state: the order of the data, the loss and the rates were not "
                     "compared, and of the contents a few samples")
    return notes + [f"{name}: when a run goes on, {now[name]['unseen']}" for name in ("train_data", "val_data")
                    if now[name].get("unseen")]


def shared(before: Any, after: Any) -> tuple[Any, Any]:
    """What both know of a thing."""
    if before is None:
        return after, after
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return before, after
    names = [name for name in before if name in after and name != "unseen"]
    return {name: before[name] for name in names}, {name: after[name] for name in names}


def judged_otherwise(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what has changed of that by which epochs are judged: monitor, validation data, loss."""
    found = [name for name in ("monitor", "mode") if saved["asked"].get(name) != now["asked"][name]]
    for name in ("val_data", "loss_fn"):
        before, after = shared(saved.get(name), now[name])
        found += [name] if before != after else []
    return found


def check_rates(state: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which options of optimizer and schedule the script has changed: the run goes on with those it was saved with.

    A rate that a schedule had moved to by then is no change: a notebook may go on with the optimizer that it has.
    """
    saved, notes = state["facts"], []
    current = [{name: repr(plain_number(value)) for name, value in group.items()}
               for argument, one in state["optimizers"].items() if argument.startswith("optimizer")
               for group in one["groups"]]
    for number, (first, then, new) in enumerate(zip(saved.get("rates", ()), current, now["rates"], strict=False)):
        of = f" of group {number}" if len(now["rates"]) > 1 else ""
        notes += [f"resume: {name}{of} is {new[name]} in the script; the run began with {first[name]}, and goes on "
                  f"with the saved {then.get(name)}" for name in first if name in new and new[name] not in (
                      first[name], then.get(name))]
    before, after = shared(saved.get("schedule"), now["schedule"])
    if before != after:
        notes.append(f"resume: lr_scheduler has changed in the script: {differences(before, after)}; the run goes on "
                     "with what was saved")
    return notes


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


def check_optimizer(optimizer: Any, modules: list[nn.Module], saved: Mapping[str, Any], argument: str = "optimizer",
                    grows: bool = False) -> None:
    """Refuse a state whose parameters or groups are not those of the optimizer.

    Args:
        optimizer: as it is now.
        modules: whose parameters it holds.
        saved: what :func:`optimizer_state` gave.
        argument: what an error calls it.
        grows: whether groups may be missing now that were added after the optimizer was built.
    """
    check_options(saved["groups"], optimizer.param_groups, saved["state"])
    now, before = groups_of(optimizer, modules), saved["order"]
    known = set(names_of(modules).values())
    later = [name for order in before[len(now):] for name in order]
    fits = len(now) == len(before) or (grows and len(now) < len(before) and all(name in known for name in later))
    if fits and all(map(alike, now, before)):
        return
    sizes = [[len(order) for order in one] for one in (before, now)]
    flat = [dict(enumerate(name for order in one for name in order)) for one in (before, now)]
    raise bad_value(argument, received=f"groups of {sizes[1]} parameters where the run had {sizes[0]}"
                    if sizes[0] != sizes[1] else "its parameters in another order: " + differences(*flat),
                    expected="the groups and the order of the stopped run", fix="Build the optimizer as it was.")


def alike(now: list[str], before: list[str]) -> bool:
    """Tell whether two groups hold the same parameters; older states have no names for those of a step's own nets."""
    return len(now) == len(before) and all(one == other or not other for one, other in zip(now, before, strict=True))


def check_components(model: Any, saved: Mapping[str, Any]) -> list[str]:
    """Refuse a state whose optimizers are not those of the model; what is in no state of its age is told."""
    parts = components_of(model)
    modules = list(parts.modules.values())
    for name, optimizer in parts.optimizers.items():
        if name in saved["optimizers"]:
            check_optimizer(optimizer, modules, saved["optimizers"][name], name, grows=True)
    kinds = (("optimizers", parts.optimizers), ("schedulers", parts.schedulers), ("others", parts.others))
    new = [name for kind, own in kinds for name in own if name not in saved[kind]]
    new += list(parts.modules)[len(saved["net"]):]
    gone = [name for kind, own in kinds for name in saved[kind] if name not in own]
    if gone:
        raise bad_value(gone[0], received="nothing, where the stopped run had it", expected="the same",
                        fix="Pass it as it was, or resume=False to begin anew.")
    return [f"resume: {', '.join(new)}: not in the saved state, and begin anew"] if new else []


def whole(model: Any, run: Any, best: Any, train: Batches, val: Batches | None, position: dict[str, Any],
          ranks: list[Any]) -> dict[str, Any]:
    """Everything, in plain values and tensors that are not copied yet."""
    parts, monitor = components_of(model), run.monitor
    modules = list(parts.modules.values())
    epochs = run.history.get("epoch", [])
    rows = len(epochs)
    while rows and epochs[rows - 1] >= position["epoch"]:
        rows -= 1
    scaler = getattr(run.accelerator, "scaler", None)
    return {
        "position": position, "facts": facts(model, run.config, train, val, run.together.world),
        "run": {name: getattr(run, name) for name in ("trained", "updates", "moved_by_step", "places")},
        "history": (run.history, rows),
        "monitor": {name: getattr(monitor, name) for name in ("best", "best_epoch", "reference", "misses", "improved")},
        "kept": best.kept, "best": best, "net": [weights_in(module) for module in modules],
        "hidden": [hidden_buffers(module) for module in modules],  # no state dict has them
        "learning": learning(modules), **states_of(parts),
        "steps": states_of_steps(run.step_runners, model, parts),
        "scaler": None if scaler is None else scaler.state_dict(),
        "data": {"train": train.position(), "val": None if val is None else val.position()}, "ranks": ranks}


def states_of(parts: Components) -> dict[str, Any]:
    """Return the states of all that is no module."""
    modules = list(parts.modules.values())
    return {"optimizers": {name: optimizer_state(one, modules) for name, one in parts.optimizers.items()},
            "schedulers": {name: one.state_dict() for name, one in parts.schedulers.items()},
            "others": {name: state_of_object(one, modules) for name, one in parts.others.items()}}


def put_whole(model: Any, run: Any, best: Any, saved: dict[str, Any], history: bool = True,
              groups: Mapping[str, int] | None = None) -> None:
    """Put everything back that does not belong to one process, or to the data.

    Args:
        model: whose parts get their states.
        run: the run that goes on.
        best: the best weights so far.
        saved: what :func:`whole` gave.
        history: whether history, best and patience are put back too.
        groups: of each optimizer, how many parameter groups it is to have by now. Default: all that were saved.
    """
    parts = components_of(model)
    modules = list(parts.modules.values())
    hidden = saved.get("hidden", [{} for _ in modules])
    for module, weights, buffers in zip(modules, saved["net"], hidden, strict=False):
        put_weights(module, weights)
        put_buffers(module, buffers)
    every = (one for module in modules[:len(saved["net"])] for one in module.parameters())
    for weight, learns in zip(every, saved["learning"], strict=True):
        weight.requires_grad_(learns)
    put_parts(parts, saved, modules, groups or {})
    scaler = getattr(run.accelerator, "scaler", None)
    if scaler is not None and saved["scaler"] is not None:
        scaler.load_state_dict(copy.deepcopy(saved["scaler"]))
    vars(run).update({name: value for name, value in saved["run"].items() if name in RUN})
    if not history:
        return
    run.step_states = dict(saved["steps"])
    run.judged_anew = bool(saved.get("judged_anew"))
    if not run.judged_anew:
        vars(run.monitor).update({"reference": saved["monitor"]["best"], **saved["monitor"]})
    run.history.clear()
    run.history.update({name: column.tolist() for name, column in saved["history"].items()})
    run.history["epoch"] = [int(epoch) for epoch in run.history.get("epoch", ())]
    best.take(saved["best"], saved["kept"])


def put_parts(parts: Components, saved: Mapping[str, Any], modules: list[nn.Module], groups: Mapping[str, int]) -> None:
    """Put back optimizers, with the groups that they had, then schedules and other objects."""
    for name, state in saved["optimizers"].items():
        optimizer, count = parts.optimizers[name], max(groups.get(name, len(state["order"])), 1)
        count = max(count, len(optimizer.param_groups))
        with_groups(optimizer, state, modules, count)
        put_optimizer(optimizer, state, count)
        put_loose(optimizer, state, modules)
    for name, state in saved["schedulers"].items():
        parts.schedulers[name].load_state_dict(copy.deepcopy(state))
    for name, state in saved["others"].items():
        put_object(parts.others[name], copy.deepcopy(state))


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of version 5.0.0a1 in the form of today: it had one optimizer and one schedule."""
    if "optimizers" in state:
        return state
    scheduler = state.pop("lr_scheduler")
    return {**state, "optimizers": {"optimizer": state.pop("optimizer")}, "others": {}, "steps": {},
            "schedulers": {} if scheduler is None else {"lr_scheduler": scheduler}, "groups": {}}
