"""speed="fast": other rounding, the same run."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel, StepRunner
from torchkeras.engine import fast, hardware
from torchkeras.engine.ending import NonFiniteLoss
from torchkeras.engine.wholestep import WholeStep

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler")
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
    monkeypatch.setattr(fast, "COMPILE_TIME", 0.0)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def runs(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "COMPILE_TIME", 0.0)
        make = OPTIMIZERS[request.param]
        return fitted(make), fitted(make, speed="fast"), fitted(make, seed=3)


@needs_compiler
def test_a_compiled_run_has_the_numbers_of_a_plain_one_but_for_rounding(runs):
    (exact, one), (quick, two), (_, other) = runs
    assert "as one graph" in quick.run.notes[-1]
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, one, rtol=2e-2, atol=2e-2)  # control: another start
    assert exact.run.updates == quick.run.updates == EPOCHS * 21


@needs_compiler
def test_the_optimizer_owns_its_state_and_its_form_throughout(runs):
    (exact, _), (quick, _), _ = runs
    assert [group["fused"] for group in quick.optimizer.param_groups] == [None]
    assert [group["foreach"] for group in quick.optimizer.param_groups] == [None]
    for mine, other in zip(exact.optimizer.state.values(), quick.optimizer.state.values(), strict=True):
        assert mine.keys() == other.keys()
        assert mine.get("step") == other.get("step")
    copy.deepcopy(quick.optimizer).step()
    assert quick.run.pilot is None


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
    step = StepRunner(net, nn.CrossEntropyLoss(), hardware.start(cpu=True), "train", {},
                      torch.optim.Adam(net.parameters(), lr=0.01))
    step([X[:BATCH], Y[:BATCH]])
    whole = WholeStep(step, [X[:BATCH], Y[:BATCH]])
    whole.build(step, [X[:BATCH], Y[:BATCH]])
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
    (lambda net: KerasModel(net, "cross_entropy"), {"class_weight": {0: 2.0}}, "the loss, class weights"),
    (lambda net: KerasModel(net, "cross_entropy"), {"mixed_precision": "bf16"}, "mixed precision"),
])
def test_what_a_graph_cannot_do_is_said_and_done_in_plain_steps(make, options, said, eager_to_compile):
    model = make(net_of())
    model.fit((X, Y), epochs=2, batch_size=BATCH, ckpt_path=None, quiet=True, speed="fast", **options)
    assert model.run.notes[-1].startswith("fast: plain steps: ")
    assert said in model.run.notes[-1]


def test_a_momentum_that_moves_is_left_to_plain_steps(eager_to_compile):
    model, _ = fitted(OPTIMIZERS["sgd"], speed="fast", cycle=True)
    assert model.run.notes[-1].endswith("a graph does not go with a schedule that moves more than the learning rate")


def test_a_short_run_is_not_compiled():
    model, _ = fitted(OPTIMIZERS["sgd"], speed="fast")
    assert model.run.notes[-1] == "fast: plain steps: too few are left to pay for compiling"


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
