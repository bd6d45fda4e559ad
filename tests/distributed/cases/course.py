"""The course of a run: best weights, stops, callbacks."""

import os
import tempfile

import torch
from tests.distributed.cases.registry import WORLD, case
from tests.distributed.parts import (
    OwnCheckpoint,
    Thawing,
    classes,
    face,
    features,
    fitted,
    loader,
    mlp,
    sgd,
)
from torch.optim import lr_scheduler as schedules


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
