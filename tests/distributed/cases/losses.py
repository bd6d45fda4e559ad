"""Losses of all kinds."""


import torch
from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    LearnedCrossEntropy,
    classes,
    drawn,
    face,
    features,
    fitted,
    mlp,
    ready,
    sgd,
    targets,
)
from torch import nn

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
