"""What several processes refuse."""


import torch
from tests.distributed.cases.registry import RANK, REFUSED, WORLD, case
from tests.distributed.parts import (
    WIDTH,
    Boxed,
    ByName,
    ByPlace,
    Named,
    Older,
    OlderPass,
    Rows,
    Spare,
    WithBoxes,
    classes,
    face,
    features,
    fitted,
    flat,
    mlp,
    random_state,
    ready,
)
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from torchkeras import metrics as ours


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
