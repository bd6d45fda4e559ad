"""Accumulation, clipping and schedules."""


import torch
from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    Stream,
    classes,
    face,
    features,
    fitted,
    mlp,
    sgd,
)
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader


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
