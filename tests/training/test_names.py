"""Metrics, losses and optimizers by name, and what may stand for a metric."""

import pytest
import torch
import torchmetrics
from torch import nn

from torchkeras import KerasModel, metrics
from torchkeras.training import names


@pytest.mark.parametrize(("name", "kind"), [
    ("accuracy", metrics.Accuracy), ("acc", metrics.Accuracy), ("Precision", metrics.Precision),
    ("recall", metrics.Recall), ("F1", metrics.F1), ("AUC", metrics.AUC), ("aucroc", metrics.AUC),
    ("auc-roc", metrics.AUC), ("aucpr", metrics.AUCPR), ("auc_pr", metrics.AUCPR), ("ks", metrics.KS),
    ("mae", metrics.MAE), ("mse", metrics.MSE), ("rmse", metrics.RMSE), ("mape", metrics.MAPE), ("R2", metrics.R2),
    ("top_k", metrics.TopK), ("topk", metrics.TopK), ("top5", metrics.TopK)])
def test_metrics_have_names(name, kind):
    assert type(names.metric(name)) is kind
    assert names.metric(name) is not names.metric(name)


def test_a_metric_by_name_knows_about_logits():
    preds, labels = torch.tensor([0.1, 0.2]), torch.zeros(2)
    assert names.metric("accuracy", from_logits=False)(preds, labels) == 1.0
    assert names.metric("accuracy")(preds, labels) == 0.0  # control


@pytest.mark.parametrize(("name", "kind"), [
    ("cross_entropy", nn.CrossEntropyLoss), ("CrossEntropy", nn.CrossEntropyLoss), ("nll", nn.NLLLoss),
    ("bce", nn.BCELoss), ("binary_cross_entropy", nn.BCELoss), ("bce-with-logits", nn.BCEWithLogitsLoss),
    ("binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss), ("mse", nn.MSELoss), ("mae", nn.L1Loss),
    ("l1", nn.L1Loss), ("smooth_l1", nn.SmoothL1Loss), ("huber", nn.HuberLoss), ("kl_div", nn.KLDivLoss)])
def test_losses_have_names(name, kind):
    assert type(names.loss(name)) is kind


@pytest.mark.parametrize("name", names.LOSSES)
def test_every_named_loss_gives_one_number_without_a_warning(name):
    preds = torch.full((4, 3), 1 / 3, requires_grad=True)
    classes = {"cross_entropy", "nll", "multi_margin"}
    labels = torch.zeros(4, dtype=torch.int64) if name in classes else torch.ones(4, 3)
    if name == "multilabel_margin":
        labels = torch.zeros(4, 3, dtype=torch.int64)
    assert names.loss(name)(preds, labels).shape == ()


def test_the_named_divergence_is_the_mean_over_samples():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    expected = (q * (q / p).log()).sum(1).mean()
    assert torch.isclose(names.loss("kl_div")(p.log(), q), expected)
    assert not torch.isclose((q * (q / p).log()).mean(), expected)  # control: a mean over all elements


@pytest.mark.parametrize("name", ["adam", "AdamW", "sgd", "RMSprop", "nadam", "radam", "adagrad", "adadelta", "adamax"])
def test_optimizers_have_names_and_torchs_defaults(name):
    net = nn.Linear(2, 1)
    optimizer = names.optimizer(name, net.parameters())
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.defaults == type(optimizer)(net.parameters()).defaults


@pytest.mark.parametrize("name", sorted(names.torch_optimizers()))
def test_every_named_optimizer_learns_a_net_with_biases(name):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    before = net[0].weight.detach().clone()
    model = KerasModel(net, "mse", optimizer=name)
    model.fit((torch.ones(4, 2), torch.zeros(4, 2)), epochs=1, ckpt_path=None, quiet=True)
    assert not torch.equal(net[0].weight, before)
    assert all(left_out not in names.torch_optimizers() for left_out in ("muon", "sparseadam"))


@pytest.mark.parametrize(("call", "text"), [
    (lambda: names.metric("acuracy"), "metric: received 'acuracy'; expected one of .*Did you mean 'accuracy'"),
    (lambda: names.loss("cross_entrpy"), "loss_fn: received 'cross_entrpy'.*Did you mean 'cross_entropy'"),
    (lambda: names.optimizer("adamv", []), "optimizer: received 'adamv'.*adamw.*Did you mean 'adam"),
    (lambda: names.metric("zzz"), "metric: received 'zzz'; expected one of accuracy")])
def test_an_unknown_name_gets_the_known_ones(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_metric_object_stays_itself():
    ours, theirs = metrics.Accuracy(), torchmetrics.Accuracy(task="binary")
    assert names.as_metric("acc", ours) is ours
    assert names.as_metric("acc", theirs) is theirs


def test_a_name_or_a_function_becomes_a_metric():
    assert isinstance(names.as_metric("a", "auc"), metrics.AUC)
    preds, labels = torch.tensor([0.1]), torch.tensor([0])
    assert names.as_metric("a", "acc", from_logits=False)(preds, labels) == 1.0
    made = names.as_metric("gap", lambda preds, labels: (preds - labels).abs().max())
    assert isinstance(made, metrics.FunctionMetric)
    assert made.name == "gap"
    assert isinstance(names.as_metric("mse", nn.MSELoss()), metrics.FunctionMetric)


class Older(nn.Module):
    """Counts when called, as metrics did before they had an update."""

    def __init__(self):
        super().__init__()
        self.reset()

    def forward(self, preds, labels):
        self.right += (preds == labels).sum().item()
        self.seen += len(labels)
        return torch.tensor((preds == labels).float().mean().item())

    def compute(self):
        return torch.tensor(self.right / self.seen)

    def reset(self):
        self.right = self.seen = 0


class OlderPlain:
    def __init__(self):
        self.calls = 0

    def __call__(self, preds, labels):
        self.calls += 1

    def compute(self):
        return self.calls

    def reset(self):
        self.calls = 0


def test_an_older_object_counts_when_updated():
    metric = names.as_metric("acc", Older())
    metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
    metric.update(torch.tensor([1]), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx(2 / 3)
    assert metric(torch.tensor([0]), torch.tensor([1])) == 0.0
    metric.reset()
    metric.update(torch.tensor([1]), torch.tensor([1]))
    assert metric.compute() == 1.0
    plain = names.as_metric("n", OlderPlain())
    plain.update(None, None)
    assert plain.compute() == 1


def test_a_class_or_a_number_is_refused():
    with pytest.raises(TypeError, match=r"metrics_dict\['acc'\]: received the class.*Did you mean Accuracy\(\)\?"):
        names.as_metric("acc", metrics.Accuracy)
    with pytest.raises(TypeError, match=r"metrics_dict\['acc'\]: received int; expected a name, a function"):
        names.as_metric("acc", 3)
