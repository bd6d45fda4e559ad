"""Nets with several inputs and outputs, shared layers and modes; training on the face; copies and other forms."""

import copy
import io
import json
import pickle

import pytest
import torch
from tests.functional.nets import small, text_net
from torch import nn

from torchkeras import KerasModel
from torchkeras.functional import FunctionalModel, Input, build

BATCH = torch.linspace(-1, 1, 3 * 3 * 6 * 6).view(3, 3, 6, 6)


def equal(first, second) -> bool:
    """Whether two results of ``small`` are the same to the bit."""
    return all(torch.equal(first[name], second[name]) for name in ("class", "mean"))


# --- shapes of nets ---


def two_inputs() -> FunctionalModel:
    left, right = Input((2,), name="left"), Input((3,), name="right")
    joined = torch.cat([nn.Linear(2, 4)(left), nn.Linear(3, 4)(right)], dim=1).relu()
    return build([left, right], {"class": nn.Linear(8, 3)(joined), "price": nn.Linear(8, 1)(joined)})


def test_several_inputs_come_in_order_by_name_in_a_tuple_or_in_a_dict():
    net, left, right = two_inputs(), torch.randn(5, 2), torch.randn(5, 3)
    expected = net(left, right)["class"]
    for given in (net(left, right=right), net(right=right, left=left), net((left, right)), net([left, right]),
                  net({"right": right, "left": left})):
        assert torch.equal(given["class"], expected)
    assert not torch.equal(net(left + 1, right)["class"], expected)  # control


def test_a_dict_of_inputs_names_them():
    a, b = Input((2,)), Input((2,), name="other")
    net = build({"first": a, "second": b}, a - b)
    assert net(second=torch.ones(1, 2), first=torch.zeros(1, 2)).tolist() == [[-1, -1]]
    assert net.names == ["first", "second"]


def test_outputs_keep_their_structure():
    x = Input((2,))
    net = build(x, ({"a": [x, x + 1]}, x * 2))
    found, last = net(torch.ones(1, 2))
    assert (type(found["a"]), found["a"][1].tolist(), last.tolist()) == (list, [[2, 2]], [[2, 2]])


def test_a_shared_layer_is_one_layer_with_one_weight_and_both_gradients():
    x, y, layer = Input((3,)), Input((3,)), nn.Linear(3, 2)
    net = build([x, y], layer(x) * layer(y))
    assert list(net.state_dict()) == ["linear_1.weight", "linear_1.bias"]
    one, two = torch.randn(4, 3), torch.randn(4, 3)
    net(one, two).sum().backward()
    mine, layer.weight.grad = layer.weight.grad, None
    (layer(one) * layer(two)).sum().backward()
    assert torch.equal(mine, layer.weight.grad)
    assert not torch.equal(mine, torch.zeros_like(mine))


def test_a_weight_that_a_function_shares_with_a_layer_stays_one_weight():
    ids = Input((5,), torch.int64)
    table = nn.Embedding(7, 3)
    net = build(ids, nn.functional.linear(table(ids), table.weight))
    assert sum(one.numel() for one in net.parameters()) == 21
    twin = copy.deepcopy(net)
    assert twin.embedding_1.weight is twin.parameter_1 is not table.weight
    assert net(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 7)


def test_a_net_of_nets_keeps_their_names_and_shares_their_weights():
    x = Input((3,))
    tower = build(x, nn.Linear(3, 3)(x).relu())
    a, b = Input((3,), name="a"), Input((3,), name="b")
    net = build([a, b], tower(a) - tower(b))
    assert list(net.state_dict()) == ["functional_model_1.linear_1.weight", "functional_model_1.linear_1.bias"]
    one, two = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(net(one, two), tower(one) - tower(two))


def test_several_nets_from_one_drawing_share_their_layers():
    x = Input((3,))
    features = nn.Linear(3, 4)(x).relu()
    net, inner = build(x, nn.Linear(4, 1)(features)), build(x, features)
    assert net.linear_1 is inner.linear_1
    assert inner(torch.ones(2, 3)).shape == (2, 4)


def test_names_may_be_chosen():
    x, stem = Input((3,)), nn.Linear(3, 3)
    net = build(x, nn.Linear(3, 1)(stem(stem(x))), names={"stem": stem})
    assert list(net.state_dict()) == ["stem.weight", "stem.bias", "linear_1.weight", "linear_1.bias"]
    assert "self.stem(" in net.code


def test_dropout_and_batch_norm_follow_train_and_eval():
    net = small()
    assert net.training
    assert not equal(net(BATCH), net(BATCH))
    assert net.batch_norm2d_1.num_batches_tracked == 2
    net.eval()
    assert equal(net(BATCH), net(BATCH))
    assert net.batch_norm2d_1.num_batches_tracked == 2


# --- training ---


def test_a_drawn_net_trains_on_the_face_as_the_written_one_does_to_the_bit():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x):
            hidden = self.first(x).relu()
            return self.last(hidden + self.first(x))

    def drawn():
        x, first = Input((3,)), nn.Linear(3, 8)
        return build(x, nn.Linear(8, 1)(first(x).relu() + first(x)))

    torch.manual_seed(0)
    x = torch.randn(64, 3)
    weights = []
    for make in (Written, drawn):
        torch.manual_seed(1)
        net = make()
        KerasModel(net, "mse").fit((x, x.sum(1, keepdim=True)), epochs=2, ckpt_path=None, quiet=True, seed=2, cpu=True)
        weights.append(list(net.state_dict().values()))
    torch.manual_seed(1)
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))
    assert not torch.equal(weights[0][0], next(Written().parameters()))  # control: they were trained


@pytest.mark.parametrize("named", [True, False])
def test_batches_of_several_inputs_feed_a_drawn_net(named):
    net = two_inputs()
    left, right = torch.randn(32, 2), torch.randn(32, 3)
    features = {"left": left, "right": right} if named else (left, right)
    model = KerasModel(net, lambda preds, labels: nn.functional.mse_loss(preds["price"], labels), optimizer="sgd")
    history = model.fit((features, torch.ones(32, 1)), epochs=3, ckpt_path=None, quiet=True, seed=0, cpu=True)
    losses = history["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert model.predict((features,))["class"].shape == (32, 3)


def test_weights_are_saved_and_loaded_by_their_readable_names(tmp_path):
    model, other = KerasModel(small()), KerasModel(small())
    model.save_ckpt(tmp_path / "net.pt")
    assert "conv2d_1.weight" in torch.load(tmp_path / "net.pt")
    assert not equal(model.net.eval()(BATCH), other.net.eval()(BATCH))  # control
    other.load_ckpt(tmp_path / "net.pt")
    assert equal(model.net(BATCH), other.net.eval()(BATCH))


# --- other forms of a net ---


def by_torch_save(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_config(net: FunctionalModel) -> nn.Module:
    twin = FunctionalModel.from_config(json.loads(json.dumps(net.get_config())))
    assert not equal(twin.eval()(BATCH), net(BATCH))  # fresh weights
    assert [name for name, _ in twin.named_modules()] == [name for name, _ in net.named_modules()]
    assert twin.code == net.code
    twin.load_state_dict(net.state_dict())
    return twin.eval()


@pytest.mark.parametrize("form", [
    copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), by_torch_save, by_config,
    lambda net: torch.compile(net, backend="eager", fullgraph=True),
    lambda net: torch.export.export(net, (BATCH,)).module(),
], ids=["deepcopy", "pickle", "torch.save", "config", "compile", "export"])
def test_another_form_of_a_net_gives_its_outputs_to_the_bit(form):
    net = small().eval()
    twin = form(net)
    assert equal(twin(BATCH), net(BATCH))
    assert not equal(twin(BATCH + 1), net(BATCH))  # control


def test_a_copy_has_weights_of_its_own():
    net = small().eval()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.conv2d_1.bias += 1
    assert not equal(twin(BATCH), net(BATCH))


def test_an_exported_net_takes_any_number_of_samples():
    net = small().eval()
    exported = torch.export.export(net, (BATCH,), dynamic_shapes=(({0: torch.export.Dim("batch")},),))
    more = torch.cat([BATCH, BATCH + 1])
    assert torch.allclose(exported.module()(more)["class"], net(more)["class"], atol=1e-6)


def test_a_graph_of_torch_fx_runs_as_the_net_does():
    net = small().eval()
    assert equal(torch.fx.GraphModule(net, net.graph)(BATCH), net(BATCH))


# --- config ---


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 4, (3, 1), stride=2, padding="valid", bias=False), nn.ConvTranspose2d(3, 2, 2, output_padding=0),
    nn.GroupNorm(3, 3, eps=0.1), nn.LayerNorm([6, 6], bias=False), nn.BatchNorm2d(3, affine=False), nn.PReLU(3, 0.5),
    nn.LeakyReLU(0.3), nn.GELU("tanh"), nn.Softmax(dim=1), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, ceil_mode=True),
    nn.AdaptiveAvgPool2d((2, None)), nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Flatten(1, 2), nn.Dropout(0.1),
    nn.Hardtanh(-2, 2), nn.Linear(6, 2), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 1, 1))),
    nn.Unflatten(1, (3, 1)), nn.PixelUnshuffle(2), nn.ZeroPad2d(1), nn.InstanceNorm2d(3, affine=True),
    nn.Threshold(0.1, float("-inf")),
], ids=lambda layer: type(layer).__name__)
def test_a_layer_is_made_anew_from_its_arguments(layer):
    x = Input((3, 6, 6))
    net = build(x, layer(x))
    twin = FunctionalModel.from_config(json.loads(json.dumps(net.get_config())))
    assert repr(twin) == repr(net)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.eval()(BATCH), net.eval()(BATCH))


def test_recurrent_and_attention_layers_and_the_text_net_are_made_anew():
    x = Input((5, 4))
    outputs, _ = nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True)(x)
    attended, _ = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)(outputs, outputs, value=outputs)
    for net in (build(x, attended), text_net()):
        twin = FunctionalModel.from_config(net.get_config())
        assert twin.code == net.code
        assert {name: one.shape for name, one in twin.state_dict().items()} == {
            name: one.shape for name, one in net.state_dict().items()}


class Scale(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Forgetful(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.by = factor

    def forward(self, x):
        return x * self.by


class Remembering(Forgetful):
    def get_config(self):
        return {"factor": self.by}


def test_layers_of_the_users_own_come_back_by_custom_objects():
    for kind in (Scale, Remembering):
        x = Input((2,))
        config = build(x, kind(5.0)(x)).get_config()
        with pytest.raises(ValueError, match=f"the class '{kind.__name__}'.*custom_objects"):
            FunctionalModel.from_config(config)
        twin = FunctionalModel.from_config(config, custom_objects={kind.__name__: kind})
        assert twin(torch.ones(1, 2)).tolist() == [[5, 5]]


def test_a_layer_that_does_not_keep_its_arguments_is_refused():
    x = Input((2,))
    with pytest.raises(ValueError, match="forgetful_1.*does not keep its argument 'factor'.*get_config"):
        build(x, Forgetful()(x)).get_config()
