"""What a batch counts."""

import functools

import torch
from tests.distributed.cases.refusals import refused
from tests.distributed.cases.registry import REFUSED, case
from tests.distributed.parts import (
    Both,
    Boxes,
    Tokens,
    classes,
    drawn,
    face,
    features,
    fitted,
    loader,
    mlp,
    sgd,
)
from torch import nn
from torch.utils.data import DataLoader

from torchkeras import Model


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
