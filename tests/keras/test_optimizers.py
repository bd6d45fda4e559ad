"""Optimizers by name in compile compute what Keras 3.15 computes; the losses here are stored from it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import KerasModel, Model
from torchkeras.keras import optimizers

KERAS = {  # the losses of three epochs, of ScheduleFreeAdamW with JAX: with torch, Keras reads an average too late
    "sgd": [1.64072001, 1.58197653, 1.53833008], "rmsprop": [1.64644492, 1.61734855, 1.5982753],
    "adam": [1.65278161, 1.63224971, 1.61438], "adamw": [1.65277326, 1.63221848, 1.61432922],
    "adadelta": [1.6592356, 1.65921068, 1.65918601], "adagrad": [1.65622127, 1.6485368, 1.64334953],
    "adamax": [1.6536144, 1.63974154, 1.62837696], "adafactor": [1.65745008, 1.65150344, 1.64573324],
    "nadam": [1.65443742, 1.64006102, 1.62521279], "ftrl": [1.56117725, 1.52684212, 1.52588034],
    "lion": [1.65311909, 1.63070142, 1.60817087], "lamb": [1.6563549, 1.64503872, 1.63413537],
    "muon": [1.6581341, 1.6529125, 1.64797604], "schedule_free_adamw": [1.6490103, 1.62228358, 1.6002264],
}
TINY = {"adam": 8.531532e-08, "rmsprop": 6.619453e-08}  # with weights and labels of 1e-4


def data(scale=1.0):
    random = np.random.RandomState(0)
    x = random.randn(96, 6).astype("float32")
    y = (np.sin(x[:, :1] * 2) + x[:, 1:2] * x[:, 2:3]) * scale
    return x, y.astype("float32"), (random.randn(6, 8) * 0.4 * scale), (random.randn(8, 1) * 0.4 * scale)


def net(first, second):
    made = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    for layer, weight in ((made[0], first), (made[2], second)):
        layer.weight.data = torch.tensor(weight.T, dtype=torch.float32).contiguous()
        nn.init.zeros_(layer.bias)
    return made


def losses(optimizer, scale=1.0, epochs=3):
    x, y, *weights = data(scale)
    model = Model(net(*weights))
    model.compile(optimizer if isinstance(optimizer, str) else optimizer(model.net.parameters()), "mse")
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("name", KERAS)
def test_an_optimizer_by_name_gives_the_losses_of_keras(name):
    assert losses(name) == pytest.approx(KERAS[name], abs=1e-5)
    other = next(one for one in KERAS if one != name)
    assert losses(other) != pytest.approx(KERAS[name], abs=1e-5)  # control


@pytest.mark.parametrize(("name", "torchs"), [
    ("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop), ("nadam", torch.optim.NAdam),
    ("adadelta", torch.optim.Adadelta), ("adagrad", torch.optim.Adagrad), ("adamax", torch.optim.Adamax)])
def test_the_defaults_of_torch_are_others_and_stay_with_kerasmodel(name, torchs):
    assert losses(torchs) != pytest.approx(KERAS[name], abs=1e-4)
    model = KerasModel(nn.Linear(2, 1), "mse", optimizer=name)
    assert type(model.optimizer) is torchs
    assert model.optimizer.param_groups[0]["lr"] == torchs([nn.Parameter(torch.ones(1))]).param_groups[0]["lr"]


@pytest.mark.parametrize("name", TINY)
def test_epsilon_stands_where_keras_has_it(name):
    mapped = {"adam": lambda weights: torch.optim.Adam(weights, eps=1e-7),
              "rmsprop": lambda weights: torch.optim.RMSprop(weights, 1e-3, 0.9, 1e-7)}[name]
    assert losses(name, 1e-4)[-1] == pytest.approx(TINY[name], rel=1e-4)
    assert losses(mapped, 1e-4)[-1] != pytest.approx(TINY[name], rel=1e-3)  # control: torch's formula


def test_keras_counts_steps_where_names_are_written_in_any_way():
    model = Model(nn.Linear(2, 1))
    for name in ("Adam", "ADAM", "NAdam", "rms-prop", "ScheduleFreeAdamW", "radam"):
        model.compile(name, "mse")
    assert type(model.optimizer) is torch.optim.RAdam  # not Keras's: torch's, with torch's defaults


@pytest.mark.parametrize(("name", "words"), [
    ("LossScaleOptimizer", "mixed_precision='fp16'"), ("MultiOptimizer", "optimizer=[torch.optim.Adam(some)"),
    ("SparseAdam", "SparseAdam(embeddings)"), ("adamm", "Did you mean 'adam'?")])
def test_what_cannot_be_had_by_name_is_refused_with_the_way_out(name, words):
    with pytest.raises(ValueError, match="optimizer") as error:
        Model(nn.Linear(2, 1)).compile(name, "mse")
    assert words in str(error.value)


@pytest.mark.parametrize("name", KERAS)
def test_a_copy_and_a_state_dict_go_on_as_the_optimizer_would(name):
    x, y, *weights = data()
    model = Model(net(*weights))
    model.compile(name, "mse")
    model.train_on_batch(x, y)
    model.train_on_batch(x, y)
    other, late = copy.deepcopy(model), Model(copy.deepcopy(model.net))
    late.compile(name, "mse")
    late.optimizer.load_state_dict(copy.deepcopy(model.optimizer.state_dict()))
    for one in (model, other, late):
        one.train_on_batch(x[:20], y[:20])
    assert torch.equal(model.net[0].weight, other.net[0].weight)
    assert torch.equal(model.net[0].weight, late.net[0].weight)


def test_weights_of_the_loss_learn_too_and_a_net_without_weights_has_no_optimizer():
    class Centre(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(1))

        def forward(self, preds, labels):
            return (preds - labels - self.centre).square().mean()

    model = Model(nn.Linear(6, 1))
    model.compile("nadam", loss=Centre())
    assert len(model.optimizer.param_groups[0]["params"]) == 3
    model.compile("nadam", loss="mse")
    assert len(model.optimizer.param_groups[0]["params"]) == 2
    empty = Model(nn.Identity())
    empty.compile("nadam", "mse")
    assert empty.optimizer is None


def test_muon_moves_matrices_and_gives_tables_of_embeddings_to_adamw():
    inner = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2), nn.Linear(2, 1))
    model = Model(inner)
    model.compile("muon", "mse")
    kinds = {id(weight): group["by_adam"] for group in model.optimizer.param_groups for weight in group["params"]}
    assert [kinds[id(weight)] for weight in inner.parameters()] == [True, False, True, False, True]
    groups = optimizers.Muon([{"params": inner[2].parameters(), "lr": 0.5}, {"params": inner[3].parameters()}])
    assert sorted(group["lr"] for group in groups.param_groups) == [0.001, 0.001, 0.5, 0.5]


def test_adafactor_factors_inputs_and_outputs_of_a_convolution():
    weight = nn.Parameter(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    optimizer = optimizers.Adafactor([weight])
    (weight ** 2).sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    assert (state["rows"].shape, state["columns"].shape) == ((4, 2, 2), (3, 2, 2))


def test_a_sparse_gradient_moves_what_a_dense_one_would():
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(6, 3, sparse=sparse)
        optimizer = optimizers.Nadam(table.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 2, 2])).square().sum().backward()
            optimizer.step()
        found.append(table.weight.detach())
    assert torch.allclose(*found)


def test_wrong_arguments_are_refused():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="lr: received -1"):
        optimizers.Nadam([weight], lr=-1)
    with pytest.raises(ValueError, match="weight_decay"):
        optimizers.Lion([weight], weight_decay=-0.1)
    with pytest.raises(TypeError, match="complex"):
        optimizers.Lion([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_a_closure_and_a_rate_that_is_a_tensor_work():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = optimizers.Lion([weight], lr=torch.tensor(0.25))

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert weight.item() == 0.75
