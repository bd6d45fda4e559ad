"""speed="fast": other rounding, the same run."""

import copy
import dataclasses
import errno
import os
import shutil
import time
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel, StepRunner
from torchkeras.acceleration import autotuner, multi_step_graph, recorded_graph
from torchkeras.acceleration.candidates import CompiledNet, compiled
from torchkeras.acceleration.step_graph import CompiledTrainStep, clips_otherwise
from torchkeras.checkpoint.best import Best
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.data import memory
from torchkeras.distributed.accelerator import start_accelerator
from torchkeras.engine.config import FitConfig
from torchkeras.engine.executor import Eager

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler: install g++")
pytestmark = pytest.mark.timeout(400)  # a graph is compiled in seconds, and in minutes on a busy machine
X = torch.randn(330, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (330,), generator=torch.Generator().manual_seed(1))
EPOCHS, BATCH = 6, 16  # 330 = 20 x 16 + 10: a ragged last batch, which the graph does not take


def net_of(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def fitted(optimizer, seed=1, data=None, **options):
    net = net_of(seed)
    made = optimizer(net.parameters())
    cycle = isinstance(made, torch.optim.AdamW) or options.pop("cycle", False)
    schedule = OneCycleLR(made, 0.02, total_steps=EPOCHS * 21) if cycle else StepLR(made, 2, 0.5)
    model = KerasModel(net, "cross_entropy", {"acc": "accuracy", "auc": lambda p, y: p.max()}, made,
                       schedule)
    torch.manual_seed(2)
    loader = DataLoader(TensorDataset(X, Y), BATCH, shuffle=True) if data is None else data
    history = model.fit(loader, (X[:50], Y[:50]), epochs=EPOCHS, ckpt_path=None, patience=None, quiet=True,
                        clip_grad_norm=0.5, **options)
    return model, torch.tensor(history.to_numpy())


OPTIMIZERS = {"adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1),
              "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True)}


@pytest.fixture
def eager_to_compile(monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 0.0)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def runs(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autotuner, "COMPILE_TIME", 0.0)
        make = OPTIMIZERS[request.param]
        return fitted(make), fitted(make, speed="fast"), fitted(make, seed=3)


@needs_compiler
def test_a_compiled_run_has_the_numbers_of_a_plain_one_but_for_rounding(runs):
    (exact, one), (quick, two), (_, other) = runs
    assert quick.run.notes[-1].startswith("fast: one graph a step (plain ")
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, one, rtol=2e-2, atol=2e-2)  # control: another start
    assert exact.run.optimizer_steps == quick.run.optimizer_steps == EPOCHS * 21


@needs_compiler
def test_the_optimizer_owns_its_state_and_its_form_throughout(runs):
    (exact, _), (quick, _), _ = runs
    assert [group["fused"] for group in quick.optimizer.param_groups] == [None]
    assert [group["foreach"] for group in quick.optimizer.param_groups] == [None]
    for mine, other in zip(exact.optimizer.state.values(), quick.optimizer.state.values(), strict=True):
        assert mine.keys() == other.keys()
        assert mine.get("step") == other.get("step")
    copy.deepcopy(quick.optimizer).step()
    assert type(quick.run.executor) is Eager


@needs_compiler
def test_the_random_numbers_are_those_of_plain_steps(eager_to_compile):
    after = []
    for speed in ("exact", "fast"):
        fitted(OPTIMIZERS["sgd"], speed=speed)
        after.append(torch.rand(3))
    assert torch.equal(*after)


@needs_compiler
def test_a_loss_that_is_nan_in_a_graph_spoils_no_memory_of_the_optimizer():
    net = nn.Linear(6, 3)
    step = StepRunner(net, nn.CrossEntropyLoss(), start_accelerator(cpu=True), "train", {},
                      torch.optim.Adam(net.parameters(), lr=0.01))
    step([X[:BATCH], Y[:BATCH]])
    whole = CompiledTrainStep(step, [X[:BATCH], Y[:BATCH]])
    whole(step, [X[:BATCH], Y[:BATCH]])
    with pytest.raises(NonFiniteLoss, match="train_loss is nan"):
        whole(step, [X[:BATCH].index_fill(0, torch.tensor([3]), torch.nan), Y[:BATCH]])
    for state in step.optimizer.state.values():
        assert all(value.isfinite().all() for value in state.values())
    assert all(weight.isfinite().all() for weight in net.parameters())


class Own(StepRunner):
    def backward(self, loss):
        loss.backward()


class OwnModel(KerasModel):
    StepRunner = Own


@pytest.mark.parametrize(("make", "options", "said"), [
    (lambda net: OwnModel(net, "cross_entropy"), {}, "a StepRunner of your own"),
    (lambda net: KerasModel(net, "cross_entropy", optimizer="rprop"), {}, "the optimizer Rprop"),
    (lambda net: KerasModel(net, "cross_entropy"), {"gradient_accumulation_steps": 2}, "gradient accumulation"),
    (lambda net: KerasModel(net, "cross_entropy"), {"class_weight": {0: 2.0}}, "class weights"),
])
def test_what_a_graph_cannot_do_is_said_and_done_in_plain_steps(make, options, said, eager_to_compile):
    model = make(net_of())
    model.fit((X, Y), epochs=2, batch_size=BATCH, ckpt_path=None, quiet=True, speed="fast", **options)
    assert model.run.notes[-1].startswith(f"fast: plain steps (plain 2.0 ms, a graph does not go with {said}")


@needs_compiler
def test_a_graph_computes_in_bf16_where_the_step_does(eager_to_compile):
    exact, one = fitted(OPTIMIZERS["sgd"], mixed_precision="bf16")
    quick, two = fitted(OPTIMIZERS["sgd"], mixed_precision="bf16", speed="fast")
    assert quick.run.notes[-1].startswith("fast: one graph a step (plain ")
    torch.testing.assert_close(two, one, rtol=0.05, atol=0.05)
    assert not torch.equal(one, fitted(OPTIMIZERS["sgd"])[1])  # control: bf16 is another arithmetic


def test_a_momentum_that_moves_is_left_to_plain_steps(eager_to_compile):
    model, _ = fitted(OPTIMIZERS["sgd"], speed="fast", cycle=True)
    assert model.run.notes[-1].endswith("a graph does not go with a schedule that moves more than the learning rate)")


def test_a_short_run_is_not_compiled():
    model, _ = fitted(OPTIMIZERS["sgd"], speed="fast")
    assert model.run.notes[-1].endswith("one graph a step: too few steps are left to pay for compiling)")


def test_a_net_that_cannot_be_compiled_is_trained_in_plain_steps(eager_to_compile):
    class Curious(nn.Linear):
        def forward(self, x):
            return super().forward(x if float(x.sum()) > -1e9 else -x)  # looks at the data

    torch.manual_seed(0)
    model = KerasModel(Curious(6, 3), "cross_entropy", optimizer="sgd")
    history = model.fit((X, Y), epochs=3, batch_size=BATCH, ckpt_path=None, quiet=True, speed="fast")
    assert "could not be compiled" in model.run.notes[-1]
    assert history["train_loss"].is_monotonic_decreasing


def test_exact_is_the_default_and_another_word_is_refused():
    with pytest.raises(ValueError, match="speed: received 'turbo'; expected one of 'exact', 'fast'"):
        fitted(OPTIMIZERS["sgd"], speed="turbo")


IMAGES = torch.randn(90, 3, 8, 8, generator=torch.Generator().manual_seed(2))
KINDS = torch.randint(0, 3, (90,), generator=torch.Generator().manual_seed(3))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(),
                         nn.Dropout(0.2), nn.Linear(64, 3))


class Layouts:
    def __init__(self):
        self.seen, self.compiled = [], []

    def on_step_end(self, model):
        self.seen.append(model.net[0].weight.is_contiguous())
        self.compiled.append(model.net._compiled_call_impl is not None)


def trained_cnn(speed, *callbacks, epochs=8, net=None, **options):
    model = KerasModel(cnn() if net is None else net, "cross_entropy", ["accuracy"], "adam")
    torch.manual_seed(1)
    seen = Layouts()
    history = model.fit((IMAGES, KINDS), (IMAGES[:20], KINDS[:20]), batch_size=8, epochs=epochs, ckpt_path=None,
                        quiet=True, speed=speed, callbacks=[seen, *callbacks], patience=None, **options)
    return model, torch.tensor(history.to_numpy()), seen


@pytest.fixture
def large(monkeypatch, eager_to_compile, paces):
    """Steps are long ones, and whatever is tried is faster."""
    monkeypatch.setitem(paces, "plain steps", 2 * autotuner.SMALL)


def usual_layout(model):
    tensors = [*model.net.parameters(), *(value for state in model.optimizer.state.values()
                                          for value in state.values())]
    return all(tensor.is_contiguous() for tensor in tensors)


@needs_compiler
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_channels_last_and_a_compiled_net_have_the_numbers_of_a_plain_run(large, precision):
    exact, one, _ = trained_cnn("exact", mixed_precision=precision)
    after = torch.rand(2)
    quick, two, seen = trained_cnn("fast", mixed_precision=precision)
    assert torch.equal(torch.rand(2), after)
    assert quick.run.notes[-1] == ("fast: channels last + compiled net "
                                   "(plain 10.0 ms, channels last 800 us, compiled net 600 us)")
    tolerance = 1e-4 if precision == "no" else 0.05
    torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance)
    assert seen.seen[0]
    assert not seen.seen[-1]
    assert not any(seen.compiled)  # outside of a step, the net is as its owner made it
    assert usual_layout(quick)
    assert quick.net.state_dict().keys() == exact.net.state_dict().keys()


@needs_compiler
def test_what_is_not_clearly_faster_is_undone(large, monkeypatch, paces):
    for name in ("channels last", "compiled net"):
        monkeypatch.setitem(paces, name, 0.96 * paces["plain steps"])
    model, _, seen = trained_cnn("fast")
    assert model.run.notes[-1] == "fast: plain steps (plain 10.0 ms, channels last 9.6 ms, compiled net 9.6 ms)"
    assert not all(seen.seen)
    assert seen.seen[-1]
    assert usual_layout(model)


def test_outside_of_tests_the_clock_is_that_of_the_machine(monkeypatch, real_clock):
    """It is never ahead of time, however busy the machine: a step that sleeps so long is not a small one."""
    class Sleepy(nn.Linear):
        def forward(self, x):
            time.sleep(1.1 * autotuner.SMALL)
            return super().forward(x)

    monkeypatch.setattr(autotuner, "FIRST", 1)
    monkeypatch.setattr(autotuner, "TIMED", 3)

    def told():
        model = KerasModel(Sleepy(6, 3), "cross_entropy")
        model.fit((X[:96], Y[:96]), epochs=1, batch_size=BATCH, ckpt_path=None, quiet=True, speed="fast")
        return model.run.notes[-1]

    assert "one graph a step" in told()  # control: by the clock of the tests it is small
    monkeypatch.setattr(autotuner.StepAutotuner, "now", real_clock)
    note = told()
    assert float(note.partition("(plain ")[2].partition(" ms")[0]) >= 1e3 * autotuner.SMALL
    assert "channels last: no convolutions, compiled net: too few steps are left" in note


def test_an_error_in_the_middle_leaves_the_layout_as_it_was(large, monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e9)
    net = cnn()

    class Failing:
        def on_step_end(self, model):
            if not model.net[0].weight.is_contiguous():
                raise ArithmeticError

    with pytest.raises(ArithmeticError):
        trained_cnn("fast", Failing(), net=net)
    assert all(weight.is_contiguous() for weight in net.parameters())


def test_a_net_that_the_compiler_refuses_goes_on_without(large, monkeypatch):
    def refuse(*args, **options):
        raise NotImplementedError

    monkeypatch.setattr(torch, "compile", refuse)
    model, _, _ = trained_cnn("fast")
    assert model.run.notes[-1].startswith("fast: channels last (plain ")
    assert "compiled net: this net could not be compiled (NotImplementedError)" in model.run.notes[-1]


class CompilerError(Exception):
    """An error of torch's compiler, which holds what happened to it."""

    def __init__(self, text, inner=None):
        super().__init__(text)
        self.inner_exception = inner


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(("error", "said"), [
    (CompilerError("see the logs", OSError(errno.ENOSPC, FULL)), f"CompilerError: {FULL}"),
    (CompilerError("see the logs", ValueError(f"ld: final link failed: {FULL}")), f"CompilerError: {FULL}"),
    (OSError(errno.EROFS, os.strerror(errno.EROFS)), f"OSError: {os.strerror(errno.EROFS)}"),
    (CompilerError("see the logs", ImportError("no name")), "CompilerError: ImportError"),
    (CompilerError("see the logs"), "CompilerError")])
def test_a_note_on_what_could_not_be_compiled_names_the_systems_own_error(large, monkeypatch, error, said):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(torch, "compile", refuse)
    model, _, _ = trained_cnn("fast", epochs=4)
    assert f"compiled net: this net could not be compiled ({said})" in model.run.notes[-1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks
@pytest.mark.parametrize(("change", "said"), [
    (lambda net: net.to(memory_format=torch.channels_last), "channels last: another layout before"),
    (lambda net: net.compile(backend="eager"), "compiled net: compiled before")])
def test_what_its_owner_did_already_is_left_alone(large, monkeypatch, change, said):
    net = cnn()
    change(net)
    layout, compiled = net[0].weight.stride(), net._compiled_call_impl
    if compiled is None:
        monkeypatch.setattr(autotuner, "COMPILE_TIME", 1e9)
    model, _, _ = trained_cnn("fast", net=net)
    assert said in model.run.notes[-1]
    assert net[0].weight.stride() == layout
    assert net._compiled_call_impl is compiled


@needs_compiler
def test_building_a_compiled_net_leaves_no_trace():
    net = cnn()
    step = StepRunner(net, nn.CrossEntropyLoss(), start_accelerator(cpu=True), "train", {},
                      torch.optim.Adam(net.parameters()))
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    done = counters["frames"]["ok"]
    way = CompiledNet(step, [IMAGES[:8], KINDS[:8]])
    assert counters["frames"]["ok"] == done + 1
    assert counters["aot_autograd"]["ok"] > 0
    assert all(map(torch.equal, before.values(), net.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in net.parameters())
    assert way.supports(step, [IMAGES[:8], KINDS[:8]])
    assert not way.supports(step, [IMAGES[:7], KINDS[:7]])


class Once:
    """Looks on, and asks for the end at a step."""

    allows_multi_step = True

    def __init__(self, step=None):
        self.step, self.seen = step, []

    def on_step_end(self, model):
        if model.run.stage == "train":
            self.seen.append(model.run.logs["train_loss"])
        if model.run.global_step == self.step:
            model.run.stop("enough")


def blocks(speed, listener=None, x=X, epochs=7, **options):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model = KerasModel(net, "cross_entropy", ["accuracy"], torch.optim.Adam(net.parameters(), lr=0.01))
    torch.manual_seed(2)
    history = model.fit((x, Y), (X[:50], Y[:50]), batch_size=BATCH, epochs=epochs, ckpt_path=None, patience=None,
                        quiet=True, speed=speed, callbacks=[listener or Once()], **options)
    return model, history


@pytest.fixture
def in_threes(eager_to_compile, monkeypatch):
    """Three steps a graph, all of it settled within the first three epochs of 21 steps."""
    monkeypatch.setattr(memory, "BATCHES_AT_ONCE", 3)
    monkeypatch.setattr(multi_step_graph, "TOGETHER", 3)
    monkeypatch.setattr(autotuner, "FIRST", 1)
    monkeypatch.setattr(autotuner, "TIMED", 4)


def weights_of(model):
    return torch.cat([value.detach().double().reshape(-1) for value in model.net.state_dict().values()])


@needs_compiler
def test_several_steps_a_graph_have_the_numbers_of_plain_ones(in_threes):
    seen = [Once(), Once()]
    exact, one = blocks("exact", seen[0])
    after = torch.rand(2)
    quick, two = blocks("fast", seen[1])
    assert torch.equal(torch.rand(2), after)
    assert quick.run.notes[-1] == (  # as it is called where they are eight
        "fast: 8 steps a graph (plain 2.0 ms, one graph a step 400 us, 8 steps a graph 200 us)")
    torch.testing.assert_close(torch.tensor(two.to_numpy()), torch.tensor(one.to_numpy()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights_of(quick), weights_of(exact), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(seen[1].seen), torch.tensor(seen[0].seen), rtol=1e-3, atol=1e-3)
    assert quick.run.global_step == quick.run.optimizer_steps == exact.run.optimizer_steps == 7 * 21
    assert [int(state["step"]) for state in quick.optimizer.state.values()] == [7 * 21] * 5


class Listener:
    """Hears of epochs, and of steps too if it is asked to."""

    allows_multi_step = True

    def __init__(self, act, steps=False):
        self.act = act
        if steps:
            self.on_step_end = act
        else:
            self.on_epoch_start = act


class Scaled(nn.Module):
    """A linear net times a number that anybody may change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.scale = nn.Linear(6, 3), 1.0

    def forward(self, x):
        return self.layer(x) * self.scale


def scaled(speed, listener):
    model = KerasModel(Scaled(), "cross_entropy", ["accuracy"], "adam")
    torch.manual_seed(2)
    model.fit((X, Y), batch_size=BATCH, epochs=7, ckpt_path=None, patience=None, quiet=True, speed=speed,
              callbacks=[listener])
    return model


@needs_compiler
@pytest.mark.parametrize("steps", [False, True])
def test_the_compilers_checks_are_made_once_a_pass_where_nobody_acts_between_steps(in_threes, monkeypatch, steps):
    checked = []
    noted = recorded_graph.LastCall.repeated

    def repeated(last, *arguments):
        checked.extend((run.epoch, run.step) for run in runs[-1:])
        return noted(last, *arguments)

    runs = []

    def act(model):
        runs.append(model.run)

    monkeypatch.setattr(recorded_graph.LastCall, "repeated", repeated)
    quick, exact = scaled("fast", Listener(act, steps)), scaled("exact", Listener(act, steps))
    assert quick.run.notes[-1].startswith("fast: 8 steps a graph (plain ")
    torch.testing.assert_close(weights_of(quick), weights_of(exact), rtol=1e-3, atol=1e-3)
    last = [step for epoch, step in checked if epoch == 6]
    assert last == ([*range(0, 21, 3)] if steps else [0])


@needs_compiler
@pytest.mark.parametrize(("steps", "at"), [(False, 4 * 21), (True, 4 * 21 + 6)])
def test_what_a_callback_changes_between_blocks_is_seen(in_threes, steps, at):
    def act(model):
        if model.run.global_step == at:
            model.net.scale = 3.0

    quick, exact = scaled("fast", Listener(act, steps)), scaled("exact", Listener(act, steps))
    assert any("8 steps a graph" in note for note in quick.run.notes)
    assert quick.run.notes[-1].endswith(": what forward or the loss reads has changed")
    torch.testing.assert_close(weights_of(quick), weights_of(exact), rtol=1e-3, atol=1e-3)
    other = scaled("exact", Listener(lambda model: None))
    assert not torch.allclose(weights_of(quick), weights_of(other), 1e-3, 1e-3)  # control


@needs_compiler
def test_a_run_that_is_asked_to_stop_ends_when_all_computed_steps_are_told(in_threes):
    asked = 3 * 21 + 4  # the second of a block
    quick, _ = blocks("fast", Once(asked))
    assert quick.run.stop_reason == "enough"
    assert quick.run.global_step == asked + 2
    assert {int(state["step"]) for state in quick.optimizer.state.values()} == {asked + 2}


@needs_compiler
def test_a_loss_that_is_nan_inside_a_block_leaves_the_weights_of_the_step_before(in_threes, monkeypatch):
    monkeypatch.setattr(Best, "restore", lambda best: None)  # so that the net shows where the run ended

    def poisoned(speed, step):
        """A run in order, whose features are not finite from a step of the fifth epoch on."""
        x = X.clone()

        class Poison:
            def on_epoch_start(self, model):
                if model.run.epoch == 5:
                    x[16 * (step - 1):16 * step] = torch.nan

        torch.manual_seed(0)
        model = KerasModel(nn.Linear(6, 3), "cross_entropy", ["accuracy"], "adam")
        with pytest.warns(RuntimeWarning, match="features of the batch hold NaN"):
            model.fit(DataLoader(TensorDataset(x, Y), BATCH), epochs=6, ckpt_path=None, quiet=True, speed=speed,
                      callbacks=[Poison()])
        return model

    quick, exact = poisoned("fast", step=5), poisoned("exact", step=5)
    assert quick.run.notes[-1].startswith("fast: 8 steps a graph (plain ")
    assert quick.run.stop_reason.split(";")[0] == exact.run.stop_reason.split(";")[0]  # sizes are rounded otherwise
    assert "epoch 5, step 5" in exact.run.stop_reason
    torch.testing.assert_close(weights_of(quick), weights_of(exact), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weights_of(quick), weights_of(poisoned("exact", step=6)), 1e-4, 1e-4)  # control


class StepCounter:
    def on_step_end(self, model):
        assert model.optimizer.state[model.net[0].weight]["step"] == model.run.global_step


@needs_compiler
def test_a_run_that_is_followed_step_by_step_keeps_to_one_step_a_graph(in_threes):
    model, _ = blocks("fast", StepCounter(), epochs=3)
    assert model.run.notes[-1].startswith("fast: one graph a step (plain ")
    assert "a callback, schedule, metric or EpochRunner follows each step" in model.run.notes[-1]


@needs_compiler
def test_data_that_does_not_come_in_blocks_keeps_to_one_step_a_graph(in_threes):
    net = net_of()
    model = KerasModel(net, "cross_entropy", optimizer=torch.optim.Adam(net.parameters()))
    model.fit(DataLoader(TensorDataset(X, Y), BATCH, sampler=list(range(330))), epochs=3, ckpt_path=None, quiet=True,
              speed="fast")
    assert model.run.notes[-1].startswith("fast: one graph a step (plain ")
    assert "no such blocks of data in memory" in model.run.notes[-1]


def test_a_graph_that_gives_other_numbers_is_not_used(eager_to_compile, monkeypatch):
    def wrong(function, **options):
        return lambda *data: (lambda loss, *rest: (loss * 1.01, *rest))(*function(*data))

    monkeypatch.setattr(torch, "compile", wrong)
    model, _ = blocks("fast", epochs=3)
    assert model.run.notes[-1].startswith("fast: plain steps (plain ")
    assert model.run.notes[-1].endswith("one graph a step: its graph computes other numbers than plain steps)")


@needs_compiler
def test_the_rehearsal_leaves_no_trace():
    net = net_of()
    step = StepRunner(net, nn.CrossEntropyLoss(), start_accelerator(cpu=True), "train", {},
                      torch.optim.Adam(net.parameters(), lr=0.01))
    step([X[:BATCH], Y[:BATCH]])
    before = copy.deepcopy((net.state_dict(), step.optimizer.state_dict()["state"])), torch.get_rng_state()
    CompiledTrainStep(step, [X[:BATCH], Y[:BATCH]])
    after = (net.state_dict(), step.optimizer.state_dict()["state"]), torch.get_rng_state()
    assert str(before) == str(after)


@pytest.mark.filterwarnings("error")
def test_what_the_compiler_has_deprecated_of_its_own_is_no_reason_against_a_graph(monkeypatch):
    def importing(function, **options):
        warnings.warn("what this imports is deprecated", DeprecationWarning, stacklevel=2)
        return function

    with pytest.raises(DeprecationWarning):
        importing(len)  # control: here a warning is an error
    monkeypatch.setattr(torch, "compile", importing)
    assert compiled(net_of)(1) is not None


def test_more_nets_than_torch_likes_can_be_compiled_one_after_another(monkeypatch):
    def compile_all(compiler):
        def scaled(x):
            return x * 2

        for length in range(2, 14):
            assert torch.equal(compiler(scaled)(torch.ones(length)), torch.full((length,), 2.0))

    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, options, **others: plain(
        function, backend="eager", **others))
    compile_all(lambda function: compiled(function, fullgraph=True))
    with pytest.raises(FailOnRecompileLimitHit):
        compile_all(lambda function: plain(function, backend="eager", fullgraph=True, dynamic=False))  # control


@needs_compiler
@pytest.mark.parametrize("change", [
    lambda net: net[0].requires_grad_(False), lambda net: setattr(net[0].weight, "data", net[0].weight.data * 2)])
def test_weights_that_a_callback_freezes_or_replaces_are_trained_as_in_plain_steps(in_threes, change):
    def last(speed, change):
        class Change:
            def on_epoch_start(self, model):
                if model.run.epoch == 4:
                    change(model.net)

            def on_step_end(self, model):
                self.weights = weights_of(model)

        seen = Change()
        model, _ = blocks(speed, seen, epochs=5)
        told = " ".join(model.run.notes)
        assert speed == "exact" or "fast: one graph a step" in told
        return seen.weights

    exact = last("exact", change)
    torch.testing.assert_close(last("fast", change), exact, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(last("fast", lambda net: None), exact, rtol=1e-2, atol=1e-2)  # control


@needs_compiler
def test_a_loss_that_reads_the_weights_of_the_net_is_left_to_plain_steps(monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 0.0)
    monkeypatch.setattr(autotuner, "FIRST", 1)
    monkeypatch.setattr(autotuner, "TIMED", 2)

    def train(decay, **options):
        net = net_of()
        own = lambda preds, labels: nn.functional.cross_entropy(preds, labels) + decay * sum(  # noqa: E731
            (weight ** 2).sum() for weight in net.parameters())
        model = KerasModel(net, own if decay else "cross_entropy", optimizer="sgd")
        model.optimizer.param_groups[0]["lr"] = 0.1
        torch.manual_seed(2)
        model.fit((X, Y), epochs=2, batch_size=BATCH, ckpt_path=None, quiet=True, **options)
        return torch.cat([weight.flatten() for weight in net.parameters()]), " ".join(model.run.notes)

    exact, _ = train(0.1)
    found, told = train(0.1, speed="fast")
    _, without = train(None, speed="fast")
    assert torch.allclose(exact, found, atol=1e-5)
    assert "one graph a step: a graph does not go with a loss that reads the net's own weights" in told
    assert "one graph a step: this net could not be compiled" not in without


@dataclasses.dataclass
class WithAnotherClipping:
    """A config with a kind of clipping that was added after the graph was written."""

    clip_grad_norm: float | None = 1.0
    clip_grad_value: float | None = None
    clip_by_layer: float | None = None


@pytest.mark.parametrize(("config", "otherwise"), [
    (FitConfig(), False), (FitConfig(clip_grad_norm=1.0), False), (FitConfig(clip_grad_value=1.0), True),
    (WithAnotherClipping(), False), (WithAnotherClipping(clip_by_layer=1.0), True)], ids=str)
def test_a_kind_of_clipping_that_the_graph_has_not_is_left_to_plain_steps(config, otherwise):
    assert clips_otherwise(config) == otherwise
