"""Names of weights as they are in the bare net, wherever a part of it is compiled or wrapped."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

from torch import nn

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel, DDP and torch.compile put before a name


def wrapped(module: nn.Module) -> str | None:
    """Return the name under which a wrapper of torch's holds the module that it stands for; None where it is none."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # importing it takes a second
    return "_orig_mod" if compiler is not None and isinstance(module, compiler.OptimizedModule) else None


def plain(net: nn.Module) -> nn.Module:
    """Return the net itself, without the wrappers of DataParallel, DDP or torch.compile around it."""
    name = wrapped(net)
    return net if name is None else plain(net.get_submodule(name))


class BareNames:
    """Translate between the names in a net and those that it would have if no part of it were wrapped.

    A part that is called ``module`` without being in a wrapper, as in ``AveragedModel``, keeps its name.

    Args:
        net: the net, without a wrapper around the whole of it.

    Example:
        >>> net = nn.Sequential(nn.DataParallel(nn.Linear(2, 1)))
        >>> BareNames(net).bare("0.module.weight"), BareNames(net).own("0.weight")
        ('0.weight', '0.module.weight')
    """

    def __init__(self, net: nn.Module) -> None:
        self.places: list[tuple[str, str]] = []  # outer wrappers first
        for name, module in net.named_modules(remove_duplicate=False):
            if (inner := wrapped(module)) is not None:
                outside = f"{name}." if name else ""
                self.places.append((outside, f"{outside}{inner}."))

    def bare(self, name: str) -> str:
        """Return the name in the bare net of what has a name in the net."""
        for outside, inside in reversed(self.places):
            if name.startswith(inside):
                name = outside + name.removeprefix(inside)
        return name

    def own(self, name: str) -> str:
        """Return the name in the net of what has a name in the bare net."""
        for outside, inside in self.places:
            if name.startswith(outside):
                name = inside + name.removeprefix(outside)
        return name


def bare_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a module with their names in the bare net, tied ones once."""
    net = plain(module)
    names = BareNames(net)
    for name, weight in net.named_parameters():
        yield names.bare(name), weight


def candidates(name: str) -> Iterator[str]:
    """Yield the names that are left when parts that wrappers may have put into a name are taken out, one by one."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if f"{part}." in WRAPPERS:
            yield ".".join(parts[:place] + parts[place + 1:])


def unwrapped(name: str, wanted: Collection[str], depth: int = 4) -> str:
    """Return a name as the bare net has it, if taking out wrappers' parts leads to one; else the name itself."""
    found = {name}
    for _ in range(depth):
        if hits := sorted(found & set(wanted)):
            return hits[0]
        found = {shorter for one in found for shorter in candidates(one)}
    return name


def without_wrappers(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Return for each name of a source what it is in the bare net; what wrappers put before all names goes first.

    A name that is right as it is stays so, and no two come to one.
    """
    forms = [{name: name for name in names}]
    while names and (shared := [one for one in WRAPPERS if all(name.startswith(one) for name in forms[-1].values())]):
        forms.append({name: form.removeprefix(shared[0]) for name, form in forms[-1].items()})
    best = max(reversed(forms), key=lambda form: len(set(form.values()) & set(wanted)))
    taken, targets = set(best.values()) & set(wanted), set(wanted)
    for name, form in best.items():
        if form not in targets and (other := unwrapped(form, targets)) not in taken and other != form:
            best[name] = other
            taken.add(other)
    return best
