"""FSDP: weights, gradients and optimizer state divided between the processes (torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import Several

UNDIVIDED = ("Adafactor", "Muon", "Rprop")  # of torch.optim 2.13: their operations on a divided tensor raise


class Undivided:
    """A net that every process has whole: there is nothing to gather and nothing to deal out."""

    divided: Any = None

    def gather(self) -> None:
        """Bring the whole net up to date."""

    def refresh(self) -> None:
        """Bring the whole net up to date, if it has learned since."""

    def scatter(self) -> None:
        """Bring the parts up to date with the whole net."""

    def taking(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, to be taken down."""
        return nullcontext()

    def putting(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, to be put back; net and optimizer are dealt out afterwards."""
        return nullcontext()


class Shards(Undivided):
    """A divided copy of a net to train; the net itself stays whole, in main memory, and is brought up to date.

    All that gathers is done by all processes in the same order, one tensor at a time.
    """

    def __init__(self, net: nn.Module, run: Any, optimizer: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        device = run.accelerator.device
        self.net, self.run, self.optimizer = net, run, optimizer
        self.divided = divide(copy.deepcopy(net), init_device_mesh(device.type, (distributed.get_world_size(),)))
        for own, shard in zip(net.buffers(), self.divided.buffers(), strict=True):
            shard.data = own.detach().to(device, copy=True)
        shards = dict(self.divided.named_parameters())  # once: FSDP puts others in their place between two passes
        self.pairs = [(own, shards[name]) for name, own in net.named_parameters()]
        self.learns = [own.requires_grad for own, _ in self.pairs]
        self.current = run.trained  # the training step after which the whole net was brought up to date
        self.began: list[tuple[Any, Any]] | None = None  # what the optimizer remembered before the run

    def gather(self) -> None:
        """Bring the whole net up to date, in every process; buffers are each process's own."""
        with torch.no_grad():
            for own, shard in self.pairs:
                own.copy_(full(shard))
            put_buffers(self.divided, self.net)
        self.current = self.run.trained

    def refresh(self) -> None:
        """Bring the whole net up to date, if it has learned since."""
        if self.current != self.run.trained:
            self.gather()

    def scatter(self) -> None:
        """Bring the parts up to date with the whole net, which is the same in every process."""
        self.check_learning()
        for module in self.divided.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        with torch.no_grad():
            for own, shard in self.pairs:
                shard.copy_(like(own.detach(), shard, source=None))
            put_buffers(self.net, self.divided)
        self.current = self.run.trained

    def check_learning(self) -> None:
        """Refuse parameters that were frozen or thawed after the net was divided: FSDP takes no notice of it."""
        changed = [name for (name, own), learned in zip(self.net.named_parameters(), self.learns, strict=True)
                   if own.requires_grad != learned]
        if changed:
            raise bad_value("fsdp", received=f"True, and {', '.join(changed[:5])} frozen or thawed since the run began",
                            expected="the same parameters learning from beginning to end",
                            fix="Set requires_grad before fit; call fit once for each stage.")

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Let the optimizer work on the shards; afterwards on the net again, with all that it remembers.

        After an error nothing is gathered, since the other processes may not take part.
        """
        self.began = [(own, self.optimizer.state[own]) for own, _ in self.pairs if own in self.optimizer.state]
        swap(self.optimizer, self.pairs, like)
        try:
            yield
        except BaseException as error:
            swap(self.optimizer, self.backwards, None)
            if self.run.updates == 0:
                self.optimizer.state.update(self.began)
            else:
                error.add_note("fsdp: the optimizer has forgotten what it remembered of the net's parameters, which "
                               "was divided between the processes; the net is as it was after the last whole epoch.")
            raise
        swap(self.optimizer, self.backwards, home)

    @property
    def backwards(self) -> list[tuple[Any, Any]]:
        """The pairs the other way around."""
        return [(shard, own) for own, shard in self.pairs]

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Make the optimizer that of the whole net, to be taken down; what it remembers is whole in process 0 only."""
        self.gather()
        main = self.run.together.main
        with self.lent():
            swap(self.optimizer, self.backwards, lambda value, _: to_main(full(value), main))
            yield

    @contextmanager
    def putting(self) -> Iterator[None]:
        """Make the optimizer that of the whole net, to be put back; net and optimizer are dealt out afterwards.

        Every process has the whole of what is put back, so nothing is sent, and one that fails keeps no other waiting.
        """
        groups, state = self.held()
        swap(self.optimizer, self.backwards, None)
        try:
            yield
            self.scatter()
            swap(self.optimizer, self.pairs, lambda value, shard: like(value, shard, source=None))
        except BaseException:
            self.give_back(groups, state)
            raise

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the optimizer back to what it was, without a copy."""
        groups, state = self.held()
        try:
            yield
        finally:
            self.give_back(groups, state)

    def held(self) -> tuple[list[Any], list[Any]]:
        """What the optimizer works on and remembers."""
        return [list(group["params"]) for group in self.optimizer.param_groups], list(self.optimizer.state.items())

    def give_back(self, groups: list[Any], state: list[Any]) -> None:
        """Give it back to the optimizer."""
        for group, params in zip(self.optimizer.param_groups, groups, strict=True):
            group["params"] = params
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def divide(net: nn.Module, mesh: Any) -> nn.Module:
    """Divide every block of a net (what stands in a Sequential or a ModuleList) by itself, then the rest."""
    from torch.distributed.fsdp import fully_shard

    blocks = [child for one in net.modules() if isinstance(one, (nn.Sequential, nn.ModuleList))
              for child in one.children() if any(True for _ in child.parameters())]
    owners: dict[int, int] = {}
    for one in net.modules():
        for weight in one.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    untied = [block for block in blocks if all(owners[id(weight)] == 1 for weight in block.parameters())]
    for block in reversed(untied):  # what lies inside comes first; tied weights stay in one piece
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def check_divisible(net: nn.Module, optimizers: dict[str, Any]) -> None:
    """Refuse what FSDP cannot divide, before anything is done."""
    scalars = [name for name, weight in net.named_parameters() if weight.dim() == 0]
    if scalars:
        raise bad_value("fsdp", received=f"True for a net with parameters without dimensions: {', '.join(scalars[:5])}",
                        expected="parameters of at least one dimension",
                        fix="Make them of shape (1,): nn.Parameter(torch.ones(1)).")
    if isinstance(optimizers["optimizer"], Several):
        raise bad_value("optimizer", received="several optimizers with fsdp=True", expected="one",
                        fix="Give it the parameters in groups, or leave fsdp out.")
    kind = type(optimizers["optimizer"])
    if kind.__name__ in UNDIVIDED and kind.__module__.startswith("torch.optim"):
        raise bad_value("optimizer", received=f"{kind.__name__} with fsdp=True", expected="one that works on divided "
                        "tensors", fix="Take AdamW, SGD or another that goes element by element, or leave fsdp out.")
    own = {id(weight) for weight in net.parameters()}
    for name, other in optimizers.items():
        groups = getattr(other, "param_groups", ()) if name != "optimizer" else ()
        if any(id(weight) in own for group in groups for weight in group["params"]):
            raise bad_value("fsdp", received=f"True, and parameters of the net in the optimizer {name!r}",
                            expected="the net's parameters in optimizer= alone, which goes over to their parts",
                            fix=f"Give the parameters of {name} to optimizer= as a group, or leave fsdp out.")


def put_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy buffers, and what modules keep beside their tensors, from one of two nets of the same make to the other."""
    others = dict(target.named_modules())
    for name, module in source.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            others[name].set_extra_state(copy.deepcopy(module.get_extra_state()))
        for key, value in module._buffers.items():
            found = others[name]._buffers[key]
            if value is None or found is None or found.shape != value.shape:
                device = found.device if found is not None else next(target.parameters()).device
                others[name]._buffers[key] = None if value is None else value.detach().to(device, copy=True)
            else:
                found.copy_(value)


def swap(optimizer: Any, pairs: list[tuple[Any, Any]], convert: Callable[[Tensor, Any], Any] | None) -> None:
    """Let an optimizer go on with other parameters in the place of its own, its memory of each converted, or dropped.

    The memories come in the order of the pairs, which is that of the net in every process.
    """
    other = {id(old): new for old, new in pairs}
    for group in optimizer.param_groups:
        group["params"] = [other.get(id(weight), weight) for weight in group["params"]]
    states = {id(old): (old, state) for old, state in optimizer.state.items()}
    optimizer.state.clear()
    for old, new in pairs:
        _, state = states.pop(id(old), (None, None))
        if state is not None and convert is not None:
            optimizer.state[new] = {name: convert(value, new) if isinstance(value, Tensor) else value
                                    for name, value in state.items()}
    optimizer.state.update(states.values())


def like(value: Tensor, shard: Any, source: int | None = 0) -> Tensor:
    """A tensor divided as a shard is; counters and other numbers that are not one for each weight stay whole."""
    from torch.distributed.tensor import distribute_tensor

    if value.shape != shard.shape:
        return value
    return distribute_tensor(value.to(shard.device), shard.device_mesh, shard.placements, src_data_rank=source)


def full(value: Any) -> Tensor:
    """The whole tensor, of which each process holds a part."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def home(value: Any, own: Tensor) -> Tensor:
    """A divided tensor whole, where the weight is that it belongs to; others stay where they are."""
    return full(value).to(own.device) if hasattr(value, "full_tensor") else value


def to_main(value: Tensor, main: bool) -> Tensor | None:
    """A tensor in main memory of process 0."""
    return value.cpu() if main else None
