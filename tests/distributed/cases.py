"""What is done by one process and by several: each case gives its numbers, drawn from a seed.

``CASES`` must come out the same, ``OWN`` differ from one process by their nature (dropout, BatchNorm) and are compared
among the processes, ``REFUSED`` are errors that every process must raise. What a case gives under a name that begins
with ``own_`` is each process's own.
"""

import functools
import gc
import os
import tempfile
import time
import warnings
from functools import partial

import pandas as pd
import torch
import torchmetrics
from tests.distributed.parts import (
    WIDTH,
    Both,
    Boxed,
    Boxes,
    ByName,
    ByPlace,
    Callable,
    CountedByCall,
    Doubling,
    Experts,
    Gathering,
    Halved,
    LearnedCrossEntropy,
    LearnedScale,
    Listing,
    MeanOfPreds,
    Named,
    Numbers,
    Older,
    OlderPass,
    OwnCheckpoint,
    OwnLoader,
    OwnLoss,
    Rounding,
    Rows,
    Scaled,
    Spare,
    Squeezed,
    Stream,
    Telling,
    Thawing,
    Tied,
    Tokens,
    Twice,
    Two,
    Uneven,
    Unknown,
    WithBoxes,
    agreement,
    classes,
    correlation,
    drawn,
    endless,
    face,
    features,
    fitted,
    flat,
    graph,
    loader,
    mlp,
    random_state,
    ready,
    sgd,
    steepness,
    targets,
)
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler, dataloader
from torch.utils.data.distributed import DistributedSampler

from torchkeras import Model
from torchkeras import metrics as ours
from torchkeras.distributed import sharded_data

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
CASES, OWN, REFUSED, WORLDS = {}, {}, {}, {}


def case(*rows, among=CASES, worlds=None):
    """Register a function as a case, or as one for each row of its first arguments.

    The first row of each is run in two processes and in three, the others in two, unless it is said otherwise.
    """
    def register(function):
        for number, row in enumerate(rows or [()]):
            row = row if isinstance(row, tuple) else (row,)
            name = function.__name__.replace("_", " ")
            name = f"{name}: {', '.join(map(str, row))}" if row else name
            among[name] = partial(function, *row)
            WORLDS[name] = worlds or ((2,) if number and among is CASES else (2, 3))
        return function

    return register


# How many samples

@case(*[(count, size) for count in range(1, 6) for size in (1, 3, 4, 8) if size < count + 3],
      *[(count, size) for count in range(6, 18) for size in ((1, 4) if count % 2 else (3, 8))])
def samples_and_batch_size(count, size, seed):
    x, y = features(count, seed), classes(count, seed)
    model = face(mlp(seed), "cross_entropy", ["accuracy"])
    return fitted(model, (x, y), (x[:count // 2 + 1], y[:count // 2 + 1]), batch_size=size)


@case()
def fast_mode_with_a_last_batch_of_one_sample(seed):
    """A process without a sample of the last batch repeats one for the others: it must count nowhere."""
    x, y = features(9, seed), classes(9, seed)
    model = face(mlp(seed), "cross_entropy", ["accuracy"])
    return fitted(model, (x, y), (x, y), batch_size=4, shuffle=False, speed="fast")


# Data

KINDS = {
    "a Dataset": lambda x, y: (Rows(x, y), {"batch_size": 4}),
    "a loader": lambda x, y: (loader(x, y), {}),
    "a loader of samples": lambda x, y: (DataLoader(Rows(x, y), 4, shuffle=True), {}),
    "arrays": lambda x, y: ((x.numpy(), y.numpy()), {"batch_size": 4}),
    "frames": lambda x, y: ((pd.DataFrame(x.numpy()), pd.Series(y.numpy())), {"batch_size": 4}),
    "arrays in order": lambda x, y: ((x, y), {"batch_size": 4, "shuffle": False}),
    "a worker": lambda x, y: (DataLoader(Rows(x, y), 4, shuffle=True, num_workers=1), {}),
    "tensors in batches of uneven sizes": lambda x, y: (
        DataLoader(TensorDataset(x, y), batch_sampler=Uneven(len(x))), {}),
    "a subset of tensors": lambda x, y: (DataLoader(Subset(TensorDataset(x, y), range(1, 12)), 4, shuffle=True), {}),
    "batches of uneven sizes": lambda x, y: (DataLoader(Rows(x, y), batch_sampler=Uneven(len(x))), {}),
    "a weighted sampler": lambda x, y: (
        DataLoader(Rows(x, y), 4, sampler=WeightedRandomSampler((y + 1.0).tolist(), 13)), {}),
    "a loader with a generator": lambda x, y: (loader(x, y, generator=drawn(3)), {}),
    "no short batch": lambda x, y: (loader(x, y, drop_last=True), {}),
    "a subset": lambda x, y: (Subset(Rows(x, y), range(1, 12)), {"batch_size": 4}),
    "a stream": lambda x, y: (Stream(list(zip(x, y, strict=True))), {"batch_size": 4, "shuffle": False}),
    "a loader of a stream": lambda x, y: (DataLoader(Stream(list(zip(x, y, strict=True))), 4), {}),
    "a stream with a worker": lambda x, y: (DataLoader(Stream(list(zip(x, y, strict=True))), 4, num_workers=1), {}),
    "a stream of ready batches": lambda x, y: (DataLoader(Stream(ready(x, y)), batch_size=None), {}),
    "a Dataset of ready batches": lambda x, y: (DataLoader(ready(x, y), batch_size=None), {}),
    "a list of batches": lambda x, y: (ready(x, y), {}),
    "a loader with a pass of its own": lambda x, y: (OwnLoader(Rows(x, y), 4), {}),
}


@case(*KINDS, worlds=(2, 3))
def data(kind, seed):
    (train, options), (val, _) = (KINDS[kind](features(17, seed), classes(17, seed)) for _ in range(2))
    model = face(mlp(seed), "cross_entropy", {"accuracy": "accuracy", "seen": Unknown()})
    return fitted(model, train, val, epochs=2, **options)


@case()
def data_from_workers_that_stay(seed):
    rows = Rows(features(17, seed), classes(17, seed))
    train, val = (DataLoader(rows, 4, shuffle=True, num_workers=1, persistent_workers=True) for _ in range(2))
    result = fitted(face(mlp(seed), "cross_entropy"), train, val, epochs=2)
    usual, dataloader._utils.MP_STATUS_CHECK_INTERVAL = dataloader._utils.MP_STATUS_CHECK_INTERVAL, 20.0
    try:
        began = time.perf_counter()
        del train, val
        gc.collect()
        took = time.perf_counter() - began
    finally:
        dataloader._utils.MP_STATUS_CHECK_INTERVAL = usual
    return result | {"gone_at_once": took < 16}  # torch waits for a worker that does not end by itself


@case()
def numbers_sent_in_blocks(seed):
    x, y, at_once = features(17, seed), classes(17, seed), sharded_data.AT_ONCE
    sharded_data.AT_ONCE = 2
    try:
        model = face(mlp(seed), "cross_entropy", ["accuracy"])
        rows = Rows(x, y)
        result = fitted(model, loader(x, y, size=2), DataLoader(rows, 3, num_workers=1), gradient_accumulation_steps=3)
        return result | {"predicted": model.predict(DataLoader(rows, 2, shuffle=True))}
    finally:
        sharded_data.AT_ONCE = at_once


@case()
def a_generator(seed):
    batches = ready(features(17, seed), classes(17, seed))
    return fitted(face(mlp(seed), "cross_entropy", ["accuracy"]), endless(batches), endless(batches), epochs=3,
                  steps_per_epoch=3, validation_steps=2)


@case()
def a_generator_that_ends_too_early(seed):
    batches = ready(features(17, seed), classes(17, seed))
    return fitted(face(mlp(seed), "cross_entropy"), iter(batches), epochs=3, steps_per_epoch=3)


INPUTS = {
    "two arrays": lambda x, y: (((x[:, :4], x[:, 4:]), y), {"batch_size": 5}),
    "two arrays in ready batches": lambda x, y: ([((a[:, :4], a[:, 4:]), b) for a, b in ready(x, y)], {}),
    "a dict of arrays": lambda x, y: ({"left": x[:, :4], "right": x[:, 4:], "labels": y}, {"batch_size": 5}),
    "ready dicts": lambda x, y: ([{"left": a[:, :4], "right": a[:, 4:], "labels": b} for a, b in ready(x, y)], {}),
    "a loader of dicts": lambda x, y: (DataLoader(
        [{"left": a[:4], "right": a[4:], "labels": b} for a, b in zip(x, y, strict=True)], 4, shuffle=True), {}),
}


@case(*INPUTS, worlds=(2,))
def inputs(kind, seed):
    train, options = INPUTS[kind](features(17, seed), classes(17, seed))
    return fitted(face(Two(seed), "cross_entropy", ["accuracy"]), train, train, **options)


@case()
def a_number_in_ready_batches(seed):
    batches = [{"x": a, "scale": torch.tensor(0.7), "labels": b}
               for a, b in ready(features(17, seed), classes(17, seed))]
    return fitted(face(Scaled(seed), "cross_entropy"), batches, batches)


@case()
def a_part_held_out(seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), validation_split=0.3,
                  batch_size=4)


# Accumulation and clipping

@case(*[(steps, loss) for steps in (1, 3, 4) for loss in ("mean", "sum", "ignoring")])
def accumulation(steps, loss, seed):
    x, y, net = features(27, seed), classes(27, seed), mlp(seed)
    if loss == "ignoring":
        y[::3] = -100
    made = nn.CrossEntropyLoss(reduction="sum" if loss == "sum" else "mean")
    return fitted(face(net, made, optimizer=sgd(net, 0.02)), (x, y), (x, y), batch_size=4, shuffle=False,
                  gradient_accumulation_steps=steps)


@case(1, 3)
def accumulation_of_a_stream(steps, seed):
    x, y = features(17, seed), classes(17, seed)
    return fitted(face(mlp(seed), "cross_entropy"), DataLoader(Stream(list(zip(x, y, strict=True))), 4),
                  gradient_accumulation_steps=steps)


@case(("clip_grad_norm", 0.2, 1), ("clip_grad_norm", 0.2, 3), ("clip_grad_value", 0.05, 1))
def clipping(option, most, steps, seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4,
                  gradient_accumulation_steps=steps, **{option: most})


# Schedules

SCHEDULES = {
    "StepLR": lambda it, updates: schedules.StepLR(it, 1, 0.5),
    "CosineAnnealingLR": lambda it, updates: schedules.CosineAnnealingLR(it, 4),
    "OneCycleLR": lambda it, updates: schedules.OneCycleLR(it, 0.2, total_steps=updates),
    "CyclicLR": lambda it, updates: schedules.CyclicLR(it, 0.01, 0.2, step_size_up=4),
    "ReduceLROnPlateau": lambda it, updates: schedules.ReduceLROnPlateau(it, patience=0, threshold=0.5),
    "SequentialLR": lambda it, updates: schedules.SequentialLR(
        it, [schedules.ConstantLR(it, 0.1, 2), schedules.ExponentialLR(it, 0.5)], [2]),
    "LambdaLR": lambda it, updates: schedules.LambdaLR(it, lambda number: 1 / (1 + number)),
}


@case(*[(name, 1) for name in SCHEDULES], ("OneCycleLR", 3), ("CyclicLR", 3), worlds=(2,))
def schedule(name, steps, seed):
    net = mlp(seed)
    optimizer = sgd(net)
    made = SCHEDULES[name](optimizer, 3 * -(-4 // steps))
    result = fitted(face(net, "cross_entropy", optimizer=optimizer, scheduler=made),
                    (features(13, seed), classes(13, seed)), (features(5, seed + 5), classes(5, seed + 5)),
                    batch_size=4, epochs=3, gradient_accumulation_steps=steps)
    return result | {"moves": made.last_epoch}


@case()
def schedule_moved_each_step(seed):
    net = mlp(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return fitted(face(net, "cross_entropy", optimizer=optimizer, scheduler=schedules.ExponentialLR(optimizer, 0.8)),
                  (features(17, seed), classes(17, seed)), batch_size=4, lr_interval="step")


# Losses

WEIGHTS = [0.2, 1.0, 3.0]


def some_ignored(seed, from_the_first):
    """Labels for batches of seven: in no batch all are ignored, in each part of some batch they are."""
    labels = classes(22, seed)
    labels[[0, 6, 7, 8, 9, 10, 16, 17, 18, 19, 20]] = -100
    if from_the_first:
        labels[4:6] = -100
    return labels


CLASS_LOSSES = {
    "plain": lambda: nn.CrossEntropyLoss(),
    "function": lambda: nn.functional.cross_entropy,
    "sum": lambda: nn.CrossEntropyLoss(reduction="sum"),
    "class weights": lambda: nn.CrossEntropyLoss(torch.tensor(WEIGHTS)),
    "smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.2),
    "weighted and smoothed": lambda: nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=0.2),
    "learned": lambda: LearnedCrossEntropy(),
}


@case(*[(name, ignored) for name in CLASS_LOSSES for ignored in ("none", "some")],
      *[(name, "some from the first batch on") for name in ("plain", "weighted and smoothed", "learned")])
def cross_entropy_with_labels_ignored(name, ignored, seed):
    x = features(22, seed)
    y = classes(22, seed) if ignored == "none" else some_ignored(seed, from_the_first="first" in ignored)
    net, loss = mlp(seed), CLASS_LOSSES[name]()
    learned = [*net.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    model = face(net, loss, ["accuracy"], torch.optim.SGD(learned, lr=0.02, momentum=0.9))
    return fitted(model, (x, y), (x[:14], y[:14]), batch_size=7, shuffle=False)


@case()
def cross_entropy_of_pixels(seed):
    torch.manual_seed(seed)
    net = nn.Conv2d(2, 3, 1)
    x, y = features(10, seed, 2 * 9).reshape(10, 2, 3, 3), classes(90, seed).reshape(10, 3, 3)
    y[:4, :, :2] = y[4, 1] = -100
    return fitted(face(net, "cross_entropy", ["accuracy"]), (x, y), (x, y), batch_size=4, shuffle=False)


@case("plain", "weights", "sum", worlds=(2,))
def nll(kind, seed):
    net = nn.Sequential(mlp(seed), nn.LogSoftmax(dim=1))
    loss = nn.NLLLoss(torch.tensor(WEIGHTS)) if kind == "weights" else nn.NLLLoss(
        reduction="sum" if kind == "sum" else "mean")
    x, y = features(17, seed), classes(17, seed)
    return fitted(face(net, loss, optimizer=sgd(net, 0.02)), (x, y), (x, y), batch_size=5)


@case(worlds=(2,))
def class_probabilities(seed):
    x = features(17, seed)
    return fitted(face(mlp(seed), "cross_entropy"), (x, features(17, seed + 1, 3).softmax(1)), batch_size=5)


ELEMENT_LOSSES = {
    "BCELoss": lambda: nn.BCELoss(),
    "BCEWithLogitsLoss": lambda: nn.BCEWithLogitsLoss(),
    "BCEWithLogitsLoss with pos_weight": lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
    "MSELoss": lambda: nn.MSELoss(),
    "MSELoss, sum": lambda: nn.MSELoss(reduction="sum"),
    "mse_loss": lambda: nn.functional.mse_loss,
    "L1Loss": lambda: nn.L1Loss(),
    "SmoothL1Loss": lambda: nn.SmoothL1Loss(),
    "own function": lambda: lambda preds, labels: (preds - labels).abs().pow(1.5).mean(),
}


@case(*ELEMENT_LOSSES, worlds=(2,))
def element_loss(name, seed):
    net = mlp(seed, outputs=1)
    net = nn.Sequential(*net, nn.Sigmoid()) if name == "BCELoss" else net
    y = (classes(17, seed, 2)[:, None]).to(torch.get_default_dtype()) if "BCE" in name else targets(17, seed)
    return fitted(face(net, ELEMENT_LOSSES[name](), optimizer=sgd(net, 0.02)), (features(17, seed), y),
                  (features(9, seed), y[:9]), batch_size=5)


def weights_of_samples(count, seed):
    """Weights, zero for the first ones."""
    weights = torch.rand(count, generator=drawn(seed + 3)) * 2
    weights[:3] = 0
    return weights


@case("mean", "sum", "class_weight", "ready batches")
def sample_weights(kind, seed):
    x, y, w = features(17, seed), classes(17, seed), weights_of_samples(17, seed)
    net, loss = mlp(seed), nn.CrossEntropyLoss(reduction="sum" if kind == "sum" else "mean")
    train, options = ((x, y, w), {"batch_size": 5, "shuffle": False}) if kind != "ready batches" else (
        ready(x, y, w, size=5), {})
    return fitted(face(net, loss, ["accuracy"], sgd(net, 0.02)), train, (x, y, w) if options else train,
                  class_weight={0: 0.5, 2: 4.0} if kind == "class_weight" else None, **options)


@case("mean", "sum", "beside ignored labels", "beside the weights of the loss")
def class_weight(kind, seed):
    x, y, net = features(17, seed), classes(17, seed), mlp(seed)
    loss = {"sum": nn.CrossEntropyLoss(reduction="sum"), "beside ignored labels": nn.CrossEntropyLoss(ignore_index=1),
            "beside the weights of the loss": nn.CrossEntropyLoss(torch.tensor(WEIGHTS))}.get(
        kind, nn.CrossEntropyLoss())
    return fitted(face(net, loss, optimizer=sgd(net, 0.02)), (x, y), (x, y), batch_size=5,
                  class_weight={0: 0.5, 2: 4.0})


@case()
def sample_weights_of_a_learned_loss(seed):
    net, loss = mlp(seed), LearnedCrossEntropy()
    model = face(net, loss, optimizer=torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.02))
    return fitted(model, (features(17, seed), classes(17, seed), weights_of_samples(17, seed)), batch_size=5)


# Metrics

def of_classes():
    return {"accuracy": "accuracy", "sklearn": agreement, "steepness": steepness, "unknown": Unknown(),
            "older": Callable(), "tm": torchmetrics.Accuracy("multiclass", num_classes=3),
            "tm_auroc": torchmetrics.AUROC("multiclass", num_classes=3),
            "tm_class": torchmetrics.ClasswiseWrapper(torchmetrics.Recall("multiclass", num_classes=3, average=None)),
            "tm_many": torchmetrics.MetricCollection([
                torchmetrics.Precision("multiclass", num_classes=3, average="macro"),
                torchmetrics.Recall("multiclass", num_classes=3, average="macro"),
                torchmetrics.CohenKappa("multiclass", num_classes=3)]),
            "tm_own": MeanOfPreds()}


def of_two_classes():
    return {"auc": "auc", "auc_pr": "auc_pr", "f1": "f1", "ks": "ks", "precision": "precision", "recall": "recall",
            "accuracy": "accuracy", "threshold": ours.Accuracy(threshold=0.3),
            "tm": torchmetrics.AUROC("binary"), "tm_f1": torchmetrics.F1Score("binary")}  # these want probabilities


def of_numbers():
    return {"r2": "r2", "mae": "mae", "mse": "mse", "rmse": "rmse", "mape": "mape",
            "tm": torchmetrics.MeanSquaredError(), "tm_r2": torchmetrics.R2Score(),
            "tm_pearson": torchmetrics.PearsonCorrCoef()}


TASKS = {"classes": (3, classes, of_classes, "cross_entropy"),
         "two classes": (1, lambda count, seed: classes(count, seed, 2)[:, None].double(), of_two_classes, "bce"),
         "numbers": (1, targets, of_numbers, "mse")}


@case(*[(task, count, size) for task in TASKS for count, size in ((40, 9), (17, 8))])
def metrics(task, count, size, seed):
    outputs, labels, made, loss = TASKS[task]
    x, y = features(count, seed), labels(count, seed)
    net = nn.Sequential(mlp(seed, outputs=outputs), nn.Sigmoid() if loss == "bce" else nn.Identity())
    model = face(net, loss, made())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of a first batch without some class
        result = fitted(model, (x, y), (x, y), batch_size=size, epochs=2 if count == 40 else 1)
        return result | model.evaluate((x[:19], y[:19]), batch_size=7)


@case(*[(size, kind) for size in (1, 2, 5) for kind in ("function", "unknown", "torchmetrics")])
def metrics_that_depend_on_the_order(size, kind, seed):
    x, y = features(7, seed), classes(7, seed)
    made = {"function": steepness, "unknown": Numbers(), "torchmetrics": MeanOfPreds()}[kind]
    return fitted(face(mlp(seed), "cross_entropy", {"it": made}), (x, y), (x, y), batch_size=size, shuffle=False)


@case(2, 4)
def metric_that_one_sample_does_not_have(size, seed):
    x, y = features(7, seed), targets(7, seed)
    return fitted(face(mlp(seed, outputs=1), "mse", {"it": correlation}), (x, y), (x, y), batch_size=size)


# The course of a run

@case("val_loss", "val_accuracy", "train_loss")
def early_stopping(monitor, seed):
    net, x, y = mlp(seed), features(17, seed), classes(17, seed)
    model = face(net, "cross_entropy", ["accuracy"], sgd(net, 0.2))
    result = fitted(model, (x, y), (x[:12], y[:12]), epochs=15, batch_size=4, patience=2, monitor=monitor)
    return result | {"best": model.run.monitor.best_epoch}


@case()
def a_stop_asked_for_by_the_last_process(seed):
    class Asking:
        def on_train_epoch_end(self, model):
            if model.run.epoch == 2 and model.run.communicator.rank == WORLD - 1:
                model.run.stop("enough")

    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4, epochs=5,
                  callbacks=[Asking()])


@case(({"steps_per_epoch": 3},), ({"validation_steps": 2, "validation_freq": 2},), ({"validation_freq": 3},),
      ({"initial_epoch": 2, "steps_per_epoch": 1, "validation_steps": 1},),
      worlds=(2,))
def epochs_with(options, seed):
    train = loader(features(17, seed), classes(17, seed))
    val = loader(features(17, seed + 1), classes(17, seed + 1), size=2)
    return fitted(face(mlp(seed), "cross_entropy", ["accuracy"]), train, val, epochs=4, **options)


@case()
def an_epoch_0_that_only_measures(seed):
    return epoch_0(17, seed)


def epoch_0(count, seed):
    x, y = features(count, seed), classes(count, seed)
    model = face(mlp(seed), "cross_entropy", ["accuracy"])
    model.from_scratch = False
    return fitted(model, (x, y), (x, y), batch_size=4)


@case()
def a_layer_frozen_in_mid_run(seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4, epochs=3,
                  callbacks=[Thawing(learns=False)])


@case()
def a_layer_that_learns_from_the_second_epoch_on(seed):
    net = mlp(seed)
    net[0].requires_grad_(False)
    return fitted(face(net, "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4, epochs=3,
                  callbacks=[Thawing(learns=True)])


@case()
def checkpoints_of_ones_own(seed):
    net = mlp(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = OwnCheckpoint(net, "cross_entropy", optimizer=sgd(net, 0.2))
        result = fitted(model, (features(17, seed), classes(17, seed)), (features(9, seed + 9), classes(9, seed + 9)),
                        batch_size=4, epochs=5, ckpt_path=os.path.join(folder, "best"))
        return result | {"own_files": os.listdir(folder)}


@case()
def two_runs_one_after_the_other(seed):
    net = mlp(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    model = face(net, "cross_entropy", ["accuracy"], optimizer, schedules.StepLR(optimizer, 1, 0.7))
    first = fitted(model, (features(17, seed), classes(17, seed)), batch_size=4)
    second = fitted(model, (features(9, seed), classes(9, seed)), batch_size=3, gradient_accumulation_steps=2)
    return first | {f"{name}_again": value for name, value in second.items()}


@case()
def a_seed_given_to_fit(seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4, seed=seed)


@case("float32", worlds=(2,))
@case("float64")
def five_hundred_steps(dtype, seed):
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        net = mlp(seed)
        model = face(net, "cross_entropy", optimizer=sgd(net, 0.02))
        return fitted(model, (features(99, seed), classes(99, seed)), batch_size=4, epochs=20)
    finally:
        torch.set_default_dtype(before)


# Nets, losses and steps of all kinds

@case("tied", "frozen", "unused", "drawn as a graph", "with a loss of its own", "without a gradient in the first layer")
def net(kind, seed):
    made = {"tied": Tied, "unused": Spare, "with a loss of its own": OwnLoss, "drawn as a graph": graph}.get(
        kind, mlp)(seed)
    if kind == "frozen":
        made[2].weight.requires_grad_(False)
    if kind == "without a gradient in the first layer":
        made[0].requires_grad_(False)
    x, y = features(17, seed), classes(17, seed)
    own = kind == "with a loss of its own"
    train = {"x": x, "labels": y} if own else (x, y)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0.3)
    return fitted(face(made, None if own else "cross_entropy", ["accuracy"], optimizer), train, train, batch_size=4,
                  find_unused_parameters=kind == "unused")


@case(1, 3)
def net_of_which_some_samples_use_a_part(steps, seed):
    return fitted(face(Experts(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=3,
                  find_unused_parameters=True, gradient_accumulation_steps=steps)


@case()
def net_with_sparse_gradients(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.EmbeddingBag(20, 8, sparse=True), nn.Linear(8, 3))
    x = torch.randint(0, 20, (17, 4), generator=drawn(seed))
    return fitted(face(net, "cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1)),
                  (x, classes(17, seed)), batch_size=4)


@case()
def net_in_another_memory_format(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3)).to(memory_format=torch.channels_last)
    return fitted(face(net, "cross_entropy"), (features(17, seed, 18).reshape(17, 2, 3, 3), classes(17, seed)),
                  batch_size=4)


@case(("all labels", 1), ("some ignored", 1), ("some ignored", 2))
def net_too_large_for_one_message(kind, steps, seed):
    net = nn.Sequential(mlp(seed, outputs=400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 400),
                        nn.Tanh(), nn.Linear(400, 3))
    y = classes(22, seed) if kind == "all labels" else some_ignored(seed, from_the_first=False)
    return fitted(face(net, "cross_entropy"), (features(22, seed), y), batch_size=7, shuffle=False, epochs=2,
                  gradient_accumulation_steps=steps)


@case()
def find_unused_parameters_where_there_are_none(seed):
    return fitted(face(mlp(seed), "cross_entropy"), (features(17, seed), classes(17, seed)), batch_size=4,
                  find_unused_parameters=True, gradient_accumulation_steps=3)


@case()
def a_loss_that_learns(seed):
    net, loss = mlp(seed), LearnedScale()
    model = face(net, loss, optimizer=torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1))
    x, y = features(17, seed), classes(17, seed)
    return fitted(model, (x, y), (x, y), batch_size=4) | {"scale": loss.log_scale.detach().clone()}


@case("Adam", "AdamW", "RMSprop", "Adagrad", "SGD with groups", worlds=(2,))
def optimizer(name, seed):
    net = mlp(seed)
    made = torch.optim.SGD([{"params": net[0].parameters(), "lr": 0.01}, {"params": net[2].parameters()}], lr=0.1) if (
        name == "SGD with groups") else getattr(torch.optim, name)(net.parameters(), lr=0.01)
    return fitted(face(net, "cross_entropy", optimizer=made), (features(17, seed), classes(17, seed)), batch_size=4)


STEPS = {one.__name__: one for one in (Squeezed, Twice, Doubling, Telling, Older)}


@case(*[(name, steps) for name in STEPS for steps in (1, 3)])
def step_of_ones_own(name, steps, seed):
    x, y, step = features(16, seed), classes(16, seed), STEPS[name]
    return fitted(face(mlp(seed), nn.CrossEntropyLoss(), {"accuracy": ours.Accuracy()}, step=step), (x, y), (x, y),
                  batch_size=4, gradient_accumulation_steps=steps)


@case("OneCycleLR", "StepLR")
def older_step_with_a_schedule(name, seed):
    net = mlp(seed)
    optimizer = sgd(net)
    x, y = features(17, seed), classes(17, seed)
    return fitted(face(net, nn.CrossEntropyLoss(), {"accuracy": ours.Accuracy()}, optimizer,
                       SCHEDULES[name](optimizer, 10), Older), (x, y), (x, y), batch_size=4)


@case("older", "unknown")
def older_step_with_a_metric(kind, seed):
    x, y = features(17, seed), classes(17, seed)
    metric = Callable() if kind == "older" else CountedByCall()
    model = face(mlp(seed), nn.CrossEntropyLoss(), {"it": metric}, step=Older)
    return fitted(model, (x, y), (x, y), batch_size=4)


@case()
def pass_of_ones_own(seed):
    model = face(mlp(seed), "cross_entropy", {"accuracy": ours.Accuracy()})
    model.EpochRunner = Rounding
    return fitted(model, (features(17, seed), classes(17, seed)), (features(9, seed), classes(9, seed)), batch_size=4)


# What a batch counts

def left_out(labels, mark):
    """Class numbers, of which the first and every third are left out."""
    return labels.where(torch.arange(len(labels)) % 3 > 0, torch.tensor(mark))


UNKNOWN = {
    "partial": (functools.partial(nn.functional.cross_entropy, ignore_index=1), None),
    "ignored": (lambda preds, labels: nn.functional.cross_entropy(preds, labels), -100),
    "ignored 0": (lambda preds, labels: nn.functional.cross_entropy(preds, labels, ignore_index=0), 0),
    "a sum": (lambda preds, labels: nn.functional.cross_entropy(preds, labels, reduction="sum"), None)}


@case(*[(name, steps) for name in UNKNOWN for steps in (1, 3)])
def losses_of_unknown_make(name, steps, seed):
    loss_fn, mark = UNKNOWN[name]
    y = classes(17, seed) if mark is None else left_out(classes(17, seed), mark)
    model = face(mlp(seed), loss_fn)
    return fitted(model, loader(features(17, seed), y), loader(features(17, seed), y),
                  gradient_accumulation_steps=steps, epochs=2)


@case(*[(shifted, steps) for shifted in (True, False) for steps in (1, 2)])
def tokens_of_a_net_with_its_own_loss(shifted, steps, seed):
    generator = drawn(seed)
    ids = torch.randint(0, 9, (13, 6), generator=generator)
    kept = torch.arange(6) < torch.randint(3, 7, (13, 1), generator=generator)
    model = face(Tokens(seed, shifted), None)
    rows = [{"input_ids": one, "labels": other} for one, other in zip(ids, ids.where(kept, -100), strict=True)]
    return fitted(model, DataLoader(rows, 4), DataLoader(rows, 3), gradient_accumulation_steps=steps, epochs=2)


@case(1, 2)
def lists_of_images(steps, seed):
    images = [(torch.randn(3, 4 + number % 3, 5, generator=drawn(seed + number)), torch.full((2,), float(number % 4)))
              for number in range(11)]

    def loss_fn(preds, labels):
        return nn.functional.mse_loss(preds, torch.stack(list(labels)))

    given = DataLoader(images, 4, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))
    return fitted(face(Boxes(seed), loss_fn), given, given, gradient_accumulation_steps=steps, epochs=2)


@case(1, 2)
def several_outputs_of_which_labels_are_left_out(steps, seed):
    net = Both(seed)
    model = Model(net)
    model.compile(optimizer=sgd(net), loss={"a": nn.CrossEntropyLoss(), "b": nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 2.0, 4.0]))}, loss_weights={"a": 0.5, "b": 2.0})
    x, labels = features(17, seed), {"a": left_out(classes(17, seed), -100), "b": classes(17, seed + 1)}
    return fitted(model.engine, (x, labels), (x, labels), batch_size=4, gradient_accumulation_steps=steps, epochs=2)


@case(among=REFUSED)
def a_loss_that_is_no_mean(seed):
    def contrast(preds, labels):
        return nn.functional.cross_entropy(preds @ preds.T, torch.arange(len(preds)))

    return refused(face(mlp(seed), contrast), (features(17, seed), classes(17, seed)), batch_size=8)


# Measuring and predicting

@case((1, 1), (2, 1), (2, 3), *[(17, size) for size in (1, 2, 3, 5, 8, 17, 40)], worlds=(2, 3))
def evaluation(count, size, seed):
    y = torch.arange(count)[:, None] + seed
    model = face(mlp(seed, outputs=1), "mse", {"numbers": Numbers(), "again": lambda preds, labels: labels.sum()})
    return model.evaluate((features(count, seed), y.double()), batch_size=size)


@case("a loader", "batches of uneven sizes", "a stream", "a list of batches", "a worker")
def evaluation_of(kind, seed):
    torch.manual_seed(seed)
    x, y = features(17, seed), torch.arange(17)[:, None] + 100.0 * seed
    given, options = KINDS[kind](x, y)
    options.pop("shuffle", None)
    model = face(mlp(seed, outputs=1), "mse", {"numbers": Numbers()})
    twice = [model.evaluate(given, **options), model.evaluate(given, **options, steps=3)]
    return twice[0] | {f"{name}_of_3": value for name, value in twice[1].items()} | {"random_state": random_state()}


READINGS = {
    "raw": {}, "with_labels": {"with_labels": True}, "as_numpy": {"as_numpy": True},
    "classes": {"output": "classes"}, "probabilities": {"output": "probabilities"}, "steps": {"steps": 2},
}


@case(*[(reading, count, size) for reading in READINGS for count, size in ((17, 4), (2, 2), (5, 1))
        if reading != "steps" or count > 2], worlds=(2, 3))
def prediction(reading, count, size, seed):
    x, y = features(count, seed), classes(count, seed)
    return {"found": face(mlp(seed), "cross_entropy").predict((x, y), batch_size=size, **READINGS[reading])}


@case("a loader", "a Dataset", "a stream", "a list of batches", "a worker", "batches of uneven sizes")
def prediction_of(kind, seed):
    torch.manual_seed(seed)
    given, options = KINDS[kind](features(17, seed), classes(17, seed))
    options.pop("shuffle", None)
    found = face(mlp(seed), "cross_entropy").predict(given, with_labels=True, **options)
    return {"found": found, "random_state": random_state()}


@case()
def prediction_of_a_dict(seed):
    return {"found": face(OwnLoss(seed), None).predict(features(11, seed), batch_size=2)}


@case("alone", "pairs", "streamed")
def prediction_of_an_own_step(how, seed):
    x, y = features(11, seed), classes(11, seed)
    found = face(mlp(seed), "cross_entropy", step=Halved).predict(
        x if how == "alone" else (x, y), batch_size=2, with_labels=how == "pairs", stream=how == "streamed")
    return {"found": list(found) if how == "streamed" else found}


@case(*[(one_each, count, size) for one_each in (True, False) for count, size in ((8, 2), (5, 2), (3, 1))])
def prediction_of_a_list(one_each, count, size, seed):
    return {"found": face(Listing(seed, one_each), "mse").predict(features(count, seed), batch_size=size)}


@case()
def a_measurement_in_a_run(seed):
    x, y, found = features(17, seed), classes(17, seed), []

    class Measuring:
        def on_train_epoch_end(self, model):
            found.append(model.evaluate((x, y), batch_size=3)["val_loss"])
            found.append(model.predict(x, batch_size=3))

    return fitted(face(mlp(seed), "cross_entropy"), (x, y), batch_size=4, callbacks=[Measuring()]) | {"found": found}


@case()
def a_measurement_in_each_step(seed):
    x, y = features(17, seed), classes(17, seed)

    class Measuring:
        def on_step_end(self, model):
            if model.run.stage == "train":
                model.evaluate((x, y), batch_size=5)

    return fitted(face(mlp(seed), "cross_entropy"), (x, y), batch_size=4, callbacks=[Measuring()],
                  gradient_accumulation_steps=3)


@case(*[(count, size, labels) for count, size in ((12, 2), (17, 4), (3, 3), (5, 1)) for labels in (False, True)])
def prediction_batch_by_batch(count, size, labels, seed):
    model = face(mlp(seed), "cross_entropy")
    return {"found": list(model.predict((features(count, seed), classes(count, seed)), batch_size=size, stream=True,
                                        with_labels=labels))}


@case("a stream", "a list of batches")
def prediction_batch_by_batch_of(kind, seed):
    given, options = KINDS[kind](features(17, seed), classes(17, seed))
    options.pop("shuffle", None)
    return {"found": list(face(mlp(seed), "cross_entropy").predict(given, stream=True, **options))}


@case()
def an_epoch_0_of_one_batch(seed):
    return epoch_0(3, seed)


@case()
def older_step_that_gathers(seed):
    x, y = features(17, seed), classes(17, seed)
    return fitted(face(mlp(seed), nn.CrossEntropyLoss(), {"accuracy": ours.Accuracy()}, step=Gathering), (x, y), (x, y),
                  batch_size=4)


# What differs from one process by its nature

@case(among=OWN)
def batchnorm(seed):
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(8)
    made = nn.Sequential(nn.Linear(WIDTH, 8), norm, nn.Tanh(), nn.Linear(8, 3))
    means, measured_with = [], []

    class Watching:
        def on_step_end(self, model):
            means.append(norm.running_mean.clone())

        def on_train_epoch_end(self, model):
            measured_with.append(norm.running_mean.clone())

    x, y = features(24, seed) + 1, classes(24, seed)
    model = face(made, "cross_entropy", ["accuracy"])
    result = fitted(model, (x, y), (x, y), batch_size=8, epochs=2, callbacks=[Watching()])
    return result | model.evaluate((x, y), batch_size=5) | {
        "predicted": model.predict(x, batch_size=5), "mean": norm.running_mean.clone(),
        "variance": norm.running_var.clone(), "batches": norm.num_batches_tracked.clone(), "own_seen": means,
        "measured_with": measured_with}


@case(1, 3, among=OWN)
def dropout(steps, seed):
    masks = []
    drop = nn.Dropout(0.5)
    drop.register_forward_hook(lambda module, given, out: masks.append(out[:1] == 0) if module.training else None)
    torch.manual_seed(seed)
    made = nn.Sequential(drop, nn.Linear(64, 3))
    model = face(made, "cross_entropy", ["accuracy"])
    x, y = torch.ones(15, 64), classes(15, seed)
    # in this order no process draws anything but its masks
    result = fitted(model, (x, y), (x, y), batch_size=6, shuffle=False, gradient_accumulation_steps=steps, epochs=3)
    return result | model.evaluate((x, y)) | {"own_seen": masks, "next_number": torch.rand(())}


# What several processes refuse

def refused(model, *given, **options):
    """The error of a run, and whether it left the weights as they were."""
    before = flat(model.net)
    try:
        fitted(model, *given, **options)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "untouched": torch.equal(before, flat(model.net)),
                "random_state": random_state()}
    return {"error": None, "untouched": False}


@case(among=REFUSED)
def an_unused_parameter(seed):
    return refused(face(Spare(seed), "cross_entropy"), (features(8, seed), classes(8, seed)))


@case(*[(name, steps) for name in ("by name", "by place") for steps in (1, 3)], among=REFUSED)
def a_step_that_calls_the_parts_of_a_net(how, steps, seed):
    model = face(Named(seed), "cross_entropy", step=ByName) if how == "by name" else face(
        mlp(seed), "cross_entropy", step=ByPlace)
    return refused(model, (features(17, seed), classes(17, seed)), batch_size=4, gradient_accumulation_steps=steps)


@case(among=REFUSED)
def older_pass_of_ones_own(seed):
    model = face(mlp(seed), nn.CrossEntropyLoss(), {"accuracy": ours.Accuracy()}, step=Older)
    model.EpochRunner = OlderPass
    return refused(model, (features(17, seed), classes(17, seed)), batch_size=4)


@case(among=REFUSED)
def a_sampler_that_divides(seed):
    rows = Rows(features(8, seed), classes(8, seed))
    sampler = DistributedSampler(rows, num_replicas=WORLD, rank=RANK)
    return refused(face(mlp(seed), "cross_entropy"), DataLoader(rows, 4, sampler=sampler))


@case(among=REFUSED)
def other_arrays_in_one_process(seed):
    return refused(face(mlp(seed), "cross_entropy"), (features(8, seed + RANK), classes(8, seed)))


@case(among=REFUSED)
def other_validation_arrays_in_one_process(seed):
    data = (features(8, seed), classes(8, seed))
    return refused(face(mlp(seed), "cross_entropy"), data, (features(8, seed + RANK), classes(8, seed)))


@case(among=REFUSED)
def another_stream_in_one_process(seed):
    return refused(face(mlp(seed), "cross_entropy"), ready(features(8, seed + RANK), classes(8, seed)))


@case(among=REFUSED)
def another_net_in_one_process(seed):
    return refused(face(mlp(seed, outputs=3 + RANK), "cross_entropy"), (features(8, seed), classes(8, seed)))


@case(among=REFUSED)
def other_epochs_in_one_process(seed):
    return refused(face(mlp(seed), "cross_entropy"), (features(8, seed), classes(8, seed)), epochs=1 + RANK)


@case(among=REFUSED)
def parts_of_one_sample_for_batchnorm(seed):
    made = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    torch.manual_seed(seed)
    return refused(face(made, "cross_entropy"), (features(10, seed), classes(10, seed)), batch_size=4)


@case(among=REFUSED)
def a_metric_that_fails_in_the_last_process(seed):
    def picky(preds, labels):
        if RANK == WORLD - 1 > 0:
            raise ArithmeticError("not here")
        return 1.0

    return refused(face(mlp(seed), "cross_entropy", {"it": picky}), (features(8, seed), classes(8, seed)))


@case(among=REFUSED)
def ready_batches_that_cannot_be_divided(seed):
    batches = [(Boxed(x), y) for x, y in ready(features(8, seed), classes(8, seed))]
    return refused(face(WithBoxes(seed), "cross_entropy"), batches)
