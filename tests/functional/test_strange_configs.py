"""Configs made by somebody else: each is refused in our words or makes a net, and no code of theirs runs."""

import builtins
import copy
import json
import time
import tracemalloc

import pytest
import torch
from torch import nn

from torchkeras.functional import FunctionalModel, Input, build, checking
from torchkeras.functional.plan import is_plain_name, to_fx_graph

CODE = "__import__('builtins').__dict__.__setitem__('canary', 1)"
NAMES = ["self", "lambda", "ｉｆ", "𝒂", "__class__", "a'b", 'a"b',
         "a b", "", "a=1,b", f"a={CODE},b", "x" * 201, "1a", "a.b"]


class Loose(nn.Module):
    def forward(self, x, **kwargs):
        return x


def loose_net():
    x, layer = Input((4,), name="features"), Loose()
    return build(x, layer(x, scale=2.0))


def config_of(net):
    return json.loads(json.dumps(net.get_config()))


def mixed_config():
    """A little of everything that a config can hold."""
    x, other = Input((3, 8), name="features"), Input((4,), name="other")
    begin = Input((4,))
    inner = build(begin, nn.Linear(4, 4)(begin))
    y = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU())(x)[:, :, -1] + nn.Parameter(torch.ones(4))
    joined = torch.cat([inner(y), other.to(torch.float32)], dim=1).reshape(x.shape[0], -1)
    return config_of(build([x, other], {"a": Loose()(joined, scale=2), "b": [y.relu()]}))


def refused(config, words="config: received", **more):
    """It is refused in our words, soon, and without having run what it holds."""
    started = time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        FunctionalModel.from_config(config, {"Loose": Loose}, **more)
    assert vars(caught.value)["user_mistake"]
    assert len(str(caught.value)) < 1000
    assert not hasattr(builtins, "canary")
    return time.process_time() - started


# --- names that become source code ---


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_plain_names_are_refused_wherever_they_stand(name):
    changes = [
        lambda config: config["nodes"][1]["kwargs"]["dict"].__setitem__(0, [name, 1]),
        lambda config: config["nodes"][0].update(name=name),
        lambda config: config["nodes"][1].update(name=name),
        lambda config: config.update(layers={name: config["layers"]["loose_1"]}),
        lambda config: config["layers"]["loose_1"]["arguments"].update({name: 1}),
    ]
    for change in changes:
        config = config_of(loose_net())
        change(config)
        refused(config, "config: received .*name")


@pytest.mark.parametrize("name", ["标题", "größe", "match", "_", "x1", "input", "torch", "device", "inf", "getattr"])
def test_names_in_any_language_are_plain_and_make_a_net_that_runs(name):
    x, layer = Input((3,), name=name), nn.Linear(3, 2)
    net = build(x, torch.relu(layer(x)) + x.sum(1, keepdim=True))
    twin = FunctionalModel.from_config(config_of(net))
    twin.load_state_dict(net.state_dict())
    values = torch.randn(2, 3)
    assert torch.equal(twin(**{name: values}), net(values))


@pytest.mark.parametrize("name", ["inf", "nan", "torch", "slice", "getattr", "device", "x"])
def test_an_input_hides_nothing_that_the_source_of_forward_needs(name):
    x = Input((3,), name=name)
    tall = torch.relu(x).masked_fill(x > 1, float("-inf")).to(torch.device("cpu"))[:, :2]
    net = build(x, tall.mT.nan_to_num(float("nan"), neginf=float("-inf")))
    values = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 3.0]])
    assert net(values).tolist() == net({name: values}).tolist() == [[1.0, 0.0], [-float("inf"), 0.5]]
    assert net.names == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_refuses_the_same_names_with_the_line_to_change(name):
    with pytest.raises(ValueError, match="name: received"):
        Input((3,), name=name)
    x, layer = Input((3,)), nn.Linear(3, 3)
    with pytest.raises(ValueError, match="inputs: received the name"):
        build({name: x}, layer(x))
    with pytest.raises(ValueError, match="names: received"):
        build(x, layer(x), {name: layer})


@pytest.mark.parametrize("name", ["_modules", "_run", "names", "code", "graph", "state_dict", "plan", "_forward_hooks"])
def test_a_layer_takes_the_place_of_nothing_that_a_net_has(name):
    x, layer = Input((3,)), nn.Linear(3, 3)
    with pytest.raises(ValueError, match="names: received"):
        build(x, layer(x), {name: layer})


@pytest.mark.parametrize("title", ['Quo"te', "Less<T>", "ｉｆ", "lambda", "", "3D", "a'+b", "类"])
def test_a_class_by_any_name_makes_a_layer_with_a_plain_one(title):
    kind = type("Named", (nn.Linear,), {})
    kind.__name__ = title
    x = Input((3,))
    net = build(x, kind(3, 1)(x))
    name, _, _ = next(iter(net.state_dict())).partition(".")
    assert is_plain_name(name)
    assert net(torch.ones(2, 3)).shape == (2, 1)


def test_a_plan_with_other_names_writes_no_source():
    net = loose_net()
    net.plan.nodes[1].kwargs[f"a={CODE},b"] = 1
    with pytest.raises(ValueError, match="plan: received the name"):
        to_fx_graph(net.plan)


# --- anything anywhere ---


def places(value, path=()):
    """Where a config can be changed."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(one, (*path, key))


STRANGE = [None, True, -1, 2**62, 10**5000, float("nan"), "", "self", CODE, "x" * 2000, [], {}, [1], {"a": 1}, b"x",
           {"ref": "features", "path": []}, {"ref": "features", "path": [CODE]}, {"ref": "nope", "path": []},
           {"torch": "load"}, {"torch": "_dynamo"}, {"device": CODE}, {"float": CODE}, {"dict": [[CODE, 1]]},
           {"dict": [[[1], 1]]}, {"slice": [1]}, {"tuple": 5}, {"layer": 5}, "os.system", "torch.nn.Module",
           "torch.nn.LazyLinear", "torchkeras.functional.FunctionalModel", "qint8", object()]


def test_a_config_changed_anywhere_to_anything_is_refused_in_our_words_or_makes_a_net():
    plain = mixed_config()
    found = list(places(plain))
    made, others = 0, []
    for number, path in enumerate(found):
        for strange in (STRANGE[number % len(STRANGE)], *(["removed"] if number % 4 == 0 else [])):
            config = copy.deepcopy(plain)
            owner = config
            for key in path[:-1]:
                owner = owner[key]
            if strange == "removed":
                del owner[path[-1]]
            else:
                owner[path[-1]] = strange
            try:
                made += isinstance(FunctionalModel.from_config(config, {"Loose": Loose}), FunctionalModel)
            except (TypeError, ValueError) as error:
                others += [] if vars(error).get("user_mistake") else [(path, strange, error)]
    assert not hasattr(builtins, "canary")
    assert others == []
    assert 0 < made < len(found)  # some changes make another net


# --- data without end, weights without measure ---


def nested(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found


def many(levels):
    """Ten to the power of so many values in little memory."""
    found = [0] * 10
    for _ in range(levels - 1):
        found = [found] * 10
    return found


def itself():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize("make", [lambda: nested(100_000), itself, lambda: many(12), lambda: [0] * 3_000_000,
                                  lambda: {str(number): 0 for number in range(20_100)}],
                         ids=["deep", "in itself", "a trillion", "a long list", "a long dict"])
def test_data_without_end_are_refused_soon_and_in_little_memory(make, monkeypatch):
    monkeypatch.setattr(checking, "MOST_VALUES", 20_000)  # the true limit takes some tenths of a second
    config = config_of(loose_net()) | {"outputs": make()}
    tracemalloc.start()
    try:
        assert refused(config, "more than .* (values|levels)") < 2
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def linear(size, **more):
    return {"class": "torch.nn.Linear", "arguments": {"in_features": size, "out_features": size, **more},
            "dtype": "float32"}


WEIGHTY = {
    "a layer": linear(10**6),
    "a layer in a row": {"class": "torch.nn.Sequential", "layers": {"0": {"class": "torch.nn.Sequential",
                                                                          "layers": {"0": linear(10**6)}}}},
    "a layer in a layer": {"class": "torch.nn.DataParallel", "arguments": {"module": {"layer": linear(10**6)}},
                           "dtype": "float32"},
    "many layers": {"class": "torch.nn.Sequential", "layers": {str(number): linear(9000) for number in range(9)}},
    "wide numbers": linear(12_000) | {"dtype": "float64"},
}


@pytest.mark.parametrize("layer", WEIGHTY.values(), ids=WEIGHTY)
def test_weights_that_take_more_than_is_allowed_are_refused_before_they_are_made(layer):
    config = config_of(loose_net())
    config["layers"]["loose_1"] = layer
    assert refused(config, "weights of .* bytes up to 'loose_1.*max_bytes") < 1


def test_a_tensor_and_a_net_within_count_too_and_the_caller_can_allow_more_or_less():
    config = config_of(loose_net())
    config["nodes"].insert(1, {"name": "huge", "kind": "tensor", "target": "huge", "args": {"tuple": []},
                               "kwargs": {"dict": []}, "shape": [10**6, 10**6], "dtype": "float32", "parameter": True})
    refused(config, "weights of 4,000,000,000,000 bytes up to 'huge'")
    inner, x = mixed_config(), Input((3,))
    refused(config_of(loose_net()) | {"layers": {"loose_1": {
        "class": "torchkeras.functional.FunctionalModel", "config": inner}}}, "weights of", max_bytes=10)
    small = config_of(build(x, nn.Linear(3, 4)(x)))  # 16 weights of 4 bytes
    refused(small, "weights of 64 bytes", max_bytes=63)
    assert FunctionalModel.from_config(small, max_bytes=64)(torch.ones(1, 3)).shape == (1, 4)


LAYERS = {
    "layers without number": {"class": "torch.nn.LSTM", "dtype": "float32", "arguments": {
        "input_size": 4, "hidden_size": 4, "num_layers": 10**9}},
    "copies without number": {"class": "torch.nn.Transformer", "dtype": "float32", "arguments": {
        "num_encoder_layers": 10**9}},
    "a device": linear(4, device={"device": "cpu"}),
    "sizes that come later": {"class": "torch.nn.LazyLinear", "dtype": "float32", "arguments": {"out_features": 10**9}},
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_whose_cost_cannot_be_counted_are_refused(layer):
    config = config_of(loose_net())
    config["layers"]["loose_1"] = layer
    assert refused(config) < 1


@pytest.mark.parametrize(("target", "count", "words"), [
    ("diff", 10**8, "100,000,000 pieces or repetitions"),
    ("unbind", 1, "1,000,000 pieces"), ("split", 5, "200,000 pieces"), ("tensor_split", 10**9, "1,000,000,000 pieces"),
    ("chunk", 10**6, "1,000,000 pieces"), ("split", 5 * 10**5, None)])
def test_a_tensor_in_pieces_without_number_is_refused(target, count, words):
    x = Input((10**6,), name="features")
    config = config_of(build(x, x.unsqueeze(1)))
    config["nodes"][1] |= {"target": target, "args": {"tuple": [{"ref": "features", "path": []}, count, *(
        [1] if target != "unbind" else [])]}}
    if words is None:
        assert len(FunctionalModel.from_config(config)(torch.ones(2, 10**6))) == 2  # control
    else:
        refused(config, words)


def test_a_size_beyond_all_tensors_is_refused_before_it_is_worked_out():
    x = Input((3,))
    size = x.shape[0]
    for _ in range(2):
        size = size * size
    with pytest.raises(ValueError, match="more than 64 bits"):
        size * size * size


@pytest.mark.parametrize("args", [["'ref'"], [5], [{"ref": "constant_1", "path": []}]])
def test_what_takes_nothing_from_the_inputs_is_not_computed(args):
    x = Input((3,))
    config = config_of(build(x, x + torch.ones(3)))
    config["nodes"].append({"name": "more", "kind": "method", "target": "relu", "args": {"tuple": args},
                            "kwargs": {"dict": []}})
    refused(config, "'more', which takes nothing from the net")


def test_a_layer_may_have_an_argument_called_module():
    class Choosing(nn.Module):
        def forward(self, x, module=1):
            return x * module

    x = Input((2,))
    assert build(x, Choosing()(x, module=3))(torch.ones(1, 2)).tolist() == [[3, 3]]
