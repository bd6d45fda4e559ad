"""A whole training step as one compiled graph: forward, backward, update and counting.

In a small net, launching operations costs more than computing them. One graph launches once. The optimizer stays the
owner of its state: the graph writes into the same tensors that ``optimizer.step()`` uses, so eager and compiled steps
can follow one another, and what a checkpoint or a callback sees is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from torchkeras.data.tree import map_tree
from torchkeras.engine import divergence
from torchkeras.engine.ending import NonFiniteLoss
from torchkeras.engine.step import StepRunner
from torchkeras.engine.ways import Plain, compiled, without_trace
from torchkeras.engine.words import StepOutput
from torchkeras.metrics.base import Metric

VERBS = ("__call__", "try_out", "forward", "loss", "backward", "update", "measure", "guard", "autocast")


def unfit(step: Any, batch: Any, options: Any) -> str | None:
    """What does not go with one graph a step; None when it can be tried."""
    for words, holds in OBSTACLES.items():
        if holds(step, batch, options):
            return words.format(optimizer=type(step.optimizer).__name__)
    return None


def holds_other_weights(step: Any, *_: Any) -> bool:
    """Whether the weights of the optimizer and those of the net that learn are not the same."""
    held = {id(weight) for group in step.optimizer.param_groups for weight in group["params"]}
    return held != {id(weight) for weight in step.net.parameters() if weight.requires_grad}


OBSTACLES: dict[str, Callable[[Any, Any, Any], bool]] = {
    "a StepRunner of your own": lambda step, *_: not isinstance(step, StepRunner) or any(
        getattr(type(step), verb) is not getattr(StepRunner, verb) for verb in VERBS),
    "mixed precision": lambda step, *_: not step.plain,
    "the optimizer {optimizer}": lambda step, *_: type(step.optimizer) not in UPDATES,
    "gradient accumulation": lambda step, *_: step.accelerator.gradient_accumulation_steps != 1,
    "labels of which it is not known yet whether they are left out": lambda step, *_: step.waiting is not None,
    "metrics of what comes next": lambda step, *_: bool(step.metrics_dict) and step.denominator.kind == "shifted",
    "a net with a loss of its own": lambda step, *_: step.loss_fn is None,
    "class weights or clip_grad_value": lambda step, *_: (
        step.config.class_weight is not None or step.config.clip_grad_value is not None),
    "a loss with weights": lambda step, *_: isinstance(step.loss_fn, nn.Module) and any(
        True for _ in step.loss_fn.parameters()),
    "batches that are not one tensor of features and one of labels": lambda step, batch, _: not fits(batch),
    "a schedule that moves more than the learning rate": lambda step, _, options: options != still(step.optimizer),
    "an optimizer that does not hold exactly the weights that learn": holds_other_weights,
}


def still(optimizer: Any) -> list[list[Any]]:
    """The options of an optimizer that would be part of a graph; none where there is no graph for it."""
    kind = UPDATES.get(type(optimizer))
    return [] if kind is None else [kind.part_of_graph(group) for group in optimizer.param_groups]


def fits(batch: Any) -> bool:
    """Whether a batch is one tensor of features and one of labels."""
    return isinstance(batch, (list, tuple)) and len(batch) == 2 and all(
        type(one) is Tensor and not one.requires_grad for one in batch)


class OtherNumbers(Exception):
    """A compiled graph does not compute what it was made from."""


def copied(tree: Any) -> Any:
    """A copy of nested tensors."""
    return map_tree(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


class WholeStep(Plain):
    """The graph of one step, for batches of one shape.

    Args:
        step: a step that has run at least once, so that the optimizer's state is there.
        batch: what the graph is built for.
    """

    name = "one graph a step"
    compiles = 1

    def __init__(self, step: StepRunner, batch: Any, pilot: Any = None) -> None:
        optimizer: Any = step.optimizer
        self.shapes, self.optimizer = [(one.shape, one.dtype) for one in batch], optimizer
        names = {id(weight): name for name, weight in step.net.named_parameters()}
        learning = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        # aliases of the same memory, of which autograd knows nothing
        self.fixed = {name: value.detach() for name, value in
                      (*step.net.named_parameters(), *step.net.named_buffers()) if id(value) not in learning}
        self.groups = [UPDATES[type(optimizer)](group, optimizer, names) for group in optimizer.param_groups]
        self.weights = {name: weight.detach() for name, weight in step.net.named_parameters() if id(weight) in learning}
        self.aliases = [(weight, (self.weights | self.fixed)[name], weight.requires_grad)
                        for name, weight in step.net.named_parameters()]
        self.numbers = [[torch.tensor(0.0, dtype=torch.float64) for _ in group.moving(group.options)]
                        for group in self.groups]
        self.counters = {name: metric for name, metric in step.metrics_dict.items()
                         if isinstance(metric, Metric) and metric.sums and not metric.lists}
        self.compare_gradients(step, batch)
        self.one = self.traced(step)
        self.graph: Any = compiled(self.one, fullgraph=True)
        self.rehearse(self.graph, self.one, *batch)

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for what the function below can write as one graph."""
        why = unfit(step, batch, pilot.options)
        return None if why is None else f"a graph does not go with {why}"

    def compare_gradients(self, step: StepRunner, batch: Any) -> None:
        """Refuse a loss that reads the net's own weights: a graph learns on copies, and would miss that part."""
        loss_of, learning = self.loss_of(step), dict(step.net.named_parameters())
        before = [(one, one.clone()) for one in self.fixed.values()]
        with without_trace(batch[0].device):
            loss = step.try_out(batch)[2]
            usual = torch.autograd.grad(loss, [learning[name] for name in self.weights], allow_unused=True)
        for one, old in before:
            one.copy_(old)
        with without_trace(batch[0].device), torch.no_grad():
            found, _ = grad_and_value(loss_of, has_aux=True)(*copied((self.weights, self.fixed)), *batch)
        for name, one in zip(self.weights, usual, strict=True):
            if not torch.allclose(found[name], torch.zeros_like(found[name]) if one is None else one,
                                  rtol=1e-3, atol=1e-5, equal_nan=True):
                raise OtherNumbers

    @staticmethod
    def loss_of(step: StepRunner) -> Callable[..., Any]:
        """The loss as a function of the weights."""
        net, loss_fn = step.net, step.loss_fn

        def loss_of(weights: Any, fixed: Any, features: Tensor, labels: Tensor) -> Any:
            preds = functional_call(net, (weights, fixed), (features,))
            return loss_fn(preds, labels), preds

        return loss_of

    def traced(self, step: StepRunner) -> Callable[..., Any]:
        """What is compiled; everything that changes comes in as an argument."""
        loss_of, limit = self.loss_of(step), step.config.clip_grad_norm
        counters, groups = list(self.counters.values()), self.groups

        def whole(weights: Any, fixed: Any, states: Any, numbers: Any, features: Tensor, labels: Tensor,
                  alive: Tensor | None = None) -> Any:
            written = [*weights.values(), *(one for state in states for column in state for one in column
                                            if isinstance(one, Tensor))]
            before = [one.clone() for one in written]
            buffers = [] if alive is None else [(one, one.clone()) for one in fixed.values()]
            gradients, (loss, preds) = grad_and_value(loss_of, has_aux=True)(weights, fixed, features, labels)
            gradients = gradients if limit is None else clipped(gradients, limit)
            for group, state, moving in zip(groups, states, numbers, strict=True):
                group.update([weights[name] for name in group.names], [gradients[name] for name in group.names],
                             state, *moving)
            sound = loss.isfinite() if alive is None else loss.isfinite() & alive
            # after a loss that is not finite, all stays as it was
            for one, old in zip(written, before, strict=True):
                one.copy_(torch.where(sound, one, old))
            for one, old in buffers:
                one.copy_(torch.where(cast(Tensor, alive), one, old))
            preds = preds.detach()
            return loss, preds, [metric.count(preds, labels) for metric in counters], sound

        return whole

    def rehearse(self, graph: Any, plain: Any, *data: Tensor) -> None:
        """Compile a graph by running it on copies of all that it writes to; it must give what is not compiled gives.

        What draws random numbers can come to draw them in another order. The second run shows what the first wrote.
        """
        self.tell(self.optimizer)
        found: list[Tensor] = []
        for run in (graph, plain):
            with torch.no_grad(), without_trace(data[0].device):
                held = copied(self.held())
                found.append(torch.stack([run(*held, self.numbers, *data)[0] for _ in range(2)]))
        if not torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5, equal_nan=True):
            raise OtherNumbers

    def held(self) -> tuple[Any, Any, Any]:
        """All that a graph reads and writes besides the data."""
        return self.weights, self.fixed, [group.state for group in self.groups]

    def tell(self, optimizer: Any) -> None:
        """Write the numbers that may change from step to step to where a graph reads them."""
        for tensors, group, now in zip(self.numbers, self.groups, optimizer.param_groups, strict=True):
            for tensor, number in zip(tensors, group.moving(now), strict=True):
                tensor.fill_(number)

    def takes(self, batch: Any) -> bool:
        """Whether batch, optimizer and weights are as when the graph was built: a callback may freeze some."""
        return (fits(batch) and [(one.shape, one.dtype) for one in batch] == self.shapes
                and len(self.groups) == len(self.optimizer.param_groups)
                and all(map(Group.unchanged, self.groups, self.optimizer.param_groups))
                and all(weight.requires_grad == learns and weight.data_ptr() == alias.data_ptr()
                        for weight, alias, learns in self.aliases))

    def call(self, graph: Any, step: StepRunner, *data: Tensor) -> Any:
        """Run a graph on what the net and the optimizer hold now."""
        self.tell(step.optimizer)
        step.learning_rate = step.optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            return graph(*self.held(), self.numbers, *data)

    def count(self, added: list[Any]) -> None:
        """Add to the metrics what the graph has counted."""
        for metric, more in zip(self.counters.values(), added, strict=True):
            metric.absorb(more)

    def __call__(self, step: StepRunner, batch: Any) -> StepOutput:
        """Run the graph, then what is not in it."""
        loss, preds, added, _ = self.call(self.graph, step, *batch)
        if loss.is_cpu and not math.isfinite(value := loss.item()):
            raise NonFiniteLoss(f"{step.stage}_loss is {value}", why=divergence.why(step, batch))
        if step.lr_scheduler is not None:
            step.lr_scheduler.step()
        self.count(added)
        for name, metric in step.metrics_dict.items():
            if name not in self.counters:
                metric.update(preds, batch[1])
        return StepOutput({f"{step.stage}_loss": loss}, {"lr": step.learning_rate})


def clipped(gradients: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Gradients with a norm of at most ``limit``, as torch.nn.utils.clip_grad_norm_ scales them."""
    norm = torch.linalg.vector_norm(torch.stack([one.norm() for one in gradients.values()]))
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {name: one * share for name, one in gradients.items()}


class Group:
    """The parameters of one optimizer group, in the optimizer's order, and the tensors that it remembers."""

    moves: tuple[str, ...] = ("lr", "initial_lr", "max_lr", "min_lr")

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str], lists: int) -> None:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)  # an optimizer collects what has a gradient
        found: list[list[Any]] = [[] for _ in range(lists + 2)]
        optimizer._init_group(group, *found)
        for weight in group["params"]:
            weight.grad = None
        self.names, self.state = [names[id(weight)] for weight in found[0]], found[2:]
        self.options = {name: value for name, value in group.items() if name != "params"}
        self.still = self.part_of_graph(group)

    @classmethod
    def part_of_graph(cls, group: dict[str, Any]) -> list[Any]:
        """The options that are."""
        return [(name, value) for name, value in group.items() if name != "params" and name not in cls.moves]

    def unchanged(self, group: dict[str, Any]) -> bool:
        """Whether the options that are part of the graph are as they were."""
        return all(group[name] == value for name, value in self.still)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """The options that may change from step to step, and are told to the graph."""
        raise NotImplementedError

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """Write the update into the weights and the state."""
        raise NotImplementedError


class AdamGroup(Group):
    """Adam and AdamW."""

    moves = (*Group.moves, "betas")  # OneCycleLR moves them too

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=4)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """Learning rate and betas."""
        return [options["lr"], *options["betas"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """The function behind torch's optimizer."""
        options, update = self.options, cast(Any, adam)
        update(
            weights, gradients, *state, foreach=False, capturable=False, differentiable=False, fused=False,
            has_complex=False, amsgrad=options["amsgrad"], lr=moving[0], beta1=moving[1], beta2=moving[2],
            weight_decay=options["weight_decay"], eps=options["eps"], maximize=options["maximize"],
            decoupled_weight_decay=options["decoupled_weight_decay"])


class SGDGroup(Group):
    """SGD, with or without momentum."""

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=1)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """The learning rate; a momentum that moves would be another graph."""
        return [options["lr"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """The function behind torch's optimizer."""
        options, update = self.options, cast(Any, sgd)
        update(
            weights, gradients, *state, foreach=True, fused=False, weight_decay=options["weight_decay"],
            momentum=options["momentum"], lr=moving[0], dampening=options["dampening"], nesterov=options["nesterov"],
            maximize=options["maximize"], has_sparse_grad=False)


UPDATES: dict[type, Any] = {torch.optim.Adam: AdamGroup, torch.optim.AdamW: AdamGroup, torch.optim.SGD: SGDGroup}
