"""Measuring and predicting."""


import torch
from tests.distributed.cases.course import epoch_0
from tests.distributed.cases.data import KINDS
from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    Gathering,
    Halved,
    Listing,
    Numbers,
    OwnLoss,
    classes,
    face,
    features,
    fitted,
    mlp,
    random_state,
)
from torch import nn

from torchkeras import metrics as ours


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
