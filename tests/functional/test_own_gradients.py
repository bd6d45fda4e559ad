"""Functions with a backward of their own: refused where it would be lost, kept inside a module."""

import functools
import importlib
import sys

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from torchkeras.functional import Input, build, echo


class Tripled(torch.autograd.Function):
    """Its own backward gives three times the gradient; torch's would give one time, or two."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


aliased = Tripled.apply  # taken before anything is drawn


class Reversed(Tripled):
    @staticmethod
    def forward(ctx, x):
        return x  # draws nothing


class Viewed(Tripled):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)


class Late(Tripled):
    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = 3


class Once(Tripled):
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient * 3


class Mixed(Tripled):
    forward = staticmethod(torch.amp.custom_fwd(Tripled.forward, device_type="cpu"))


class Partial(Tripled):
    forward = staticmethod(functools.partial(lambda factor, ctx, x: x * factor, 2))


class Object(Tripled):
    class Double:
        def __call__(self, ctx, x):
            return x * 2

    forward = staticmethod(Double())


class Below(Tripled):
    """Takes its forward from the class above."""


class Modular(Tripled):
    @staticmethod
    def forward(ctx, x):
        return nn.ReLU()(x)  # a module, and no function


class Constant(Tripled):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_non_differentiable(y := x * 2)
        return y


def helped(x):
    return Tripled.apply(x)


def unseen(x):
    with torch.no_grad():
        return Reversed.apply(x)


CALLS = {
    "directly": Tripled.apply, "by an alias": aliased, "by a helper": helped, "returning its input": Reversed.apply,
    "returning a view": Viewed.apply, "with setup_context": Late.apply, "once differentiable": Once.apply,
    "with mixed precision": Mixed.apply, "a partial function": Partial.apply, "a callable object": Object.apply,
    "an inherited forward": Below.apply, "that calls a module": Modular.apply,
    "without a gradient": Constant.apply, "under no_grad": unseen,
    "torch's own": lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=True),
}


@pytest.mark.parametrize("after", [False, True], ids=["while drawing", "after build"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch's checkpoint, of symbolic values
def test_a_backward_of_its_own_is_refused_where_it_would_be_lost(call, after):
    x = Input((3,))
    if after:
        build(x, x.relu())
    with pytest.raises((TypeError, ValueError), match="nn.Module"):
        build(x, call(x).relu())
    assert build(x, (x * 2).relu())(torch.ones(1, 3)).tolist() == [[2, 2, 2]]  # control


@pytest.mark.parametrize("after", [False, True], ids=["while drawing", "after build"])
@pytest.mark.parametrize("kind", [Tripled, Viewed, Late, Once, Modular, Mixed])
def test_a_module_keeps_the_backward_of_its_functions(kind, after):
    class Inner(nn.Module):
        def forward(self, x):
            return kind.apply(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x) + 0

    x, values = Input((3,)), torch.ones(1, 3, requires_grad=True)
    if after:
        build(x, x.relu())
    build(x, Outer()(x).sum(1))(values).sum().backward()
    assert values.grad.tolist() == [[3, 3, 3]]


def test_a_function_of_another_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_entirely.py").write_text(
        "import torch\n\n\ndef times(factor):\n    class Times(torch.autograd.Function):\n"
        "        def forward(ctx, x):\n            return factor * x\n"
        "        def backward(ctx, gradient):\n            return gradient\n"
        "    return Times.apply\n\n\ntwice = times(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    twice = importlib.import_module("elsewhere_entirely").twice
    monkeypatch.delitem(sys.modules, "elsewhere_entirely")
    with pytest.raises(ValueError, match="torch.autograd.Function"):
        twice(Input((3,)))


def test_what_a_function_does_elsewhere_is_no_reason_to_refuse():
    x = Input((3,))
    assert Tripled.apply(torch.ones(1)).tolist() == [2]
    y = x.view_as(other=x.relu()).view_as(x.exp())
    assert build(x, y)(torch.ones(1, 3)).tolist() == [[1, 1, 1]]


def test_a_torch_without_frames_for_calls_of_modules_asks_to_draw_first(monkeypatch):
    monkeypatch.setattr(echo, "MODULE_CALL_CODE", None)
    x, layer = Input((3,)), nn.BatchNorm1d(3)
    assert list(build(x, layer(x)).state_dict())[0] == "batch_norm1d_1.weight"
    with pytest.raises(ValueError, match="after build.*Draw everything first"):
        layer(x)
