"""Losses that compare every prediction with every label are refused; losses that pair by nature are not."""

import functools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel, Model
from torchkeras.checks.broadcast import check_broadcast
from torchkeras.losses import Loss

N = 24


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def column_and_vector(seed=0):
    return numbers(N, 1, seed=seed), numbers(N, seed=seed + 100)


def squared(preds, labels):
    return ((preds - labels) ** 2).mean()


def masks():
    return torch.sigmoid(numbers(6, 1, 5, 4)), (numbers(6, 5, 4, seed=3) > 0).float()


def dice(preds, labels):
    return 1 - (2 * (preds * labels).sum() + 1) / (preds.sum() + labels.sum() + 1)


def correlation(preds, labels):
    one, other = preds - preds.mean(), labels - labels.mean()
    return 1 - (one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()


class Own(nn.Module):
    def forward(self, preds, labels):
        return (preds - labels).abs().mean()


class OwnValues(Loss):
    def values(self, preds, labels):
        return (preds - labels).cosh().log()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.SmoothL1Loss()

    def forward(self, preds, labels):
        return 2 * self.inner(preds, labels)


def heteroscedastic(preds, labels):
    mean, variance = preds
    return ((labels - mean) ** 2 / variance + variance.log()).mean()


def weighted(preds, labels):
    targets, weights = labels
    return ((preds - targets) ** 2 * weights).mean()


REFUSED = {
    "a function": (squared, *column_and_vector()),
    "a lambda": (lambda preds, labels: (preds - labels).abs().mean(), *column_and_vector()),
    "a sum": (lambda preds, labels: ((preds - labels) ** 2).sum(), *column_and_vector()),
    "a module": (Own(), *column_and_vector()),
    "a subclass of Loss": (OwnValues(), *column_and_vector()),
    "a wrapped loss of torch": (Wrapped(), *column_and_vector()),
    "a partial": (functools.partial(F.huber_loss, delta=2.0), *column_and_vector()),
    "Poisson": (nn.PoissonNLLLoss(), numbers(N, 1), numbers(N, seed=5).abs().round()),
    "Gaussian of one's own variance": (lambda preds, labels: nn.GaussianNLLLoss()(
        preds, labels, torch.ones_like(preds)), *column_and_vector()),
    "labels in columns, net squeezed": (squared, numbers(N), numbers(N, 1, seed=3)),
    "a row for a column": (squared, numbers(N, 1), numbers(1, N, seed=3)),
    "root mean square": (lambda preds, labels: ((preds - labels) ** 2).mean(-1).sqrt().mean(), *column_and_vector()),
    "channels of images": (squared, *masks()),
    "binary cross entropy by hand": (
        lambda preds, labels: -(labels * preds.log() + (1 - labels) * (1 - preds).log()).mean(), *masks()),
    "Dice of a whole batch": (dice, *masks()),
    "correlation of a whole batch": (correlation, *column_and_vector()),
    "a net that is constant yet": (squared, torch.zeros(N, 1), numbers(N)),
    "labels that are all the same yet": (squared, numbers(N, 1), torch.zeros(N)),
    "both the same yet": (squared, torch.zeros(N, 1), torch.ones(N)),
    "whole numbers": (lambda preds, labels: (preds - labels.float()).abs().mean(), numbers(N, 1), torch.arange(N) % 2),
    "two outputs": (heteroscedastic, (numbers(N, 1), numbers(N, 1).exp()), numbers(N, seed=3)),
    "two outputs by name": (lambda preds, labels: heteroscedastic((preds["mean"], preds["variance"]), labels["y"]),
                            {"mean": numbers(N, 1), "variance": numbers(N, 1).exp()}, {"y": numbers(N, seed=3)}),
    "labels with weights": (weighted, numbers(N, 1), (numbers(N, seed=3), numbers(N, seed=4).exp())),
    "a batch of two": (squared, numbers(2, 1), numbers(2, seed=3)),
    "half precision": (squared, numbers(N, 1).bfloat16(), numbers(N, seed=3)),
    "pairs of dimensions": (squared, numbers(N, 1, 3), numbers(N, 3, seed=3)),
    "LogCosh times its weight": (lambda preds, labels: 0.3 * torch.log(torch.cosh(preds - labels)).mean(),
                                 *column_and_vector()),
}


def cox(preds, labels):
    time, event = labels[:, 0], labels[:, 1]
    risk = preds.squeeze(-1)
    at_risk = (time[None, :] >= time[:, None]).float()
    return -((risk - (risk.exp() * at_risk).sum(1).log()) * event).sum() / event.sum().clamp(min=1)


def cox_sorted(preds, labels):
    order = labels.argsort(descending=True)
    return -(preds[order, 0] - preds[order, 0].logcumsumexp(0)).mean()


def cox_columns(preds, labels):
    at_risk = (labels[None, :] >= labels[:, None]).float()
    return (((preds.T.exp() * at_risk).sum(1, keepdim=True)).log() - preds).mean()


def ranking(preds, labels):
    wanted = (labels[:, None] - labels[None, :]).sign()
    return F.relu(1 - wanted * (preds - preds.T)).mean()


def auc_surrogate(preds, labels):
    positive, negative = preds[labels == 1], preds[labels == 0]
    return F.relu(1 - (positive - negative.T)).mean()


def contrastive(preds, labels):
    same = (labels[:, None] == labels[None, :]).float()
    return (same * (preds @ preds.T)).mean()


def pinball(preds, labels):
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    error = labels - preds
    return torch.maximum(quantiles * error, (quantiles - 1) * error).mean()


def normal(preds, labels):
    mean, log_scale = preds.unbind(-1)
    return -torch.distributions.Normal(mean, log_scale.exp()).log_prob(labels).mean()


def energy_score(preds, labels):
    return (preds - labels).abs().mean() - 0.5 * (preds[:, :, None] - preds[:, None, :]).abs().mean()


def kernel_distance(preds, labels):
    def kernel(one, other):
        return torch.exp(-(one.reshape(-1, 1) - other.reshape(1, -1)) ** 2).mean()

    return kernel(preds, preds) + kernel(labels, labels) - 2 * kernel(preds, labels)


PASSED = {
    "equal shapes": (squared, numbers(N, 1), numbers(N, 1, seed=3)),
    "it squeezes the net's output": (lambda preds, labels: squared(preds.squeeze(-1), labels), *column_and_vector()),
    "it flattens both": (lambda preds, labels: squared(preds.flatten(), labels.flatten()), *column_and_vector()),
    "it adds a column to the labels": (lambda preds, labels: squared(preds, labels[:, None]), *column_and_vector()),
    "it adds a channel to masks": (lambda preds, labels: dice(preds, labels.unsqueeze(1)), *masks()),
    "it views labels as the output": (lambda preds, labels: correlation(preds, labels.view_as(preds)),
                                      *column_and_vector()),
    "Cox with times and events": (cox, numbers(N, 1), torch.stack([numbers(N).abs(), torch.arange(N) % 2], 1)),
    "Cox with times alone": (cox_sorted, *column_and_vector()),
    "Cox in columns": (cox_columns, *column_and_vector()),
    "ranking": (ranking, *column_and_vector()),
    "AUC, classes balanced": (auc_surrogate, numbers(N, 1), (torch.arange(N) % 2).float()),
    "AUC, classes not balanced": (auc_surrogate, numbers(N, 1), (torch.arange(N) % 3 == 0).float()),
    "contrast": (contrastive, numbers(N, 1), torch.arange(N) % 4),
    "contrast of vectors": (contrastive, numbers(N, 8), torch.arange(N) % 4),
    "quantiles with a column of labels": (pinball, numbers(N, 3), numbers(N, 1, seed=3)),
    "parameters of a distribution": (normal, numbers(N, 2), numbers(N, seed=3)),
    "an ensemble with a column of labels": (energy_score, numbers(N, 5), numbers(N, 1, seed=3)),
    "distance of distributions": (kernel_distance, *column_and_vector()),
    "no use for labels": (lambda preds, labels: preds.square().mean(), *column_and_vector()),
    "cross entropy": (nn.CrossEntropyLoss(), numbers(N, 3), torch.arange(N) % 3),
    "one sample": (squared, numbers(1, 1), numbers(1, seed=3)),
    "one sample squeezed to a number": (squared, numbers(1)[0], numbers(1, seed=3)),
    "an autoencoder with a code": (lambda preds, labels: squared(preds[0], labels) + preds[1].square().mean(),
                                   (numbers(N), numbers(N, 1)), numbers(N, seed=3)),
    "a text": (lambda preds, labels: preds.mean(), numbers(N, 1), ["a"] * N),
    "it takes these shapes only": (lambda preds, labels: squared(preds[:, 0], labels[:]) if (
        preds.dim() == 2 and labels.dim() == 1) else 1 / 0, *column_and_vector()),
    "random numbers": (lambda preds, labels: squared(preds[:, 0] + torch.rand(len(preds)), labels),
                       *column_and_vector()),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_broadcasts_is_refused(name, seed):
    loss, preds, labels = REFUSED[name]
    with pytest.raises(ValueError, match="val_data: received labels of shape .*broadcast.*squeeze"):
        check_broadcast(loss, preds, labels, "val_data")


@pytest.mark.parametrize("name", PASSED)
def test_a_loss_that_compares_one_to_one_or_pairs_by_nature_passes(name):
    check_broadcast(*PASSED[name], "val_data")


@pytest.mark.parametrize("name", ["it adds a column to the labels", "it squeezes the net's output", "Cox in columns",
                                  "ranking", "AUC, classes balanced", "contrast", "distance of distributions",
                                  "it adds a channel to masks", "Cox with times alone"])
def test_no_batch_of_numbers_makes_a_right_loss_look_wrong(name):
    loss, preds, labels = PASSED[name]
    real = labels.is_floating_point() and bool((labels != labels.round()).any())
    for seed in range(60):
        preds = preds[torch.randperm(len(preds), generator=torch.Generator().manual_seed(seed))]
        labels = numbers(*labels.shape, seed=seed) if real else labels
        check_broadcast(loss, preds, labels, "val_data")


def test_the_check_leaves_random_state_and_what_a_loss_keeps_as_they_were():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.seen = 0, []
            self.register_buffer("center", torch.zeros(9000))

        def forward(self, preds, labels):
            self.calls += 1
            self.seen.append(preds)
            self.center += torch.rand(9000)
            random.random(), np.random.rand()
            return squared(preds.squeeze(-1), labels)

    loss = Keeps()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    check_broadcast(loss, *column_and_vector(), "val_data")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert (loss.calls, loss.seen, loss.center.abs().sum().item()) == (0, [], 0.0)


X, Y = numbers(32, 4), numbers(32, seed=1)


def model_of(loss_fn, net=None, **parts):
    net = nn.Linear(4, 1) if net is None else net
    return KerasModel(net, loss_fn, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), **parts)


def test_fit_and_evaluate_refuse_it_and_name_the_data():
    model = model_of(squared)
    before = model.net.weight.detach().clone()
    with pytest.raises(ValueError, match=r"train_data: received labels of shape \(32,\) for net output \(32, 1\)"):
        model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True)
    with pytest.raises(ValueError, match=r"val_data: received labels of shape \(32,\) for net output \(32, 1\)"):
        model.fit((X, Y[:, None]), (X, Y), epochs=1, ckpt_path=None, quiet=True)
    with pytest.raises(ValueError, match="val_data: received labels of shape"):
        model.evaluate((X, Y))
    assert torch.equal(model.net.weight, before)
    assert model.evaluate((X, Y[:, None]))["val_loss"] == pytest.approx(squared(model.net(X)[:, 0], Y).item())


@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), "mse", functools.partial(F.mse_loss, reduction="mean"),
                                     functools.partial(functools.partial(F.l1_loss)), nn.PoissonNLLLoss()],
                         ids=["MSELoss", "mse", "partial of mse", "partial of l1", "PoissonNLLLoss"])
def test_losses_of_torch_are_looked_at_in_evaluate_too(loss_fn):
    with pytest.raises(ValueError, match="val_data: received labels of shape.*broadcast"):
        model_of(loss_fn).evaluate((X, Y.abs()))


def test_a_step_that_computes_its_own_loss_is_looked_at():
    class Step(KerasModel.StepRunner):
        def loss(self, preds, labels, weights=None):
            return nn.GaussianNLLLoss()(preds, labels, torch.ones_like(preds))

    class Squeezes(KerasModel.StepRunner):
        def loss(self, preds, labels, weights=None):
            return self.loss_fn(preds.squeeze(-1), labels)

    model = model_of(nn.MSELoss())
    model.StepRunner = Step
    with pytest.raises(ValueError, match="train_data: received labels of shape"):
        model.fit((X, Y), epochs=1, ckpt_path=None, quiet=True)
    model.StepRunner = Squeezes
    model.fit((X, Y), (X, Y), epochs=1, ckpt_path=None, quiet=True)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return {"one": self.one(x), "two": self.two(x)}


@pytest.mark.parametrize("loss", [squared, nn.MSELoss()])
def test_each_of_several_outputs_is_looked_at(loss):
    model = Model(Two())
    model.compile(optimizer="sgd", loss={"one": nn.L1Loss(), "two": loss})
    good, bad = {"one": Y[:, None], "two": Y[:, None]}, {"one": Y[:, None], "two": Y}
    for call in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"x: received labels of shape \(32,\) for net output \(32, 1\)"):
            call(X, bad)
    with pytest.raises(ValueError, match="labels of shape"):
        model.fit(X, bad, verbose=0)
    model.fit(X, good, verbose=0)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_one_sample_does_no_harm():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x).squeeze()

    assert model_of("mse", Squeezed()).evaluate((X[:1], Y[:1]))["val_loss"] > 0
    model_of(squared, Squeezed()).fit((X[:9], Y[:9]), (X[:1], Y[:1]), epochs=1, batch_size=8, ckpt_path=None,
                                      quiet=True)


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_lightning_is_told_the_name_that_lightning_has():
    from torch.utils.data import DataLoader, TensorDataset

    from torchkeras import LightModel

    model = LightModel(nn.Linear(4, 1), squared, quiet=True)
    trainer = LightModel.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                                 enable_progress_bar=False, enable_model_summary=False)
    loaders = [DataLoader(TensorDataset(X, labels), batch_size=16) for labels in (Y[:, None], Y)]
    with pytest.raises(ValueError, match="val_dataloaders: received labels of shape"):
        trainer.fit(model, *loaders)
