"""Load weights into a net, in part or under other names; save the parts of a user's own loop."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.serialization import TensorJSONEncoder, unpack
from torchkeras.checkpoint.state_folder import STATE_LIMITS, parse_json
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits, limits_for
from torchkeras.checkpoint.weight_file import (
    FilePath,
    existing_file,
    guess_content,
    safetensors_chunks,
    short_error,
    write_atomically,
    write_chunks,
)
from torchkeras.core.errors import bad_value
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Value
from torchkeras.state.module_state import (
    bare_state_dict,
    load_bare_state_dict,
)
from torchkeras.state.optimizer_state import load_optimizer_state, optimizer_state
from torchkeras.state.weights import Weights
from torchkeras.training.loading import is_tensor
from torchkeras.training.part_checks import Part, check_fits

FORMAT = "torchkeras-checkpoint 1"


@short_traceback
def save_checkpoint(path: FilePath, **parts: Part) -> None:
    """Keep several nets, optimizers, schedules and numbers of your own loop in one file.

    The file is written completely or not at all. It is safetensors with JSON in its header: reading
    it never runs code. For runs of ``fit`` there is ``fit(..., resume=True)``.

    Args:
        path: the file.
        **parts: what to keep, by names of your choice: modules, optimizers, anything with
            ``state_dict`` and ``load_state_dict``, or values (numbers, text, tensors, arrays, and
            lists, tuples and dicts of these).

    Raises:
        TypeError: something in it cannot be saved; the message says where.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 1)
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(f"{folder}/all.safetensors", net=net, optimizer=optimizer, epoch=3)
        ...     load_checkpoint(f"{folder}/all.safetensors", net=net, optimizer=optimizer)
        {'epoch': 3}
    """
    if not parts:
        raise bad_value("parts", received="nothing", expected="at least one",
                        fix="save_checkpoint(path, net=net)")
    modules = modules_among(parts)
    encoder = TensorJSONEncoder()
    facts = {name: [saved_kind(part), encoder.pack(part_state(part, modules), name)]
             for name, part in parts.items()}
    text = json.dumps(facts, separators=(",", ":"))
    limits = limits_for(*modules, times=STATE_LIMITS.times)
    try:
        limits.check_json(text.encode())
        limits.check_names(encoder.tensors)
    except LimitExceeded as error:
        raise bad_value(
            "parts", received=f"what {error}", expected="what load_checkpoint reads again",
            fix="Keep long lists as one tensor, and a net's optimizer together with the net.",
        ) from None
    about = {"format": FORMAT, "parts": text, "sha256": checksum(text, encoder.tensors)}
    tensors = encoder.tensors or {"nothing": torch.zeros(0)}
    write_atomically(Path(path).expanduser(), lambda temporary: write_chunks(
        temporary, safetensors_chunks(tensors, about)))


@short_traceback
def load_checkpoint(path: FilePath, **parts: Part) -> dict[str, Any]:
    """Load what :func:`save_checkpoint` kept into nets, optimizers and schedules, all or nothing.

    Args:
        path: the file.
        **parts: the objects to load, by the names that they were kept by. Not all need be given.

    Returns:
        The values that were kept, by name: numbers, text, tensors.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointCorruptError: it is damaged, or was not written by :func:`save_checkpoint`.
        ValueError: a part is not in it, or does not fit; nothing has been changed.
    """
    source = Path(path).expanduser()
    limits = limits_for(*modules_among(parts), times=STATE_LIMITS.times)
    kept, tensors = read_checkpoint(source, limits)
    states = {name: unpack_part(source, name, node, tensors) for name, (_, node) in kept.items()}
    for name, part in parts.items():
        if name not in kept or kept[name][0] == "value":
            raise bad_value(
                name, received="a name that nothing was kept by" if name not in kept
                else "a name of a value, which is given back", expected=f"one of {sorted(kept)}")
        check_kind(name, part, kept[name][0])
    modules = modules_among(parts)
    for name, part in parts.items():
        if defect := find_defect(kept[name][0], states[name]):
            raise damaged_error(source, name, defect)
        check_fits(name, part, states[name], modules)
    load_parts(source, parts, states, modules)
    return {name: state for name, state in states.items() if kept[name][0] == "value"}


def load_parts(source: Path, parts: Mapping[str, Part], states: Mapping[str, Value],
               modules: list[nn.Module]) -> None:
    """Load states into parts; change nothing if one of the parts refuses its state."""
    with unchanged_on_error(parts, modules):
        for name, part in parts.items():
            try:
                load_part_state(part, states[name])
            except Exception as error:
                raise CheckpointCorruptError(
                    f"{str(source)!r}: what was kept as {name!r} does not go into this "
                    f"{type(part).__name__} ({short_error(error)}); nothing has been changed",
                ) from error


def modules_among(parts: Mapping[str, Part]) -> list[nn.Module]:
    """Return the modules among the parts, whose parameter names optimizers are saved by."""
    return [part for part in parts.values() if isinstance(part, nn.Module)]


def part_kind(part: Part) -> str:
    """Return how a part is saved: as a module, an optimizer, a state or a value."""
    if isinstance(part, nn.Module):
        return "module"
    if isinstance(part, torch.optim.Optimizer):
        return "optimizer"
    stateful = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
    return "state" if stateful else "value"


def saved_kind(part: Part) -> str:
    """Return how a part is saved, with its class if its state does not tell that."""
    kind = part_kind(part)
    return f"{kind} {type(part).__name__}" if kind == "state" else kind


def check_kind(name: str, part: Part, kept: str) -> None:
    """Refuse a part of another kind than was saved; older files do not tell classes of states."""
    now = saved_kind(part)
    if now != kept and not (kept == "state" and now.startswith("state ")):
        expected = {"module": "a module, of which the weights were kept",
                    "state": "an object with a state"}.get(
                        kept, f"a {kept.removeprefix('state ')}, of which the state was kept")
        raise bad_value(name, received=f"a {type(part).__name__}", expected=expected,
                        fix="Give each part by the name it was kept by.")


def unpack_part(path: Path, name: str, node: Value, tensors: Mapping[str, Tensor]) -> Value:
    """Return the state of a part, decoded."""
    try:
        return unpack(node, tensors)
    except Exception as error:  # JSON that anybody may have written fails in many ways
        raise damaged_error(path, name, short_error(error)) from None


def damaged_error(path: Path, name: str, why: str) -> CheckpointCorruptError:
    """Return the error for a part that :func:`save_checkpoint` has not written."""
    return CheckpointCorruptError(
        f"{str(path)!r} is damaged, or not written by save_checkpoint: {name!r} is {why}")


def find_defect(kept: str, state: Value) -> str:
    """Return what is wrong with the state of a module or an optimizer; empty if nothing is."""
    if kept == "module":
        return "" if is_named_dict(state) else "no dict of names and weights"
    if kept != "optimizer":
        return ""
    forms: dict[str, Callable[[Value], bool]] = {
        "kind": lambda value: isinstance(value, str),
        "state": lambda value: isinstance(value, dict),
        "more": is_named_dict,
        "loose": lambda value: isinstance(value, list) and all(map(is_tensor, value)),
        "order": lambda value: isinstance(value, list) and all(
            isinstance(group, list) and all(isinstance(one, str) for one in group)
            for group in value),
        "groups": lambda value: isinstance(value, list) and all(
            is_named_dict(group) and "params" not in group for group in value)}
    if not is_named_dict(state):
        return "no dict"
    wrong = [name for name, fits in forms.items() if name not in state or not fits(state[name])]
    if not wrong and len(state["order"]) != len(state["groups"]):
        wrong = ["groups"]
    return f"an optimizer with odd {', '.join(wrong)}" if wrong else ""


def is_named_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a value is a dict whose keys are texts."""
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


@contextmanager
def unchanged_on_error(parts: Mapping[str, Part], modules: list[nn.Module]) -> Iterator[None]:
    """Restore all parts if one of them does not take its state."""
    weights = Weights(*modules, every=True)
    others = {name: snapshot(name, part, modules) for name, part in parts.items()
              if not isinstance(part, nn.Module)}
    try:
        yield
    except BaseException:
        weights.restore()
        for name, (own, state) in others.items():
            restore_part(parts[name], own, state)
        raise


def snapshot(name: str, part: Part, modules: list[nn.Module]) -> tuple[dict[str, Value], Value]:
    """Return a part's attributes, and a copy of its state if these do not restore it."""
    own = dict(getattr(part, "__dict__", {}))
    if isinstance(part, torch.optim.Optimizer):
        inherits = type(part).load_state_dict is torch.optim.Optimizer.load_state_dict
        if inherits and not any(isinstance(one, torch.optim.Optimizer) for one in own.values()):
            # torch's loading makes new groups and states: the old ones stay as they are
            return own, None
        own = {}
    try:
        return own, copy.deepcopy(part_state(part, modules))
    except Exception as error:
        raise bad_value(
            name,
            received=f"a {type(part).__name__} whose state cannot be copied ({short_error(error)})",
            expected="one that can be put back if another part does not fit") from error


def restore_part(part: Part, own: dict[str, Value], state: Value) -> None:
    """Restore a part; one that refuses its own state gets its attributes back."""
    if own:
        part.__dict__.clear()
        part.__dict__.update(own)
    with suppress(Exception):
        if state is not None:
            load_part_state(part, state)


def part_state(part: Part, modules: list[nn.Module]) -> Value:
    """Return the state of a part, or the value itself."""
    kind = part_kind(part)
    if kind == "optimizer":
        return optimizer_state(part, modules)
    return bare_state_dict(part) if kind == "module" else (
        part.state_dict() if kind == "state" else part)


def load_part_state(part: Part, state: Value) -> None:
    """Load a state into a part."""
    if isinstance(part, nn.Module):
        load_bare_state_dict(part, state)
    elif isinstance(part, torch.optim.Optimizer):
        load_optimizer_state(part, state)
    else:
        part.load_state_dict(state)


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over the JSON and all tensors."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(f"{name} {list(tensors[name].shape)} {tensors[name].dtype}".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_checkpoint(path: Path, limits: Limits) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parts and the tensors of a file, checked."""
    from safetensors import safe_open

    existing_file(path, "path", "a checkpoint")
    try:
        with path.open("rb") as file:
            limits.check_size(file)
            limits.check_header(file, limits.text)
        with safe_open(path, "pt") as content:
            about = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in limits.names_in(content)}
    except LimitExceeded as error:
        raise CheckpointCorruptError(f"{str(path)!r} {error}. {guess_content(path)}") from None
    except Exception as error:  # safetensors fails on foreign files in several ways
        raise CheckpointCorruptError(f"{str(path)!r} cannot be read ({short_error(error)}). "
                                     f"{guess_content(path)}") from None
    tensors.pop("nothing", None)
    text = about.get("parts", "")
    if about.get("format") != FORMAT or about.get("sha256") != checksum(text, tensors):
        raise CheckpointCorruptError(
            f"{str(path)!r} is damaged, or not written by save_checkpoint")
    facts = parse_json(text.encode(), path.name, limits)
    if not isinstance(facts, dict) or not all(
            isinstance(one, list) and len(one) == 2 and is_saved_kind(one[0])
            for one in facts.values()):
        raise CheckpointCorruptError(f"{str(path)!r} holds no parts")
    return facts, tensors


def is_saved_kind(kept: object) -> bool:
    """Return whether a text is one that :func:`saved_kind` returns."""
    return isinstance(kept, str) and (
        kept in ("module", "optimizer", "state", "value") or kept.startswith("state "))
