"""Keep the weights of a moment in memory: copies of what learns, checksums of the rest."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core import internals
from torchkeras.state.module_state import (
    accepts_extra_state,
    bare_state_dict,
    buffers_of,
    can_hold,
    device_of,
    is_persistent,
    metadata_of,
    storage_key,
    tensor_names,
)
from torchkeras.state.wrappers import BareNames, unwrap_module

SAVING_METHODS = ("state_dict", internals.SAVE_OWN, "get_extra_state")
CHUNK = 1 << 16  # 64-bit words that are mixed at once: they stay in the processor's cache


class Buffer(NamedTuple):
    """A buffer as it was: its copy, and a reference to the tensor that was copied."""

    copied: Tensor | None
    was: Any  # a weak reference, or what cannot be copied: None, a tensor without a shape yet


class Weights:
    """The weights of all modules of a run at one moment, in main memory.

    Frozen parameters are not copied: their checksums show later whether they have changed. A
    parameter that was trained or changed once is copied from then on.

    Args:
        *modules: the net, and others with weights.
        every: whether frozen parameters are copied too.

    Attributes:
        moment: a new object after each ``take``.
    """

    def __init__(self, *modules: nn.Module, every: bool = False) -> None:
        self.modules, self.every = modules, every
        self.copies: list[dict[str, Tensor]] = [{} for _ in modules]
        self.marks: list[dict[str, str]] = [{} for _ in modules]
        self.buffers: list[dict[str, Buffer]] = [{} for _ in modules]
        self.others: list[dict[str, Any]] = [{} for _ in modules]
        self.reader: Thread | None = None  # writes these copies to a file
        self.take(fresh=True)

    def copies_made(self) -> set[tuple[Any, ...]]:
        """Return where the copies lie in memory; they do not change before the next ``take``."""
        buffers = (one.copied for kept in self.buffers for one in kept.values()
                   if one.copied is not None)
        weights = (value for copies in self.copies for value in copies.values())
        return {storage_key(one) for one in (*weights, *buffers)}

    def twin(self) -> Weights:
        """Return an independent object with the same copies, for other weights to be taken."""
        other = copy.copy(self)
        other.copies, other.marks = [*self.copies], [*self.marks]
        other.buffers, other.others = [dict(one) for one in self.buffers], [*self.others]
        return other

    def take(self, fresh: bool = False) -> None:
        """Copy the weights as they are now, into existing copies where these are not shared."""
        if self.reader is not None:
            self.reader.join()
            self.reader = None
        for number, module in enumerate(self.modules):
            net = unwrap_module(module)
            old = {} if fresh else self.copies[number]
            held, marks = self.copies[number], dict[str, str]()
            copies: dict[str, Tensor] = {}
            for name, weight in net.named_parameters():
                copied = self.every or weight.requires_grad or name in held
                mark = None if copied else checksum(weight)
                if mark is None or self.marks[number].get(name, mark) != mark:
                    copies[name] = copy_to_cpu(weight, old.get(name))
                else:
                    marks[name] = mark
            self.copies[number], self.marks[number] = copies, marks
            rooms = {} if fresh else self.buffers[number]
            self.buffers[number] = {
                name: buffer_snapshot(internals.buffers(owner)[leaf], rooms.get(name))
                for name, (owner, leaf) in buffers_of(net)}
            self.others[number] = extra_state_of(net)
        self.moment = object()

    def hold(self) -> list[str]:
        """Copy parameters that were unfrozen and did not change; return the names of the others."""
        lost = []
        for number, module in enumerate(self.modules):
            names = self.parameters(number) if self.marks[number] else {}
            for name in [one for one in self.marks[number]
                         if one in names and names[one].requires_grad]:
                if checksum(names[name]) != self.marks[number][name]:
                    lost.append(BareNames(unwrap_module(module)).bare(name))
                else:
                    self.copies[number][name] = copy_to_cpu(names[name])
                    del self.marks[number][name]
        return lost

    def parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return the current parameters of a module."""
        return dict(unwrap_module(self.modules[number]).named_parameters(remove_duplicate=False))

    def moved(self, number: int) -> dict[str, str]:
        """Return what has changed and has no copy: names in the module, and in the bare net."""
        now = self.parameters(number) if self.marks[number] else {}
        names = BareNames(unwrap_module(self.modules[number]))
        return {name: names.bare(name) for name, mark in self.marks[number].items()
                if name not in now or checksum(now[name]) != mark}

    def frozen(self, number: int) -> dict[str, str]:
        """Return the checksums of what is not copied, by the names in the bare net."""
        names, first = BareNames(unwrap_module(self.modules[number])), dict[int, str]()
        every = self.parameters(number).items() if self.marks[number] else ()
        marks = {name: self.marks[number].get(first.setdefault(id(weight), name))
                 for name, weight in every}
        return {names.bare(name): mark for name, mark in marks.items() if mark is not None}

    def frozen_now(self, number: int) -> dict[str, tuple[Tensor, str]]:
        """Return the unchanged frozen parameters and their checksums, by bare names, tied once."""
        now = self.parameters(number) if self.marks[number] else {}
        names = BareNames(unwrap_module(self.modules[number]))
        return {names.bare(name): (now[name].detach(), mark)
                for name, mark in self.marks[number].items()
                if name in now and checksum(now[name]) == mark}

    def adopt(self, number: int, name: str, value: Tensor) -> bool:
        """Copy a value for a changed parameter, if its checksum is the one that was kept."""
        if checksum(value) != self.marks[number][name]:
            return False
        self.copies[number][name] = value.detach().to("cpu", copy=True)
        del self.marks[number][name]
        return True

    def restore(self) -> None:
        """Restore everything that has a copy."""
        for number, module in enumerate(self.modules):
            net, now = unwrap_module(module), self.parameters(number)
            if unlike := [name for name, one in self.copies[number].items()
                          if name not in now or now[name].shape != one.shape]:
                raise RuntimeError("parameters have other names or shapes than when the weights "
                                   f"were kept: {unlike}")
            with torch.no_grad():
                for name, value in self.copies[number].items():
                    now[name].copy_(value)
            restore_buffers(net, self.buffers[number])
            if self.others[number]:
                state = net.state_dict()
                state.update(copy.deepcopy(self.others[number]))
                net.load_state_dict(state, strict=False)

    def state(self, number: int) -> OrderedDict[str, Any]:
        """Return a module's state dict as it was, with the names of the bare net."""
        net = unwrap_module(self.modules[number])
        now, names = self.parameters(number), BareNames(net)
        first: dict[int, str] = {}
        found: OrderedDict[str, Any] = OrderedDict()
        for name, weight in now.items():
            value = self.copies[number].get(first.setdefault(id(weight), name), weight.detach())
            found[names.bare(name)] = value
        saved = {name for name, place in buffers_of(net) if is_persistent(place)}
        found |= {names.bare(name): one.copied for name, one in self.buffers[number].items()
                  if name in saved and one.copied is not None}
        found |= {names.bare(name): value for name, value in self.others[number].items()}
        internals.set_module_versions(found, metadata_of(bare_state_dict(net)))
        return found

    def hidden(self, number: int) -> dict[str, Tensor | None]:
        """Return the buffers as they were that are in no state dict."""
        net = unwrap_module(self.modules[number])
        unsaved = {name for name, place in buffers_of(net) if not is_persistent(place)}
        return {BareNames(net).bare(name): one.copied for name, one in self.buffers[number].items()
                if name in unsaved}

    def set(self, number: int, state: Mapping[str, Any],
            hidden: Mapping[str, Tensor | None]) -> None:
        """Take over the weights of a state dict and of non-persistent buffers."""
        net = unwrap_module(self.modules[number])
        names, live = BareNames(net), tensor_names(net)
        self.copies[number], self.marks[number] = {}, {}
        for name, weight in net.named_parameters():
            value = state[names.bare(name)]
            mark = None if weight.requires_grad else checksum(weight)
            if mark is not None and mark == checksum(value):
                self.marks[number][name] = mark
            else:
                self.copies[number][name] = value.detach().to("cpu", copy=True)
        for name, _ in buffers_of(net):
            value = {**state, **hidden}.get(names.bare(name))
            self.buffers[number][name] = Buffer(None, None) if value is None else Buffer(
                value.detach().to("cpu", copy=True), dead_reference)
        self.others[number] = {names.own(name): copy.deepcopy(value)
                               for name, value in state.items() if name not in live}
        self.moment = object()

    def without_copy(self) -> list[nn.Parameter]:
        """Return the frozen parameters, of which there is no copy."""
        return [weight for number, marks in enumerate(self.marks) if marks
                for name, weight in self.parameters(number).items() if name in marks]

    def forget(self) -> None:
        """Drop all copies."""
        for some in (self.copies, self.marks, self.buffers, self.others):
            for one in some:
                one.clear()


def dead_reference() -> None:
    """Return None, as a weak reference does when its tensor is gone."""


@contextmanager
def all_or_nothing(module: nn.Module) -> Iterator[None]:
    """Restore a net with extra state when an error occurs within.

    Extra state is loaded by code of the net, which may raise when the rest is already loaded.
    """
    before = Weights(module, every=True) if extra_state_of(unwrap_module(module)) else None
    try:
        yield
    except BaseException:
        if before is not None:
            before.restore()
        raise


def copy_to_cpu(value: Tensor, room: Tensor | None = None) -> Tensor:
    """Return a copy in main memory, reusing the tensor ``room`` if it fits."""
    if type(room) is Tensor and room.shape == value.shape and room.dtype == value.dtype and (
            room.layout == value.layout == torch.strided and room.is_contiguous()):
        return room.copy_(value.detach())
    if room is None or type(room) is not Tensor or not can_hold(room, value):
        return value.detach().to("cpu", copy=True)
    return room.copy_(value.detach())


def buffer_snapshot(buffer: Tensor | None, old: Buffer | None) -> Buffer:
    """Return a copy of a buffer, which reuses the memory of an older one."""
    if buffer is None or is_lazy(buffer):
        return Buffer(None, buffer)
    return Buffer(copy_to_cpu(buffer, None if old is None else old.copied), weakref.ref(buffer))


def restore_buffers(net: nn.Module, kept: Mapping[str, Buffer]) -> None:
    """Restore buffers, each in the tensor that it was copied from where that is still there.

    A forward may assign a batch, or a part of one, as its buffer.
    """
    made: dict[int, Tensor] = {}
    for name, (owner, leaf) in list(buffers_of(net)):
        now, old = internals.buffers(owner)[leaf], kept.get(name)
        if old is None:
            del internals.buffers(owner)[leaf]
        elif old.copied is None:
            internals.buffers(owner)[leaf] = old.was
        elif now is not None and now is old.was() and can_hold(now, old.copied):
            with torch.no_grad():
                now.copy_(old.copied)
        else:
            value = old.copied.to(device_of(net, owner, now), copy=True)
            internals.buffers(owner)[leaf] = (
                value if now is None else made.setdefault(id(now), value))


def extra_state_of(net: nn.Module) -> dict[str, Any]:
    """Return copies of what a state dict has beside parameters and buffers, if loadable."""
    if not has_extra_state(net):
        return {}
    live, names = tensor_names(net), BareNames(net)
    found = {name: value for name, value in net.state_dict().items()
             if names.bare(name) not in live}
    return {name: copy.deepcopy(value) for name, value in found.items()
            if accepts_extra_state(net, name)}


def has_extra_state(net: nn.Module) -> bool:
    """Tell whether a net's code may put more than parameters and buffers into its state dict."""
    modules = list(net.modules())
    kinds: list[Any] = list({type(one) for one in modules})
    hooked = any(internals.is_hooked_on_saving(one)
                 or not vars(one).keys().isdisjoint(SAVING_METHODS) for one in modules)
    return hooked or any(getattr(kind, name) is not getattr(nn.Module, name)
                         for kind in kinds for name in SAVING_METHODS)


def checksum(value: Tensor) -> str | None:
    """Return a hash of a tensor's bytes, shape and dtype; None if it has no plain bytes.

    64-bit words are mixed with their positions, as in SplitMix64 (Steele, Lea and Flood 2014), and
    summed.
    """
    data = value.detach()
    if type(data) is not Tensor or is_lazy(value) or data.layout != torch.strided or (
            data.is_quantized or data.is_meta):
        return None
    real = torch.view_as_real(data) if data.is_complex() else data
    flat = real.contiguous().view(-1).view(torch.uint8)
    if flat.data_ptr() % 8 or flat.storage_offset() % 8:
        flat = flat.clone()
    words = flat[:flat.numel() // 8 * 8].view(torch.int64)
    sums = [mix_words(part, place * CHUNK).sum().view(1)
            for place, part in enumerate(torch.split(words, CHUNK))]
    rest = flat[words.numel() * 8:].to(torch.int64)
    found = hashlib.sha256(torch.cat([*sums, rest]).cpu().numpy().tobytes())
    found.update(f"{tuple(data.shape)} {data.dtype}".encode())
    return found.hexdigest()


def mix_words(words: Tensor, place: int) -> Tensor:
    """Mix 64-bit words with their positions, so that each depends on all bits."""
    places = torch.arange(place, place + len(words), device=words.device)
    found = places.mul_(-0x61C8864680B583EB).add_(words)
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        found.bitwise_xor_(found >> shift).mul_(factor)
    return found.bitwise_xor_(found >> 31)
