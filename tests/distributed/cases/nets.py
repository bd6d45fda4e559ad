"""Nets, losses and steps of all kinds."""


import torch
from tests.distributed.cases.losses import some_ignored
from tests.distributed.cases.registry import case
from tests.distributed.cases.updates import SCHEDULES
from tests.distributed.parts import (
    Callable,
    CountedByCall,
    Doubling,
    Experts,
    LearnedScale,
    Older,
    OwnLoss,
    Rounding,
    Spare,
    Squeezed,
    Telling,
    Tied,
    Twice,
    classes,
    drawn,
    face,
    features,
    fitted,
    graph,
    mlp,
    sgd,
)
from torch import nn

from torchkeras import metrics as ours


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
