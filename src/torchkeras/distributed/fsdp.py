"""FSDP (fully_shard): weights, gradients and optimizer state sharded over the processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, distributed, nn

from torchkeras.core import internals
from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import Several
from torchkeras.core.types import State

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.optim import Optimizer

    from torchkeras.engine.run import Run

UNDIVIDED = ("Adafactor", "Muon", "Rprop")  # of torch.optim 2.13: they fail with sharded tensors
Pairs: TypeAlias = list[tuple[Any, Any]]  # an old parameter, and the one to replace it
States: TypeAlias = list[tuple[Any, State]]  # a parameter, and its state in the optimizer


class NotSharded:
    """A net that every process has whole: nothing has to be gathered or sharded."""

    divided: Any = None  # the sharded copy of the net

    def gather(self) -> None:
        """Copy the sharded weights into the whole net."""

    def refresh(self) -> None:
        """Copy the sharded weights into the whole net, if they changed since."""

    def scatter(self) -> None:
        """Copy the whole net into the shards."""

    def taking(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, so that its state can be read."""
        return nullcontext()

    def putting(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, so that its state can be loaded; then shard."""
        return nullcontext()


class FSDPModule(NotSharded):
    """A sharded copy of a net to train, and the net itself, which stays whole in main memory.

    All ranks gather in the same order, one tensor at a time.
    """

    def __init__(self, net: nn.Module, run: Run, optimizer: Optimizer) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        device = run.accelerator.device
        self.net, self.run, self.optimizer = net, run, optimizer
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        self.divided = divide(copy.deepcopy(net), mesh)
        for own, shard in zip(net.buffers(), self.divided.buffers(), strict=True):
            shard.data = own.detach().to(device, copy=True)
        # read once: FSDP replaces the parameters of the module between two passes
        shards = dict(self.divided.named_parameters())
        self.pairs: Pairs = [(own, shards[name]) for name, own in net.named_parameters()]
        self.learns = [own.requires_grad for own, _ in self.pairs]
        self.current = run.global_step  # the training step at which the whole net was up to date
        self.began: States = []  # the optimizer's state before the run

    def gather(self) -> None:
        """Copy the sharded weights and this rank's buffers into the whole net, on every rank."""
        with torch.no_grad():
            for own, shard in self.pairs:
                own.copy_(full(shard))
            put_buffers(self.divided, self.net)
        self.current = self.run.global_step

    def refresh(self) -> None:
        """Copy the sharded weights into the whole net, if they changed since."""
        if self.current != self.run.global_step:
            self.gather()

    def scatter(self) -> None:
        """Copy the whole net, which is the same on every rank, into the shards."""
        self.check_learning()
        for module in self.divided.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        with torch.no_grad():
            for own, shard in self.pairs:
                shard.copy_(like(own.detach(), shard, source=None))
            put_buffers(self.net, self.divided)
        self.current = self.run.global_step

    def check_learning(self) -> None:
        """Refuse parameters frozen or unfrozen after the net was sharded: FSDP ignores it."""
        named = self.net.named_parameters()
        changed = [name for (name, own), learned in zip(named, self.learns, strict=True)
                   if own.requires_grad != learned]
        if changed:
            raise bad_value("fsdp", received=f"True, and {', '.join(changed[:5])} frozen or thawed "
                            "since the run began",
                            expected="the same parameters learning from beginning to end",
                            fix="Set requires_grad before fit; call fit once for each stage.")

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Let the optimizer update the shards; afterwards the net again, with its whole state.

        After an error nothing is gathered, since the other ranks may not take part.
        """
        self.began = [(own, self.optimizer.state[own]) for own, _ in self.pairs
                      if own in self.optimizer.state]
        swap(self.optimizer, self.pairs, like)
        try:
            yield
        except BaseException as error:
            swap(self.optimizer, self.backwards, None)
            if self.run.optimizer_steps == 0:
                self.optimizer.state.update(self.began)
            else:
                error.add_note("fsdp: the optimizer has lost its state of the net's parameters, "
                               "which was divided between the processes; the net is as it was "
                               "after the last whole epoch.")
            raise
        swap(self.optimizer, self.backwards, home)

    @property
    def backwards(self) -> Pairs:
        """Return the pairs the other way around."""
        return [(shard, own) for own, shard in self.pairs]

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Make the optimizer that of the whole net for now; its state is whole on rank 0 only."""
        self.gather()
        main = self.run.communicator.is_main_process
        with self.lent():
            swap(self.optimizer, self.backwards, lambda value, _: to_main(full(value), main))
            yield

    @contextmanager
    def putting(self) -> Iterator[None]:
        """Make the optimizer that of the whole net, so that its state can be loaded; then shard.

        Every rank loads the whole state, so nothing is sent, and no rank waits for one that fails.
        """
        groups, state = self.held()
        swap(self.optimizer, self.backwards, None)
        try:
            yield
            self.scatter()
            swap(self.optimizer, self.pairs,
                 lambda value, shard: like(value, shard, source=None))
        except BaseException:
            self.give_back(groups, state)
            raise

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Restore the optimizer's parameters and state afterwards, without a copy."""
        groups, state = self.held()
        try:
            yield
        finally:
            self.give_back(groups, state)

    def held(self) -> tuple[list[list[Tensor]], States]:
        """Return the optimizer's parameters, by group, and its state."""
        groups = [list(group["params"]) for group in self.optimizer.param_groups]
        return groups, list(self.optimizer.state.items())

    def give_back(self, groups: list[list[Tensor]], state: States) -> None:
        """Restore the optimizer's parameters and state."""
        for group, params in zip(self.optimizer.param_groups, groups, strict=True):
            group["params"] = params
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def divide(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard each child of a Sequential or ModuleList by itself, then the rest of the net."""
    from torch.distributed.fsdp import fully_shard

    blocks = [child for one in net.modules() if isinstance(one, (nn.Sequential, nn.ModuleList))
              for child in one.children() if any(True for _ in child.parameters())]
    owners: dict[int, int] = {}
    for one in net.modules():
        for weight in one.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    untied = [block for block in blocks
              if all(owners[id(weight)] == 1 for weight in block.parameters())]
    for block in reversed(untied):  # inner blocks come first; tied weights belong to the root
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def check_divisible(net: nn.Module, optimizers: dict[str, Any]) -> None:
    """Refuse nets and optimizers that FSDP cannot shard, before anything is done."""
    scalars = [name for name, weight in net.named_parameters() if weight.dim() == 0]
    if scalars:
        raise bad_value("fsdp", received="True for a net with parameters without dimensions: "
                        f"{', '.join(scalars[:5])}",
                        expected="parameters of at least one dimension",
                        fix="Make them of shape (1,): nn.Parameter(torch.ones(1)).")
    if isinstance(optimizers["optimizer"], Several):
        raise bad_value("optimizer", received="several optimizers with fsdp=True", expected="one",
                        fix="Give it the parameters in groups, or leave fsdp out.")
    kind = type(optimizers["optimizer"])
    if kind.__name__ in UNDIVIDED and kind.__module__.startswith("torch.optim"):
        raise bad_value("optimizer", received=f"{kind.__name__} with fsdp=True",
                        expected="one that works on divided tensors",
                        fix="Take AdamW, SGD or another that goes element by element, or leave "
                        "fsdp out.")
    check_one_owner(net, optimizers)


def check_one_owner(net: nn.Module, optimizers: dict[str, Any]) -> None:
    """Refuse parameters of the net in another optimizer: only ``optimizer`` gets the shards."""
    own = {id(weight) for weight in net.parameters()}
    for name, other in optimizers.items():
        groups = getattr(other, "param_groups", ()) if name != "optimizer" else ()
        if any(id(weight) in own for group in groups for weight in group["params"]):
            raise bad_value("fsdp",
                            received=f"True, and parameters of the net in the optimizer {name!r}",
                            expected="the net's parameters in optimizer= alone, which goes over to "
                            "their parts", fix=f"Give the parameters of {name} to optimizer= as a "
                            "group, or leave fsdp out.")


def put_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy buffers and extra state from one net to another of the same structure."""
    others = dict(target.named_modules())
    for name, module in source.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            others[name].set_extra_state(copy.deepcopy(module.get_extra_state()))
        for key, value in internals.buffers(module).items():
            found = internals.buffers(others[name])[key]
            if value is None or found is None or found.shape != value.shape:
                device = (next(target.parameters()) if found is None else found).device
                internals.buffers(others[name])[key] = (
                    None if value is None else value.detach().to(device, copy=True))
            else:
                found.copy_(value)


def swap(optimizer: Optimizer, pairs: Pairs,
         convert: Callable[[Tensor, Any], Any] | None) -> None:
    """Replace parameters of an optimizer, and convert their state, or drop it.

    Tensors are converted in the order of the pairs, which is the net's: the same on every rank.
    """
    other = {id(old): new for old, new in pairs}
    for group in optimizer.param_groups:
        group["params"] = [other.get(id(weight), weight) for weight in group["params"]]
    states = {id(old): (old, state) for old, state in optimizer.state.items()}
    optimizer.state.clear()
    for old, new in pairs:
        _, state = states.pop(id(old), (None, None))
        if state is not None and convert is not None:
            optimizer.state[new] = {
                name: convert(value, new) if isinstance(value, Tensor) else value
                for name, value in state.items()}
    optimizer.state.update(states.values())


def like(value: Tensor, shard: DTensor, source: int | None = 0) -> Tensor:
    """Shard a tensor as another is; a tensor of another shape, such as a counter, stays whole."""
    from torch.distributed.tensor import distribute_tensor

    if value.shape != shard.shape:
        return value
    return distribute_tensor(value.to(shard.device), shard.device_mesh, shard.placements,
                             src_data_rank=source)


def full(value: Tensor) -> Tensor:
    """Gather a sharded tensor from all ranks; return any other as it is."""
    gather: Callable[[], Tensor] | None = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def home(value: Tensor, own: Tensor) -> Tensor:
    """Gather a sharded tensor, on the device of its weight; return any other as it is."""
    return full(value).to(own.device) if hasattr(value, "full_tensor") else value


def to_main(value: Tensor, main: bool) -> Tensor | None:
    """Return a tensor in main memory on rank 0; None on the other ranks."""
    return value.cpu() if main else None
