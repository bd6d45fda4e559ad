"""Nets and losses that differentiate are measured with gradients, and nothing else changes."""

import gc
import weakref

import pytest
import torch
from torch import nn

from torchkeras import KerasModel, Model
from torchkeras.core.modes import DIFFERENTIATED, NOTE, PLAIN

X = torch.linspace(-1, 1, 24)[:, None]
Y = X.cos()


class Slope(nn.Module):
    """The derivative of a net by its input."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.layers(x).sum(), x, create_graph=True)[0]


class Field(nn.Module):
    """Gives its input along, for a loss that differentiates by it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x.requires_grad_()
        return self.layers(x), x


def residual(preds, labels):
    u, x = preds
    return (torch.autograd.grad(u.sum(), x, create_graph=True)[0] - labels).square().mean()


class Penalised(KerasModel.StepRunner):
    """A gradient penalty in a verb of the step."""

    def forward(self, batch):
        x, y = batch
        x = x.detach().requires_grad_()
        preds = self.net(x)
        self.slope = torch.autograd.grad(preds.sum(), x, create_graph=True)[0]
        return preds, y

    def loss(self, preds, labels, weights=None):
        return super().loss(preds, labels) + self.slope.square().mean()


def penalised_by_hand(net):
    x = X.clone().requires_grad_()
    preds = net(x)
    slope = torch.autograd.grad(preds.sum(), x)[0]
    return (preds - Y).square().mean() + slope.square().mean()


KINDS = {
    "in forward": (Slope, nn.MSELoss(), None, lambda net: (net(X.clone()) - Y).square().mean()),
    "in the loss": (Field, residual, None, lambda net: residual(net(X.clone()), Y)),
    "in the step": (lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), nn.MSELoss(), Penalised,
                    penalised_by_hand),
}


def model_of(kind, **parts):
    torch.manual_seed(0)
    net, loss_fn, step, by_hand = KINDS[kind]
    net = net()
    model = KerasModel(net, loss_fn, optimizer=torch.optim.SGD(net.parameters(), lr=0.01), **parts)
    model.StepRunner = step or model.StepRunner
    return model, by_hand


@pytest.mark.parametrize("kind", KINDS)
def test_fit_and_evaluate_give_the_numbers_by_hand(kind):
    model, by_hand = model_of(kind)
    first = model.evaluate((X, Y), batch_size=7)
    assert first["val_loss"] == pytest.approx(by_hand(model.net).item(), rel=1e-5)
    frame = model.fit((X, Y), (X, Y), epochs=2, batch_size=8, ckpt_path=None, quiet=True, patience=None)
    assert frame["val_loss"].iloc[-1] == pytest.approx(model.evaluate((X, Y))["val_loss"], rel=1e-5)
    assert frame["val_loss"].min() == pytest.approx(by_hand(model.net).item(), rel=1e-5)
    assert model.run.notes.count(NOTE) == 1
    assert [weight.grad for weight in model.net.parameters()] == [None] * len(list(model.net.parameters()))
    assert not torch.is_inference_mode_enabled()


def test_predict_is_the_net_itself_and_holds_no_graph():
    model, _ = model_of("in forward")
    preds = model.predict(X, batch_size=5)
    torch.testing.assert_close(preds, model.net(X.clone()).detach())
    assert not preds.requires_grad
    assert Model(model.net).predict_on_batch(X).shape == (24, 1)


def test_batches_one_by_one_are_measured_so_too():
    torch.manual_seed(0)
    model = Model(Slope())
    model.compile(optimizer="sgd", loss="mse")
    found = model.test_on_batch(X, Y)
    assert found == pytest.approx((model.net(X.clone()) - Y).square().mean().item(), rel=1e-5)
    model.train_on_batch(X, Y)


def test_the_weights_of_a_run_are_those_of_a_run_without_validation():
    weights = []
    for val in (None, (X, Y)):
        model, _ = model_of("in forward")
        model.fit((X, Y), val, epochs=2, batch_size=8, ckpt_path=None, quiet=True, monitor="train_loss",
                  patience=None, shuffle=False)
        weights.append([one.detach().clone() for one in model.net.parameters()])
    assert all(map(torch.equal, *weights))


def test_a_pass_keeps_the_graph_of_one_batch_only():
    alive, most = [], []

    class Watched(Slope):
        def forward(self, x):
            gc.collect()
            found = super().forward(x)
            alive.append(weakref.ref(found))
            most.append(sum(one() is not None for one in alive))
            return found

    torch.manual_seed(0)
    net = Watched()
    KerasModel(net, nn.MSELoss(), ["mae"]).evaluate((X, Y), batch_size=2)
    assert len(most) == 12  # the first batch fails inside, and is not counted
    assert max(most) <= 2


def test_the_second_try_has_the_random_state_of_the_first():
    class Drawing(Slope):
        def forward(self, x):
            return super().forward(x + torch.rand(()))

    torch.manual_seed(0)
    net = Drawing()
    torch.manual_seed(3)
    found = KerasModel(net, nn.MSELoss()).evaluate((X, Y))["val_loss"]
    torch.manual_seed(3)  # a pass over arrays draws nothing
    assert found == pytest.approx((net(X) - Y).square().mean().item(), rel=1e-5)


def test_other_errors_are_those_of_torch():
    class Detached(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                u = super().forward(x.requires_grad_())
            return torch.autograd.grad(u.sum(), x)[0]

    net = Detached(1, 1)
    with pytest.raises(RuntimeError, match="does not require grad"):
        KerasModel(net, nn.MSELoss()).evaluate((X, Y))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        KerasModel(nn.Linear(3, 1), nn.MSELoss()).evaluate((X, Y))
    assert net not in DIFFERENTIATED


def test_control_an_ordinary_net_is_measured_without_gradients():
    seen = []

    class Plain(nn.Linear):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    net = Plain(1, 1)
    model = KerasModel(net, nn.MSELoss())
    model.evaluate((X, Y), batch_size=8)
    model.predict(X)
    assert seen == [False] * 4
    assert net in PLAIN
    assert net not in DIFFERENTIATED


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_lightning_measures_them_too():
    from torch.utils.data import DataLoader, TensorDataset

    from torchkeras import LightModel

    torch.manual_seed(0)
    model = LightModel(Slope(), nn.MSELoss(), quiet=True)
    trainer = LightModel.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                                 enable_progress_bar=False, enable_model_summary=False)
    data = DataLoader(TensorDataset(X, Y), batch_size=8)
    trainer.fit(model, data, data)
    by_hand = (model.net(X.clone()) - Y).square().mean().item()
    assert model.get_history()["val_loss"].iloc[-1] == pytest.approx(by_hand, rel=1e-5)
