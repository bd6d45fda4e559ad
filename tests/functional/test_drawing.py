"""What a symbolic value is, what drawing leaves behind (nothing), and drawing on after a net was built."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional

from torchkeras.functional import Input, build
from torchkeras.functional.drawing import is_watching
from torchkeras.functional.plan import snake_case

ORIGINAL = nn.Module.__call__


@pytest.fixture(autouse=True, scope="module")
def what_there_was_before_is_not_looked_through():
    """Looking for garbage in all that was imported takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_is_being_drawn():
    """Errors of earlier tests hold values of their drawings until they are collected."""
    gc.collect()


def same(net: nn.Module, expected, *shapes: tuple[int, ...]) -> None:
    """A net and a function give the same for two numbers of samples, and not for other inputs."""
    for samples in (2, 5):
        values = [torch.randn(samples, *shape) for shape in shapes]
        assert torch.equal(net(*values), expected(*values))
    assert not torch.equal(net(*values), expected(*(-value - 1 for value in values)))  # control


# --- the value ---


def test_a_symbolic_value_knows_its_shape_and_dtype_and_shows_them():
    x = Input((3, 8, 8), torch.float16)
    assert (x.ndim, x.dtype, x.shape[1:], x.is_cuda) == (4, torch.float16, (3, 8, 8), False)
    assert repr(x) == f"{x}" == "<symbolic (batch, 3, 8, 8) float16>"
    assert repr(x.shape[0]) == "batch"
    assert repr(x.flatten(0, 1)) == "<symbolic (3*batch, 8, 8) float16>"
    assert repr(x.permute(1, 0, 2, 3)) == "<symbolic (3, batch, 8, 8) float16>"


@pytest.mark.parametrize("draw", [
    lambda x: 1 - x, lambda x: 2 / (x * x + 1), lambda x: x ** 2 + 2 ** x, lambda x: -x.abs() // 2 % 3,
    lambda x: x @ x.mT, lambda x: ((x > 0) & ~(x >= 1)) | (x < -1), lambda x: x[:, 0, ..., None], lambda x: x.T.mT,
    lambda x: torch.where(x > 0, x, -x), lambda x: functional.softmax(x, dim=-1), lambda x: x.max(dim=1).indices,
    lambda x: torch.cat([x, x * 2], dim=1), lambda x: torch.einsum("bij,bkj->bik", x, x), lambda x: x.chunk(2, 1)[1],
    lambda x: x.view(x.shape[0], -1), lambda x: x.reshape(x.size(0) * 2, -1), lambda x: x.sum() / x.shape[0],
    lambda x: x.view(x.numel() // 16, 16), lambda x: x.new_zeros(x.shape[0] + 1, 3) + x.mean(),
    lambda x: x[:, :3].to(torch.float64),
    lambda x: torch.stack([row for row in x.unbind(1)]).transpose(0, 1), lambda x: x[: x.shape[0] // 2],
    lambda x: functional.layer_norm(x, (4,)), lambda x: torch.add(torch.ones(4), x, alpha=2), lambda x: x.amax((1, 2)),
    lambda x: torch.sort(x, dim=1)[0].masked_fill(x > 1, 0.0), lambda x: functional.one_hot((x > 0).long(), 2),
])
@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors")
def test_operators_functions_methods_and_sizes_run_in_the_net_as_they_were_drawn(draw):
    x = Input((4, 4))
    same(build(x, draw(x)), draw, (4, 4))


def test_an_assignment_gives_a_new_value_and_leaves_the_old():
    x = Input((4,))
    y = x
    y += 1
    y *= 2
    y -= x
    y /= 4
    same(build(x, y), lambda x: ((x + 1) * 2 - x) / 4, (4,))


# --- modules ---


def test_drawing_leaves_layers_modes_buffers_and_random_numbers_alone():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Embedding(3, 2, max_norm=0.1))
    counting = net[0].num_batches_tracked
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attributes = [dict(vars(module)) for module in net.modules()]
    state = torch.get_rng_state()
    x = Input((4,))
    build(x, net[2]((net[1](net[0](x)) > 0).long()))
    assert torch.equal(torch.get_rng_state(), state)
    assert net[0].num_batches_tracked is counting
    assert [dict(vars(module)) for module in net.modules()] == attributes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net[0](torch.randn(3, 4))
    assert not torch.equal(counting, before["0.num_batches_tracked"])  # control: a real call counts


def test_a_lazy_layer_takes_its_sizes_from_the_drawing_and_its_weights_as_ever():
    torch.manual_seed(0)
    x = Input((3, 8, 8))
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    net = build(x, lazy(x))
    torch.manual_seed(0)
    by_hand = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    by_hand(torch.ones(2, 3, 8, 8))
    assert lazy.training
    assert lazy[1].num_batches_tracked == 0 != by_hand[1].num_batches_tracked
    assert lazy[3].weight.shape == (2, 144)
    assert torch.equal(net.eval()(torch.ones(2, 3, 8, 8)), lazy(torch.ones(2, 3, 8, 8)))
    assert torch.equal(lazy[0].weight, by_hand[0].weight)


def test_a_module_takes_symbolic_values_anywhere_among_its_arguments():
    class Scaled(nn.Module):
        def forward(self, pair, *, options):
            return pair[0] * options["scale"] + pair[1]["shift"]

    x, y = Input((4,)), Input((4,))
    net = build([x, y], Scaled()((x, {"shift": y}), options={"scale": 3}))
    same(net, lambda x, y: x * 3 + y, (4,), (4,))


def test_methods_of_a_module_are_drawn_layer_by_layer():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def encode(self, x):
            return self.layer(x) * self.scale

    x, coder = Input((4,)), Coder()
    net = build(x, coder.encode(x))
    assert list(net.state_dict()) == ["parameter_1", "linear_1.weight", "linear_1.bias"]
    assert net.parameter_1 is coder.scale
    same(net, coder.encode, (4,))


class Signs(torch.autograd.Function):
    """The sign of a number, with the gradient of the number itself."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_module_keeps_a_gradient_of_its_own():
    class Rounded(nn.Module):
        def forward(self, x):
            return Signs.apply(x)

    x = Input((3,))
    values = torch.tensor([[0.5, -2.0, 3.0]], requires_grad=True)
    build(x, Rounded()(x) * 2)(values).sum().backward()
    assert values.grad.tolist() == [[2, 2, 2]]


# --- the watch ---


def test_modules_are_called_as_ever_before_and_after_drawing():
    assert nn.Module.__call__ is ORIGINAL
    x = Input((3,))
    assert nn.Module.__call__ is not ORIGINAL
    assert nn.Linear(3, 1)(torch.ones(2, 3)).shape == (2, 1)  # and meanwhile, on real values
    build(x, x.relu())
    assert nn.Module.__call__ is ORIGINAL


def test_a_drawing_that_is_given_up_ends_with_its_last_value():
    def give_up():
        y = nn.Linear(3, 2)(Input((3,)))
        assert is_watching()
        return y.relu()

    x = give_up()
    assert is_watching()
    del x
    gc.collect()
    assert nn.Module.__call__ is ORIGINAL


def test_a_net_may_be_built_while_another_is_being_drawn():
    def encoder():
        x = Input((4,))
        return build(x, nn.Linear(4, 3)(x))

    x = Input((4,))
    inner = encoder()
    assert is_watching()
    net = build(x, nn.Identity()(inner(x)))
    assert not is_watching()
    assert [name for name, _ in net.named_children()] == ["functional_model_1", "identity_1"]
    same(net, inner, (4,))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()) + self.first(x)


def test_what_was_drawn_may_be_drawn_on_after_a_net_was_built():
    x = Input((4,))
    code = nn.Linear(4, 3)(x)
    encoder = build(x, code)
    block, last = Residual(), nn.Linear(3, 4)
    decoded = last(block(code))
    assert is_watching()
    whole = build(x, decoded)
    assert not is_watching()
    assert [type(one).__name__ for one in whole.children()] == ["Linear", "Residual", "Linear"]
    same(whole, lambda x: last(block(encoder(x))), (4,))


def test_a_layer_with_several_outputs_may_be_drawn_on_after_a_net_was_built():
    x = Input((5, 4))
    build(x, x.relu())
    outputs, (hidden, _) = nn.LSTM(4, 3, batch_first=True)(x)
    assert build(x, outputs)(torch.ones(2, 5, 4)).shape == (2, 5, 3)
    with pytest.raises(ValueError, match="2 like values.*Draw everything first"):
        hidden.relu()


@pytest.mark.parametrize(("name", "expected"), [
    ("Linear", "linear"), ("MaxPool1d", "max_pool1d"), ("LSTM", "lstm"), ("BatchNorm2d", "batch_norm2d"),
    ("_Hidden", "hidden"), ("RNNCell", "rnn_cell"), ("GELU", "gelu"), ("Conv2d", "conv2d"),
])
def test_layers_are_named_after_their_classes(name, expected):
    assert snake_case(name) == expected
