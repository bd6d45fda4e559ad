"""Several processes give the numbers of one, whatever is trained, measured or predicted."""

import re

import pytest
import torch
from tests.distributed.cases import CASES, OWN, REFUSED, WORLDS
from tests.distributed.compare import differences, same
from tests.distributed.launches import alone, float64, launch
from tests.distributed.parts import classes, features, flat, mlp
from torch import nn

from torchkeras.distributed.sharded_data import shard_slice

pytestmark = pytest.mark.timeout(300)  # the first test of each launch waits for it
worlds = pytest.mark.parametrize("world", [2, 3])


@worlds
def test_a_launch_ends_well(world):
    job = launch(world)
    assert job.code == 0, job.output[-8000:]


@pytest.mark.parametrize(("name", "world"), [(name, world) for name in CASES for world in WORLDS[name]])
def test_several_processes_give_the_numbers_of_one(name, world):
    first, *others = launch(world).of(name)
    assert differences(name, alone(name), first) == []
    for other in others:
        assert differences("all processes bit for bit", first, other) == []


@pytest.mark.parametrize("name", CASES)
def test_other_numbers_are_told_apart(name):
    assert differences(name, alone(name), alone(name, seed=1))


@pytest.mark.parametrize(("name", "world"), [(name, world) for name in OWN for world in WORLDS[name]])
def test_processes_that_differ_within_a_run_agree_after_it(name, world):
    first, *others = launch(world).of(name)
    assert "error" not in first, first
    for other in others:
        assert differences("bit for bit", first, other) == []
        assert not same(first["own_seen"], other["own_seen"])  # control: there was something to agree about


STOPPED = [(name, world) for name in CASES | OWN for world in WORLDS[name]
           if name.startswith(("divided and stopped", "buffers of net and loss"))]


@pytest.mark.parametrize(("name", "world"), STOPPED)
def test_a_run_that_is_stopped_here_and_there_ends_as_the_one_without_a_break(name, world):
    for found in launch(world).of(name):
        assert "error" not in found, found
        assert found["unlike"] == []
        assert found["unlike_numbers"] == []
        assert found["unlike_control"]


@worlds
def test_each_process_draws_its_own_dropout_and_one_process_its_usual_one(world):
    masks = [result["own_seen"][0] for result in launch(world).of("dropout: 1")]
    assert all(not torch.equal(one, other) for at, one in enumerate(masks) for other in masks[at + 1:])
    assert all(0 < int(one.sum()) < one.numel() for one in masks)
    # process 0 goes on with the random numbers of a single process
    assert torch.equal(masks[0], alone("dropout: 1")["own_seen"][0])


@worlds
def test_batchnorm_measures_with_the_statistics_of_process_0(world):
    first, *others = launch(world).of("batchnorm")
    steps = 3
    assert torch.equal(first["mean"], first["own_seen"][-1])
    assert all(not torch.equal(first["mean"], other["own_seen"][steps - 1]) for other in others)
    assert int(first["batches"]) == 2 * steps


REASONS = {
    "an unused parameter": r"ValueError: net: received 2 parameters that get no gradient: spare.weight, spare.bias",
    "undividable: freezing": r"ValueError: fsdp: received True, and 0.weight, 0.bias frozen or thawed",
    "undividable: Adafactor": r"ValueError: optimizer: received Adafactor with fsdp=True",
    "undividable: a number": r"ValueError: fsdp: received True for a net with parameters without dimensions: factor",
    "a second net that cannot be shared: hasty": r"ValueError: StepRunner: received a step that updates with an optim",
    "a second net that cannot be shared: around": r"ValueError: StepRunner: received a step whose gradients did not",
    "a second net that cannot be shared: part": r"ValueError: critic: received a module that shares parameters",
    "a step that calls the parts of a net": r"ValueError: StepRunner: received a step whose gradients did not pass",
    "older pass of ones own": r"TypeError: EpochRunner: received one with a __call__ of its own",
    "a sampler that divides": r"ValueError: train_data: received a DataLoader with a DistributedSampler",
    "other arrays in one process": r"ValueError: train_data: .* in process 1",
    "other validation arrays in one process": r"ValueError: val_data: .* in process 1",
    "another stream in one process": r"ValueError: train_data: received a stream that begins differently",
    "another net in one process": r"ValueError: net: .* in process 1",
    "other epochs in one process": r"ValueError: fit: .* in process 1",
    "parts of one sample for batchnorm": r"ValueError: train_data: .* for BatchNorm1d",
    "a metric that fails in the last process": r"ArithmeticError: not here",
    "a loss that is no mean": r"ValueError: loss_fn: received a loss which is no mean over samples or labels",
    "ready batches that cannot be divided": r"TypeError: train_data: received batches with a Boxed in them",
}


@pytest.mark.parametrize(("name", "world"), [(name, world) for name in REFUSED for world in WORLDS[name]])
def test_what_several_processes_cannot_do_is_refused_by_all_and_changes_nothing(name, world):
    first, *others = launch(world).of(name)
    assert first["error"] is not None
    reason = REASONS.get(name) or REASONS[name.partition(":")[0]]
    assert re.match(reason, first["error"]), first["error"]
    assert first["untouched"]
    for other in others:
        assert differences("bit for bit", first, other) == []
    assert alone(name)["error"] is None  # control: one process can


def trained_by_hand(world, mean_of_means):
    """17 samples in order, in batches of 4, with SGD; each process's part of a batch for itself."""
    with float64():
        net, x, y = mlp(0), features(17, 0), classes(17, 0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for batch in torch.arange(17).split(4) * 2:
            parts = [part for rank in range(world) if len(part := batch[shard_slice(len(batch), rank, world)])]
            losses = [nn.functional.cross_entropy(net(x[part]), y[part]) for part in parts]
            shares = [1 / len(parts) if mean_of_means else len(part) / len(batch) for part in parts]
            optimizer.zero_grad()
            sum(loss * share for loss, share in zip(losses, shares, strict=True)).backward()
            optimizer.step()
        return flat(net)


@pytest.mark.parametrize("world", [3])  # two processes divide 4, 4, 4, 4 and 1 samples evenly, but for the last
def test_the_mean_of_the_processes_means_is_something_else(world):
    weights = launch(world).of("data: arrays in order")[0]["weights_at_the_end"]
    assert same(weights, trained_by_hand(world, mean_of_means=False), 1e-12)
    assert not same(weights, trained_by_hand(world, mean_of_means=True), 1e-4)


@worlds
def test_the_mean_of_the_processes_losses_is_something_else(world):
    with float64():
        errors = (mlp(0, outputs=1)(features(17, 0)) - torch.arange(17)[:, None]).square().detach()
    dealt = [[part for number, part in enumerate(errors.split(5)) if number % world == rank] for rank in range(world)]
    found = launch(world).of("evaluation: 17, 5")[0]["val_loss"]
    assert same(found, float(errors.mean()), 0.0, 1e-12)
    assert not same(found, sum(float(torch.cat(parts).mean()) for parts in dealt) / world, 0.0, 1e-3)


@worlds
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 17, 40])
def test_a_measurement_takes_each_sample_once_and_in_order(world, size):
    found = launch(world).of(f"evaluation: 17, {size}")[0]
    assert [found[f"val_numbers_{name}"] for name in ("samples", "different", "sum")] == [17, 17, sum(range(17))]
    assert found["val_numbers_order"] == sum(place * place for place in range(17))


@worlds
def test_a_prediction_takes_each_sample_once_and_in_order(world):
    with float64():
        expected = mlp(0)(features(17, 0)).detach()
    preds, labels = launch(world).of("prediction: with_labels, 17, 4")[0]["found"]
    assert same(preds, expected, 1e-12)
    assert torch.equal(labels, classes(17, 0))
    assert not same(preds, expected.flip(0), 1e-3)  # control
