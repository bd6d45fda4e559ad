"""The weights of a moment in memory: copies of what learns, and checksums of the rest, to know that it is the same."""

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

from torchkeras.state.module_state import (
    alike,
    buffers_of,
    device_of,
    is_saved,
    live_names,
    metadata_of,
    place_of,
    takes_extra,
    weights_in,
)
from torchkeras.state.wrappers import BareNames, plain

SAYING = ("state_dict", "_save_to_state_dict", "get_extra_state")
PIECE = 1 << 16  # 64-bit words that are mixed at once: they stay in the processor's cache


class Buffer(NamedTuple):
    """A buffer as it was: its copy, and the tensor that it was the copy of."""

    copied: Tensor | None
    was: Any  # a weak reference, or what cannot be copied: None, a tensor without a shape yet


class Weights:
    """The weights of a moment, of all modules of a run, in main memory.

    Parameters that do not learn are not copied: their checksums show later whether they are the same. Those that once
    learnt or moved are copied from then on.

    Args:
        *modules: the net, and others that learn.
        every: copy what does not learn too.

    Attributes:
        moment: another object each time that weights are taken down.
    """

    def __init__(self, *modules: nn.Module, every: bool = False) -> None:
        self.modules, self.every = modules, every
        self.copies: list[dict[str, Tensor]] = [{} for _ in modules]
        self.marks: list[dict[str, str]] = [{} for _ in modules]
        self.buffers: list[dict[str, Buffer]] = [{} for _ in modules]
        self.others: list[dict[str, Any]] = [{} for _ in modules]
        self.reader: Thread | None = None  # that writes these copies to a file
        self.take(fresh=True)

    def copies_made(self) -> set[tuple[Any, ...]]:
        """Return where the copies of this moment lie, which nobody writes to before the next ones are taken down."""
        buffers = (one.copied for kept in self.buffers for one in kept.values() if one.copied is not None)
        return {place_of(one) for one in (*(value for copies in self.copies for value in copies.values()), *buffers)}

    def twin(self) -> Weights:
        """Return another object that holds the same, to take down other weights without touching these."""
        other = copy.copy(self)
        other.copies, other.marks = [*self.copies], [*self.marks]
        other.buffers, other.others = [dict(one) for one in self.buffers], [*self.others]
        return other

    def take(self, fresh: bool = False) -> None:
        """Take down the weights of this moment; into the copies that are there, unless these belong to others."""
        if self.reader is not None:
            self.reader.join()
            self.reader = None
        for number, module in enumerate(self.modules):
            net = plain(module)
            old = {} if fresh else self.copies[number]
            held, marks = self.copies[number], dict[str, str]()
            copies: dict[str, Tensor] = {}
            for name, weight in net.named_parameters():
                mark = None if self.every or weight.requires_grad or name in held else checksum(weight)
                if mark is None or self.marks[number].get(name, mark) != mark:
                    copies[name] = copied(weight, old.get(name))
                else:
                    marks[name] = mark
            self.copies[number], self.marks[number] = copies, marks
            rooms = {} if fresh else self.buffers[number]
            self.buffers[number] = {name: kept_buffer(owner._buffers[leaf], rooms.get(name))
                                    for name, (owner, leaf) in buffers_of(net)}
            self.others[number] = others(net)
        self.moment = object()

    def hold(self) -> list[str]:
        """Copy what has begun to learn while it is still the same; return the names of what is not."""
        lost = []
        for number, module in enumerate(self.modules):
            names = self.parameters(number) if self.marks[number] else {}
            for name in [one for one in self.marks[number] if one in names and names[one].requires_grad]:
                if checksum(names[name]) != self.marks[number][name]:
                    lost.append(BareNames(plain(module)).bare(name))
                else:
                    self.copies[number][name] = copied(names[name])
                    del self.marks[number][name]
        return lost

    def parameters(self, number: int) -> dict[str, nn.Parameter]:
        """Return the parameters that a module has now."""
        return dict(plain(self.modules[number]).named_parameters(remove_duplicate=False))

    def moved(self, number: int) -> dict[str, str]:
        """Return what is no longer as it was and has no copy: names in the module, and in the bare net."""
        now, names = self.parameters(number) if self.marks[number] else {}, BareNames(plain(self.modules[number]))
        return {name: names.bare(name) for name, mark in self.marks[number].items()
                if name not in now or checksum(now[name]) != mark}

    def frozen(self, number: int) -> dict[str, str]:
        """Return what is not copied: names in the bare net, those of tied weights too, and checksums."""
        names, first = BareNames(plain(self.modules[number])), dict[int, str]()
        every = self.parameters(number).items() if self.marks[number] else ()
        marks = {name: self.marks[number].get(first.setdefault(id(weight), name)) for name, weight in every}
        return {names.bare(name): mark for name, mark in marks.items() if mark is not None}

    def frozen_now(self, number: int) -> dict[str, tuple[Tensor, str]]:
        """Return what is frozen and as it was, tied weights once, by the names in the bare net; and the checksums."""
        now, names = self.parameters(number) if self.marks[number] else {}, BareNames(plain(self.modules[number]))
        return {names.bare(name): (now[name].detach(), mark) for name, mark in self.marks[number].items()
                if name in now and checksum(now[name]) == mark}

    def adopt(self, number: int, name: str, value: Tensor) -> bool:
        """Take a value for one that has moved, if it is the one that was there."""
        if checksum(value) != self.marks[number][name]:
            return False
        self.copies[number][name] = value.detach().to("cpu", copy=True)
        del self.marks[number][name]
        return True

    def restore(self) -> None:
        """Put everything back that there is a copy of."""
        for number, module in enumerate(self.modules):
            net, now = plain(module), self.parameters(number)
            if unlike := [name for name, one in self.copies[number].items()
                          if name not in now or now[name].shape != one.shape]:
                raise RuntimeError(f"parameters have other names or shapes than when the weights were kept: {unlike}")
            with torch.no_grad():
                for name, value in self.copies[number].items():
                    now[name].copy_(value)
            put_back_buffers(net, self.buffers[number])
            if self.others[number]:
                state = net.state_dict()
                state.update(copy.deepcopy(self.others[number]))
                net.load_state_dict(state, strict=False)

    def state(self, number: int) -> OrderedDict[str, Any]:
        """Return a module's state of that moment under the names of the bare net."""
        net = plain(self.modules[number])
        now, names = self.parameters(number), BareNames(net)
        first: dict[int, str] = {}
        found: OrderedDict[str, Any] = OrderedDict()
        for name, weight in now.items():
            value = self.copies[number].get(first.setdefault(id(weight), name), weight.detach())
            found[names.bare(name)] = value
        saved = {name for name, place in buffers_of(net) if is_saved(place)}
        found |= {names.bare(name): one.copied for name, one in self.buffers[number].items()
                  if name in saved and one.copied is not None}
        found |= {names.bare(name): value for name, value in self.others[number].items()}
        found._metadata = metadata_of(weights_in(net))  # type: ignore[attr-defined]
        return found

    def hidden(self, number: int) -> dict[str, Tensor | None]:
        """Return the buffers of that moment that are in no state dict."""
        net = plain(self.modules[number])
        unsaved = {name for name, place in buffers_of(net) if not is_saved(place)}
        return {BareNames(net).bare(name): one.copied for name, one in self.buffers[number].items() if name in unsaved}

    def set(self, number: int, state: Mapping[str, Any], hidden: Mapping[str, Tensor | None]) -> None:
        """Make this the weights of a state and of buffers that are in none; frozen ones as now are not copied."""
        net = plain(self.modules[number])
        names, live = BareNames(net), live_names(net)
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
            self.buffers[number][name] = Buffer(None if value is None else value.detach().to("cpu", copy=True),
                                                None if value is None else gone)
        self.others[number] = {names.own(name): copy.deepcopy(value) for name, value in state.items()
                               if name not in live}
        self.moment = object()

    def without_copy(self) -> list[nn.Parameter]:
        """Return the parameters of which there is no copy, since they do not learn."""
        return [weight for number, marks in enumerate(self.marks) if marks
                for name, weight in self.parameters(number).items() if name in marks]

    def forget(self) -> None:
        """Let go of all copies."""
        for some in (self.copies, self.marks, self.buffers, self.others):
            for one in some:
                one.clear()


def gone() -> None:
    """Return None, as a weak reference does when its tensor is no more."""


@contextmanager
def all_or_nothing(module: nn.Module) -> Iterator[None]:
    """Undo what an error left half done in a net that holds more than parameters and buffers.

    What else is in a state dict is put back by code of the net's, which may refuse it after the rest has been taken.
    """
    before = Weights(module, every=True) if others(plain(module)) else None
    try:
        yield
    except BaseException:
        if before is not None:
            before.restore()
        raise


def copied(value: Tensor, room: Tensor | None = None) -> Tensor:
    """Return a copy in main memory, in a tensor that is there already if it fits."""
    if type(room) is Tensor and room.shape == value.shape and room.dtype == value.dtype and (
            room.layout == value.layout == torch.strided and room.is_contiguous()):
        return room.copy_(value.detach())
    if room is None or type(room) is not Tensor or not alike(room, value):
        return value.detach().to("cpu", copy=True)
    return room.copy_(value.detach())


def kept_buffer(buffer: Tensor | None, old: Buffer | None) -> Buffer:
    """Return a buffer as it is now."""
    if buffer is None or is_lazy(buffer):
        return Buffer(None, buffer)
    return Buffer(copied(buffer, None if old is None else old.copied), weakref.ref(buffer))


def put_back_buffers(net: nn.Module, kept: Mapping[str, Buffer]) -> None:
    """Put buffers back; numbers go into the tensor that they came from, for another may be somebody else's.

    A forward may assign a batch, or a part of one, as its buffer.
    """
    made: dict[int, Tensor] = {}
    for name, (owner, leaf) in list(buffers_of(net)):
        now, old = owner._buffers[leaf], kept.get(name)
        if old is None:
            del owner._buffers[leaf]
        elif old.copied is None:
            owner._buffers[leaf] = old.was
        elif now is not None and now is old.was() and alike(now, old.copied):
            with torch.no_grad():
                now.copy_(old.copied)
        else:
            value = old.copied.to(device_of(net, owner, now), copy=True)
            owner._buffers[leaf] = value if now is None else made.setdefault(id(now), value)


def others(net: nn.Module) -> dict[str, Any]:
    """Return copies of what a state dict holds beside parameters and buffers, where it can be put back."""
    if not says_more(net):
        return {}
    live, names = live_names(net), BareNames(net)
    found = {name: value for name, value in net.state_dict().items() if names.bare(name) not in live}
    return {name: copy.deepcopy(value) for name, value in found.items() if takes_extra(net, name)}


def says_more(net: nn.Module) -> bool:
    """Return whether code of a module may put more than parameters and buffers into the state dict of a net."""
    modules = list(net.modules())
    kinds: list[Any] = list({type(one) for one in modules})
    return any(one._state_dict_hooks or one._state_dict_pre_hooks or not vars(one).keys().isdisjoint(SAYING)
               for one in modules) or any(getattr(kind, name) is not getattr(nn.Module, name)
                                          for kind in kinds for name in SAYING)


def checksum(value: Tensor) -> str | None:
    """Return a mark of the bytes of a tensor, its shape and type; None of one that has no plain bytes.

    64-bit words are mixed with their places, as SplitMix64 mixes (Steele, Lea and Flood 2014), and summed.
    """
    data = value.detach()
    if type(data) is not Tensor or is_lazy(value) or data.layout != torch.strided or data.is_quantized or data.is_meta:
        return None
    flat = (torch.view_as_real(data) if data.is_complex() else data).contiguous().view(-1).view(torch.uint8)
    if flat.data_ptr() % 8 or flat.storage_offset() % 8:
        flat = flat.clone()
    words = flat[:flat.numel() // 8 * 8].view(torch.int64)
    sums = [mixed(part, place * PIECE).sum().view(1) for place, part in enumerate(words.split(PIECE))]
    found = hashlib.sha256(torch.cat([*sums, flat[words.numel() * 8:].to(torch.int64)]).cpu().numpy().tobytes())
    found.update(f"{tuple(data.shape)} {data.dtype}".encode())
    return found.hexdigest()


def mixed(words: Tensor, place: int) -> Tensor:
    """Return 64-bit words that all depend on all bits of those given, and on where these are."""
    found = torch.arange(place, place + len(words), device=words.device).mul_(-0x61C8864680B583EB).add_(words)
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        found.bitwise_xor_(found >> shift).mul_(factor)
    return found.bitwise_xor_(found >> 31)
