"""DistributedDataParallel with weighted gradients: the mean over all samples of all ranks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Count
from torchkeras.weighting.weighing import Terms, terms_of, totals_of

if TYPE_CHECKING:
    from torchkeras.engine.step import StepRunner


class WeightedAllReduceHook:
    """A communication hook that all-reduces gradients, and divides them by the sum of weights.

    The shards of a batch rarely count alike: the last batch is short, labels are ignored, classes
    have weights. So each process backpropagates its loss times its weight, and the weights are
    all-reduced too, to divide by their sum. They are appended to the first bucket of gradients, so
    that they need no message of their own.
    """

    def __init__(self, world_size: int) -> None:
        self.weight: float | Tensor = 1 / world_size  # of this rank, on a scale common to all ranks
        self.non_finite: float = 0.0  # 1 where this rank's loss is not finite
        self.sums: Tensor | None = None  # weight and non_finite, summed over all ranks
        self.pending: list[PendingBucket] = []  # the buckets of this step that are being reduced
        self.has_gradient = False  # whether a parameter has got a gradient

    def reduce(self, bucket: Any) -> Future[Tensor]:  # a torch.distributed.GradBucket, untyped
        """Start to all-reduce a bucket of gradients; the last one waits for all of them.

        Work that is chained to a message with ``then`` would run on a thread of the process group,
        which takes Python's lock at any time; a DataLoader worker forked in that moment hangs.
        """
        gradients = bucket.buffer()
        if bucket.index() > 0:
            message = gradients
        elif gradients.is_sparse or gradients.element_size() < 4:  # too coarse for the weight
            message, self.sums = gradients, self.payload(gradients).float()
            distributed.all_reduce(self.sums)
        else:
            message = torch.cat([gradients, self.payload(gradients).to(gradients)])
            self.sums = message[-2:]
        work = distributed.all_reduce(message, async_op=True)
        future: Future[Tensor] = Future(devices=None if gradients.is_cpu else [gradients.device])
        self.pending.append(PendingBucket(gradients, message, work, future))
        if bucket.is_last():
            self.finish()
        return future

    def payload(self, like: Tensor) -> Tensor:
        """Return the two numbers that are reduced with the first bucket."""
        return torch.stack([scalar(one, like.device) for one in (self.weight, self.non_finite)])

    def finish(self) -> None:
        """Wait for all messages, and set the results: gradients divided by the sum of weights."""
        for bucket in self.pending:
            bucket.work.wait()
        weight = cast(Tensor, self.sums)[0]
        weight = torch.where(weight == 0, torch.ones_like(weight), weight)
        for gradients, message, _, future in self.pending:
            if message is not gradients:
                gradients.copy_(message[:-2])
            future.set_result(gradients.div_(weight))
        self.pending.clear()


def scalar(value: float | Tensor, device: torch.device) -> Tensor:
    """Return a number in float64 on a device; ``torch.full`` does not wait for it, a copy would."""
    if isinstance(value, Tensor):
        return value.to(device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=device)


class PendingBucket(NamedTuple):
    """A bucket of gradients that is being reduced."""

    gradients: Tensor
    message: Tensor  # the gradients themselves, or a copy with the payload
    work: Any  # torch.distributed's handle of the message; None in a process outside of the group
    future: Future[Tensor]


class WeightedDDP(DistributedDataParallel):
    """DistributedDataParallel with weighted gradients; the module's attributes can be read here.

    Buffers are not broadcast with every batch: those of process 0 are, at the end of a pass.
    """

    def __init__(self, module: nn.Module, find_unused_parameters: bool = False) -> None:
        known = inspect.signature(DistributedDataParallel).parameters
        buffers: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known
                                   else "broadcast_buffers": False}
        super().__init__(module, find_unused_parameters=find_unused_parameters, **buffers)
        self.weighted_hook = WeightedAllReduceHook(distributed.get_world_size())
        hook = self.weighted_hook  # a hook that referred to self would keep both alive for ever
        self.register_comm_hook(None, lambda state, bucket: hook.reduce(bucket))
        weights: list[Any] = [one for one in module.parameters() if one.requires_grad]
        self.gradient_watchers = [one.register_post_accumulate_grad_hook(
            lambda _: setattr(hook, "has_gradient", True)) for one in weights]

    def check_synchronized(self) -> None:
        """Refuse gradients that this wrapper has not reduced; once it has, check no more."""
        hook = self.weighted_hook
        if not self.gradient_watchers or not hook.has_gradient or (
                not self.require_backward_grad_sync):
            return
        if hook.sums is None:
            raise bad_value("StepRunner", received="a step whose gradients did not pass through "
                            f"the wrapper of its {type(self.module).__name__}",
                            expected="a call of the module that it was given, such as "
                            "self.net(...) or self.loss_fn(...), in several processes",
                            fix="Call it itself, not its parts; give it a forward that does what "
                            "you need.")
        while self.gradient_watchers:
            self.gradient_watchers.pop().remove()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def __getitem__(self, index: int | slice | str) -> Any:
        return self.module[index]

    def __len__(self) -> int:
        return len(self.module)


def replicas(given: Mapping[str, Any], *, find_unused_parameters: bool = False) -> dict[str, Any]:
    """Return the objects with every module that has parameters to train wrapped in WeightedDDP."""
    return {name: WeightedDDP(one, find_unused_parameters) if learns(one) else one
            for name, one in given.items()}


def learns(module: object) -> bool:
    """Return whether a module has gradients: DistributedDataParallel refuses one without any."""
    return isinstance(module, nn.Module) and any(one.requires_grad for one in module.parameters())


def set_weight(step: StepRunner, weight: float | Tensor, last: bool) -> None:
    """Set this rank's weight in the gradients, and whether this microbatch ends its window."""
    for replica in replicas_of(step):
        replica.weighted_hook.weight = weight
        replica.require_backward_grad_sync = last


def true_scale(step: StepRunner, counts: list[Count]) -> Count:
    """Return the total of a window's counts on all ranks, divided by the world size."""
    world_size = distributed.get_world_size()
    total = scalar(sum(counts), step.accelerator.device).reshape(1)
    distributed.all_reduce(total)
    return (total.item() or 1.0) / world_size if total.is_cpu else total[0] / world_size


def total_counts(step: StepRunner, counts: list[Count]) -> list[Count] | None:
    """Return the denominators of several outputs' losses, over all ranks; None for one loss."""
    terms = terms_of(getattr(step, "loss_fn", None))
    if terms is None:
        return None
    counted = any(isinstance(one, Terms) for one in counts)
    own = totals_of(counts) if counted else [0] * (len(terms.shares) + 1)
    device = step.accelerator.device
    total = torch.stack([scalar(one, device) for one in own])
    distributed.all_reduce(total)
    return total.tolist() if total.is_cpu else list(total)


def replicas_of(step: Any) -> Iterator[WeightedDDP]:  # a step of ours or the user's
    """Yield the modules of a step that all-reduce their gradients."""
    yield from step.replicas


def mark_non_finite(step: StepRunner) -> None:
    """Make the gradients of this window tell all ranks that they must not be used."""
    for replica in replicas_of(step):
        replica.weighted_hook.non_finite = 1.0


def check_finite_gradients(step: StepRunner) -> None:
    """Raise on all ranks, before the update, if the loss of any was not finite; on a CPU only."""
    sums = [replica.weighted_hook.sums for replica in replicas_of(step)]
    if any(one is not None and one.is_cpu and one[1] > 0 for one in sums):
        request = step.process_strategy.agreed()
        if request is None:
            raise NonFiniteLoss("the loss of another process is not finite")
        raise request.as_error()


def check_shared(step: Any) -> None:
    """Refuse, after an update, a step that did not call its modules: no gradient was reduced."""
    for replica in replicas_of(step):
        replica.check_synchronized()


def check_calls_modules(step: StepRunner, loss: Tensor) -> None:
    """Refuse a net with parameters that this loss does not reach: the other ranks would wait."""
    if all(replica.find_unused_parameters for replica in replicas_of(step)):
        return
    reached, stack, seen = set(), [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reached.add(id(getattr(node, "variable", None)))
        stack += [follower for follower, _ in node.next_functions]
    missed = [name for replica in replicas_of(step)
              for name, weight in replica.module.named_parameters()
              if weight.requires_grad and id(weight) not in reached]
    if missed:
        raise bad_value("net", received=f"{len(missed)} parameters that get no gradient: "
                        f"{', '.join(missed[:5])}",
                        expected="a gradient for each, in several processes",
                        fix="Pass find_unused_parameters=True, or freeze them with "
                        "requires_grad_(False).")
