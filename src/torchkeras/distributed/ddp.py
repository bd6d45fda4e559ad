"""Gradients of several processes: the mean over all samples, whoever computed them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.weighting.weighing import Terms, terms_of, totals_of


class Rider:
    """Adds up gradients over processes and divides them by what they are a mean over.

    Equal parts are the exception: the last batch is short, labels are ignored, classes have weights. Each process
    therefore backpropagates its loss times its weight, and the weights are added up over the processes to divide by.
    They travel at the end of the first bucket of gradients, so that no message is sent for them alone.
    """

    def __init__(self, world: int) -> None:
        self.weight: float | Tensor = 1 / world  # of this process's part, by a scale common to all processes
        self.spoiled: float = 0.0  # 1 where this process's loss is not finite
        self.sums: Tensor | None = None  # weight and spoiled, over all processes
        self.sent: list[Sent] = []  # the buckets of this step that are on their way
        self.due = False  # whether a parameter has got a gradient

    def reduce(self, bucket: Any) -> Future[Tensor]:
        """The gradients of a bucket, over all processes: what DistributedDataParallel asks a communication hook for.

        The last bucket waits for all. Work chained to a message with ``then`` would run on a thread of the process
        group, which holds Python's lock for it when it likes; DataLoader workers that are forked at that moment hang.
        """
        gradients = bucket.buffer()
        if bucket.index() > 0:
            message = gradients
        elif gradients.is_sparse or gradients.element_size() < 4:  # halves could not hold the weight exactly
            message, self.sums = gradients, self.carried(gradients).float()
            distributed.all_reduce(self.sums)
        else:
            message = torch.cat([gradients, self.carried(gradients).to(gradients)])
            self.sums = message[-2:]
        work = distributed.all_reduce(message, async_op=True)
        promised: Future[Tensor] = Future(devices=None if gradients.is_cpu else [gradients.device])
        self.sent.append(Sent(gradients, message, work, promised))
        if bucket.is_last():
            self.deliver()
        return promised

    def carried(self, like: Tensor) -> Tensor:
        """What the first bucket takes along."""
        return torch.stack([torch.as_tensor(one, dtype=torch.float64, device=like.device)
                            for one in (self.weight, self.spoiled)])

    def deliver(self) -> None:
        """Wait for all messages, and give out the sums of gradients as means."""
        for sent in self.sent:
            sent.work.wait()
        weight = cast(Tensor, self.sums)[0]
        weight = torch.where(weight == 0, torch.ones_like(weight), weight)
        for gradients, message, _, promised in self.sent:
            if message is not gradients:
                gradients.copy_(message[:-2])
            promised.set_result(gradients.div_(weight))
        self.sent.clear()


class Sent(NamedTuple):
    """A bucket of gradients on its way."""

    gradients: Tensor
    message: Tensor  # the gradients themselves, or a copy with what rides along
    work: Any
    promised: Future[Tensor]


class Replica(DistributedDataParallel):
    """A module that learns in step with its copies in the other processes; its own attributes can be read here too."""

    def __init__(self, module: nn.Module, find_unused_parameters: bool = False) -> None:
        # Buffers are process 0's at the end of a pass: sent with every batch, they would come out the same.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known
                                   else "broadcast_buffers": False}
        super().__init__(module, find_unused_parameters=find_unused_parameters, **buffers)
        self.rider = Rider(distributed.get_world_size())
        rider = self.rider  # a hook that held the replica itself would keep both alive for ever
        self.register_comm_hook(None, lambda state, bucket: rider.reduce(bucket))
        self.watching = [weight.register_post_accumulate_grad_hook(lambda _: setattr(rider, "due", True))
                         for weight in module.parameters() if weight.requires_grad]

    def prove(self) -> None:
        """Refuse gradients that did not pass through this wrapper; once some did, no more is looked at."""
        if not self.watching or not self.rider.due or not self.require_backward_grad_sync:
            return
        if self.rider.sums is None:
            raise bad_value("StepRunner", received="a step whose gradients did not pass through the wrapper of its "
                            f"{type(self.module).__name__}", expected="a call of the module that it was given, such as "
                            "self.net(...) or self.loss_fn(...), in several processes",
                            fix="Call it itself, not its parts; give it a forward that does what you need.")
        while self.watching:
            self.watching.pop().remove()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def __getitem__(self, index: Any) -> Any:
        return self.module[index]

    def __len__(self) -> int:
        return len(self.module)


def replicas(given: Mapping[str, Any], *, find_unused_parameters: bool = False) -> dict[str, Any]:
    """Net, loss and others as several processes train them; one that has nothing to learn stays as it is."""
    return {name: Replica(one, find_unused_parameters) if learns(one) else one for name, one in given.items()}


def learns(module: Any) -> bool:
    """Whether there is a gradient to share: DistributedDataParallel refuses a module without one."""
    return isinstance(module, nn.Module) and any(weight.requires_grad for weight in module.parameters())


def weigh(step: Any, weight: float | Tensor, last: bool) -> None:
    """Tell the replicas of a step what their part of a window weighs, and whether the window ends with it."""
    for replica in replicas_of(step):
        replica.rider.weight = weight
        replica.require_backward_grad_sync = last
    if is_sharded(step.net):
        step.net.set_requires_gradient_sync(last)


def is_sharded(net: Any) -> bool:
    """Whether this is a net that FSDP has divided."""
    return hasattr(net, "set_requires_gradient_sync")


def common_scale(step: Any, counts: list[Any], samples: int) -> Any:
    """What the counts of a window are measured by in all processes.

    Any number will do that all have in common, since riders divide by the sum of the weights. FSDP has no place for
    them in its messages and takes a plain mean over processes, so there it must be the true total, which is asked for.
    """
    world = distributed.get_world_size()
    if not is_sharded(step.net):
        return samples / world
    total = torch.as_tensor(sum(counts), dtype=torch.float64, device=step.accelerator.device).reshape(1)
    distributed.all_reduce(total)
    return (total.item() or 1.0) / world if total.is_cpu else total[0] / world


def total_counts(step: Any, counts: list[Any]) -> list[Any] | None:
    """Return what the losses of several outputs are means over in all processes; None where there is one loss."""
    terms = terms_of(getattr(step, "loss_fn", None))
    if terms is None:
        return None
    own = totals_of(counts) if any(isinstance(one, Terms) for one in counts) else [0] * (len(terms.shares) + 1)
    total = torch.stack([torch.as_tensor(one, dtype=torch.float64, device=step.accelerator.device) for one in own])
    distributed.all_reduce(total)
    return total.tolist() if total.is_cpu else list(total)


def added_up(step: Any, count: Any) -> float:
    """The weight of a part whose loss adds up its samples."""
    return (distributed.get_world_size() if is_sharded(step.net) else 1.0) * bool(count)


def replicas_of(step: Any) -> Iterator[Replica]:
    """The modules that a step was given which share their gradients, wherever it keeps them."""
    yield from step.replicas


def spoil(step: Any) -> None:
    """Let the gradients of this window tell all processes that they are not to be used."""
    for replica in replicas_of(step):
        replica.rider.spoiled = 1.0


def check_sound(step: Any) -> None:
    """Between backward and update, on a CPU: end in all processes when the loss of any was not finite."""
    sums = [replica.rider.sums for replica in replicas_of(step)]
    if any(one is not None and one.is_cpu and one[1] > 0 for one in sums):
        request = step.together.agree()
        raise NonFiniteLoss("the loss of another process is not finite") if request is None else request.as_error()


def check_shared(step: Any) -> None:
    """After an update: the step has called its modules themselves, else nothing is shared and nobody notices."""
    for replica in replicas_of(step):
        replica.prove()


def check_reached(step: Any, loss: Tensor) -> None:
    """Refuse a net of which this loss does not reach every parameter: the other processes would wait for it."""
    if all(replica.find_unused_parameters for replica in replicas_of(step)):
        return
    reached, waiting = set(), [loss.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reached.add(id(getattr(node, "variable", None)))
        waiting += [follower for follower, _ in node.next_functions]
    missed = [name for replica in replicas_of(step) for name, weight in replica.module.named_parameters()
              if weight.requires_grad and id(weight) not in reached]
    if missed:
        raise bad_value("net", received=f"{len(missed)} parameters that get no gradient: {', '.join(missed[:5])}",
                        expected="a gradient for each, in several processes",
                        fix="Pass find_unused_parameters=True, or freeze them with requires_grad_(False).")
