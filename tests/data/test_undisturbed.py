"""Measuring in a callback changes nothing of the run; validation data given as arrays draws no random number."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel
from torchkeras.data import batches

X, Y = torch.randn(40, 5), torch.randint(0, 3, (40,))


class Measure(Callback):
    """Measures in the middle of epochs, once with a prediction inside of a prediction."""

    def on_step_end(self, model):
        if model.run.stage == "train" and model.run.step % 3 == 1:
            model.evaluate((X, Y), batch_size=7)
            model.evaluate(TensorDataset(X, Y))
            for _ in model.predict(X, batch_size=16, stream=True):
                model.predict(TensorDataset(X, Y))
                model.evaluate((X[:9], Y[:9]))

    def on_train_epoch_end(self, model):
        model.predict((X, Y), with_labels=True)
        model.evaluate({"input": X, "label": Y})


class Count(Callback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, model):
        run = model.run
        self.seen.append((run.stage, run.step, run.global_step, run.optimizer_steps, model.net.training))


def run(*callbacks, data=(X, Y), **options):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))
    count = Count()
    model = KerasModel(net, "cross_entropy", {"acc": "accuracy"}, torch.optim.Adam(net.parameters(), lr=0.01))
    batch = {} if isinstance(data, DataLoader) else {"batch_size": 6}
    history = model.fit(data, epochs=3, ckpt_path=None, quiet=True, plot=False, patience=None, monitor="train_loss",
                        callbacks=[*callbacks, count], **{"seed": 5, **batch, **options})
    left = [*net.state_dict().values(), torch.rand(3)]
    return left, history, [one for one in count.seen if one[0] == "train"]


def same(one, other):
    columns = [name for name in one[1] if name.startswith("train") or name == "lr"]
    return (all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)) and one[2] == other[2]
            and one[1][columns].equals(other[1][columns]))


@pytest.mark.parametrize("data", [(X, Y), DataLoader(TensorDataset(X, Y), 6, shuffle=True)])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_measuring_arrays_and_datasets_in_a_callback_changes_nothing(data, accumulation):
    plain = run(data=data, gradient_accumulation_steps=accumulation)
    assert same(run(Measure(), data=data, gradient_accumulation_steps=accumulation), plain)

    class Draws(Callback):
        def on_train_epoch_end(self, model):
            torch.rand(1)

    assert not same(run(Draws(), data=data, gradient_accumulation_steps=accumulation), plain)


@pytest.mark.parametrize("val", [(X[:9], Y[:9]), TensorDataset(X[:9], Y[:9]), (X[:9].numpy(), Y[:9].numpy())])
def test_validation_data_leaves_the_training_of_a_seeded_run_as_it_is(val):
    assert same(run(val_data=val), run())


def test_unseeded_shuffling_depends_on_the_global_seed():
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(torch.cat([y for (y,) in batches((torch.arange(40),), name="data", shuffle=True)]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_loader_of_the_users_draws_as_in_a_plain_loop():
    model = KerasModel(nn.Linear(5, 3), "cross_entropy")
    loader = DataLoader(TensorDataset(X, Y), 6)
    states = []
    for measure in (lambda: list(loader), lambda: model.evaluate(loader), lambda: model.predict(loader)):
        torch.manual_seed(3)
        measure()
        states.append(torch.rand(3))
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
