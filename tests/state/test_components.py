"""Everything that has a state and takes part in a run: learned, measured, kept with the best, gone on with."""

import copy
import functools
import types
from collections import OrderedDict, defaultdict, deque

import pytest
import torch
from tests.faults.runs import StopAt
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel
from torchkeras.engine.step import StepRunner

torch.manual_seed(0)
X, Y, Z = torch.randn(40, 4), torch.randint(0, 3, (40,)), torch.randn(40, 1)


class Centred(nn.Module):
    """A loss with a weight, a centre that moves in every forward, and dropout meant for training."""

    def __init__(self, learns=True, dropout=0.5):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.ones(())) if learns else 1.0

    def forward(self, preds, labels):
        loss = F.cross_entropy(self.dropout(preds - self.centre) * self.scale, labels)
        with torch.no_grad():
            self.centre.mul_(0.9).add_(preds.mean(dim=0), alpha=0.1)
        return loss


class Holder:
    """A loss that is no module and holds one."""

    def __init__(self):
        self.inner = Centred()

    def __call__(self, preds, labels):
        return self.inner(preds, labels)


def as_given(kind):
    """A loss of a kind, and the module in it."""
    inner = Centred()
    if kind == "module":
        return inner, inner
    if kind == "partial":
        return functools.partial(inner), inner
    if kind == "partial function":
        return functools.partial(lambda preds, labels, loss: loss(preds, labels), loss=inner), inner
    if kind == "method":
        return inner.forward, inner
    holder = Holder()
    return holder, holder.inner


KINDS = ("module", "partial", "partial function", "method", "object")


class Last(Callback):
    """Keeps the weights of the last epoch."""

    def on_validation_epoch_end(self, model):
        self.weights = copy.deepcopy(model.net.state_dict())

    def equal(self, net, close=torch.equal):
        return all(close(one, self.weights[name]) for name, one in net.state_dict().items())


def fit(model, data=(X, Y), stop=None, path=None, callbacks=(), **options):
    options = {"epochs": 3, "batch_size": 8, "quiet": True, "seed": 5, "patience": None, **options}
    return model.fit(data, data, ckpt_path=path, resume=path is not None,
                     callbacks=[*callbacks, *([] if stop is None else [StopAt(stop)])], **options)


def broken(make, path, stops, **options):
    """What is left of a run that was stopped at some steps, each time gone on with by a fresh model."""
    for stop in (*stops, None):
        model = make()
        history = fit(model, stop=stop, path=path, **options)
    return model, history


def left(model):
    """All numbers of a model, as text."""
    modules = [one.state_dict() for one in model.learners()]
    others = [one.state_dict() for one in model.step_objects.values() if hasattr(one, "state_dict")]
    return repr(ordered((modules, model.optimizer.state_dict(), others)))


def ordered(tree):
    """Nested values whose dicts are in the order of their keys."""
    if isinstance(tree, dict):
        return sorted((str(key), ordered(one)) for key, one in tree.items())
    return [ordered(one) for one in tree] if isinstance(tree, (list, tuple)) else repr(tree)


def same(make, tmp_path, stops, **options):
    """Whether a run with breaks leaves what the run without leaves; the run itself."""
    whole = make()
    history = fit(whole, path=tmp_path / "whole", **options)
    other, again = broken(make, tmp_path / "broken", stops, **options)
    return history.equals(again) and left(whole) == left(other), whole


# Losses with a state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_the_weights_of_a_loss_are_in_default_and_named_optimizers(kind, optimizer):
    loss_fn, inner = as_given(kind)
    model = KerasModel(nn.Linear(4, 3), loss_fn, optimizer=optimizer)
    before = inner.scale.item()
    fit(model)
    assert inner.scale.item() != before
    assert not any("not in it" in note for note in model.run.notes)


def test_a_loss_that_the_optimizer_does_not_hold_is_told():
    net = nn.Linear(4, 3)
    model = KerasModel(net, Centred(), optimizer=torch.optim.Adam(net.parameters()))
    fit(model, epochs=1)
    assert "optimizer: 1 parameters of the loss are not in it: scale" in model.run.notes


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_changes_nothing_of_a_loss_and_is_the_same_at_any_batch_size(kind):
    loss_fn, inner = as_given(kind)
    model = KerasModel(nn.Linear(4, 3), loss_fn)
    fit(model, epochs=1)
    before = inner.centre.clone()
    found = [model.evaluate((X, Y), batch_size=size)["val_loss"] for size in (40, 40, 7, 1)]
    assert found == pytest.approx([found[0]] * 4, abs=1e-6)
    assert torch.equal(inner.centre, before)
    assert before.abs().sum() > 0
    with torch.no_grad():
        expected = F.cross_entropy((model.net(X) - before) * inner.scale, Y).item()
    assert found[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_changes_nothing_of_the_training_with_such_a_loss(kind):
    torch.manual_seed(1)
    start, trained = nn.Linear(4, 3), []
    for val in (None, (X, Y)):
        loss_fn, inner = as_given(kind)
        inner.dropout.p = 0.0
        model = KerasModel(copy.deepcopy(start), loss_fn, optimizer="adam")
        model.fit((X, Y), val, epochs=2, batch_size=8, ckpt_path=None, quiet=True, monitor="train_loss", shuffle=False)
        trained.append((model.net.weight.detach().clone(), inner.centre.clone()))
    assert all(torch.equal(*both) for both in zip(*trained, strict=True))


def test_a_loss_trains_in_the_mode_in_which_it_was_found():
    for training in (True, False):
        loss_fn, seen = Centred().train(training), []

        class Look(Callback):
            def on_step_end(self, model, loss_fn=loss_fn, seen=seen):
                seen.append((model.run.stage, loss_fn.training))

        fit(KerasModel(nn.Linear(4, 3), loss_fn), epochs=1, callbacks=[Look()])
        assert set(seen) == {("train", training), ("val", False)}
        assert loss_fn.training is training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [(3,), (5,), (1, 9)])
def test_a_run_with_such_a_loss_goes_on_bit_for_bit(kind, stops, tmp_path):
    def make():
        torch.manual_seed(3)
        return KerasModel(nn.Linear(4, 3), as_given(kind)[0], optimizer="adam")

    alike, whole = same(make, tmp_path, stops)
    assert alike
    assert whole.learners()[1].centre.abs().sum() > 0


def test_control_a_loss_outside_of_the_state_is_another_run(tmp_path, monkeypatch):
    def make():
        torch.manual_seed(3)
        return KerasModel(nn.Linear(4, 3), Centred(), optimizer="adam")

    monkeypatch.setattr(KerasModel, "learners", lambda self: [self.net])
    monkeypatch.setattr("torchkeras.state.components.parts_of_loss", lambda loss_fn, name="": ())
    monkeypatch.setattr("torchkeras.state.components.loss_modules", lambda loss_fn: [])
    assert not same(make, tmp_path, (3,))[0]


def test_the_best_weights_of_a_loss_come_back_with_those_of_the_net():
    class Watch(Callback):
        kept = None

        def on_validation_epoch_end(self, model):
            if model.run.monitor.best_epoch == model.run.epoch:
                self.kept = model.loss_fn.scale.item(), model.loss_fn.centre.clone()

    model, watch = KerasModel(nn.Linear(4, 3), Centred(), optimizer=None), Watch()
    model.optimizer = torch.optim.SGD([*model.net.parameters(), *model.loss_fn.parameters()], lr=4.0)
    fit(model, epochs=6, callbacks=[watch])
    assert model.run.monitor.best_epoch < 6
    assert (model.loss_fn.scale.item(), model.loss_fn.centre.tolist()) == (watch.kept[0], watch.kept[1].tolist())


# Nets and optimizers for a step


class Gan(StepRunner):
    """Two nets that learn from each other; what it keeps: a count, a queue, a slow copy, and generators."""

    def __init__(self, *, d, **parts):
        super().__init__(**parts)
        self.d, self.calls, self.queue, self.recent = d, 0, [], deque(maxlen=2)
        self.slow, self.noise = copy.deepcopy(self.net), torch.Generator().manual_seed(7)

    def __call__(self, batch):
        x = batch[0] + 0.01 * torch.randn(batch[0].shape, generator=self.noise)
        fake, self.calls = self.net(x), self.calls + 1
        loss = (self.d(fake) - 1).square().mean() + 0.1 * (fake - self.slow(x)).square().mean()
        if self.stage == "train":
            self.learn(x, fake, loss)
        return {f"{self.stage}_loss": loss.detach()}, {}

    def learn(self, x, fake, loss):
        g, d = self.optimizers()
        g.zero_grad()
        loss.backward(retain_graph=True)
        g.step()
        self.queue = [*self.queue, fake.detach()][-3:]
        self.recent.append(self.calls % 5)
        d.zero_grad()
        other = self.d(self.queue[0]).square().mean() * (1 + sum(self.recent)) + (self.d(x) - 1).square().mean()
        other.backward()
        d.step()
        with torch.no_grad():
            for one, new in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                one.lerp_(new, 0.1)

    def optimizers(self):
        return self.optimizer["g"], self.optimizer["d"]


class GanOfObjects(Gan):
    def __init__(self, *, optimizer_d, schedule_d, **parts):
        super().__init__(**parts)
        self.optimizer_d, self.schedule_d = optimizer_d, schedule_d

    def optimizers(self):
        return self.optimizer, self.optimizer_d

    def learn(self, *given):
        super().learn(*given)
        self.schedule_d.step()


def gan(objects):
    torch.manual_seed(1)
    g = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 4))
    d = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    og, od = torch.optim.Adam(g.parameters(), 1e-2), torch.optim.SGD(d.parameters(), 1e-2, momentum=0.9)
    if objects:
        schedule = torch.optim.lr_scheduler.StepLR(od, 5)
        model = KerasModel(g, optimizer=og, d=d, optimizer_d=od, schedule_d=schedule)
    else:
        model = KerasModel(g, optimizer={"g": og, "d": od}, d=d)
    model.StepRunner = GanOfObjects if objects else Gan
    return model


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("stops", [(2,), (5,), (7, 11)])
def test_second_nets_optimizers_and_what_a_step_keeps_go_on_bit_for_bit(objects, stops, tmp_path):
    alike, whole = same(lambda: gan(objects), tmp_path, stops)
    assert alike
    assert whole.run.step_runners == {}  # nothing of the run is held afterwards


@pytest.mark.parametrize("forgotten", ["objects", "values"])
def test_control_a_step_that_begins_anew_is_another_run(forgotten, tmp_path, monkeypatch):
    from torchkeras.checkpoint import manager
    from torchkeras.checkpoint import step_state as steps

    put = steps.put_own_state
    monkeypatch.setattr(manager, "put_own_state", lambda step, model, saved: put(step, model, saved | {forgotten: {}}))
    assert not same(lambda: gan(True), tmp_path, (7,))[0]


def test_a_step_lives_as_long_as_the_run():
    seen = []

    class Counting(StepRunner):
        def __init__(self, **parts):
            super().__init__(**parts)
            self.calls = 0

        def __call__(self, batch):
            self.calls += 1
            seen.append((self.stage, self.calls))
            return super().__call__(batch)

    model = KerasModel(nn.Linear(4, 3), "cross_entropy")
    model.StepRunner = Counting
    fit(model)
    assert [one for stage, one in seen if stage == "train"] == list(range(1, 16))
    assert max(one for stage, one in seen if stage == "val") == 15
    seen.clear()
    fit(model, epochs=1)
    assert seen[0] == ("train", 1)  # another run has a step of its own


def test_a_step_of_any_class_with_a_state_dict_says_itself_what_it_keeps(tmp_path):
    class Plain:
        def __init__(self, net, loss_fn, accelerator, stage, metrics_dict, optimizer, lr_scheduler):
            self.net, self.loss_fn, self.accelerator, self.stage = net, loss_fn, accelerator, stage
            self.metrics_dict, self.optimizer, self.pull = metrics_dict, optimizer, object()
            self.pull_of = 0.0

        def state_dict(self):
            return {"pull": self.pull_of}

        def load_state_dict(self, state):
            self.pull_of = state["pull"]

        def __call__(self, batch):
            loss = self.loss_fn(self.net(batch[0]), batch[1]) + self.pull_of * self.net.weight.square().sum()
            if self.optimizer is not None:
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.pull_of += 0.01
            return {f"{self.stage}_loss": loss.detach()}, {}

    def make():
        torch.manual_seed(3)
        model = KerasModel(nn.Linear(4, 3), "cross_entropy")
        model.StepRunner = Plain
        return model

    assert same(make, tmp_path, (3, 8))[0]


def test_step_objects_are_measured_in_evaluation_mode_and_given_back():
    seen = []

    class Distilled(StepRunner):
        def __init__(self, *, teacher, **parts):
            super().__init__(**parts)
            self.teacher = teacher

        def forward(self, batch):
            seen.append((self.stage, self.training, self.teacher.training))
            return super().forward(batch)

    teacher = nn.Dropout(0.5)
    model = KerasModel(nn.Linear(4, 3), "cross_entropy", teacher=teacher)
    model.StepRunner = Distilled
    fit(model, epochs=1)
    model.predict(X)
    assert {one[2] for one in seen if one[1]} == {True}
    assert {one[2] for one in seen if not one[1]} == {False}
    assert teacher.training


def test_the_best_weights_of_step_objects_come_back(tmp_path):
    class Watch(Callback):
        def on_validation_epoch_end(self, model):
            if model.run.monitor.best_epoch == model.run.epoch:
                self.kept = repr(model.step_objects["d"].state_dict())

    model, watch = gan(False), Watch()
    fit(model, epochs=6, monitor="val_loss", mode="max", callbacks=[watch])
    assert repr(model.step_objects["d"].state_dict()) == watch.kept


# Several optimizers for our own step


def two(by_name):
    net = nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True, mode="sum"), nn.Linear(4, 3))
    each = {"words": torch.optim.SparseAdam(net[0].parameters(), lr=0.01), "rest": torch.optim.SGD(
        net[1].parameters(), lr=0.1, momentum=0.9)}
    return net, each if by_name else list(each.values()), each


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_several_optimizers_are_the_plain_loop(by_name, accumulated):
    words = torch.randint(0, 10, (40, 5))
    net, given, _ = two(by_name)
    other, _, each = two(by_name)
    other.load_state_dict(net.state_dict())
    schedules = [torch.optim.lr_scheduler.StepLR(each["words"], 1, 0.5), torch.optim.lr_scheduler.OneCycleLR(
        each["rest"], 0.1, total_steps=30)]
    for _ in range(2):
        for x, y in zip(words.split(8 * accumulated), Y.split(8 * accumulated), strict=True):
            F.cross_entropy(other(x.clone()), y.clone()).backward()
            for one in each.values():
                one.step()
            schedules[1].step()
            for one in each.values():
                one.zero_grad()
        schedules[0].step()
    pair = list(given.values()) if by_name else given
    mine = [torch.optim.lr_scheduler.StepLR(pair[0], 1, 0.5), torch.optim.lr_scheduler.OneCycleLR(
        pair[1], 0.1, total_steps=30)]
    model = KerasModel(net, "cross_entropy", optimizer=given,
                       lr_scheduler=dict(zip("ab", mine, strict=True)) if by_name else mine)
    history = fit(model, (words, Y), epochs=2, shuffle=False, gradient_accumulation_steps=accumulated,
                  callbacks=[last := Last()])
    assert last.equal(other, torch.equal if accumulated == 1 else functools.partial(torch.allclose, atol=1e-6))
    assert [group["lr"] for group in model.optimizer.param_groups] == [
        group["lr"] for one in each.values() for group in one.param_groups]
    assert list(history["lr"]) == [0.01, 0.005]


def test_several_optimizers_go_on_bit_for_bit(tmp_path):
    words = torch.randint(0, 10, (40, 5))

    def make():
        torch.manual_seed(1)
        net, given, _ = two(False)
        return KerasModel(net, "cross_entropy", optimizer=given,
                          lr_scheduler=[None, torch.optim.lr_scheduler.StepLR(given[1], 1)])

    assert same(make, tmp_path, (3, 8), data=(words, Y))[0]


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda net: [], ValueError, "an empty list or dict"),
    (lambda net: [torch.optim.SGD(net.parameters()), torch.optim.Adam], TypeError, "optimizer"),
    (lambda net: [torch.optim.SGD(net.parameters()), 3], TypeError, "received int"),
    (lambda net: [torch.optim.SGD(net.parameters()), torch.optim.Adam([net.weight])], ValueError,
     r"optimizer\[1\]: received parameters that another optimizer holds too"),
    (lambda net: [torch.optim.SGD([net.weight]), torch.optim.LBFGS([net.bias])], ValueError,
     r"optimizer\[1\]: received LBFGS.*beside other optimizers"),
])
def test_several_optimizers_that_cannot_be_right_are_refused_before_anything(make, error, text):
    net = nn.Linear(4, 3)
    before = net.weight.detach().clone()
    with pytest.raises(error, match=text):
        fit(KerasModel(net, "cross_entropy", optimizer=make(net)))
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("name", ["muon", "SparseAdam"])
def test_a_name_that_cannot_work_by_itself_says_what_does(name):
    with pytest.raises(ValueError, match=r"optimizer=\[torch.optim"):
        KerasModel(nn.Linear(4, 3), "cross_entropy", optimizer=name)


# Parameter groups that come later


class Thaw(Callback):
    """Adds a parameter group at some moment of the run."""

    def __init__(self, moment, epoch):
        self.moment, self.epoch = moment, epoch

    def add(self, model, moment):
        if moment == self.moment and model.run.epoch == self.epoch:
            model.net[0].weight.requires_grad_(True)
            model.optimizer.add_param_group({"params": [model.net[0].weight], "lr": 0.03})

    def on_fit_start(self, model):
        self.add(model, "fit")

    def on_epoch_start(self, model):
        self.add(model, "epoch")

    def on_validation_epoch_end(self, model):
        self.add(model, "end")


@pytest.mark.parametrize("kind", ["fit 0", "epoch 1", "epoch 2", "end 1", "end 2"])
@pytest.mark.parametrize("stops", [(2,), (5,), (7, 11)])
def test_parameter_groups_that_a_callback_added_go_on(kind, stops, tmp_path):
    moment, epoch = kind.split()

    def make():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        net[0].weight.requires_grad_(False)
        return KerasModel(net, "cross_entropy", optimizer=torch.optim.Adam(net[2].parameters(), lr=0.1))

    alike, whole = same(make, tmp_path, stops, callbacks=[Thaw(moment, int(epoch))])
    assert alike
    assert len(whole.optimizer.param_groups) == 2


# What nobody can save


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.queue, self.target = nn.Linear(4, 3), [torch.zeros(3)], [nn.Linear(4, 3)]
        self.mean, self.names = torch.zeros(4), ["a", "b"]
        self.alias = self.linear

    def forward(self, x):
        return self.linear(x)


class Remembers:
    """A step object with numbers and no state_dict."""

    def __init__(self):
        self.seen = [torch.zeros(2)]


class WithMemory(StepRunner):
    def __init__(self, *, memory, rate, **parts):
        super().__init__(**parts)
        self.memory, self.rate, self.lock = memory, rate, types.SimpleNamespace(open=print)


def test_what_cannot_be_kept_is_named_before_the_first_step(tmp_path):
    model = KerasModel(Outside(), "cross_entropy", memory=Remembers(), rate=0.1)
    model.StepRunner = WithMemory
    notes = []

    class Look(Callback):
        def on_fit_start(self, model):
            notes.extend(model.run.notes)

    fit(model, path=tmp_path / "best", epochs=1, callbacks=[Look()])
    [text] = [note for note in notes if "not saved" in note]
    assert all(name in text for name in ("memory", "net.queue", "net.target", "net.mean", "StepRunner.lock"))
    assert "alias" not in text
    assert "names" not in text


def test_control_a_net_with_all_in_its_state_dict_is_not_named(tmp_path):
    model = KerasModel(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.CrossEntropyLoss(torch.ones(3)))
    fit(model, path=tmp_path / "best", epochs=1)
    assert not any("not saved" in note for note in model.run.notes)


# Optimizers that call the net themselves


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe", "lr": 0.5}])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_lbfgs_is_the_plain_loop(options, precision):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 1))
    other = copy.deepcopy(net)
    optimizer, losses = torch.optim.LBFGS(other.parameters(), max_iter=4, **options), []
    loader = DataLoader(TensorDataset(X, Z), batch_size=8, shuffle=True)
    torch.manual_seed(5)
    for _ in range(2):
        total = 0.0
        for x, y in loader:
            def closure(x=x, y=y):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = F.mse_loss(other(x), y)
                loss.backward()
                return loss

            total += optimizer.step(closure).item() * len(x)
        losses.append(total / 40)
    model = KerasModel(net, "mse", optimizer=torch.optim.LBFGS(net.parameters(), max_iter=4, **options))
    history = model.fit(loader, epochs=2, seed=5, ckpt_path=None, quiet=True,
                        mixed_precision=precision, callbacks=[last := Last()])
    assert last.equal(other)
    assert list(history["train_loss"]) == pytest.approx(losses, abs=1e-6)


def test_lbfgs_goes_on_bit_for_bit(tmp_path):
    def make():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        return KerasModel(net, "mse", optimizer=torch.optim.LBFGS(net.parameters(), max_iter=3, lr=0.1))

    assert same(make, tmp_path, (3, 8), data=(X, Z))[0]


class SAM(torch.optim.SGD):
    """Sharpness-aware minimization (Foret et al. 2021): the gradient of where the loss is worst, nearby."""

    def step(self, closure=None):
        with torch.no_grad():
            weights = self.param_groups[0]["params"]
            moves = [0.05 * one.grad / (one.grad.norm() + 1e-12) for one in weights]
            for one, move in zip(weights, moves, strict=True):
                one.add_(move)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for one, move in zip(weights, moves, strict=True):
                one.sub_(move)
        super().step()


def test_a_step_of_ones_own_can_give_a_closure():
    class Sharp(StepRunner):
        def __call__(self, batch):
            preds, labels, loss = self.forward_and_loss(batch)
            if self.training:
                self.backward(loss)
                self.optimizer.step(self.closure(batch))
                self.optimizer.zero_grad()
            return self.measure(loss, preds, labels) if not self.training else ({"train_loss": loss.detach()}, {})

    net = nn.Linear(4, 1)
    other = copy.deepcopy(net)
    optimizer = SAM(other.parameters(), lr=0.1)
    for x, y in DataLoader(TensorDataset(X, Z), batch_size=8):
        F.mse_loss(other(x), y).backward()

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.mse_loss(other(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.zero_grad()
    model = KerasModel(net, "mse", optimizer=SAM(net.parameters(), lr=0.1))
    model.StepRunner = Sharp
    model.fit((X, Z), epochs=1, batch_size=8, shuffle=False, ckpt_path=None, quiet=True)
    assert torch.equal(net.weight, other.weight)


def test_lbfgs_is_refused_where_an_update_is_made_of_several_batches():
    net = nn.Linear(4, 1)
    model = KerasModel(net, "mse", optimizer="lbfgs")
    with pytest.raises(ValueError, match="LBFGS.*gradient_accumulation_steps=2.*larger batches"):
        fit(model, (X, Z), gradient_accumulation_steps=2)


# What a step shares with others, and containers of what learns


class Sharing(StepRunner):
    """It keeps nets and tensors that others have too, lists of weights, and numbers that learn."""

    teacher_of_all = None

    def __init__(self, **parts):
        super().__init__(**parts)
        self.teacher, self.first = Sharing.teacher_of_all, self.net.weight
        self.decayed, self.named = [*self.net.parameters()], OrderedDict(self.net.named_parameters())
        self.log_vars = [torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)]
        self.their_optimizer, self.seen_in = torch.optim.SGD(self.log_vars, lr=0.1, momentum=0.9), defaultdict(list)

    def loss(self, preds, labels, weights=None):
        self.seen_in[self.stage].append(len(labels))
        self.named.move_to_end("weight")
        distilled = (preds - self.teacher(X[:1])).square().mean() + sum(one.square().sum() for one in self.decayed)
        one, two = self.log_vars
        return super().loss(preds, labels) * one.exp() - one + distilled * two.exp() - two + self.first.mean()

    def update(self):
        super().update()
        self.their_optimizer.step()
        self.their_optimizer.zero_grad()
        with torch.no_grad():
            for weight, own in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                weight.lerp_(own, 0.2)


@pytest.mark.parametrize("stops", [(2,), (5,), (7, 11)])
def test_what_a_step_shares_with_others_goes_on_bit_for_bit(stops, tmp_path):
    def make():
        torch.manual_seed(4)
        model = KerasModel(nn.Linear(4, 3), "cross_entropy", optimizer="sgd")
        Sharing.teacher_of_all = nn.Linear(4, 3)
        model.StepRunner = Sharing
        return model

    alike, whole = same(make, tmp_path, stops)
    assert alike
    assert not any("not saved" in note for note in whole.run.notes)


def test_a_net_that_each_step_makes_for_itself_is_told_and_goes_on(tmp_path):
    class Making(StepRunner):
        def __init__(self, **parts):
            super().__init__(**parts)
            self.head = nn.Linear(3, 3)

        def forward(self, batch):
            preds, labels = super().forward(batch)
            return self.head(preds), labels

    def make():
        torch.manual_seed(4)
        model = KerasModel(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2)), "cross_entropy")
        model.StepRunner = Making
        return model

    alike, whole = same(make, tmp_path, (7,))
    assert alike
    assert any(note.startswith("StepRunner.head: made by each step for itself") for note in whole.run.notes)


def test_a_name_that_steps_need_for_themselves_is_refused():
    class Clashing(StepRunner):
        def __init__(self, **parts):
            super().__init__(**parts)
            self.seen = []

    model = KerasModel(nn.Linear(4, 3), "cross_entropy")
    model.StepRunner = Clashing
    with pytest.raises(ValueError, match="StepRunner: received one that keeps something of its own as seen"):
        fit(model)


def test_a_parameter_that_only_an_optimizer_knows_goes_on(tmp_path):
    left_over = []

    def make():
        torch.manual_seed(4)
        net, temperature = nn.Linear(4, 3), nn.Parameter(torch.ones(()))
        left_over.append(temperature)
        return KerasModel(net, lambda preds, labels: F.cross_entropy(preds * temperature, labels),
                          optimizer=torch.optim.Adam([*net.parameters(), temperature], lr=0.05))

    assert same(make, tmp_path, (3, 8))[0]
    assert left_over[0].item() == left_over[-1].item() != 1.0


class Trainer:
    def __init__(self):
        self.parts = types.SimpleNamespace(criterion=Centred())

    def compute(self, preds, labels):
        return self.parts.criterion(preds, labels)


def test_a_loss_that_lies_deeper_in_an_object_takes_part_too(tmp_path):
    trainers = []

    def make():
        torch.manual_seed(3)
        trainers.append(Trainer())
        return KerasModel(nn.Linear(4, 3), trainers[-1].compute, optimizer="adam")

    alike, whole = same(make, tmp_path, (3,))
    assert alike
    assert trainers[0].parts.criterion.scale.item() != 1.0
    assert len({whole.evaluate((X, Y))["val_loss"] for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", ["partial", "object", "step object"])
def test_clipping_bounds_all_that_the_optimizer_moves(kind):
    class WithHead(StepRunner):
        def __init__(self, *, head, **parts):
            super().__init__(**parts)
            self.head = head

        def forward(self, batch):
            preds, labels = super().forward(batch)
            return self.head(preds), labels

    torch.manual_seed(1)
    net, head = nn.Linear(4, 3), nn.Linear(3, 3) if kind == "step object" else None
    loss_fn, inner = (nn.CrossEntropyLoss(), head) if head is not None else as_given(kind)
    others = [one for one in (inner, head) if one is not None][:1]
    if head is None:
        inner.dropout.p = 0.0
    twins = copy.deepcopy([net, *others])
    model = KerasModel(net, loss_fn, optimizer=torch.optim.SGD([*net.parameters(), *others[0].parameters()], lr=0.5),
                       **({"head": head} if head is not None else {}))
    if head is not None:
        model.StepRunner = WithHead
    fit(model, epochs=1, shuffle=False, clip_grad_norm=0.05, clip_grad_value=0.02)
    weights = [one for part in twins for one in part.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.5)
    for x, y in DataLoader(TensorDataset(X, Y), batch_size=8):
        preds = twins[0](x)
        (F.cross_entropy(twins[1](preds), y) if head is not None else twins[1](preds, y)).backward()
        nn.utils.clip_grad_norm_(weights, 0.05)
        nn.utils.clip_grad_value_(weights, 0.02)
        optimizer.step()
        optimizer.zero_grad()
    for one, own in zip(weights, [*net.parameters(), *others[0].parameters()], strict=True):
        assert torch.equal(one, own)


class Wrapping(torch.optim.Optimizer):
    """It steps with another optimizer, whose groups it shares."""

    def __init__(self, params):
        super().__init__(params, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.base.param_groups

    def step(self):
        self.base.step()


def test_an_optimizer_inside_an_optimizer_goes_on(tmp_path):
    def make():
        torch.manual_seed(3)
        net = nn.Linear(4, 3)
        return KerasModel(net, "cross_entropy", optimizer=Wrapping(net.parameters()))

    assert same(make, tmp_path, (3, 8))[0]
    with pytest.raises(TypeError, match="Wrapping, of which a copy lacks base"):
        make().verify_resume((X, Y), batch_size=8)


def test_a_schedule_that_a_step_moves_now_and_then_is_not_moved_once_more_by_a_run_that_goes_on(tmp_path):
    class Seldom(StepRunner):
        def __init__(self, **parts):
            super().__init__(**parts)
            self.updates = 0

        def update(self):
            super().update()
            self.updates += 1
            self.moved()

        def moved(self):
            if self.updates % 5 == 1:
                self.lr_scheduler.step()

    def make():
        torch.manual_seed(3)
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        model = KerasModel(net, "cross_entropy", optimizer=optimizer,
                           lr_scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
        model.StepRunner = Seldom
        return model

    alike, whole = same(make, tmp_path, (3, 8))
    assert alike
    assert whole.lr_scheduler.last_epoch == 3


class Slow(torch.optim.SGD):
    """Keeps a copy of the weights beside torch's state."""

    def __init__(self, weights):
        super().__init__(weights, lr=0.1)
        self.order = [weight for group in self.param_groups for weight in group["params"]]
        self.slow = [weight.detach().clone() for weight in self.order]


class SlowAndSaved(Slow):
    """Says itself what its state is."""

    def state_dict(self):
        return super().state_dict() | {"slow": self.slow}


class Around(torch.optim.Optimizer):
    """Steps an optimizer within, as implementations of SAM do."""

    def __init__(self, weights, shared=False):
        super().__init__(weights, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base.param_groups
        if shared:
            self.base.state = self.state


@pytest.mark.parametrize(("make", "unsaved"), [
    (Slow, ["optimizer.slow"]), (SlowAndSaved, []), (Around, ["optimizer.base"]),
    (lambda weights: Around(weights, shared=True), []),
    *((kind, []) for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS, torch.optim.Adafactor))])
def test_what_an_optimizer_keeps_beside_torchs_state_is_named_before_the_run(make, unsaved, tmp_path):
    net, x = nn.Linear(3, 1), torch.ones(8, 3)
    model = KerasModel(net, "mse", optimizer=make(net.parameters()))
    model.optimizer.step = lambda closure=None: None  # it is not about how it moves
    model.fit((x, x[:, :1]), epochs=1, quiet=True, cpu=True, ckpt_path=tmp_path / "net", save_every="epoch")
    noted = [note for note in model.run.notes if "not saved" in note]
    assert noted == [f"save_every: not saved, so as built again when the run goes on: {name}; make it a buffer, or keep "
                     "it in an object with state_dict and load_state_dict" for name in unsaved]
