"""Weights from elsewhere into a net, in part or under other names; several nets and optimizers in one file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.checkpoint.best_file import read_best
from torchkeras.checkpoint.run_state import check_optimizer
from torchkeras.checkpoint.serialization import Packer, unpack
from torchkeras.checkpoint.state_folder import ANY, parsed
from torchkeras.checkpoint.tensor_file import Limits, TooMuch, limits_for
from torchkeras.checkpoint.weight_file import (
    existing_file,
    guess,
    in_short,
    safetensors_chunks,
    shape_of,
    write_chunks,
    write_whole,
)
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.tracebacks import short_traceback
from torchkeras.state.module_state import growing_names, live_names, metadata_of, put_weights, weights_in
from torchkeras.state.optimizer_state import optimizer_state, put_optimizer
from torchkeras.state.weights import Weights, all_or_nothing
from torchkeras.state.wrappers import without_wrappers

FORMAT = "torchkeras-checkpoint 1"
SHOWN = 5  # names of a kind that a report lists
Rename = Mapping[str, str] | Callable[[str], str | None]


@dataclass(frozen=True)
class LoadReport:
    """What became of weights that were to be loaded, as lists of names: ``loaded``, ``missing``, and so on."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    unlike: list[str]  # of another shape, with both shapes
    note: str = ""  # what else there is to say

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} of {len(self.loaded) + len(self.missing) + len(self.unlike)} weights loaded"]
        for kind in ("missing", "unexpected", "unlike"):
            names = getattr(self, kind)
            more = f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines += [f"{kind}: {', '.join(names[:SHOWN])}{more}"] if names else []
        lines += [self.note] if self.note else []
        return "\n  ".join(lines)


@short_traceback
def load_weights(net: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor], *, strict: bool = True,
                 rename: Rename | None = None) -> LoadReport:
    """Start from weights of another net: all of them, or those that match by name and shape.

    No code in a file is run. When anything is refused, the net is as it was.

    Args:
        net: takes the weights; wrappers of DataParallel, DDP and torch.compile are seen through, on both sides.
        source: a weights file (torch's format, or safetensors by its suffix), or names and tensors.
        strict: True refuses weights that do not match all of the net's; False takes those that do.
        rename: from names in the source to names in the net: a dict of prefixes (``{"encoder.": "backbone."}``; the
            longest that fits counts), or a function that gives the new name, or None to leave a weight out.

    Returns:
        A report: ``loaded``, ``missing``, ``unexpected`` and ``unlike``, lists of names; print it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with ``strict``, names or shapes differ; two weights come to the same name; or nothing matches.

    Example:
        >>> old = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 10))
        >>> new = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> print(load_weights(new, old.state_dict(), strict=False))
        2 of 4 weights loaded
          unlike: 1.bias: [10] in the source, [2] in the net, 1.weight: [10, 4] in the source, [2, 4] in the net
    """
    return put_matching(net, source, strict, rename, "source")


def put_matching(net: nn.Module, source: Any, strict: bool, rename: Rename | None, argument: str) -> LoadReport:
    """The same under the name that the argument has for whoever called."""
    given, note = read_best(source, limits_for(net)) if isinstance(source, (str, os.PathLike)) else (source, "")
    if not isinstance(given, Mapping):
        raise bad_type(argument, received=f"a {type(given).__name__}", expected="a weights file, or names and tensors")
    own, free = weights_in(net), growing_names(net)
    named, versions = in_net(given, {*own, *free}, rename)
    code = own.keys() - live_names(net)  # what code of the net's puts there, and takes back
    alike = {name: value for name, value in named.items() if name in code or (
                 name in free and is_tensor(value) and laid_alike(value, own.get(name)))
             or (name in own and fits(value, own[name]))}
    report = LoadReport(
        sorted(alike), sorted(own.keys() - named.keys()), sorted(named.keys() - own.keys() - free),
        [f"{name}: {told(named[name])} in the source, {told(own.get(name))} in the net"
         for name in sorted(named.keys() & {*own, *free} - alike.keys())], note)
    if not alike or (strict and (report.missing or report.unexpected or report.unlike)):
        place = f" in {str(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
        raise bad_value(argument, received=f"weights of another net{place}: {report}",
                        expected="the names and shapes of the net's",
                        fix="Pass strict=False to take what matches, or rename=... for other names.")
    state = OrderedDict({**own, **alike})
    state._metadata = versions  # type: ignore[attr-defined]  # torch's place for them
    with all_or_nothing(net):
        put_weights(net, state, exact=False)
    return report


def in_net(given: Mapping[str, Any], wanted: set[str], rename: Rename | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return weights under the names of the bare net, and the versions of their modules."""
    first = without_wrappers(list(given), wanted)
    named = renamed({first[name]: value for name, value in given.items()}, rename)
    then = without_wrappers(list(named), wanted)
    modules = {name.rpartition(".")[0]: then.get(form, form).rpartition(".")[0] for name, form in first.items()}
    versions = {modules.get(name, name): one for name, one in metadata_of(given).items()}
    return {then[name]: value for name, value in named.items()}, versions


def fits(value: Any, own: Any) -> bool:
    """Return whether a weight can take a value: of the same shape and layout, or without one yet."""
    return is_tensor(value) == is_tensor(own) and (is_lazy(own) or shape_of(value) == shape_of(own)) and laid_alike(
        value, own)


def laid_alike(value: Any, own: Any) -> bool:
    """Return whether torch copies one into the other: a dense tensor takes no sparse one, nor a plain a quantized."""
    return not is_tensor(value) or not is_tensor(own) or is_lazy(own) or (
        value.layout == own.layout and value.is_quantized == own.is_quantized)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor."""
    return isinstance(value, Tensor)


def told(value: Any) -> Any:
    """Return the shape of a tensor, and its layout where it is no dense one; or what a value is."""
    if not is_tensor(value) or is_lazy(value):
        return f"a {type(value).__name__}"
    kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
    return list(shape_of(value)) if kind == "strided" else f"{list(shape_of(value))} ({kind})"


def renamed(weights: Mapping[str, Tensor], rename: Rename | None) -> dict[str, Tensor]:
    """Weights under the names that they are to have."""
    if rename is None:
        return dict(weights)
    change = rename if callable(rename) else prefixes(rename)
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        new = change(name)
        if new in found:
            raise bad_value("rename", received=f"two weights that come to the name {new!r}", expected="one of each")
        if new is not None:
            found[new] = value
    return found


def prefixes(table: Mapping[str, str]) -> Callable[[str], str]:
    """A function that changes the longest prefix it knows."""
    def change(name: str) -> str:
        fits = [old for old in table if name.startswith(old)]
        longest = max(fits, key=len, default=None)
        return name if longest is None else table[longest] + name[len(longest):]

    return change


@short_traceback
def save_checkpoint(path: str | os.PathLike[str], **parts: Any) -> None:
    """Keep several nets, optimizers, schedules and numbers of your own loop in one file, whole or not at all.

    The file is safetensors with JSON in its header: reading it never runs code. For runs of ``fit`` there is
    ``fit(..., resume=True)``.

    Args:
        path: the file.
        **parts: what to keep, by names of your choice: modules, optimizers, anything with ``state_dict`` and
            ``load_state_dict``, or values (numbers, text, tensors, arrays, and lists, tuples and dicts of these).

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
        raise bad_value("parts", received="nothing", expected="at least one", fix="save_checkpoint(path, net=net)")
    modules = modules_in(parts)
    packer = Packer()
    facts = {name: [kept_as(part), packer.pack(state_of(part, modules), name)] for name, part in parts.items()}
    text = json.dumps(facts, separators=(",", ":"))
    limits = limits_for(*modules, times=ANY.times)
    try:
        limits.check_json(text.encode())
        limits.check_names(packer.tensors)
    except TooMuch as error:
        raise bad_value("parts", received=f"what {error}", expected="what load_checkpoint reads again",
                        fix="Keep long lists as one tensor, and a net's optimizer together with the net.") from None
    about = {"format": FORMAT, "parts": text, "sha256": checksum(text, packer.tensors)}
    tensors = packer.tensors or {"nothing": torch.zeros(0)}
    write_whole(Path(path).expanduser(),
                lambda temporary: write_chunks(temporary, safetensors_chunks(tensors, about)))


@short_traceback
def load_checkpoint(path: str | os.PathLike[str], **parts: Any) -> dict[str, Any]:
    """Put what :func:`save_checkpoint` kept back into nets, optimizers and schedules, all or nothing.

    Args:
        path: the file.
        **parts: where to put things, under the names that they were kept by. Not all need be given.

    Returns:
        The values that were kept, by name: numbers, text, tensors.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointCorruptError: it is damaged, or was not written by :func:`save_checkpoint`.
        ValueError: a part is not in it, or does not fit; nothing has been changed.
    """
    source = Path(path).expanduser()
    kept, tensors = read_checkpoint(source, limits_for(*modules_in(parts), times=ANY.times))
    states = {name: unpacked(source, name, node, tensors) for name, (_, node) in kept.items()}
    for name, part in parts.items():
        if name not in kept or kept[name][0] == "value":
            raise bad_value(name, received="a name that nothing was kept by" if name not in kept else "a name of a "
                            "value, which is given back", expected=f"one of {sorted(kept)}")
        check_kind(name, part, kept[name][0])
    modules = modules_in(parts)
    for name, part in parts.items():
        if odd := oddity(kept[name][0], states[name]):
            raise not_sound(source, name, odd)
        check_fits(name, part, states[name], modules)
    with unchanged_on_error(parts, modules):
        for name, part in parts.items():
            try:
                put_state(part, states[name])
            except Exception as error:
                raise CheckpointCorruptError(
                    f"{str(source)!r}: what was kept as {name!r} does not go into this {type(part).__name__} "
                    f"({in_short(error)}); nothing has been changed") from error
    return {name: state for name, state in states.items() if kept[name][0] == "value"}


def modules_in(parts: Mapping[str, Any]) -> list[nn.Module]:
    """The modules among things, whose parameters optimizers name."""
    return [part for part in parts.values() if isinstance(part, nn.Module)]


def kind_of(part: Any) -> str:
    """How a part is kept."""
    if isinstance(part, nn.Module):
        return "module"
    if isinstance(part, torch.optim.Optimizer):
        return "optimizer"
    return "state" if hasattr(part, "state_dict") and hasattr(part, "load_state_dict") else "value"


def kept_as(part: Any) -> str:
    """Return how a part is kept, with the class of one whose state does not say it."""
    kind = kind_of(part)
    return f"{kind} {type(part).__name__}" if kind == "state" else kind


def check_kind(name: str, part: Any, kept: str) -> None:
    """Refuse a part of another kind than was kept; older files know no class of a state."""
    now = kept_as(part)
    if now != kept and not (kept == "state" and now.startswith("state ")):
        raise bad_value(name, received=f"a {type(part).__name__}", fix="Give each part by the name it was kept by.",
                        expected={"module": "a module, of which the weights were kept", "state": "an object with a "
                                  "state"}.get(kept, f"a {kept.removeprefix('state ')}, of which the state was kept"))


def unpacked(path: Path, name: str, node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what was kept of a part."""
    try:
        return unpack(node, tensors)
    except Exception as error:  # JSON that anybody may have written is no value of ours in many ways
        raise not_sound(path, name, in_short(error)) from None


def not_sound(path: Path, name: str, why: str) -> CheckpointCorruptError:
    """Return the error for a part that :func:`save_checkpoint` did not write so."""
    return CheckpointCorruptError(f"{str(path)!r} is damaged, or not written by save_checkpoint: {name!r} is {why}")


def oddity(kept: str, state: Any) -> str:
    """Return what makes a state none that is kept of its kind of part; nothing where it is one."""
    if kept == "module":
        return "" if is_named(state) else "no dict of names and weights"
    if kept != "optimizer":
        return ""
    forms: dict[str, Callable[[Any], bool]] = {
        "kind": lambda value: isinstance(value, str), "state": lambda value: isinstance(value, dict),
        "more": is_named, "loose": lambda value: isinstance(value, list) and all(map(is_tensor, value)),
        "order": lambda value: isinstance(value, list) and all(
            isinstance(group, list) and all(isinstance(one, str) for one in group) for group in value),
        "groups": lambda value: isinstance(value, list) and all(
            is_named(group) and "params" not in group for group in value)}
    if not is_named(state):
        return "no dict"
    wrong = [name for name, fits in forms.items() if name not in state or not fits(state[name])]
    if not wrong and len(state["order"]) != len(state["groups"]):
        wrong = ["groups"]
    return f"an optimizer with odd {', '.join(wrong)}" if wrong else ""


def is_named(value: Any) -> bool:
    """Return whether something is a dict whose keys are names."""
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


@contextmanager
def unchanged_on_error(parts: Mapping[str, Any], modules: list[nn.Module]) -> Iterator[None]:
    """Put all parts back to what they were where one of them does not take its state."""
    weights = Weights(*modules, every=True)
    others = {name: taken(name, part, modules) for name, part in parts.items() if not isinstance(part, nn.Module)}
    try:
        yield
    except BaseException:
        weights.restore()
        for name, (own, state) in others.items():
            put_back(parts[name], own, state)
        raise


def taken(name: str, part: Any, modules: list[nn.Module]) -> tuple[dict[str, Any], Any]:
    """Return a part's attributes, and a copy of its state where these are not enough to put it back."""
    own = dict(getattr(part, "__dict__", {}))
    if isinstance(part, torch.optim.Optimizer):
        if type(part).load_state_dict is torch.optim.Optimizer.load_state_dict and not any(
                isinstance(one, torch.optim.Optimizer) for one in own.values()):
            return own, None  # torch's loading makes new groups and states: those that were there stay as they are
        own = {}
    try:
        return own, copy.deepcopy(state_of(part, modules))
    except Exception as error:
        raise bad_value(name, received=f"a {type(part).__name__} whose state cannot be copied ({in_short(error)})",
                        expected="one that can be put back if another part does not fit") from error


def put_back(part: Any, own: dict[str, Any], state: Any) -> None:
    """Put a part back; one that refuses its own state too has the attributes that it had."""
    if own:
        vars(part).clear()
        vars(part).update(own)
    with suppress(Exception):
        if state is not None:
            put_state(part, state)


def state_of(part: Any, modules: list[nn.Module]) -> Any:
    """What is kept of a part."""
    kind = kind_of(part)
    if kind == "optimizer":
        return optimizer_state(part, modules)
    return weights_in(part) if kind == "module" else part.state_dict() if kind == "state" else part


def check_fits(name: str, part: Any, state: Any, modules: list[nn.Module]) -> None:
    """Refuse what does not fit before anything is put back."""
    if isinstance(part, nn.Module):
        own, free = weights_in(part), growing_names(part)
        wrong = [key for key in {**own, **state} if key not in free and (key not in own or key not in state or (
            is_tensor(own[key]) and (not is_tensor(state[key]) or shape_of(own[key]) != shape_of(state[key]))))]
        if wrong:
            raise bad_value(name, received=f"a net that differs in {', '.join(wrong[:SHOWN])}",
                            expected="the names and shapes that were kept")
    elif isinstance(part, torch.optim.Optimizer):
        if state["kind"] != type(part).__name__:
            raise bad_value(name, received=f"{type(part).__name__}", expected=f"{state['kind']}, which was kept")
        check_optimizer(part, modules, state)
    else:
        check_object(name, part, state)


def check_object(name: str, part: Any, state: Any) -> None:
    """Refuse a state that an object would take without a word, though it is another one's.

    torch's schedules take all that is in a state as their attributes.
    """
    own = part.state_dict()
    if not isinstance(own, dict):
        return
    if not isinstance(state, dict):
        wrong = [f"a {type(state).__name__} in place of a dict"]
    elif type(part).__module__ == torch.optim.lr_scheduler.__name__:
        changing = ("verbose", "_verbose")  # as torch does with its versions
        new = [key for key in state if key not in own and (
            not isinstance(key, str) or not key.startswith("_") or hasattr(part, key)) and key not in changing]
        gone = [key for key in own if key not in state and not key.startswith("_") and key not in changing]
        wrong = [*map(str, new), *gone, *others_than(own, state)]
        inner = getattr(part, "_schedulers", None)  # of SequentialLR and ChainedScheduler
        if inner and not wrong:
            given = state.get("_schedulers")
            if not isinstance(given, list) or len(given) != len(inner):
                wrong = ["the number of its schedules"]
            for one, another in zip(inner, given or (), strict=False):
                check_object(name, one, another)
    else:
        wrong = [] if not own or not state or own.keys() & state.keys() else [str(key) for key in state]
    if wrong:
        raise bad_value(name, received=f"a {type(part).__name__}, which differs in {', '.join(wrong[:SHOWN])}",
                        expected="the kind of object whose state was kept", fix="Build it as it was.")


def others_than(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the names of values that are no number, or no list, where there is one now."""
    return [name for name, value in own.items() if name in given and sort_of(value) is not None
            and sort_of(value) != sort_of(given[name])]


def sort_of(value: Any) -> str | None:
    """Return what a value is as far as another may stand in its place: a number, a text, several; else None."""
    if isinstance(value, (Number, bool)) or (is_tensor(value) and value.numel() == 1):
        return "number"
    kinds = {str: "text", list: "several", tuple: "several", dict: "names"}
    return next((sort for kind, sort in kinds.items() if isinstance(value, kind)), None)


def put_state(part: Any, state: Any) -> None:
    """Put a part's state back."""
    if isinstance(part, nn.Module):
        put_weights(part, state)
    elif isinstance(part, torch.optim.Optimizer):
        put_optimizer(part, state)
    else:
        part.load_state_dict(state)


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the JSON and all tensors."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(f"{name} {list(tensors[name].shape)} {tensors[name].dtype}".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_checkpoint(path: Path, limits: Limits) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a file, checked."""
    from safetensors import safe_open

    existing_file(path, "path", "a checkpoint")
    try:
        with path.open("rb") as file:
            limits.check_size(file)
            limits.check_header(file, limits.text)
        with safe_open(path, "pt") as content:
            about = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in limits.names_in(content)}
    except TooMuch as error:
        raise CheckpointCorruptError(f"{str(path)!r} {error}. {guess(path)}") from None
    except Exception as error:  # safetensors meets a file that is none of its own in several ways
        raise CheckpointCorruptError(f"{str(path)!r} cannot be read ({in_short(error)}). {guess(path)}") from None
    tensors.pop("nothing", None)
    text = about.get("parts", "")
    if about.get("format") != FORMAT or about.get("sha256") != checksum(text, tensors):
        raise CheckpointCorruptError(f"{str(path)!r} is damaged, or not written by save_checkpoint")
    facts = parsed(text.encode(), path.name, limits)
    if not isinstance(facts, dict) or not all(isinstance(one, list) and len(one) == 2 and is_kind(one[0])
                                              for one in facts.values()):
        raise CheckpointCorruptError(f"{str(path)!r} holds no parts")
    return facts, tensors


def is_kind(kept: Any) -> bool:
    """Return whether a part can be kept so."""
    return isinstance(kept, str) and (kept in ("module", "optimizer", "state", "value") or kept.startswith("state "))
