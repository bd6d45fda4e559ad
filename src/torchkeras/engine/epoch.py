"""One pass over the data: a step for each batch, then the numbers of the epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from torchkeras.core.stop import NonFiniteLoss, PassEnded, Request
from torchkeras.core.types import Logs, Metric, StepOutput
from torchkeras.data.reuse import holder, same
from torchkeras.data.samples import size
from torchkeras.distributed import ddp, reducible_metrics
from torchkeras.distributed.communicator import Alone
from torchkeras.engine import device
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.run import Run
from torchkeras.weighting import examination, weighing
from torchkeras.weighting.averages import Means, number, samples_of
from torchkeras.weighting.denominator import adds_up


class EpochRunner:
    """Feeds a step with batches and adds up. Designed to be subclassed or replaced.

    Args:
        step_runner: what is called with each batch and gives ``(step_losses, step_metrics)``.
        quiet: for runners that draw their own bar; this one never draws.
    """

    def __init__(self, step_runner: Any, quiet: bool = False) -> None:
        self.step_runner, self.quiet = step_runner, quiet
        self.stage, self.accelerator, self.net = step_runner.stage, step_runner.accelerator, step_runner.net
        self.metrics_dict = step_runner.metrics_dict
        self.together = getattr(step_runner, "together", Alone())
        alarm = getattr(step_runner, "alarm", sound) if self.stage == "train" else None
        self.losses = Means(summed(step_runner), alarm)
        self.parts = Means()  # of other numbers that steps give
        self.counted: list[int] = []  # of several processes: the numbers of the batches that count here
        self.last: Logs = {}
        self.deciding = False  # whether it is still to be seen what the loss is a mean over
        self.undecided: list[tuple[Logs, Any, Any]] = []  # the batches until then

    def __call__(self, loader: Iterable[Any]) -> dict[str, float]:
        """Go through the data once; the numbers of the epoch."""
        for metric in self.metrics_dict.values():
            metric.reset()
        step, weight = self.step_runner, getattr(self.step_runner, "weight", self.count)
        for batch, count in self.windows(loader):
            step_losses, self.last = step(batch)
            if self.deciding:
                self.undecided.append((step_losses, batch, weight(batch)))
            else:
                self.add(step_losses, weight(batch) if count is None else count)
        self.decide()
        row = self.row()
        for metric in self.metrics_dict.values():
            metric.reset()
        return row

    def add(self, step_losses: Logs, count: Any) -> None:
        """Add up the numbers of a step: losses, and what else it gives but rates."""
        self.losses.add(step_losses, count)
        if len(self.last) > 1 or (self.last and "lr" not in self.last):
            measured = {f"{self.stage}_{name}" for name in self.metrics_dict}
            told = {name: number(name, value) for name, value in self.last.items()
                    if not is_rate(name) and name not in measured}
            if told:
                self.parts.add(told, samples_of(count))

    def weight(self, batch: Any) -> Any:
        """How much the batch just done counts."""
        weigh: Callable[[Any], Any] = getattr(self.step_runner, "weight", None) or self.count
        return weigh(batch)

    def windows(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Batches and their counts; in gradient accumulation, each marked as a part of its window.

        A window is read whole before its first step, because the share of each part depends on all of them. Else the
        count is None here, and asked for when the step is done.
        """
        steps, training = self.accelerator.gradient_accumulation_steps, self.stage == "train"
        if self.together.world > 1:
            yield from self.shares(loader, steps)
            return
        source = self.examined(loader, divided=training and steps > 1)
        if steps == 1 or not training:
            yield from ((batch, None) for batch in source)
            return
        hold = holder(loader)
        while window := [(one, self.count(one)) for one in (hold(batch) for batch in islice(source, steps))]:
            counts = [count for _, count in window]
            for position, (batch, parts) in enumerate(window, start=1):
                device.micro_batch(self.accelerator, self.divisor(parts, counts), last=position == len(window))
                yield batch, later(parts)
        device.micro_batch(self.accelerator, steps, last=True)
        weighing.scale_terms(self.step_runner, None, None)

    def count(self, batch: Any) -> Any:
        """How much a batch counts, before its step."""
        return getattr(self.step_runner, "count", size)(batch)

    def divisor(self, parts: Any, window: list[Any]) -> Any:
        """What the loss of a batch is to be divided by, as a part of its window."""
        if isinstance(parts, weighing.Terms):
            totals = weighing.totals_of(window)
            weighing.scale_terms(self.step_runner, parts, totals)
            return totals[0] / parts.samples if parts.samples else 1
        # a batch of which no label counts is 0/0 by itself
        none = isinstance(parts, (int, float)) and not parts
        return 1 if self.losses.summed or none else sum(window) / parts

    def examined(self, loader: Iterable[Any], divided: bool) -> Iterator[Any]:
        """The batches, of which the first is looked at, where it is not known what the loss is a mean over."""
        step, source = self.step_runner, iter(loader)
        if hasattr(step, "facts") and step.facts.found is not None:
            examination.accept(step, step.facts.found, divided)
            self.losses.summed = summed(step)
        elif hasattr(step, "facts") and examination.needed(step, divided):
            for batch in self.looked_at(source, divided, holder(loader)):
                self.losses.summed = summed(step)
                yield batch
            self.decide()
        elif hasattr(step, "facts"):
            examination.tell_metrics(step, step.facts.found)
        yield from source

    def looked_at(self, source: Iterator[Any], divided: bool, hold: Callable[[Any], Any]) -> Iterator[Any]:
        """The first batch, and more of them as long as all their labels are left out: those are held, and wait."""
        held: list[Any] = []
        more = True
        while more:
            first = list(islice(source, 1))
            with self.together.same_fate():
                found = examination.look(self.step_runner, first[0]) if first else None
                found, self.step_runner.facts.paired = self.together.from_main((found, self.step_runner.facts.paired))
                examination.accept(self.step_runner, found, divided)
            self.deciding = more = bool(first) and found is not None and found.kind == "unseen" and (
                self.together.world == 1)
            examination.wait_with_metrics(self.step_runner, more)
            held += map(hold, first) if more else first
            if not more or not divided:  # a window has to know how its batches count
                yield from held
                held = []

    def decide(self) -> None:
        """Add up the batches whose loss was not finite before it was known which labels are left out."""
        self.deciding = False
        examination.wait_with_metrics(self.step_runner, False)
        for step_losses, batch, before in self.undecided:
            weight = self.weight(batch)
            several = isinstance(before, weighing.Terms)
            self.add(step_losses, weight._replace(losses=before.losses, scales=before.scales) if several else weight)
        self.undecided.clear()

    def shares(self, loader: Any, size: int) -> Iterator[tuple[Any, Any]]:
        """The same in one of several processes: its shares of the batches, and what each of them counts."""
        training, number = self.stage == "train", 0
        hold = holder(loader) if training and size > 1 else same
        source = ((hold(batch), loader.share) for batch in self.examined(loader, divided=training))
        while window := list(islice(source, size if training else 1)):
            counts = [self.count(batch) if share.samples else 0 for batch, share in window]
            totals = ddp.total_counts(self.step_runner, counts) if training else None
            scale = ddp.common_scale(self.step_runner, [samples_of(one) for one in counts],
                                           len(window) * window[0][1].whole)
            for position, (batch, share) in enumerate(window):
                self.step_runner.idle = not share.samples
                if share.samples:
                    self.counted.append(share.number)
                if training:
                    parts = counts[position]
                    weighing.scale_terms(self.step_runner, parts if isinstance(parts, weighing.Terms) else None, totals)
                    self.weigh([samples_of(one) for one in counts[:position + 1]], scale,
                               last=position + 1 == len(window))
                yield batch, later(counts[position])
                number += 1
                if training and examination.due(number):  # validation has no batches in step
                    self.agree()
        self.step_runner.finish()
        if training:
            device.micro_batch(self.accelerator, size, last=True)
            weighing.scale_terms(self.step_runner, None, None)

    def agree(self) -> None:
        """Let all processes go by what a batch showed one of them of the loss."""
        facts = getattr(self.step_runner, "facts", None)
        if facts is None or not facts.paired:
            return
        found = [one for one in self.together.gather(facts.revised) if one is not None]
        facts.revised = None
        if found:
            examination.revise(self.step_runner, found[0], divided=self.stage == "train")

    def weigh(self, counts: list[Any], scale: float, last: bool) -> None:
        """What the newest part of a window is to be divided by, and what all its parts so far weigh."""
        parts, weight = counts[-1] / scale, sum(counts) / scale
        if self.losses.summed:
            parts, weight = ddp.added_up(self.step_runner, counts[-1]), 1 / self.together.world
        divisor = 1 / parts if isinstance(parts, Tensor) or parts else math.inf
        device.micro_batch(self.accelerator, divisor, last)
        ddp.weigh(self.step_runner, weight, last)

    def row(self) -> dict[str, float]:
        """The numbers so far: mean losses, metrics, and what else the steps told."""
        self.losses.summed = summed(self.step_runner)  # a later batch may have shown that it does not add up
        if self.together.world > 1:
            self.agree()
            told = {name: number(name, value) for name, value in self.last.items()}
            packs = {name: reducible_metrics.packed(metric) for name, metric in self.metrics_dict.items()}
            return self.together.decide(self.joined, (self.losses.sums(), self.parts.sums(), packs, self.counted, told))
        row = {**self.losses.result(), **metric_values(self.metrics_dict, self.stage)}
        return row | others(row, {name: number(name, value) for name, value in self.last.items()}, self.parts.result())

    def joined(self, parts: list[Any]) -> dict[str, float]:
        """The row of all processes together, from what each of them counted."""
        losses, parts, packs, counted, told = map(list, zip(*parts, strict=True))
        metrics = {name: reducible_metrics.joined(metric, [pack[name] for pack in packs], counted)
                   for name, metric in self.metrics_dict.items()}
        row = {**self.losses.of(losses), **metric_values(metrics, self.stage)}
        last = max(range(len(told)), key=lambda rank: counted[rank][-1:])  # the process of the last batch
        return row | others(row, told[last], self.parts.of(parts))

    def running(self) -> dict[str, float]:
        """The numbers to show while running, leaving out metrics that are dear to compute."""
        cheap = {name: one for name, one in self.metrics_dict.items() if getattr(one, "cheap", False)}
        row = {**self.losses.result(), **metric_values(cheap, self.stage)}
        return row | {name: number(name, value) for name, value in self.last.items() if name not in row}


def later(count: Any) -> Any:
    """The count of a batch; None where it has the losses of the step too, which is not done yet."""
    return None if isinstance(count, weighing.Terms) else count


def others(row: dict[str, float], last: dict[str, float], means: dict[str, float]) -> dict[str, float]:
    """What steps gave beside losses and metrics: the mean over samples; of a rate, the last."""
    told = {name: value if is_rate(name) else means.get(name, value) for name, value in last.items()} | {
        name: value for name, value in means.items() if name not in last}
    return {name: value for name, value in told.items() if name not in row}


def is_rate(name: str) -> bool:
    """Whether a number of a step is a learning rate, of which an epoch has the last and no mean."""
    return name in ("lr", "learning_rate") or name.endswith("_lr")


def sound(error: NonFiniteLoss) -> None:
    """What a loss that is not finite leads to in one process."""
    raise error


def summed(step_runner: Any) -> bool:
    """Whether the loss adds up its samples; then an epoch's loss does too."""
    if hasattr(step_runner, "denominator"):
        return bool(step_runner.denominator.kind == "sum")
    return adds_up(getattr(step_runner, "loss_fn", None))


def metric_values(metrics: dict[str, Metric], stage: str) -> dict[str, float]:
    """Each metric's number under its stage; a metric that gives a dict fills several."""
    row: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        if isinstance(value, dict):
            row.update({f"{stage}_{name}_{key}": number(name, one) for key, one in value.items()})
        else:
            row[f"{stage}_{name}"] = number(name, value)
    return row


class Watched:
    """A step that reports: it counts, tells the listeners, and ends the pass when a stop was asked for.

    It wraps the step, not the loop, so every epoch runner reports, old ones too.
    """

    def __init__(self, step: Callable[[Any], Any], run: Run, callbacks: CallbackList) -> None:
        self.step, self.run, self.callbacks = step, run, callbacks
        self.together, self.idle = run.together, False
        self.learning = run.stage == "train" and run.epoch > 0  # epoch 0 measures
        self.shared = self.learning or run.tools.shards.divided is not None  # all processes do each step together
        self.steers = run.pilot.step if run.pilot is not None and self.learning else None
        device.place_in_pass(run.accelerator, 0)

    def alarm(self, error: NonFiniteLoss) -> None:
        """A loss was not finite: the end at once, or in all processes together."""
        if self.together.world == 1:
            raise error
        self.run.ask(Request(f"{error} in process {self.together.rank}", True, error.step, why=error.why))

    def __call__(self, batch: Any) -> StepOutput:
        """Run the step, count it, tell of it."""
        run, learning = self.run, self.learning
        if (request := run.together.gate(self.shared, self.left())) is not None:
            raise run.ended_by(request)
        if run.stage == "train" and run.step + 1 == run.steps:
            device.close_window(run.accelerator)
        losses, metrics = self.ordinary(batch) if self.steers is None else self.steers(self.step, batch)
        if learning and self.together.world > 1 and run.accelerator.sync_gradients:
            ddp.check_shared(self.step)
        run.step += 1
        run.trained += learning
        run.updates += learning and run.accelerator.sync_gradients
        run.logs = losses | metrics
        self.callbacks.announce("on_step_end")
        if learning:
            run.after_step()
        device.place_in_pass(run.accelerator, run.step)
        if run.stop_reason is not None and run.step != run.steps and not (
                (run.pilot and run.pilot.way.waiting) or run.keeper.ends_passes):
            raise PassEnded
        return StepOutput(losses, metrics)

    def left(self) -> tuple[int, int]:
        """How many steps a window of accumulated gradients needs to its end, now and after one more step."""
        size, done = self.run.config.gradient_accumulation_steps if self.learning else 1, self.run.step
        end = math.inf if self.run.steps is None else self.run.steps
        return int(min(-done % size, end - done)), int(min(-(done + 1) % size, max(end - done - 1, 0)))

    def finish(self) -> None:
        """The batches of a pass are over in this process; one that measures ends early in all of them or in none."""
        if not self.shared and (request := self.together.finished(True)) is not None:
            raise self.run.ended_by(request)

    def ordinary(self, batch: Any) -> Any:
        """The step as it is."""
        return reducible_metrics.stand_in(self.step, batch) if self.idle else self.step(batch)

    def __getattr__(self, name: str) -> Any:
        if name == "step" or name.startswith("__"):  # copying asks before there is a step
            raise AttributeError(name)
        return getattr(self.step, name)
