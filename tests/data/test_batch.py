"""One batch: taking apart, counting, moving, calling."""

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from torchkeras.data import batch as batches

X, Y, W = torch.randn(4, 3), torch.arange(4), torch.rand(4)
Pair = namedtuple("Pair", "left right")


class Ops(nn.Module):
    """Two named inputs."""

    def forward(self, left, right):
        return left - right


class OneDict(nn.Module):
    """One input, which is a dict."""

    def forward(self, sample):
        return sample["left"] - sample["right"]


def test_pairs_triples_and_single_items_are_taken_apart():
    for kind in (tuple, list):
        features, labels, weights = batches.split(kind([X, Y]))
        assert features is X
        assert labels is Y
        assert weights is None
        assert batches.split(kind([X, Y, W]))[2] is W
        assert batches.split(kind([X]))[1:] == (None, None)
    assert batches.split(X)[0] is X


def test_labels_of_a_dict_are_under_the_first_known_key():
    for key in ("labels", "label", "y", "targets", "target"):
        features, labels, weights = batches.split(OrderedDict({"image": X, key: Y}))
        assert features == {"image": X}
        assert labels is Y
        assert weights is None
    features, labels, _ = batches.split({"image": X, "caption": Y})
    assert labels is None
    assert list(features) == ["image", "caption"]
    assert list(batches.split({"y": X, "labels": Y})[0]) == ["y"]


def test_a_packed_sequence_is_one_value_and_a_namedtuple_goes_by_position():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert batches.split(packed)[0] is packed
    features, labels, weights = batches.split(Pair(X, Y))
    assert features is X
    assert labels is Y
    assert weights is None


def test_a_batch_of_four_items_names_the_layouts_and_the_way_out():
    with pytest.raises(ValueError, match="batch: received 4 items; expected") as caught:
        batches.split((X, X, X, Y))
    for word in ("(x, y, sample_weight)", "as a tuple or a dict", "StepRunner.forward"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="0 items"):
        batches.split(())


@pytest.mark.parametrize("third", [X, torch.tensor(1.0), torch.rand(5), "text", np.ones(4)])
def test_a_third_item_that_is_no_weight_is_refused(third):
    with pytest.raises(ValueError, match="third item") as caught:
        batches.split((X, Y, third))
    assert "(N,) or (N, 1)" in str(caught.value)
    assert "StepRunner.forward" in str(caught.value)


@pytest.mark.parametrize("third", [W, W[:, None], torch.ones(4, dtype=torch.int64)])
def test_a_third_item_with_one_number_a_sample_is_weights(third):
    assert batches.split((X, Y, third))[2] is third


def test_a_mask_as_third_item_is_weights_of_0_and_1():
    assert torch.equal(batches.split((X, Y, W > 0.5))[2], (W > 0.5).float())


@pytest.mark.parametrize("x", [(X, X), [X, X], {"a": X, "b": X}])
def test_several_inputs_beside_labels_and_weights_stay_together(x):
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    features, labels, weights = batches.split((x, W, W), Two(), nn.MSELoss())
    assert features is x
    assert labels is W
    assert torch.equal(weights, W)
    assert batches.split((X, X, W), Two(), nn.MSELoss())[0] == (X, X)  # control: two inputs and labels, one by one


def test_moving_reaches_every_tensor_and_keeps_the_containers():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    array = np.ones(4)
    batch = (Pair(X, [Y]), OrderedDict(a=X, n=3), defaultdict(list, b=X), packed, array, "text", None)
    pair, ordered, default, moved, *rest = batches.to_device(batch, "meta")
    assert type(pair) is Pair
    assert type(pair.right) is list
    assert type(ordered) is OrderedDict
    assert default.default_factory is list
    assert {t.device.type for t in (pair.left, pair.right[0], ordered["a"], default["b"], moved.data)} == {"meta"}
    assert ordered["n"] == 3
    assert rest[0] is array
    assert rest[1:] == ["text", None]
    assert batch[1]["a"] is X


def test_a_batch_that_is_there_already_is_the_same_object():
    batch = [X, {"y": (Y, 1)}]
    assert batches.to_device(batch, "cpu") is batch
    assert batches.to_device(batch, torch.device("meta")) is not batch


def test_what_can_move_itself_is_asked_to():
    class Graph:
        def to(self, device):
            return f"on {device}"

    assert batches.to_device([Graph(), X], "cpu")[0] == "on cpu"


def test_a_net_is_called_with_one_input_several_or_named_ones():
    left, right = torch.tensor([5.0]), torch.tensor([3.0])
    assert batches.call(nn.Identity(), left) is left
    assert batches.call(Ops(), (left, right)) == 2
    assert batches.call(Ops(), [right, left]) == -2
    assert batches.call(Ops(), {"right": right, "left": left}) == 2
    assert batches.call(OneDict(), {"right": right, "left": left}) == 2
    pair = Pair(left, right)
    assert batches.call(nn.Identity(), pair) is pair


def test_keys_that_fit_no_input_are_named_beside_the_inputs():
    with pytest.raises(TypeError, match="features: received a dict with the keys 'a', 'b'; expected") as caught:
        batches.call(Ops(), {"a": X, "b": X})
    assert "Ops.forward(left, right)" in str(caught.value)
    assert "Rename the keys" in str(caught.value)


def test_hooks_of_the_net_run_for_every_kind_of_input():
    calls = []
    pair = {"left": X, "right": X}
    for net, features in ((nn.Identity(), X), (Ops(), (X, X)), (Ops(), pair), (OneDict(), pair)):
        net.register_forward_hook(lambda net, *_: calls.append(type(net).__name__))
        batches.call(net, features)
    assert calls == ["Identity", "Ops", "Ops", "OneDict"]
    net.forward(pair)
    assert len(calls) == 4


def test_an_error_inside_the_net_is_not_taken_for_a_wrong_call():
    class Broken(nn.Module):
        def forward(self, left):
            raise TypeError("from inside")

    with pytest.raises(TypeError, match="from inside"):
        batches.call(Broken(), {"left": X})


# what the signature of forward tells

class Takes(nn.Module):
    """Gives back what it was called with."""

    def forward(self, x, y=None):
        return x, y


class Needs(nn.Module):
    def forward(self, x, y):
        return x, y


class Physics(nn.Module):
    def forward(self, x, y, t):
        return x, y, t


class Words(nn.Module):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return input_ids, attention_mask, labels


@dataclasses.dataclass
class Record:
    features: torch.Tensor
    targets: torch.Tensor


@dataclasses.dataclass
class Two:
    left: torch.Tensor
    right: torch.Tensor
    labels: torch.Tensor


Named = namedtuple("Named", "features targets")


@pytest.mark.parametrize(("batch", "net", "inputs", "labels"), [
    ({"x": X, "y": Y}, Takes(), ["x"], "y"),
    ({"x": X, "y": X, "target": Y}, Takes(), ["x", "y"], "target"),
    ({"x": X, "y": X, "target": Y}, Needs(), ["x", "y"], "target"),
    ({"x": X, "y": X}, Needs(), ["x", "y"], None),
    ({"x": X, "y": X, "t": X}, Physics(), ["x", "y", "t"], None),
    ({"input_ids": X, "labels": Y, "text": "so"}, Words(), ["input_ids", "text"], "labels"),
    ({"left": X, "right": X, "y": X, "labels": Y}, Ops(), ["left", "right", "y"], "labels")])
def test_labels_are_what_forward_does_not_need(batch, net, inputs, labels):
    features, found, _ = batches.split(batch, net)
    assert list(features) == inputs
    assert found is (None if labels is None else batch[labels])


def test_an_input_with_the_name_of_labels_is_known_from_training_or_refused_in_predict():
    net, batch = Takes(), {"x": X, "y": X}
    with pytest.raises(ValueError, match=r"data: received a dict with 'y', which forward\(x, y=None\)") as caught:
        batches.split(batch, net, labelled=False)
    assert "({...},)" in str(caught.value)
    trained = Takes()
    batches.split((batch, Y), trained)
    assert batches.split(batch, trained, labelled=False)[0].keys() == batch.keys()
    assert batches.split((batch,), Takes(), labelled=False)[0] is batch
    measured = Takes()
    batches.split(batch, measured)
    assert batches.split(batch, measured, labelled=False)[1] is X


def test_what_a_name_alone_decides_and_what_is_left_out_is_said():
    text, = batches.layout_notes({"x": X, "y": Y}, Takes(), loss=True)
    assert "batch['y'] is taken as the labels, by its name" in text
    text, = batches.layout_notes({"input_ids": X, "labels": Y, "text": "so", "id": 3}, Words(), loss=False)
    assert text == "batch: forward takes no 'text', 'id', which is left out"
    for batch, net in (([X, Y], Takes()), ({"left": X, "right": X, "y": Y}, Ops()), ({"x": X, "y": X}, Needs())):
        assert batches.layout_notes(batch, net, loss=True) == []


def test_columns_that_forward_does_not_take_are_left_out_of_the_call():
    found = batches.call(Words(), {"input_ids": X, "text": "so"})
    assert found[0] is X
    assert found[1:] == (None, None)


@pytest.mark.parametrize("record", [Record(X, Y), Named(X, Y), Pair(X, Y)])
def test_records_go_by_name_and_else_by_position(record):
    features, labels, _ = batches.split(record, nn.Linear(3, 2))
    assert features is X
    assert labels is Y


def test_fields_of_a_record_that_forward_takes_are_inputs():
    features, labels, _ = batches.split(Two(X, X + 1, Y), Ops())
    assert features == {"left": X, "right": features["right"]}
    assert labels is Y
    moved = batches.to_device(Two(X, X, Y), "meta")
    assert type(moved) is Two
    assert moved.labels.device.type == "meta"


def test_a_net_that_requires_two_inputs_gets_two():
    features, labels, weights = batches.split((X, X + 1, Y), Ops())
    assert len(features) == 2
    assert labels is Y
    assert weights is None
    assert batches.split((X, X), Ops())[1] is X  # a pair stays a pair


def test_a_net_of_one_input_gets_a_tuple_whole():
    class Whole(nn.Module):
        def forward(self, pair):
            left, right = pair
            return left - right

    assert batches.call(Whole(), (X, X)).abs().sum() == 0


def test_a_batch_of_graphs_gives_its_parts_by_name_or_itself():
    class Graph:
        x, edge_index, y, num_graphs = X, torch.zeros(2, 5), Y, 2

        def to(self, device):
            return self

    class ByName(nn.Module):
        def forward(self, x, edge_index):
            return x

    class Whole(nn.Module):
        def forward(self, data):
            return data.x

    graph = Graph()
    features, labels, _ = batches.split(graph, ByName())
    assert features == {"x": X, "edge_index": Graph.edge_index}
    assert labels is Y
    assert batches.split(graph, Whole())[0] is graph
    assert batches.split(graph, Whole())[1] is Y
