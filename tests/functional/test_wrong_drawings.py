"""Wrong drawings: each is an error that names what came, the shapes that met and the line that drew it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from torchkeras.functional import (
    Concatenate,
    FunctionalModel,
    GlobalMaxPool1d,
    Input,
    SeparableConv1d,
    build,
)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Telling(nn.Module):
    def forward(self, x):
        return str(x.shape)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def vector() -> torch.Tensor:
    return Input((6,), name="x")


def image() -> torch.Tensor:
    return Input((3, 8, 8), name="x")


def branch(x):
    return nn.Linear(6, 1)(x) if x.mean() > 0 else nn.Linear(6, 2)(x)


def assign(x):
    x[:, 0] = 0


def other() -> torch.Tensor:
    return Input((6,), name="other")


DRAWN = {  # a drawing that begins with x, the error's kind, and words that its message has
    "a layer of another width": (lambda x: nn.Linear(4, 2)(x), ValueError,
                                 ["Linear", r"\(batch, 6\)", r"weight \(2, 4\)"]),
    "a layer of another width inside a container": (
        lambda x: nn.Sequential(nn.ReLU(), nn.Linear(4, 2))(x), ValueError,
        ["Linear in Sequential", r"\(batch, 6\)", r"weight \(2, 4\)"]),
    "a convolution of a vector": (lambda x: nn.Conv2d(3, 4, 3)(x), ValueError,
                                  ["Conv2d", r"\(batch, 6\)", r"weight \(4, 3, 3, 3\)"]),
    "a sum of unlike shapes": (lambda x: x + nn.Linear(6, 5)(x), ValueError,
                               ["add", r"\(batch, 6\) and \(batch, 5\)"]),
    "a product of unlike shapes": (lambda x: x @ torch.ones(5, 2), ValueError,
                                   ["matmul", r"\(batch, 6\) and \(5, 2\)"]),
    "joined tensors of unlike ranks": (lambda x: torch.cat([x, x[:, None]], dim=1), ValueError,
                                       ["cat", r"\(batch, 6\) and \(batch, 1, 6\)"]),
    "joined along a dimension that is not there": (lambda x: Concatenate(dim=3)([x, x]), ValueError,
                                                   ["Concatenate", r"\(batch, 6\) and \(batch, 6\)", "range"]),
    "one branch to join": (lambda x: Concatenate()([x]), ValueError, ["Concatenate", "two or more"]),
    "a view with a batch size in it": (lambda x: x.view(32, 7, -1), ValueError, ["view", r"\(batch, 6\)", "invalid"]),
    "numbers where ids are needed": (lambda x: nn.Embedding(9, 4)(x), ValueError,
                                     ["Embedding", "Long, Int", "float32"]),
    "channels last": (lambda x: SeparableConv1d(3, 4, 3)(x[:, :, None].expand(-1, -1, 3)), ValueError,
                      ["Conv1d in SeparableConv1d", r"\(batch, 6, 3\)"]),
    "a pool without channels": (lambda x: GlobalMaxPool1d()(x), ValueError, ["GlobalMaxPool1d", "channels, length"]),
    "a branch on values": (branch, ValueError, ["__bool__", r"symbolic \(\) bool", "torch.where"]),
    "a module that branches on values": (lambda x: Branching()(x), ValueError,
                                         ["Branching", "do not depend on values", "torch.where"]),
    "a selection by values": (lambda x: x[x > 0], ValueError, ["__getitem__", "do not depend on values"]),
    "a number read": (lambda x: x.sum().item(), ValueError, ["item", "no numbers while drawing"]),
    "a float": (lambda x: float(x.sum()), ValueError, ["__float__", "no numbers while drawing"]),
    "an array": (lambda x: x.numpy(), ValueError, ["numpy", "no numbers while drawing"]),
    "a function of numpy": (lambda x: np.exp(x), ValueError, ["__array__", "no numbers while drawing"]),
    "the number of samples": (lambda x: len(x), ValueError, ["__len__", "no numbers while drawing"]),
    "a loop over samples": (lambda x: [row for row in x], ValueError, ["first dimension is the batch"]),
    "a change in place": (lambda x: x.add_(1), ValueError, ["add_", "in place", r"x = x.add\("]),
    "a change of a part": (assign, ValueError, ["__setitem__", "in place", "torch.where"]),
    "a result put elsewhere": (lambda x: torch.exp(x, out=torch.ones(1)), ValueError, ["exp", "in place"]),
    "a branch on the batch size": (lambda x: x if x.shape[0] > 4 else -x, ValueError,
                                   ["the batch size", "gt", "any number of samples"]),
    "a number made of the batch size": (lambda x: x.sum() * (1 / x.shape[0]), ValueError,
                                        ["the batch size", "rtruediv", "any number of samples"]),
    "a tensor of the batch's size": (lambda x: x + torch.zeros(x.shape[0], 6), ValueError,
                                     ["add", r"made with the batch's size, \(batch, 6\)", "new_zeros"]),
    "a lazy layer that mixes samples": (lambda x: nn.LazyLinear(2)(x.flatten(0)), ValueError,
                                        ["Linear", r"\(6\*batch,\)", r"weight \(2, 12\)"]),
    "dropout that never stops": (lambda x: functional.dropout(x), ValueError, ["dropout", "nn.Dropout"]),
    "a recurrent layer over the samples": (lambda x: nn.GRU(6, 2)(x[:, None]), ValueError,
                                           ["GRU", r"symbolic \(batch, 1, 6\)", "batch_first=True"]),
    "a function with a gradient of its own": (lambda x: Doubled.apply(x), ValueError,
                                              ["mul", "torch.autograd.Function", "nn.Module"]),
    "an argument too few": (lambda x: nn.Bilinear(6, 6, 1)(x), TypeError, ["Bilinear", "missing", "input2"]),
    "an argument too many": (lambda x: nn.ReLU()(x, x), TypeError, ["ReLU", "takes 2 positional"]),
    "an array of numpy": (lambda x: x + np.ones(6), ValueError, ["__array__", "no numbers while drawing"]),
    "a number of numpy": (lambda x: functional.softmax(x, np.int64(1)), TypeError, ["softmax", "int64", r"int\(n\)"]),
    "a module that gives no tensor": (lambda x: Telling()(x), TypeError, ["Telling", "a str from its forward"]),
    "a function that torch cannot record": (lambda x: torch.vmap(torch.sin)(x), TypeError, ["aten", "nn.Module"]),
}


@pytest.mark.parametrize(("draw", "kind", "words"), DRAWN.values(), ids=DRAWN)
def test_a_wrong_step_is_an_error_at_the_line_that_drew_it(draw, kind, words):
    with pytest.raises(kind) as caught:
        draw(vector())
    message = str(caught.value)
    assert "Drawn at test_wrong_drawings.py:" in message
    with pytest.raises(kind, match=".*".join(words)):  # in this order
        draw(vector())
    assert "10007" not in message


INPUTS = {
    "a number for a shape": (lambda: Input(200), TypeError, "shape.*200 .int.*Write .200,."),
    "an open size": (lambda: Input((None, 3)), TypeError, "shape.*None.*usual size"),
    "an empty size": (lambda: Input((0,)), ValueError, "shape.*1 or more"),
    "a dtype by name": (lambda: Input((3,), "int64"), TypeError, "dtype.*torch.int64"),
    "a name that is no argument": (lambda: Input((3,), name="my input"), ValueError, "name.*'my input'"),
}


@pytest.mark.parametrize(("draw", "kind", "words"), INPUTS.values(), ids=INPUTS)
def test_a_wrong_input_is_an_error(draw, kind, words):
    with pytest.raises(kind, match=words):
        draw()


def shared_name(x):
    y = Input((6,), name="x")
    return build([x, y], x + y)


BUILT = {
    "an input that is not used": (lambda x: build([x, other()], x.relu()), ValueError,
                                  "inputs.*'other', which leads to none of the outputs.*Leave it out"),
    "an input that is not listed": (lambda x: build(x, x + other()), ValueError,
                                    "outputs.*needs the input 'other'.*the inputs listed: x.*Drawn at test_wrong"),
    "a value from another drawing": (lambda x: build(x, nn.Linear(6, 1)(other())), ValueError,
                                     "outputs.*needs the input 'other'"),
    "an output with numbers": (lambda x: build(x, torch.ones(3)), TypeError, "outputs.*a Tensor.*symbolic values"),
    "a class for a layer": (lambda x: build(x, nn.ReLU(x)), TypeError, "outputs.*a ReLU.*symbolic values"),
    "no output": (lambda x: build(x, []), TypeError, "outputs.*a list.*symbolic values"),
    "an input with numbers": (lambda x: build(torch.ones(3), x), TypeError, "inputs.*a Tensor.*Input"),
    "an input from in between": (lambda x: build(x.relu(), x.relu().exp()), ValueError,
                                 "inputs.*is the result of a step.*Drawn at test_wrong"),
    "no input": (lambda x: build([], x), ValueError, "inputs.*none.*at least one"),
    "the same input twice": (lambda x: build({"a": x, "b": x}, x), ValueError, "inputs.*same Input twice"),
    "two inputs of one name": (shared_name, ValueError, "inputs.*the name 'x' twice"),
    "a sample of the batch": (lambda x: build(x, x[10]), ValueError,
                              "__getitem__.*3 samples.*any number of samples.*Drawn at test_wrong"),
    "a name for a layer that is not drawn": (lambda x: build(x, nn.ReLU()(x), {"last": nn.Tanh()}), ValueError,
                                             "names.*'last' for a Tanh that was not drawn"),
}


@pytest.mark.parametrize(("draw", "kind", "words"), BUILT.values(), ids=BUILT)
def test_a_wrong_net_is_an_error_when_it_is_built(draw, kind, words):
    with pytest.raises(kind, match=words):
        draw(vector())


def test_a_name_that_an_attribute_cannot_have_is_refused():
    x, layer = vector(), nn.Linear(6, 1)
    for name in ("a.b", "forward", "x", "training"):
        with pytest.raises(ValueError, match=f"names.*{name!r}"):
            build(x, layer(x), {name: layer})
    assert list(build(x, layer(x), {"head": layer}).state_dict()) == ["head.weight", "head.bias"]  # control


@pytest.mark.parametrize("features", [{"titel": 0, "body": 0}, {"title": 0}, (0,), (0, 0, 0)])
def test_a_batch_with_other_inputs_than_the_net_is_an_error(features):
    title, body = Input((2,), name="title"), Input((2,), name="body")
    net = build([title, body], title + body)
    features = {name: torch.ones(1, 2) for name in features} if isinstance(features, dict) else (
        tuple(torch.ones(1, 2) for _ in features))
    with pytest.raises(ValueError, match="inputs.*expected 2: title, body"):
        net(features)
    assert net((torch.ones(1, 2), torch.ones(1, 2))).tolist() == [[2, 2]]  # control


HOSTILE = {
    "an import": {"kind": "function", "target": "os.system"},
    "a loader": {"kind": "function", "target": "torch.load"},
    "a hidden method": {"kind": "method", "target": "__setstate__"},
    "a hook": {"kind": "attribute", "target": "__class__"},
    "a kind that is not known": {"kind": "eval", "target": "relu"},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_config_can_name_nothing_but_what_torch_records(change):
    x = vector()
    config = build(x, torch.relu(x)).get_config()
    assert FunctionalModel.from_config(config)(torch.tensor([[-1.0] * 6])).sum() == 0  # control
    config["nodes"][1] |= change
    with pytest.raises(ValueError, match="config: received the .*what torch can record"):
        FunctionalModel.from_config(config)


@pytest.mark.parametrize("name", ["subprocess.Popen", "torch.nn.functional.relu", "torch.nn.Lineer", "torch.nn.init",
                                  "torch.hub.load", "Popen"])
def test_a_config_can_make_nothing_but_layers(name):
    x = vector()
    config = build(x, nn.Linear(6, 1)(x)).get_config()
    config["layers"]["linear_1"]["class"] = name
    with pytest.raises(ValueError, match=f"config: received the class '{name}'"):
        FunctionalModel.from_config(config)
