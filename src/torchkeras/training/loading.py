"""Load weights into a net, in part or under other names too, and report what was loaded."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.checkpoint.best_file import read_best
from torchkeras.checkpoint.tensor_file import limits_for
from torchkeras.checkpoint.weight_file import FilePath, shape_of
from torchkeras.core import internals
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Value
from torchkeras.state.module_state import (
    bare_state_dict,
    load_bare_state_dict,
    metadata_of,
    resizable_buffer_names,
    tensor_names,
)
from torchkeras.state.weights import all_or_nothing
from torchkeras.state.wrappers import without_wrappers

SHOWN = 5  # names of a kind that a report lists
Rename = Mapping[str, str] | Callable[[str], str | None]


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
