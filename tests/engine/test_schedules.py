"""When schedules move: with updates or with epochs, by the loop or by a step of the user's own."""

import functools

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torch_schedulers
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel
from torchkeras.engine.step import StepRunner
from torchkeras.training.schedules import Span, interval_of

torch.manual_seed(0)
X, Y = torch.randn(40, 4), torch.randn(40, 1)
SPAN = Span(3, 15, 15)


def model_with(make, lr=0.1, step=None, **options):
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    model = KerasModel(net, "mse", optimizer=optimizer, lr_scheduler=make(optimizer), **options)
    if step is not None:
        model.StepRunner = step
    return model


class Rates(Callback):
    """Keeps the rate of every update, and that of every training epoch's start."""

    def __init__(self):
        self.shown, self.begun = [], []

    def on_step_end(self, model):
        if model.run.stage == "train":
            self.shown.append(model.run.logs["lr"])

    def on_epoch_start(self, model):
        self.begun.append(float(model.optimizer.param_groups[0]["lr"]))


def fit(model, **options):
    return model.fit((X, Y), **{"epochs": 3, "batch_size": 8, "ckpt_path": None, "quiet": True, "patience": None,
                                **options})


class OwnCall(StepRunner):
    """A step of the kind that public scripts have: it moves the schedule itself."""

    def __call__(self, batch):
        loss = self.loss_fn(self.net(batch[0]), batch[1])
        if self.optimizer is not None:
            loss.backward()
            self.optimizer.step()
            if self.lr_scheduler is not None:
                self.lr_scheduler.step()
            self.optimizer.zero_grad()
        return {f"{self.stage}_loss": loss.detach()}, {}


class OwnUpdate(StepRunner):
    """It adds something to an update and leaves the schedule to the loop."""

    def update(self):
        super().update()
        self.updates = getattr(self, "updates", 0) + 1


class Quiet(StepRunner):
    """A step of one's own that knows of no schedule."""

    def __call__(self, batch):
        preds, labels, loss = self.forward_and_loss(batch)
        if self.training:
            self.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {f"{self.stage}_loss": loss.detach()}, {}


class Forgetful(OwnCall):
    def __call__(self, batch):
        moves, self.lr_scheduler = self.lr_scheduler, None
        try:
            return super().__call__(batch)
        finally:
            self.lr_scheduler = moves


HALVING = functools.partial(torch_schedulers.LambdaLR, lr_lambda=lambda count: 0.5 ** count)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_step_of_ones_own_moves_its_schedule_and_the_loop_leaves_it_alone(precision):
    model = model_with(HALVING, step=OwnCall)
    fit(model, mixed_precision=precision)
    assert model.lr_scheduler.last_epoch == 15
    assert model.optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** 15


@pytest.mark.parametrize("step", [OwnUpdate, Quiet])
def test_a_step_that_leaves_the_schedule_alone_has_it_moved_by_the_loop(step):
    model = model_with(HALVING, step=step)
    fit(model)
    assert model.lr_scheduler.last_epoch == 3


def test_when_an_interval_is_asked_for_that_counts():
    model = model_with(HALVING, step=OwnCall)
    fit(model, lr_interval="epoch")
    assert model.lr_scheduler.last_epoch == 3  # the step was given none
    model = model_with(HALVING, step=OwnUpdate)
    fit(model, lr_interval="step")
    assert model.lr_scheduler.last_epoch == 15


def test_a_step_that_forgets_a_schedule_of_every_update_is_told():
    model = model_with(functools.partial(torch_schedulers.OneCycleLR, max_lr=0.1, total_steps=15), step=Forgetful)
    with pytest.warns(RuntimeWarning, match="lr_scheduler did not move in the first epoch"):
        fit(model)


def test_a_plateau_stays_with_the_loop():
    model = model_with(functools.partial(torch_schedulers.ReduceLROnPlateau, patience=0, threshold=1e9), step=OwnCall)
    fit(model)
    assert model.optimizer.param_groups[0]["lr"] < 0.1


def test_who_moves_the_schedule_is_remembered_in_a_run_that_goes_on(tmp_path):
    class Stop(Callback):
        def on_validation_epoch_end(self, model):
            model.run.stop("to go on")

    for callbacks in ([Stop()], []):
        model = model_with(HALVING, step=OwnCall)
        fit(model, ckpt_path=tmp_path / "best", resume=True, callbacks=callbacks)
    assert model.lr_scheduler.last_epoch == 15


# Warm-ups counted in updates


def warm_ups():
    transformers = pytest.importorskip("transformers", reason="needs pip install torchkeras[transformers]")
    steps = {"num_warmup_steps": 5, "num_training_steps": 15}
    return {
        "linear": functools.partial(transformers.get_linear_schedule_with_warmup, **steps),
        "cosine": functools.partial(transformers.get_cosine_schedule_with_warmup, **steps),
        "restarts": functools.partial(transformers.get_cosine_with_hard_restarts_schedule_with_warmup, **steps),
        "polynomial": functools.partial(transformers.get_polynomial_decay_schedule_with_warmup, **steps),
        "constant": functools.partial(transformers.get_constant_schedule_with_warmup, num_warmup_steps=5),
        "inverse root": functools.partial(transformers.get_inverse_sqrt_schedule, num_warmup_steps=5),
        "by name": functools.partial(transformers.get_scheduler, "linear", **steps),
    }


@pytest.mark.parametrize("name", ["linear", "cosine", "restarts", "polynomial", "constant", "inverse root", "by name"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_warm_ups_of_transformers_move_with_updates(name, accumulated):
    make, rates, expected = warm_ups()[name], Rates(), []
    model = model_with(make)
    fit(model, gradient_accumulation_steps=accumulated, callbacks=[rates])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make(optimizer)
    for _ in range(3):
        for batch in range(5):
            expected.append(optimizer.param_groups[0]["lr"])
            if batch % accumulated == accumulated - 1 or batch == 4:
                optimizer.step()
                schedule.step()
    assert rates.shown == expected
    assert rates.begun[1] > 0


def by_closure(optimizer):
    num_warmup_steps = 5
    return torch_schedulers.LambdaLR(optimizer, lambda count: min(1.0, count / num_warmup_steps))


def by_object(optimizer):
    class Ramp:
        def __init__(self):
            self.warmup_steps = 5

        def __call__(self, count):
            return min(1.0, count / self.warmup_steps)

    return torch_schedulers.LambdaLR(optimizer, Ramp())


def by_argument(optimizer):
    return torch_schedulers.LambdaLR(optimizer, lambda current_step: min(1.0, current_step / 5))


def by_partial(optimizer):
    def ramp(count, total_steps):
        return min(1.0, count / total_steps)

    return torch_schedulers.LambdaLR(optimizer, functools.partial(ramp, total_steps=5))


@pytest.mark.parametrize("make", [by_closure, by_object, by_argument, by_partial])
def test_functions_that_name_steps_move_with_updates(make):
    rates = Rates()
    fit(model_with(make), callbacks=[rates])
    assert rates.shown[:7] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


def in_epochs(optimizer):
    steps = (1, 2)
    return torch_schedulers.LambdaLR(optimizer, lambda epoch: 0.1 ** sum(epoch >= one for one in steps))


def test_control_a_function_of_epochs_moves_with_epochs():
    rates = Rates()
    fit(model_with(in_epochs), callbacks=[rates])
    assert rates.begun == pytest.approx([0.1, 0.01, 0.001])


def made(kind, **options):
    return kind(torch.optim.SGD([torch.zeros(1)], lr=0.1), **options)


def sequence(total):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return torch_schedulers.SequentialLR(
        optimizer, [torch_schedulers.LinearLR(optimizer, total_iters=500),
                    torch_schedulers.CosineAnnealingLR(optimizer, T_max=total - 500)], milestones=[500])


@pytest.mark.parametrize(("scheduler", "span", "interval"), [
    (made(torch_schedulers.CosineAnnealingLR, T_max=1750), Span(5, 1750, 1750), "step"),
    (made(torch_schedulers.CosineAnnealingLR, T_max=1745), Span(5, 1750, 1750), "step"),  # drop_last
    (made(torch_schedulers.CosineAnnealingLR, T_max=1750), Span(5, 1750, 440), "step"),  # accumulation was forgotten
    (made(torch_schedulers.PolynomialLR, total_iters=1750), Span(5, 1750, 1750), "step"),
    (sequence(1750), Span(5, 1750, 1750), "step"),
    (made(torch_schedulers.CosineAnnealingLR, T_max=5), Span(5, 1750, 1750), "epoch"),
    (made(torch_schedulers.CosineAnnealingLR, T_max=200), Span(10, 3910, 3910), "epoch"),  # a recipe of 200 epochs
    (made(torch_schedulers.CosineAnnealingLR, T_max=5), Span(5, 5, 5), "epoch"),  # one batch an epoch
    (made(torch_schedulers.CosineAnnealingLR, T_max=1750), Span(5), "epoch"),
    (made(torch_schedulers.StepLR, step_size=1750), Span(5, 1750, 1750), "epoch"),
    (sequence(900), Span(5, 1750, 1750), "epoch"),
])
def test_a_schedule_as_long_as_the_run_in_updates_moves_with_them(scheduler, span, interval):
    assert interval_of(scheduler, "auto", span) == interval
    assert interval_of(scheduler, "epoch", span) == "epoch"


def test_a_schedule_longer_than_the_epochs_is_noted():
    model = model_with(functools.partial(torch_schedulers.CosineAnnealingLR, T_max=200))
    fit(model)
    assert any("CosineAnnealingLR is 200 moves long, and the run has 3 epochs" in note for note in model.run.notes)


# Rate 0


def opaque(optimizer):
    return torch_schedulers.LambdaLR(optimizer, lambda count: min(1.0, count / 5))


def test_a_first_epoch_at_rate_0_is_refused_with_the_way_out():
    model = model_with(opaque)
    before = model.net.weight.detach().clone()
    with pytest.raises(ValueError, match="lr_scheduler: received a LambdaLR that begins at rate 0.*lr_interval='step'"):
        fit(model)
    assert torch.equal(model.net.weight, before)
    assert model.lr_scheduler.last_epoch == 0
    rates = Rates()
    fit(model, lr_interval="step", callbacks=[rates])
    assert rates.shown[:6] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_asked_for_it_is_announced():
    model = model_with(opaque)
    with pytest.warns(RuntimeWarning, match="epoch 1 trained at rate 0"):
        fit(model, lr_interval="epoch")
    assert "lr_scheduler: the first epoch trains at rate 0" in model.run.notes


def test_a_later_epoch_at_rate_0_is_announced():
    model = model_with(functools.partial(torch_schedulers.PolynomialLR, total_iters=2))
    with pytest.warns(RuntimeWarning, match="epoch 3 trained at rate 0") as seen:
        fit(model)
    assert len(seen) == 1


# Rates that are tensors


def test_a_rate_that_is_a_tensor_is_shown_as_it_was():
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    shown = []
    for rate in (0.1, torch.tensor(0.1)):
        rates = Rates()
        model = model_with(functools.partial(torch_schedulers.ExponentialLR, gamma=0.5), lr=rate)
        history = model.fit(loader, epochs=2, ckpt_path=None, quiet=True, lr_interval="step", callbacks=[rates])
        shown.append([*map(float, rates.shown), *history["lr"]])
    assert shown[1] == pytest.approx(shown[0])
    assert shown[0][:3] == pytest.approx([0.1, 0.05, 0.025])
