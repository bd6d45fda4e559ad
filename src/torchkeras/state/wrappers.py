"""Translate names of weights to those in the bare net, where parts are compiled or wrapped."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from torchkeras.core import internals

# what DataParallel, DDP and torch.compile put before a name
WRAPPERS = ("module.", f"{internals.COMPILED_NET}.")



def wrapper_attribute(module: nn.Module) -> str | None:
    """Return the attribute in which a wrapper of torch holds its module; None for no wrapper."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    return internals.COMPILED_NET if internals.is_compiled(module) else None


def unwrap_module(net: nn.Module) -> nn.Module:
    """Return the net without a wrapper of DataParallel, DDP or torch.compile around it."""
    name = wrapper_attribute(net)
    return net if name is None else unwrap_module(net.get_submodule(name))


class BareNames:
    """Translate between names in a net and those it would have with no part of it wrapped.

    A submodule with the name ``module`` that is not in a wrapper, as in ``AveragedModel``, keeps
    its name.

    Args:
        net: the net, without a wrapper around it.

    Example:
        >>> net = nn.Sequential(nn.DataParallel(nn.Linear(2, 1)))
        >>> BareNames(net).bare("0.module.weight"), BareNames(net).own("0.weight")
        ('0.weight', '0.module.weight')
    """

    def __init__(self, net: nn.Module) -> None:
        self.places: list[tuple[str, str]] = []  # outer wrappers first
        for name, module in net.named_modules(remove_duplicate=False):
            if (inner := wrapper_attribute(module)) is not None:
                outside = f"{name}." if name else ""
                self.places.append((outside, f"{outside}{inner}."))

    def bare(self, name: str) -> str:
        """Return the name in the bare net for a name in the net."""
        for outside, inside in reversed(self.places):
            if name.startswith(inside):
                name = outside + name.removeprefix(inside)
        return name

    def own(self, name: str) -> str:
        """Return the name in the net for a name in the bare net."""
        for outside, inside in self.places:
            if name.startswith(outside):
                name = inside + name.removeprefix(outside)
        return name


def bare_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a module with their names in the bare net, tied ones once."""
    net = unwrap_module(module)
    names = BareNames(net)
    for name, weight in net.named_parameters():
        yield names.bare(name), weight


def shortened_names(name: str) -> Iterator[str]:
    """Yield the names that result from removing one wrapper's part from a name."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if f"{part}." in WRAPPERS:
            yield ".".join(parts[:place] + parts[place + 1:])


def unwrapped_name(name: str, wanted: Collection[str], depth: int = 4) -> str:
    """Remove wrappers' parts from a name if that leads to a wanted one; else return the name."""
    found = {name}
    for _ in range(depth):
        if hits := sorted(found & set(wanted)):
            return hits[0]
        found = {shorter for one in found for shorter in shortened_names(one)}
    return name


def without_wrappers(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Map each name to that in the bare net; a prefix that all share is removed first.

    A name that is right already stays, and no two names are mapped to one.
    """
    forms = [{name: name for name in names}]
    while names and (shared := [one for one in WRAPPERS
                                if all(name.startswith(one) for name in forms[-1].values())]):
        forms.append({name: form.removeprefix(shared[0]) for name, form in forms[-1].items()})
    best = max(reversed(forms), key=lambda form: len(set(form.values()) & set(wanted)))
    taken, targets = set(best.values()) & set(wanted), set(wanted)
    for name, form in best.items():
        if form in targets:
            continue
        other = unwrapped_name(form, targets)
        if other not in taken and other != form:
            best[name] = other
            taken.add(other)
    return best
