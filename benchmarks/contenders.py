"""The loops written by hand, and this package. Each trains a job and gives its last epoch's accuracy, if one is asked.

All but the tutorial's read numbers once an epoch: the mean loss, and the accuracy where there are classes.
"""

import os
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads import Job


def hits(preds: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many predictions are right; for one class the prediction is the logit of a yes."""
    return ((preds > 0) == (labels > 0.5)).sum() if classes == 1 else (preds.argmax(dim=1) == labels).sum()


def plain(job: Job, largest_norm: float | None = None, bf16: bool = False) -> float | None:
    """The loop that most people write, without its per-step numbers."""
    job.start()
    net, loader = job.net.to(job.device).train(), job.loader()
    optimizer = job.optimizer()
    for _ in range(job.epochs):
        total, right = torch.zeros((), device=job.device), torch.zeros((), dtype=torch.int64, device=job.device)
        for x, y in loader:
            x, y = x.to(job.device), y.to(job.device)
            optimizer.zero_grad()
            with torch.autocast(job.device.type, torch.bfloat16, enabled=bf16):
                preds = net(x)
                loss = job.loss_fn(preds, y)
            loss.backward()
            if largest_norm is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), largest_norm)
            optimizer.step()
            total += loss.detach() * len(x)
            if job.classes:
                right += hits(preds, y, job.classes)
        total.item()
        accuracy = right.item() / len(job.x) if job.classes else None
        job.epoch_ended()
    return accuracy


def clipped(job: Job) -> float | None:
    """The plain loop with gradients clipped at norm 1, which torchkeras 4 always does."""
    return plain(job, largest_norm=1.0)


def plain_bf16(job: Job) -> float | None:
    """The plain loop in mixed precision."""
    return plain(job, bf16=True)


def tutorial(job: Job) -> float | None:
    """The loop of many tutorials: torchmetrics, a progress bar, and numbers read at every step."""
    from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
    from tqdm import tqdm

    job.start()
    net, loader = job.net.to(job.device).train(), job.loader()
    metric = BinaryAccuracy() if job.classes == 1 else MulticlassAccuracy(max(job.classes, 2), average="micro")
    metric, optimizer, accuracy = metric.to(job.device), job.optimizer(), None
    with open(os.devnull, "w") as screen:
        for _ in range(job.epochs):
            metric.reset()
            total, bar = 0.0, tqdm(loader, file=screen)
            for step, (x, y) in enumerate(bar, start=1):
                x, y = x.to(job.device), y.to(job.device)
                optimizer.zero_grad()
                preds = net(x)
                loss = job.loss_fn(preds, y)
                loss.backward()
                optimizer.step()
                total += loss.item()
                if job.classes:
                    metric.update(preds.sigmoid() if job.classes == 1 else preds, y.long())
                    accuracy = metric.compute().item()
                bar.set_postfix(loss=total / step, accuracy=accuracy)
            job.epoch_ended()
    return accuracy


def order(job: Job) -> Tensor:
    """The order that a DataLoader draws from torch's global state, which it first asks for a seed for its workers."""
    if not job.shuffle:
        return torch.arange(len(job.x))
    torch.empty((), dtype=torch.int64).random_()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return torch.randperm(len(job.x), generator=torch.Generator().manual_seed(seed))


def tuned(job: Job, fused: bool = False) -> float | None:
    """The floor: the data stays where the net is, and a batch is one selection."""
    job.start()
    net, x, y = job.net.to(job.device).train(), job.x.to(job.device), job.y.to(job.device)
    loss_fn, optimizer = job.loss_fn, job.optimizer(fused=True) if fused else job.optimizer()
    for _ in range(job.epochs):
        total, right = torch.zeros((), device=job.device), torch.zeros((), dtype=torch.int64, device=job.device)
        for index in order(job).to(job.device).split(job.batch_size):
            labels = y[index]
            preds = net(x[index])
            loss = loss_fn(preds, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() * len(index)
            if job.classes:
                right += hits(preds, labels, job.classes)
        total.item()
        accuracy = right.item() / len(x) if job.classes else None
        job.epoch_ended()
    return accuracy


def tuned_fused(job: Job) -> float | None:
    """The same with the optimizer's update in one kernel."""
    return tuned(job, fused=True)


class Epochs:
    """Tells a job when torchkeras, old or new, has finished an epoch."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def on_validation_epoch_end(self, model: object) -> None:
        """The epoch is over."""
        self.job.epoch_ended()


def torchkeras(job: Job, **options: Any) -> float | None:
    """This package, as its README shows it."""
    from torchkeras import KerasModel

    job.start()
    model = KerasModel(job.net, job.loss_fn, ["accuracy"] if job.classes else None, job.optimizer())
    history = model.fit((job.x, job.y), epochs=job.epochs, batch_size=job.batch_size, shuffle=job.shuffle,
                        ckpt_path=None, patience=None, quiet=True, callbacks=[Epochs(job)], **options)
    return float(history["train_accuracy"].iloc[-1]) if job.classes else None


def torchkeras_fast(job: Job) -> float | None:
    """This package where rounding may differ."""
    return torchkeras(job, speed="fast")


def torchkeras_long(job: Job, **options: Any) -> float | None:
    """The same as it is in a run long enough to pay for compiling: here that is done in any case, in the first epoch.

    It is done after a few steps, so that those that the gate looks at are compiled ones.
    """
    from torchkeras.acceleration import autotuner

    before = autotuner.COMPILE_TIME, autotuner.FIRST, autotuner.TIMED
    autotuner.COMPILE_TIME, autotuner.FIRST, autotuner.TIMED = 0.0, 2, 4
    try:
        return torchkeras(job, speed="fast", **options)
    finally:
        autotuner.COMPILE_TIME, autotuner.FIRST, autotuner.TIMED = before


def torchkeras_bf16(job: Job) -> float | None:
    """The same in mixed precision."""
    return torchkeras_long(job, mixed_precision="bf16")
