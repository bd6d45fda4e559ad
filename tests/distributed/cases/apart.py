"""What differs from one process by its nature."""


import torch
from tests.distributed.cases.registry import OWN, case
from tests.distributed.parts import (
    WIDTH,
    classes,
    face,
    features,
    fitted,
)
from torch import nn


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
