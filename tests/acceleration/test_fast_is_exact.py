"""speed="fast" trains what exact mode trains: what a graph cannot do is done in plain steps, and the run says why."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchkeras import KerasModel, StepRunner
from torchkeras.acceleration import autotuner, multi_step_graph, recorded_graph
from torchkeras.acceleration.candidates import ChannelsLast
from torchkeras.acceleration.step_graph import CompiledTrainStep
from torchkeras.acceleration.trial import ReferenceSteps, Unfit
from torchkeras.acceleration.updates import has_torchs_step
from torchkeras.data import memory
from torchkeras.distributed.accelerator import start_accelerator
from torchkeras.engine.epoch import EpochRunner

pytestmark = pytest.mark.timeout(400)  # a graph is compiled in seconds, and in minutes on a busy machine
X = torch.randn(160, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (160,), generator=torch.Generator().manual_seed(1))
BATCH = [X[:16], Y[:16]]
ONE, EIGHT = "fast: one graph a step (plain ", "fast: 8 steps a graph (plain "


class Net(nn.Module):
    """Two layers in float64; each case adds its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.more()
        self.double()

    def more(self):
        pass

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Idle(Net):
    def more(self):
        self.idle = nn.Linear(4, 4)


class Switched(Idle):
    def more(self):
        self.idle, self.on = nn.Linear(6, 3), False

    def forward(self, x):
        return super().forward(x) + self.idle(x) if self.on else super().forward(x)


class RunningMean(Net):
    def more(self):
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.batches += 1
        return super().forward(x - self.mean)


class Assigned(RunningMean):
    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return Net.forward(self, x - self.mean)


class Counter(Net):
    def more(self):
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Diary(Net):
    def more(self):
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


class Ema(Net):
    def more(self):
        self.ema = torch.zeros(8, dtype=torch.float64)

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        self.ema.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
        return self.b(hidden - self.ema)


class PythonNoise(Net):
    def forward(self, x):
        return super().forward(x * (1 + 0.1 * random.random()))


class NumpyNoise(Net):
    def forward(self, x):
        return super().forward(x * (1 + 0.1 * float(np.random.rand())))


class Backward(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Backward.calls += 1
        return gradient


class CountsBackward(Net):
    def forward(self, x):
        return self.b(Backward.apply(torch.relu(self.a(x))))


class Decaying(nn.Module):
    """A loss with a plain attribute and a buffer."""

    def __init__(self):
        super().__init__()
        self.share = 1.0
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, preds, labels):
        loss = nn.functional.cross_entropy(preds, labels)
        self.share *= 0.99
        self.mean.mul_(0.9).add_(loss.detach(), alpha=0.1)
        return loss * self.share


def step_of(net, loss=None):
    """A step that has run once."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    step = StepRunner(net, loss or nn.CrossEntropyLoss(), start_accelerator(cpu=True), "train", {}, optimizer)
    step(BATCH)
    return step


def tuner_of(step):
    """What a graph asks of the autotuner: the options of the optimizer as they were at the first step."""
    return type("Tuner", (), {"options": autotuner.constant_options(step.optimizer)})


def everything(step):
    """All that a step could leave a trace in."""
    plain = {name: value for name, value in vars(step.net).items() if isinstance(value, (int, float, list))}
    loss = (step.loss_fn.state_dict(), getattr(step.loss_fn, "share", None))
    return str((step.net.state_dict(), step.optimizer.state_dict(), plain, loss, getattr(step.net, "ema", None),
                Backward.calls, random.getstate(), np.random.get_state(), torch.get_rng_state().tolist(),
                [one.grad for one in step.net.parameters()], step.number, step.bound, step.notes))


def tried(step):
    """What a graph for a step is refused for, if it is."""
    why = CompiledTrainStep.unsupported_reason(step, BATCH, tuner_of(step))
    if why is None:
        with pytest.raises(Unfit) as raised:
            ReferenceSteps(step, BATCH)
        why = str(raised.value)
    return why


@pytest.mark.parametrize(("net", "loss", "why"), [
    (Assigned, None, "changes more than its buffers"), (Counter, None, "changes more than its buffers"),
    (Diary, None, "changes more than its buffers"), (Ema, None, "changes more than its buffers"),
    (CountsBackward, None, "changes more than its buffers"), (Net, Decaying, "changes more than its buffers"),
    (PythonNoise, None, "random numbers of Python or numpy"), (NumpyNoise, None, "random numbers of Python or numpy")])
def test_what_a_graph_would_leave_out_is_found_by_plain_steps_that_leave_no_trace(net, loss, why):
    step = step_of(net(), None if loss is None else loss())
    before = everything(step)
    assert why in tried(step)
    assert everything(step) == before
    step(BATCH)
    assert everything(step) != before  # control


def test_an_ordinary_step_can_be_a_graph_and_its_trial_leaves_no_trace():
    for net in (Net(), Idle(), RunningMean()):
        step = step_of(net)
        before = everything(step)
        assert CompiledTrainStep.unsupported_reason(step, BATCH, tuner_of(step)) is None
        found = ReferenceSteps(step, BATCH)
        assert everything(step) == before
        assert {id(one) for part in (net.a, net.b) for one in part.parameters()} == found.learning


class Reading(nn.Module):
    """A loss with a penalty on weights that it reads itself."""

    def __init__(self, net, size):
        super().__init__()
        self.read, self.size = [net], size

    def forward(self, preds, labels):
        return nn.functional.cross_entropy(preds, labels) + self.size * self.read[0].a.weight.square().sum()


@pytest.mark.parametrize("size", [1e-9, 0.1])
def test_a_loss_that_reads_the_weights_itself_is_found_however_little_it_counts(size):
    net = Net()
    step = step_of(net)
    CompiledTrainStep.check_own_weights(step, BATCH)  # control
    step.loss_fn = Reading(net, size)
    before = everything(step)
    with pytest.raises(Unfit, match="reads the net's own weights"):
        CompiledTrainStep.check_own_weights(step, BATCH)
    assert everything(step) == before


HOOKS = {
    "a module": lambda step: step.net.a.register_forward_hook(lambda *_: None),
    "all modules": lambda step: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "a module's backward": lambda step: step.net.a.register_full_backward_hook(lambda *_: None),
    "a weight": lambda step: step.net.a.weight.register_hook(lambda gradient: None),
    "a weight's sum": lambda step: step.net.a.weight.register_post_accumulate_grad_hook(lambda weight: None),
    "an optimizer": lambda step: step.optimizer.register_step_post_hook(lambda *_: None),
    "an optimizer's begin": lambda step: step.optimizer.register_step_pre_hook(lambda *_: None),
    "all optimizers": lambda step: register_optimizer_step_post_hook(lambda *_: None)}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_rule_out_a_graph(kind):
    step = step_of(Net())
    handle = HOOKS[kind](step)
    try:
        assert "a graph does not go with hooks of" in tried(step)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["step", "zero_grad"])
def test_an_optimizer_that_its_owner_changed_rules_out_a_graph(name):
    step = step_of(Net())
    schedule = torch.optim.lr_scheduler.StepLR(step.optimizer, 3)  # it marks step, and that is torch's own
    assert CompiledTrainStep.unsupported_reason(step, BATCH, tuner_of(step)) is None
    own = getattr(step.optimizer, name)
    setattr(step.optimizer, name, lambda *some, **named: own(*some, **named))
    assert "a step or zero_grad of your own in the optimizer" in tried(step)
    del schedule


def test_a_weight_of_which_the_optimizer_knows_from_other_steps_rules_out_a_graph(monkeypatch):
    net = Switched()
    net.on = True
    step = step_of(net)
    net.on = False
    with pytest.raises(Unfit, match="weights that get a gradient in some steps only"):
        CompiledTrainStep(step, BATCH)


@pytest.fixture
def graphs(monkeypatch):
    """Graphs are traced and used, but not made into machine code."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, options, backend="eager", **others: plain(
        function, backend=backend, **others))
    monkeypatch.setattr(recorded_graph, "machine_code", lambda graph, examples, options: graph)
    for owner, name, value in ((autotuner, "COMPILE_TIME", 0.0), (autotuner, "FIRST", 1), (autotuner, "TIMED", 2)):
        monkeypatch.setattr(owner, name, value)


@pytest.fixture
def in_pairs(graphs, monkeypatch):
    """Two steps a graph."""
    monkeypatch.setattr(memory, "BATCHES_AT_ONCE", 2)
    monkeypatch.setattr(multi_step_graph, "TOGETHER", 2)


class Follows:
    """Hears of each step, so that each is a graph of its own."""

    def on_step_end(self, model):
        pass


FOLLOWS = Follows()


class At:
    """Changes something as an epoch begins."""

    def __init__(self, change):
        self.change = change

    def on_epoch_start(self, model):
        if model.run.epoch == 3 and self.change is not None:
            torch.manual_seed(5)
            self.change(model)


def trained(net, speed, change=None, *, loss=None, y=Y, sgd=False, listeners=(FOLLOWS,)):
    """All numbers that a run leaves, its notes and what it counted."""
    weights = net.parameters()
    optimizer = torch.optim.SGD(weights, 0.05, momentum=0.9, weight_decay=0.1) if sgd else torch.optim.AdamW(
        weights, lr=0.01, weight_decay=0.1)
    model = KerasModel(net, loss or nn.CrossEntropyLoss(), ["accuracy"], optimizer)
    torch.manual_seed(2)
    history = model.fit((X, y), epochs=4, batch_size=16, ckpt_path=None, patience=None, quiet=True, speed=speed,
                        callbacks=[At(change), *listeners])
    memories = [value for state in optimizer.state.values() for value in state.values()]
    numbers = [*net.state_dict().values(), *memories, torch.tensor(history.to_numpy()), torch.rand(1)]
    return torch.cat([one.detach().double().reshape(-1) for one in numbers]), model.run.notes


def same(make, change=None, **options):
    """The notes of a fast run, whose numbers are those of an exact one."""
    exact, _ = trained(make(), "exact", change, **options)
    quick, notes = trained(make(), "fast", change, **options)
    torch.testing.assert_close(quick, exact, rtol=1e-9, atol=1e-10)
    if change is not None:
        other, _ = trained(make(), "exact", None, **options)
        assert other.shape != exact.shape or not torch.allclose(other, exact, rtol=1e-6, atol=1e-6)  # control
    return [note for note in notes if note.startswith("fast: ") and "in its fused form" not in note]


class IdleMean(RunningMean, Idle):
    def more(self):
        RunningMean.more(self)
        self.idle = nn.Linear(4, 4)


@pytest.mark.parametrize("sgd", [True, False])
def test_a_layer_that_forward_does_not_use_stays_as_it_is_and_buffers_that_it_writes_to_move(in_pairs, sgd):
    told = same(IdleMean, sgd=sgd, listeners=() if sgd else (Follows(),))
    assert told[0].startswith(EIGHT if sgd else ONE)


@pytest.mark.parametrize("net", [Assigned, Counter, PythonNoise])
def test_what_does_not_fit_is_trained_in_plain_steps(graphs, net):
    random.seed(0)
    state = random.getstate()

    def make():
        random.setstate(state)
        return net()

    assert "one graph a step: a graph does not go with " in same(make)[0]


def load_state(model):
    state = copy.deepcopy(model.optimizer.state_dict())
    for one in state["state"].values():
        one["exp_avg"].mul_(-3)
    model.optimizer.load_state_dict(state)


def shrink(optimizer, *_):
    with torch.no_grad():
        for weight in optimizer.param_groups[0]["params"]:
            weight.mul_(0.9)


def new_weight(model):
    model.net.b.weight = nn.Parameter(torch.randn_like(model.net.b.weight))


def assign(model):
    model.net.load_state_dict({name: one * 2 for name, one in model.net.state_dict().items()}, assign=True)


def own_step(model):
    step = model.optimizer.step
    model.optimizer.step = lambda: (step(), shrink(model.optimizer))


CHANGES = {
    "load_state_dict": (load_state, "the optimizer was given another state"),
    "module hook": (lambda model: model.net.a.register_forward_hook(lambda layer, data, found: found * 2),
                    "hooks of a module were added or removed"),
    "all modules": (lambda model: nn.modules.module.register_module_forward_hook(lambda *_: None),
                    "hooks of a module were added or removed"),
    "weight hook": (lambda model: model.net.a.weight.register_post_accumulate_grad_hook(lambda weight: None),
                    "hooks of a weight were added"),
    "optimizer hook": (lambda model: model.optimizer.register_step_post_hook(shrink),
                       "hooks of the optimizer were added"),
    "own step": (own_step, "step or zero_grad of the optimizer were replaced"),
    "new weight": (new_weight, "weights, buffers or layers were replaced"),
    "new layer": (lambda model: setattr(model.net, "a", nn.Linear(6, 8)), "weights, buffers or layers were replaced"),
    "assign": (assign, "weights, buffers or layers were replaced"),
    "new group": (lambda model: model.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]}),
                  "the optimizer was given other weights"),
    "forward": (lambda model: setattr(model.net, "forward", lambda x: x), "forward was replaced"),
    "freeze": (lambda model: model.net.a.requires_grad_(False), "weights were frozen or unfrozen"),
    "data": (lambda model: setattr(model.net.a.weight, "data", model.net.a.weight.data * 2), "given other memory"),
    "gradient": (lambda model: setattr(model.net.a.weight, "grad", torch.ones_like(model.net.a.weight)),
                 "a weight has a gradient before the step"),
    "options": (lambda model: model.optimizer.param_groups[0].update(weight_decay=5.0),
                "options of the optimizer were changed"),
    "lr": (lambda model: model.optimizer.param_groups[0].update(lr=torch.tensor(0.001)), None),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_graph_is_left_where_net_loss_or_optimizer_are_no_longer_what_it_was_built_for(kind, monkeypatch):
    monkeypatch.setattr(CompiledTrainStep, "compile_and_compare", lambda *_: None)  # nothing is compiled then
    change, why = CHANGES[kind]
    model = KerasModel(Net(), "cross_entropy", optimizer=None)
    step = step_of(model.net)
    model.optimizer = step.optimizer
    whole = CompiledTrainStep(step, BATCH)
    assert whole.supports(step, BATCH)
    handle = change(model)
    try:
        assert whole.supports(step, BATCH) == (why is None)
        assert why is None or why in whole.why
    finally:
        if hasattr(handle, "remove"):
            handle.remove()


class FiveTimes(StepRunner):
    def loss(self, preds, labels, weights=None):
        return 5 * super().loss(preds, labels, weights)


REPLACED = "the StepRunner, net, loss or metrics were replaced"


@pytest.mark.parametrize(("change", "why"), [
    (lambda model: setattr(model, "loss_fn", nn.CrossEntropyLoss(label_smoothing=0.3)), REPLACED),
    (lambda model: setattr(model, "StepRunner", FiveTimes), REPLACED),
    (lambda model: setattr(model.net, "on", True), "what forward or the loss reads has changed"),
    (lambda model: model.net.a.register_forward_hook(lambda layer, data, found: found * 2), "hooks of a module"),
    (load_state, "the optimizer was given another state")])
def test_what_a_callback_changes_in_mid_run_has_the_effect_that_it_has_in_exact_mode(graphs, change, why):
    told = same(Switched, change)
    assert told[0].startswith(ONE)
    assert why in told[1]
    assert len(told) == 2


def test_a_net_that_a_callback_puts_in_the_place_of_another_is_what_steps_compute_with(graphs):
    def losses(speed, change):
        model = KerasModel(Net(), "cross_entropy", optimizer="adam")
        torch.manual_seed(2)
        history = model.fit((X, Y), epochs=4, batch_size=16, ckpt_path=None, patience=None, quiet=True, speed=speed,
                            callbacks=[At(change), FOLLOWS])
        return torch.tensor(history["train_loss"].to_numpy()), model.run.notes[-1]

    def halved(model):
        model.net = copy.deepcopy(model.net)
        model.net.b.weight.data *= 0.5

    exact, (quick, told) = losses("exact", halved)[0], losses("fast", halved)
    torch.testing.assert_close(quick, exact, rtol=1e-6, atol=1e-6)
    assert told == f"fast: plain steps from epoch 3, step 1: {REPLACED}"
    assert not torch.allclose(losses("exact", None)[0], exact, rtol=1e-3, atol=1e-3)  # control


def test_an_epoch_runner_that_a_callback_puts_there_follows_each_step(in_pairs):
    ahead = []

    class Following(EpochRunner):
        def around_batches(self, batches):
            for number, batch in enumerate(batches):
                yield batch
                done = next(iter(model.optimizer.state.values()))["step"]
                ahead.append(int(done) - (model.run.epoch - 1) * 10 - number - 1)

    class Put:
        def on_epoch_start(self, model):
            if model.run.epoch == 3:
                model.EpochRunner = Following

    model = KerasModel(Net(), "cross_entropy", optimizer="adam")
    model.fit((X, Y), epochs=4, batch_size=16, ckpt_path=None, patience=None, quiet=True, speed="fast",
              callbacks=[Put()])
    assert model.run.notes[-1].startswith(EIGHT)  # control: until then, two steps were computed at a time
    assert ahead == [0] * 20


def test_a_rate_that_is_a_tensor_is_logged_as_it_was_in_the_step(graphs):
    """A schedule changes it in place, after the step."""
    def rates(speed):
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.05))
        model = KerasModel(net, "cross_entropy", optimizer=optimizer,
                           lr_scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
        torch.manual_seed(2)
        history = model.fit((X, Y), epochs=4, batch_size=16, ckpt_path=None, patience=None, quiet=True, speed=speed,
                            lr_interval="step")
        return list(history["lr"]), model.run.notes[-1]

    (exact, _), (quick, told) = rates("exact"), rates("fast")
    assert told.startswith(ONE)
    assert quick == exact
    assert exact[-1] == pytest.approx(0.05 * 0.9 ** 39, rel=1e-4)  # control: one step later it is another


@pytest.mark.parametrize(("module", "known"), [("torch.optim.lr_scheduler", True), ("torchlike.optim", False)])
def test_a_step_of_another_library_is_not_torchs_whatever_its_name_begins_with(module, known):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    place = {"__name__": module}
    exec("def step(): pass", place)
    optimizer.step = place["step"]
    assert has_torchs_step(optimizer) is known


def test_a_batch_of_which_no_label_counts_does_what_it_does_in_exact_mode(in_pairs):
    y = Y.clone()

    class Blank:
        allows_multi_step = True

        def on_epoch_start(self, model):
            y[:] = Y
            if model.run.epoch == 3:
                y[3:] = -100  # most batches have no label that counts

    exact, _ = trained(Net(), "exact", y=y, listeners=[Blank()])
    quick, notes = trained(Net(), "fast", y=y, listeners=[Blank()])
    assert any(note.startswith(EIGHT) for note in notes)
    torch.testing.assert_close(quick, exact, rtol=1e-9, atol=1e-10, equal_nan=True)
    assert not torch.equal(trained(Net(), "exact")[0], exact)  # control


def test_channels_last_keeps_the_tensors_that_there_are_and_what_shares_memory_rules_it_out():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 3))
    net.register_buffer("images", torch.rand(1, 3, 8, 8))
    step = StepRunner(net, nn.CrossEntropyLoss(), start_accelerator(cpu=True), "train", {},
                      torch.optim.Adam(net.parameters()))
    step([torch.randn(4, 3, 8, 8), Y[:4]])
    buffer, state = net.images, step.optimizer.state[net[0].weight]["exp_avg"]
    assert ChannelsLast.unsupported_reason(step, None, None) is None
    way = ChannelsLast(step, None)
    assert not net[0].weight.is_contiguous()
    way.end()
    assert net.images is buffer
    assert step.optimizer.state[net[0].weight]["exp_avg"] is state
    assert net[0].weight.is_contiguous()
    net.alias = net[0].weight.detach()
    assert "something else holds the memory of a weight" in ChannelsLast.unsupported_reason(step, None, None)
