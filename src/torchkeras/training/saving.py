"""Load weights into a net, in part or under other names; save the parts of a user's own loop."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.checkpoint.best_file import read_best
from torchkeras.checkpoint.run_state import check_optimizer
from torchkeras.checkpoint.serialization import TensorJSONEncoder, unpack
from torchkeras.checkpoint.state_folder import STATE_LIMITS, parse_json
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits, limits_for
from torchkeras.checkpoint.weight_file import (
    FilePath,
    existing_file,
    guess_content,
    safetensors_chunks,
    shape_of,
    short_error,
    write_atomically,
    write_chunks,
)
from torchkeras.core import internals
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import State, Stateful, Value
from torchkeras.state.module_state import (
    bare_state_dict,
    load_bare_state_dict,
    metadata_of,
    resizable_buffer_names,
    tensor_names,
)
from torchkeras.state.optimizer_state import load_optimizer_state, optimizer_state
from torchkeras.state.weights import Weights, all_or_nothing
from torchkeras.state.wrappers import without_wrappers

FORMAT = "torchkeras-checkpoint 1"
SHOWN = 5  # names of a kind that a report lists
Rename = Mapping[str, str] | Callable[[str], str | None]
Part: TypeAlias = Any  # what save_checkpoint takes: a module, an optimizer, any object or value


@dataclass(frozen=True)
class LoadReport:
    """What was loaded: lists of the names ``loaded``, ``missing``, ``unexpected``, ``mismatched``.

    A missing name is only in the net, an unexpected one only in the source; the shapes of a
    mismatched one differ.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # with both shapes
    note: str = ""  # on the file, if there is something to say

    @property
    def unlike(self) -> list[str]:
        """Return ``mismatched``, by its older name."""
        return self.mismatched

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f"{len(self.loaded)} of {total} weights loaded"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            more = f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines += [f"{kind}: {', '.join(names[:SHOWN])}{more}"] if names else []
        lines += [self.note] if self.note else []
        return "\n  ".join(lines)


@short_traceback
def load_weights(net: nn.Module, source: FilePath | Mapping[str, Tensor], *, strict: bool = True,
                 rename: Rename | None = None) -> LoadReport:
    """Start from weights of another net: all of them, or those that match by name and shape.

    No code in a file is run. When anything is refused, the net is as it was.

    Args:
        net: takes the weights. Wrappers of DataParallel, DDP and torch.compile are seen through, on
            both sides.
        source: a weights file (torch's format, or safetensors by its suffix), or names and tensors.
        strict: True refuses weights that do not match all of the net's; False takes those that do.
        rename: from names in the source to names in the net: a dict of prefixes
            (``{"encoder.": "backbone."}``; the longest that fits counts), or a function that
            returns the new name, or None to leave a weight out.

    Returns:
        A report: ``loaded``, ``missing``, ``unexpected`` and ``mismatched``, lists of names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with ``strict``, names or shapes differ; two weights get the same name; or
            nothing matches.

    Example:
        >>> old = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 10))
        >>> new = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> print(load_weights(new, old.state_dict(), strict=False))
        2 of 4 weights loaded
          mismatched: 1.bias: [10] in the source, [2] in the net,
            1.weight: [10, 4] in the source, [2, 4] in the net
    """
    return put_matching(net, source, strict, rename, "source")


def put_matching(net: nn.Module, source: FilePath | Mapping[str, Value], strict: bool,
                 rename: Rename | None, argument: str) -> LoadReport:
    """Load matching weights, as :func:`load_weights`; errors call the source ``argument``."""
    given: object = source
    place = note = ""
    if isinstance(source, (str, os.PathLike)):
        place = f" in {str(source)!r}"
        given, note = read_best(source, limits_for(net))
    if not isinstance(given, Mapping):
        raise bad_type(argument, received=f"a {type(given).__name__}",
                       expected="a weights file, or names and tensors")
    own, free = bare_state_dict(net), resizable_buffer_names(net)
    named, versions = bare_names(given, {*own, *free}, rename)
    live = own.keys() - tensor_names(net)  # values that code of the net computes and takes back
    alike = {name: value for name, value in named.items()
             if name in live
             or (name in free and is_tensor(value) and same_layout(value, own.get(name)))
             or (name in own and can_take(value, own[name]))}
    mismatched = sorted(named.keys() & {*own, *free} - alike.keys())
    report = LoadReport(
        sorted(alike), sorted(own.keys() - named.keys()), sorted(named.keys() - own.keys() - free),
        [f"{name}: {describe(named[name])} in the source, {describe(own.get(name))} in the net"
         for name in mismatched], note)
    if not alike or (strict and (report.missing or report.unexpected or report.mismatched)):
        raise bad_value(
            argument, received=f"weights of another net{place}: {report}",
            expected="the names and shapes of the net's",
            fix="Pass strict=False to take what matches, or rename=... for other names.")
    state = OrderedDict({**own, **alike})
    internals.set_module_versions(state, versions)
    with all_or_nothing(net):
        load_bare_state_dict(net, state, exact=False)
    return report


def bare_names(given: Mapping[str, Value], wanted: set[str],
               rename: Rename | None) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return weights under the names of the bare net, and the versions of their modules."""
    first = without_wrappers(list(given), wanted)
    named = rename_weights({first[name]: value for name, value in given.items()}, rename)
    then = without_wrappers(list(named), wanted)
    modules = {name.rpartition(".")[0]: then.get(form, form).rpartition(".")[0]
               for name, form in first.items()}
    versions = {modules.get(name, name): one for name, one in metadata_of(given).items()}
    return {then[name]: value for name, value in named.items()}, versions


def can_take(value: object, own: Value) -> bool:
    """Return whether a weight can take a value: of its shape and layout, or if it is lazy."""
    return (is_tensor(value) == is_tensor(own)
            and (is_lazy(own) or shape_of(value) == shape_of(own)) and same_layout(value, own))


def same_layout(value: object, own: object) -> bool:
    """Return whether torch can copy one tensor into the other: of the same layout and kind."""
    return not is_tensor(value) or not is_tensor(own) or is_lazy(own) or (
        value.layout == own.layout and value.is_quantized == own.is_quantized)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a tensor."""
    return isinstance(value, Tensor)


def describe(value: object) -> str:
    """Return the shape of a tensor, with its layout if not dense; or the type of a value."""
    if not is_tensor(value) or is_lazy(value):
        return f"a {type(value).__name__}"
    kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
    shape = str(list(value.shape))
    return shape if kind == "strided" else f"{shape} ({kind})"


def rename_weights(weights: Mapping[str, Value], rename: Rename | None) -> dict[str, Value]:
    """Return weights under their new names; refuse two of one name."""
    if rename is None:
        return dict(weights)
    change = rename if callable(rename) else prefix_renamer(rename)
    found: dict[str, Value] = {}
    for name, value in weights.items():
        new = change(name)
        if new in found:
            raise bad_value("rename", received=f"two weights that come to the name {new!r}",
                            expected="one of each")
        if new is not None:
            found[new] = value
    return found


def prefix_renamer(table: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces the longest prefix that is in the table."""
    def change(name: str) -> str:
        fits = [old for old in table if name.startswith(old)]
        longest = max(fits, key=len, default=None)
        return name if longest is None else table[longest] + name[len(longest):]

    return change


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


def check_fits(name: str, part: Part, state: Value, modules: list[nn.Module]) -> None:
    """Refuse a state that does not fit its part, before anything is loaded."""
    if isinstance(part, nn.Module):
        own, free = bare_state_dict(part), resizable_buffer_names(part)
        wrong = [key for key in {**own, **state} if key not in free and (
            key not in own or key not in state or (is_tensor(own[key]) and (
                not is_tensor(state[key]) or shape_of(own[key]) != shape_of(state[key]))))]
        if wrong:
            raise bad_value(
                name, received=f"a net that differs in {', '.join(wrong[:SHOWN])}",
                expected="the names and shapes that were kept")
    elif isinstance(part, torch.optim.Optimizer):
        if state["kind"] != type(part).__name__:
            raise bad_value(name, received=f"{type(part).__name__}",
                            expected=f"{state['kind']}, which was kept")
        check_optimizer(part, modules, state)
    else:
        check_object(name, part, state)


def check_object(name: str, part: Stateful, state: Value) -> None:
    """Refuse the state of another object that the part would take silently.

    torch's schedules set everything in a state as attributes.
    """
    own: Value = part.state_dict()
    if not isinstance(own, dict):
        return
    if not isinstance(state, dict):
        wrong = [f"a {type(state).__name__} in place of a dict"]
    elif type(part).__module__ == torch.optim.lr_scheduler.__name__:
        wrong = schedule_differences(name, part, own, state)
    else:
        alike = not own or not state or own.keys() & state.keys()
        wrong = [] if alike else [str(key) for key in state]
    if wrong:
        raise bad_value(
            name,
            received=f"a {type(part).__name__}, which differs in {', '.join(wrong[:SHOWN])}",
            expected="the kind of object whose state was kept", fix="Build it as it was.")


def schedule_differences(name: str, part: Stateful, own: State, state: State) -> list[str]:
    """Return what tells that a state is not of this schedule of torch's; check inner schedules."""
    changing = ("verbose", "_verbose")  # that torch's versions have or lack
    new = [key for key in state if key not in own and key not in changing and (
        not isinstance(key, str) or not key.startswith("_") or hasattr(part, key))]
    gone = [key for key in own
            if key not in state and not key.startswith("_") and key not in changing]
    wrong = [*map(str, new), *gone, *changed_kinds(own, state)]
    inner: Sequence[Stateful] = internals.inner_schedulers(part)  # of SequentialLR, ...
    if inner and not wrong:
        given = state.get(internals.SCHEDULERS)
        if not isinstance(given, list) or len(given) != len(inner):
            wrong = ["the number of its schedules"]
        for one, another in zip(inner, given or (), strict=False):
            check_object(name, one, another)
    return wrong


def changed_kinds(own: Mapping[str, Value], given: Mapping[str, Value]) -> list[str]:
    """Return the names of values whose kind (number, text, list, dict) differs from the saved."""
    return [name for name, value in own.items() if name in given and value_kind(value) is not None
            and value_kind(value) != value_kind(given[name])]


def value_kind(value: object) -> str | None:
    """Return the kind of a value, which another of its kind may replace; None for objects."""
    if isinstance(value, (Number, bool)) or (is_tensor(value) and value.numel() == 1):
        return "number"
    kinds = {str: "text", list: "several", tuple: "several", dict: "names"}
    return next((sort for kind, sort in kinds.items() if isinstance(value, kind)), None)


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
