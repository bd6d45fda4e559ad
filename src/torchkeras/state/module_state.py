"""Read the state of a net under the names of the bare net, and load it into another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core import internals
from torchkeras.state.wrappers import BareNames, unwrap_module

LOADING_METHODS = (internals.LOAD_OWN, "load_state_dict", "set_extra_state", "get_extra_state")


def bare_state_dict(module: nn.Module) -> OrderedDict[str, Any]:
    """Return a module's ``state_dict`` with the names of the bare net, and its version metadata."""
    net = unwrap_module(module)
    names, state = BareNames(net), net.state_dict()
    found = OrderedDict((names.bare(name), value) for name, value in state.items())
    if len(found) < len(state):  # a wrapper with weights of its own, of the same name as one inside
        return OrderedDict(state)
    versions = {names.bare(f"{name}.").removesuffix("."): one
                for name, one in metadata_of(state).items()}
    internals.set_module_versions(found, versions)
    return found


def metadata_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the module versions in a state dict; nothing where they are unknown."""
    found = internals.module_versions(state)
    return found if isinstance(found, Mapping) else {}


def load_bare_state_dict(module: nn.Module, saved: Mapping[str, Any], exact: bool = True) -> None:
    """Load such a state into a net, which keeps its own on an error.

    Args:
        module: the net.
        saved: the complete state.
        exact: whether buffers get the shapes and dtypes of the saved ones, and None where nothing
            was saved; else they keep their dtype.
    """
    net = unwrap_module(module)
    names, before = BareNames(net), [
        (buffers, dict(buffers)) for buffers in map(internals.buffers, net.modules())]
    state = OrderedDict((names.own(name), value) for name, value in saved.items())
    versions = metadata_of(saved) or (metadata_of(net.state_dict()) if exact else {})
    internals.set_module_versions(
        state, {names.own(f"{name}.").removesuffix("."): one for name, one in versions.items()})
    try:
        resize_buffers(net, state, exact)
        if not copy_state_into(net, state):
            net.load_state_dict(state)
    except BaseException:
        for buffers, old in before:
            buffers.clear()
            buffers.update(old)
        raise


def copy_state_into(net: nn.Module, state: Mapping[str, Any]) -> bool:
    """Copy a state into a net where torch's ``load_state_dict`` would do just that.

    torch looks through all names for each child of a module: 12,000 tensors in one
    ``nn.Sequential`` take it 9 seconds.

    Returns:
        Whether it was done.
    """
    own: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    own |= {name: value for name, (owner, leaf) in buffers_of(net)
            if is_persistent((owner, leaf))
            and (value := internals.buffers(owner)[leaf]) is not None}
    if own.keys() != state.keys() or has_custom_loading(net):
        return False
    for name, value in own.items():
        new = state[name]
        if type(value) not in (Tensor, nn.Parameter) or type(new) not in (Tensor, nn.Parameter):
            return False
        if value.shape != new.shape or value.layout != new.layout or (
                value.is_meta or value.is_quantized):
            return False
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
    return True


def has_custom_loading(net: nn.Module) -> bool:
    """Tell whether code of a module, or hooks, may do more than copy when a state is loaded."""
    modules = list(net.modules())
    hooked = any(internals.is_hooked_on_loading(one)
                 or not vars(one).keys().isdisjoint(LOADING_METHODS) for one in modules)
    return hooked or any(map(class_has_custom_loading, {type(one) for one in modules}))


def class_has_custom_loading(kind: type) -> bool:
    """Tell whether a class of modules has loading code of its own; BatchNorm's is for old files."""
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in LOADING_METHODS[1:]):
        return True
    method = getattr(kind, LOADING_METHODS[0])
    return method not in (getattr(nn.Module, internals.LOAD_OWN),
                          getattr(nn.BatchNorm1d, internals.LOAD_OWN))


def resize_buffers(net: nn.Module, state: Mapping[str, Any], exact: bool) -> None:
    """Give buffers the shapes, and with ``exact`` the dtypes, of those in a state."""
    made: dict[int, Tensor] = {}
    for name, (owner, leaf) in resizable_buffers(net).items():
        now, value = internals.buffers(owner)[leaf], state.get(name)
        if not isinstance(value, Tensor):
            internals.buffers(owner)[leaf] = None if exact and name not in state else now
        elif now is None or not can_hold(now, value, exact):
            shorter = not exact and now is not None and both_floating(now, value)
            dtype = now.dtype if now is not None and shorter else value.dtype
            room = torch.empty_like(value, dtype=dtype, device=device_of(net, owner, now))
            internals.buffers(owner)[leaf] = room if now is None else made.setdefault(id(now), room)


def can_hold(one: Tensor, other: Tensor, exact: bool = True) -> bool:
    """Tell whether a tensor can take the values of another: equal shape and layout."""
    if is_lazy(one) or one.shape != other.shape or one.layout != other.layout:
        return False
    expanded = one.layout == torch.strided and any(
        step == 0 and size > 1 for step, size in zip(one.stride(), one.shape, strict=True))
    return not expanded and (not exact or one.dtype == other.dtype)


def storage_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return where the values of a tensor lie in memory, and how."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def both_floating(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are floating point, so that a net may hold a shorter dtype."""
    return one.is_floating_point() and other.is_floating_point()


def device_of(net: nn.Module, owner: nn.Module, now: Tensor | None) -> torch.device:
    """Return the device of a buffer, else that of its module, else that of the net."""
    near = (one for module in (owner, net) for one in (*module.parameters(), *module.buffers()))
    return next((one.device for one in ([now] if now is not None else near)), torch.device("cpu"))


def resizable_buffers(net: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the saved buffers whose shapes may follow the data, by their names in the net.

    Those of torch's own layers follow the arguments of the layers.
    """
    return {name: place for name, place in buffers_of(net) if is_persistent(place)
            and (not is_torch_layer(place[0])
                 or is_uninitialized(internals.buffers(place[0])[place[1]]))}


def is_uninitialized(value: Tensor | None) -> bool:
    """Tell whether a parameter or buffer of a lazy layer has no shape yet."""
    return value is not None and is_lazy(value)


def buffers_of(net: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Yield the name of each buffer, also of None, with its module and its name there."""
    for prefix, module in net.named_modules(remove_duplicate=False):
        for leaf in list(internals.buffers(module).keys()):  # a scripted module keeps no dict
            yield f"{prefix}.{leaf}" if prefix else leaf, (module, leaf)


def is_persistent(place: tuple[nn.Module, str]) -> bool:
    """Tell whether a buffer is in the state dict."""
    return place[1] not in internals.non_persistent(place[0])


def is_torch_layer(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's layers."""
    return type(module).__module__.startswith("torch.nn.")


def resizable_buffer_names(module: nn.Module) -> set[str]:
    """Return the names in the bare net of buffers whose shapes may follow the data."""
    net = unwrap_module(module)
    return set(map(BareNames(net).bare, resizable_buffers(net)))


def tensor_names(module: nn.Module) -> set[str]:
    """Return the names in the bare net of all parameters and buffers."""
    net = unwrap_module(module)
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    return set(map(BareNames(net).bare, names + [name for name, _ in buffers_of(net)]))


def non_persistent_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the buffers that are in no state dict, with their names in the bare net."""
    net = unwrap_module(module)
    names = BareNames(net)
    unsaved = {names.bare(name) for name, place in buffers_of(net) if not is_persistent(place)}
    return {name: buffer for name, buffer in all_buffers(net).items() if name in unsaved}


def all_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return all buffers, with their names in the bare net."""
    net = unwrap_module(module)
    names = BareNames(net)
    return {names.bare(name): internals.buffers(owner)[leaf]
            for name, (owner, leaf) in buffers_of(net)}


def set_buffers(module: nn.Module, saved: Mapping[str, Tensor | None]) -> None:
    """Set buffers, named as in the bare net, of a net that has some of these names."""
    net = unwrap_module(module)
    names = BareNames(net)
    for name, (owner, leaf) in buffers_of(net):
        if (bare := names.bare(name)) in saved:
            now = internals.buffers(owner)[leaf]
            set_buffer(owner, leaf, saved[bare], device_of(net, owner, now))


def set_buffer(owner: nn.Module, leaf: str, value: Tensor | None, device: torch.device) -> None:
    """Set one buffer: copy into its tensor if that can hold the value, else replace it."""
    now = internals.buffers(owner)[leaf]
    if value is not None and now is not None and can_hold(now, value):
        with torch.no_grad():
            now.copy_(value)
    else:
        internals.buffers(owner)[leaf] = (
            None if value is None else value.detach().to(device, copy=True))


def accepts_extra_state(net: nn.Module, name: str) -> bool:
    """Tell whether a state can be loaded: not extra state without ``set_extra_state``."""
    path, _, leaf = name.rpartition(".")
    if leaf != internals.EXTRA_STATE:
        return True
    return type(net.get_submodule(path)).set_extra_state is not nn.Module.set_extra_state
