"""Describe a run, and compare a resumed one with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import argument_name, each_of, type_names
from torchkeras.core.types import State, Value
from torchkeras.data import Batches
from torchkeras.data.contents import contents, order_of
from torchkeras.data.fingerprint import as_texts, sample_fingerprint
from torchkeras.data.fit_data import FitData
from torchkeras.data.named import describe, is_simple
from torchkeras.engine.config import FitConfig
from torchkeras.engine.run import Run
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import components_of
from torchkeras.state.module_state import bare_state_dict, resizable_buffer_names
from torchkeras.state.optimizer_state import IMPLEMENTATION_OPTIONS

NOT_COMPARED = ("epochs", "ckpt_path", "seed", "initial_epoch", "patience", "resume", "save_every",
                "keep")  # options of fit that may differ when a run is resumed
SHOWN = 5  # differences that an error lists
Facts: TypeAlias = Mapping[str, Value]  # what is compared when a run is resumed


def run_fingerprint(model: Trainable, run: Run) -> dict[str, Value]:
    """Return what is compared when a run is resumed; differences raise or are noted."""
    config = run.config
    asked = {name: getattr(config, name) for name in FitConfig.__dataclass_fields__
             if name not in NOT_COMPARED}
    asked["class_weight"] = None if config.class_weight is None else {
        int(index): float(weight) for index, weight in config.class_weight.items()}
    metrics = [f"{name}: {type(one).__name__}" for name, one in model.metrics_dict.items()]
    modules = components_of(model).modules
    return {"asked": asked, "world": run.communicator.world_size, "metrics_dict": metrics,
            **initial_fingerprint(model, run.data),
            "net": [signature(module) for module in modules.values()], "modules": list(modules),
            "optimizer": type_names(model.optimizer),
            "lr_scheduler": type_names(model.lr_scheduler)}


def initial_fingerprint(model: Trainable, data: FitData) -> dict[str, Value]:
    """Return the data, loss and optimizer options that the run began with; computed once a run.

    Options of the loss and the schedule that the run itself has changed since are left out.
    """
    own = vars(data.train)
    loss, schedule = describe(model.loss_fn), schedule_options(model.lr_scheduler)
    if "begun" not in own:
        own["begun"] = {
            "train_data": data_fingerprint(data.train), "val_data": data_fingerprint(data.val),
            "loss_fn": loss, "schedule": schedule, "rates": rates(model.optimizer)}
    first: dict[str, Value] = own["begun"]
    return {**first, "loss_fn": equal_entries(first["loss_fn"], loss),
            "schedule": equal_entries(first["schedule"], schedule)}


def equal_entries(before: Mapping[str, Value], after: Mapping[str, Value]) -> dict[str, Value]:
    """Return the entries that are equal in both."""
    return {name: value for name, value in before.items() if after.get(name) == value}


def rates(optimizer: object) -> list[dict[str, str]]:
    """Return the options of each parameter group as text: learning rate, weight decay, ..."""
    groups = getattr(optimizer, "param_groups", ())
    return [{name: repr(plain_number(value)) for name, value in group.items()
             if name not in (*IMPLEMENTATION_OPTIONS, "initial_lr")
             and is_simple(plain_number(value))} for group in groups]


def plain_number(value: Value) -> Value:
    """Return the number in a tensor with one element; any other value as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def schedule_options(scheduler: object) -> dict[str, str]:
    """Return the options of a learning rate schedule, or of several, as text."""
    moves = ("last_epoch", "base_lrs")
    return {argument_name(name, key): repr(value) for key, one in each_of(scheduler).items()
            for name, value in one.state_dict().items()
            if not name.startswith("_") and name not in moves and is_simple(value)}


def signature(module: nn.Module) -> dict[str, str]:
    """Return names, shapes and dtypes of a module's weights; no shape of buffers that may grow."""
    found = {name: f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "other"
             for name, value in bare_state_dict(module).items()}
    return found | dict.fromkeys(resizable_buffer_names(module), "buffer")


def data_fingerprint(data: Batches | None) -> dict[str, Value]:
    """Return what tells data apart without reading it as batches: length, contents, order, ..."""
    if data is None:
        return {"length": None, "samples": None, "batch size": None, "chosen": None,
                "kind": "no data"}
    whole, unseen = contents(data.source, data.known_indices())
    return {"length": data.length, "samples": data.samples,
            "batch size": getattr(data.source, "batch_size", None),
            "chosen": sample_fingerprint(data.source) if whole is None else None,
            "kind": type(data.source).__name__,
            **order_of(data.source), "checksum of all contents": whole, "unseen": unseen}


def add_older_contents(now: dict[str, Value], saved: Facts, both: FitData) -> None:
    """Add the fingerprint of the contents that states of versions up to 2 have."""
    for name, data in zip(("train_data", "val_data"), both, strict=True):
        if "contents" in saved.get(name, ()) and data is not None:
            now[name] = {**now[name], "contents": sample_fingerprint(data.source, as_texts)}
        if "all contents" in saved.get(name, ()) and data is not None:
            now[name] = {**now[name], "all contents": contents(
                data.source, data.known_indices(), memoryview)[0]}


def check_parts(saved: Facts, now: Facts) -> None:
    """Refuse a state of another net, optimizer or schedule, and list the differences."""
    older = "modules" not in saved  # such states have the net, and a loss with weights
    for argument in ("modules", "net", "optimizer", "lr_scheduler"):
        before, after = saved.get(argument, now[argument]), now[argument]
        if older and argument == "net":
            after = after[:len(before)]
        if before != after:
            raise bad_value(
                "net, loss_fn or a step object" if argument == "modules" else argument,
                received=f"another than the run was stopped with: {differences(before, after)}",
                expected="the same",
                fix="Build it as it was, or pass resume=False to begin anew.")


def check_data(saved: Facts, now: Facts, inside: bool) -> list[str]:
    """Refuse other data in mid-epoch, when its remaining batches would differ; else note changes.

    Another loss is refused too: the numbers of the epoch would mix. Only what both states have is
    compared: an older state has less.
    """
    asked = {name: (saved["asked"][name], value) for name, value in now["asked"].items()
             if name in saved["asked"]}
    pairs = {name: shared_entries(saved.get(name), now[name])
             for name in ("train_data", "metrics_dict", "loss_fn", "world", "val_data")}
    changed = [(name, *pair) for name, pair in {**pairs, **asked}.items() if pair[0] != pair[1]]
    for name, before, after in changed if inside else []:
        if name in ("train_data", "metrics_dict", "loss_fn", "world", "class_weight"):
            raise bad_value(
                "num_processes" if name == "world" else name,
                received=f"{differences(before, after)} (as the run was stopped; now)",
                expected="the same, since the run was stopped in the middle of an epoch",
                fix="Give what was given then; after the end of that epoch it may change.")
    notes = [f"resume: {name} has changed: {differences(before, after)}"
             for name, before, after in changed]
    if not {"all contents", "checksum of all contents"} & saved["train_data"].keys():
        notes.append("resume: an older version wrote the state: the order of the data, the loss "
                     "and the rates were not compared, and of the contents a few samples")
    return notes + [f"{name}: when a run goes on, {now[name]['unseen']}"
                    for name in ("train_data", "val_data") if now[name].get("unseen")]


def shared_entries(before: Value, after: Value) -> tuple[Value, Value]:
    """Return both values with only the entries that both have."""
    if before is None:
        return after, after
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return before, after
    names = [name for name in before if name in after and name != "unseen"]
    return {name: before[name] for name in names}, {name: after[name] for name in names}


def changed_criteria(saved: Facts, now: Facts) -> list[str]:
    """Return the changed criteria of epochs: monitor, validation data, loss."""
    found = [name for name in ("monitor", "mode") if saved["asked"].get(name) != now["asked"][name]]
    for name in ("val_data", "loss_fn"):
        before, after = shared_entries(saved.get(name), now[name])
        found += [name] if before != after else []
    return found


def check_rates(state: State, now: Facts) -> list[str]:
    """Return notes on optimizer and schedule options that the script has changed.

    The run continues with the saved ones. A learning rate that the schedule had reached is not a
    change: a notebook may continue with the optimizer that it has.
    """
    saved, notes = state["facts"], []
    current = [{name: repr(plain_number(value)) for name, value in group.items()}
               for argument, one in state["optimizers"].items() if argument.startswith("optimizer")
               for group in one["groups"]]
    groups = zip(saved.get("rates", ()), current, now["rates"], strict=False)
    for number, (first, then, new) in enumerate(groups):
        of = f" of group {number}" if len(now["rates"]) > 1 else ""
        notes += [f"resume: {name}{of} is {new[name]} in the script; the run began with "
                  f"{first[name]}, and goes on with the saved {then.get(name)}"
                  for name in first
                  if name in new and new[name] not in (first[name], then.get(name))]
    before, after = shared_entries(saved.get("schedule"), now["schedule"])
    if before != after:
        notes.append("resume: lr_scheduler has changed in the script: "
                     f"{differences(before, after)}; the run goes on with what was saved")
    return notes


def differences(before: Value, after: Value) -> str:
    """Return the differences of two values in a few words."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return "; ".join(differences(*both) for both in zip(before, after, strict=True)
                         if both[0] != both[1])
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"{before!r} became {after!r}"
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    text = "; ".join(
        f"{name}: {before.get(name, 'missing')} became {after.get(name, 'missing')}"
        for name in names[:SHOWN])
    return text + (f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
