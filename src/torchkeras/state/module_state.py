"""What a net holds under the names of the bare net, and how it is put into another, buffers of other shapes too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.state.wrappers import BareNames, plain

LOADING = ("_load_from_state_dict", "load_state_dict", "set_extra_state", "get_extra_state")
EXTRA = "_extra_state"  # torch's name for what a module's get_extra_state gives


def weights_in(module: nn.Module) -> OrderedDict[str, Any]:
    """Return weights, buffers and extra state under their names in the bare net, with the versions of its modules."""
    net = plain(module)
    names, state = BareNames(net), net.state_dict()
    found = OrderedDict((names.bare(name), value) for name, value in state.items())
    if len(found) < len(state):  # a wrapper with weights of its own, of the same name as one inside
        return OrderedDict(state)
    versions = {names.bare(f"{name}.").removesuffix("."): one for name, one in metadata_of(state).items()}
    found._metadata = versions  # type: ignore[attr-defined]  # torch's place for them
    return found


def metadata_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the versions of the modules that a state dict comes from; nothing where they are unknown."""
    found = getattr(state, "_metadata", None)
    return found if isinstance(found, Mapping) else {}


def put_weights(module: nn.Module, saved: Mapping[str, Any], exact: bool = True) -> None:
    """Put such a state into a net.

    Args:
        module: the net.
        saved: all of its state.
        exact: buffers get the very shapes and types of the saved ones, and are None where nothing was saved. Else they
            keep their type.
    """
    net = plain(module)
    names, before = BareNames(net), [(buffers, dict(buffers)) for buffers in (one._buffers for one in net.modules())]
    state = OrderedDict((names.own(name), value) for name, value in saved.items())
    versions = metadata_of(saved) or (metadata_of(net.state_dict()) if exact else {})
    state._metadata = {names.own(f"{name}.").removesuffix("."): one  # type: ignore[attr-defined]
                       for name, one in versions.items()}
    try:
        make_room(net, state, exact)
        if not copied_into(net, state):
            net.load_state_dict(state)
    except BaseException:
        for buffers, old in before:
            buffers.clear()
            buffers.update(old)
        raise


def copied_into(net: nn.Module, state: Mapping[str, Any]) -> bool:
    """Put a state into a net by copying, where torch's loading would do just that; else leave it alone.

    torch looks through all names for each child of a module: 12,000 tensors in one ``nn.Sequential`` take it 9 seconds.

    Returns:
        Whether it was done.
    """
    own: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    own |= {name: value for name, (owner, leaf) in buffers_of(net)
            if is_saved((owner, leaf)) and (value := owner._buffers[leaf]) is not None}
    if own.keys() != state.keys() or loads_in_its_own_way(net):
        return False
    for name, value in own.items():
        new = state[name]
        if type(value) not in (Tensor, nn.Parameter) or type(new) not in (Tensor, nn.Parameter) or (
                value.shape != new.shape or value.layout != new.layout or value.is_meta or value.is_quantized):
            return False
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
    return True


def loads_in_its_own_way(net: nn.Module) -> bool:
    """Return whether code of a module, or hooks, may do more than copy when a state is loaded."""
    modules = list(net.modules())
    return any(one._load_state_dict_pre_hooks or one._load_state_dict_post_hooks or not vars(one).keys().isdisjoint(
        LOADING) for one in modules) or any(map(loads_otherwise, {type(one) for one in modules}))


def loads_otherwise(kind: Any) -> bool:
    """Return whether a class of modules has code of its own for loading; what torch's layers add is for old files."""
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in LOADING[1:]):
        return True
    method = getattr(kind, LOADING[0])
    return method is not nn.Module._load_from_state_dict and method is not nn.BatchNorm1d._load_from_state_dict


def make_room(net: nn.Module, state: Mapping[str, Any], exact: bool) -> None:
    """Give buffers the shapes, and with ``exact`` the types, of those in a state."""
    made: dict[int, Tensor] = {}
    for name, (owner, leaf) in growing(net).items():
        now, value = owner._buffers[leaf], state.get(name)
        if not isinstance(value, Tensor):
            owner._buffers[leaf] = None if exact and name not in state else now
        elif now is None or not alike(now, value, exact):
            dtype = value.dtype if exact or now is None or not both_floating(now, value) else now.dtype
            room = torch.empty_like(value, dtype=dtype, device=device_of(net, owner, now))
            owner._buffers[leaf] = room if now is None else made.setdefault(id(now), room)


def alike(one: Tensor, other: Tensor, exact: bool = True) -> bool:
    """Return whether one tensor can take the numbers of another, each in a place of its own."""
    expanded = any(step == 0 and size > 1 for step, size in zip(one.stride(), one.shape, strict=True)) if (
        not is_lazy(one) and one.layout == torch.strided) else False
    return not is_lazy(one) and not expanded and one.shape == other.shape and one.layout == other.layout and (
        not exact or one.dtype == other.dtype)


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return where the numbers of a tensor are, and how they lie there."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def both_floating(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold floating point numbers, of which a net may be made to hold shorter ones."""
    return one.is_floating_point() and other.is_floating_point()


def device_of(net: nn.Module, owner: nn.Module, now: Tensor | None) -> torch.device:
    """Return where a buffer is, or would be: beside what its module holds, else beside the net."""
    near = (one for module in (owner, net) for one in (*module.parameters(), *module.buffers()))
    return next((one.device for one in ([now] if now is not None else near)), torch.device("cpu"))


def growing(net: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the saved buffers whose shapes may follow the data, by their names in the net.

    Those of torch's own layers follow the arguments of the layers.
    """
    return {name: place for name, place in buffers_of(net) if is_saved(place)
            and (not of_torch(place[0]) or has_no_shape(place[0]._buffers[place[1]]))}


def has_no_shape(value: Any) -> bool:
    """Return whether a parameter or buffer of a lazy layer has not got its shape yet."""
    return value is not None and is_lazy(value)


def buffers_of(net: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Yield the name of each buffer, one that is None too, with its module and its name there."""
    for prefix, module in net.named_modules(remove_duplicate=False):
        for leaf in list(module._buffers.keys()):  # a scripted module keeps no dict
            yield f"{prefix}.{leaf}" if prefix else leaf, (module, leaf)


def is_saved(place: tuple[nn.Module, str]) -> bool:
    """Return whether a buffer is in state dicts."""
    return place[1] not in place[0]._non_persistent_buffers_set


def of_torch(module: nn.Module) -> bool:
    """Return whether a module is a layer of torch's."""
    return type(module).__module__.startswith("torch.nn.")


def growing_names(module: nn.Module) -> set[str]:
    """Return the names in the bare net of buffers whose shapes may follow the data."""
    net = plain(module)
    return set(map(BareNames(net).bare, growing(net)))


def live_names(module: nn.Module) -> set[str]:
    """Return the names in the bare net of parameters and buffers; all else in a state dict is what code puts there."""
    net = plain(module)
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    return set(map(BareNames(net).bare, names + [name for name, _ in buffers_of(net)]))


def hidden_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the buffers that are in no state dict, under their names in the bare net."""
    net = plain(module)
    names = BareNames(net)
    unsaved = {names.bare(name) for name, place in buffers_of(net) if not is_saved(place)}
    return {name: buffer for name, buffer in own_buffers(net).items() if name in unsaved}


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return all buffers under their names in the bare net."""
    net = plain(module)
    names = BareNames(net)
    return {names.bare(name): place[0]._buffers[place[1]] for name, place in buffers_of(net)}


def put_buffers(module: nn.Module, saved: Mapping[str, Tensor | None]) -> None:
    """Put buffers, named as in the bare net, into a net that has some of these names."""
    net = plain(module)
    names = BareNames(net)
    for name, (owner, leaf) in buffers_of(net):
        if (bare := names.bare(name)) in saved:
            put_buffer(owner, leaf, saved[bare], device_of(net, owner, owner._buffers[leaf]))


def put_buffer(owner: nn.Module, leaf: str, value: Tensor | None, device: torch.device) -> None:
    """Put one buffer in its place: into the tensor that is there if it fits, else as another."""
    now = owner._buffers[leaf]
    if value is not None and now is not None and alike(now, value):
        with torch.no_grad():
            now.copy_(value)
    else:
        owner._buffers[leaf] = None if value is None else value.detach().to(device, copy=True)


def takes_extra(net: nn.Module, name: str) -> bool:
    """Return whether an extra state can be put back: False for one of a module without ``set_extra_state``."""
    path, _, leaf = name.rpartition(".")
    return leaf != EXTRA or type(net.get_submodule(path)).set_extra_state is not nn.Module.set_extra_state
