"""The table of a net: its text, its totals, and that looking leaves no trace."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from torchkeras.summary import flop_summary, summary
from torchkeras.summary.table import format_line

GOLDEN = Path(__file__).parent / "golden"
MB = 2**20


def digits() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.Dropout2d(.1),
        nn.AdaptiveMaxPool2d((1, 1)), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


def look(net, *args, **kwargs):
    """A silent summary whose two invariants always hold."""
    found = summary(net, *args, write=lambda text: None, **kwargs)
    assert sum(row.params for row in found.rows) == found.total_params
    assert found.trainable_params + found.non_trainable_params == found.total_params
    return found


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def names(found) -> list[str]:
    return [row.name for row in found.rows]


class Net(nn.Module):
    """A net with the given children and a function as its forward."""

    def __init__(self, forward, **children):
        super().__init__()
        self.function = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


# --- the text ---


def test_the_table_is_the_golden_text_to_the_character(capsys):
    found = summary(digits(), input_shape=(3, 32, 32))
    assert capsys.readouterr().out == (GOLDEN / "summary.txt").read_text()
    assert str(found) + "\n" == (GOLDEN / "summary.txt").read_text()
    wider = summary(digits(), input_shape=(3, 34, 34), write=lambda text: None)
    assert str(wider) != str(found)  # control: another input, another table


def test_the_four_sizes_follow_from_bytes():
    found = look(digits(), (3, 32, 32))
    outputs = 32 * 30 * 30 + 32 * 15 * 15 + 64 * 11 * 11 + 2 * 64 * 5 * 5 + 64 + 64 + 32 + 32 + 1
    assert found.forward_backward_mb == pytest.approx(2 * 4 * outputs / MB, rel=1e-12)
    assert found.input_mb == pytest.approx(3 * 32 * 32 * 4 / MB, rel=1e-12)
    assert found.params_mb == 54273 * 4 / MB
    assert f"{found.forward_backward_mb:.6f}" != f"{4 * outputs / MB:.6f}"  # control: gradients count too


def test_lines_keep_their_width_when_names_and_shapes_are_long():
    lines = [format_line("a", "[1]", "2"), format_line("N" * 80, "[1]", "2"), format_line("N" * 80, "x" * 40, "2")]
    assert {len(line) for line in lines} == {73}
    assert len(format_line("a", "x" * 60, "2")) > 73  # control: nothing of a shape is ever cut


# --- every way to say what to feed ---


@pytest.mark.parametrize("call", [
    lambda net: look(net, (4,)),
    lambda net: look(net, torch.Size([4])),
    lambda net: look(net, [4]),
    lambda net: look(net, input_shape=(np.int64(4),)),
    lambda net: look(net, input_shape={"input": (4,)}),
    lambda net: look(net, torch.zeros(6, 4)),
    lambda net: look(net, input_data=torch.zeros(6, 4)),
    lambda net: look(net, (torch.zeros(6, 4),)),
    lambda net: look(net, {"input": torch.zeros(6, 4)}),
    lambda net: look(net, input_data_args=(torch.zeros(6, 4),)),
    lambda net: look(net, input_data_args=torch.zeros(6, 4)),
    lambda net: look(net, input_data_kwargs={"input": torch.zeros(6, 4)}),
])
def test_each_way_of_naming_the_input_gives_the_same_rows(call):
    assert call(nn.Linear(4, 2)).rows == look(nn.Linear(4, 2), (4,)).rows
    assert call(nn.Linear(4, 2)).rows != look(nn.Linear(4, 3), (4,)).rows  # control


def test_positional_and_keyword_data_go_together_and_a_dict_can_be_one_argument():
    scaled = Net(lambda self, x, scale: self.layer(x) * scale, layer=nn.Linear(4, 2))
    assert look(scaled, input_data_args=(torch.zeros(3, 4),), input_data_kwargs={"scale": 2}).total_params == 10
    packed = Net(lambda self, batch: self.layer(batch["x"]), layer=nn.Linear(4, 2))
    assert look(packed, input_data_args=({"x": torch.zeros(3, 4)},)).rows[0].shapes == ((-1, 2),)
    assert look(packed, {"x": torch.zeros(3, 4)}).rows[0].shapes == ((-1, 2),)  # it takes no "x", so it takes the dict
    with pytest.raises(TypeError, match="'y'"):  # control: it takes neither
        look(packed, {"y": torch.zeros(3, 4)})


def test_inputs_may_be_nested_and_hold_what_is_no_tensor():
    net = Net(lambda self, pair, mask: self.layer(pair[0] + pair[1]["b"]), layer=nn.Linear(4, 2))
    found = look(net, ((torch.zeros(3, 4), {"b": torch.zeros(3, 4)}), None))
    assert found.input_mb == pytest.approx(2 * 4 * 4 / MB)  # of one sample


def test_several_shapes_may_have_their_own_dtypes():
    net = Net(lambda self, ids, x: self.layer(self.table(ids) + x), table=nn.Embedding(9, 4), layer=nn.Linear(4, 2))
    for dtypes in ([torch.int64, torch.float32], (torch.LongTensor, torch.FloatTensor)):
        found = look(net, [(7,), (7, 4)], input_dtype=dtypes)
        assert [row.shapes for row in found.rows] == [((-1, 7, 4),), ((-1, 7, 2),)]
        assert found.input_mb == pytest.approx((7 * 8 + 7 * 4 * 4) / MB, rel=1e-12)
    with pytest.raises(ValueError, match="input_dtype: received 3 dtypes"):
        look(net, [(7,), (7, 4)], input_dtype=[torch.int64] * 3)


def test_made_up_input_has_the_dtype_of_the_net_unless_another_is_asked():
    assert look(nn.Linear(4, 2).double(), (4,)).input_mb == pytest.approx(4 * 8 / MB)
    with pytest.raises(RuntimeError, match="(?i)dtype") as caught:
        look(nn.Linear(4, 2).double(), (4,), input_dtype=torch.float32)
    assert "called with [3, 4]" in caught.value.__notes__[0]


def test_a_batch_size_is_shown_and_measured():
    one, eight = look(nn.Linear(4, 2), (4,)), look(nn.Linear(4, 2), (4,), batch_size=8)
    assert eight.rows[0].shapes == ((8, 2),) != one.rows[0].shapes
    assert eight.forward_backward_mb == pytest.approx(8 * one.forward_backward_mb)
    assert look(nn.Linear(4, 2), torch.zeros(8, 4), batch_size=8) == eight


def test_inputs_go_to_the_device_of_the_net():
    assert look(digits().to("meta"), (3, 32, 32)).rows == look(digits(), (3, 32, 32)).rows


@pytest.mark.parametrize(("kwargs", "error", "words"), [
    ({}, ValueError, "input_shape: received neither a shape nor data.*summary\\(net, input_shape=\\(3, 32, 32\\)\\)"),
    ({"input_shape": (4,), "input_data": torch.zeros(2, 4)}, ValueError, "received input_shape and input_data"),
    ({"input_shape": (0, 4)}, ValueError, "input_shape: received \\(0, 4\\).*1 or more"),
    ({"input_shape": (-1, 4)}, ValueError, "input_shape: received \\(-1, 4\\)"),
    ({"input_shape": [(4,), (-1,)]}, ValueError, "input_shape: received \\(-1,\\)"),
    ({"input_shape": 4}, TypeError, "input_shape: received 4 \\(int\\).*tuple of ints"),
    ({"input_shape": (4., 3)}, TypeError, "input_shape: received \\(4.0, 3\\)"),
    ({"input_shape": "4"}, TypeError, "input_shape: received 4 \\(str\\)"),
    ({"input_data": (3, 4)}, TypeError, "input_data: received \\(3, 4\\) \\(tuple\\)"),
    ({"input_data": np.zeros(3)}, TypeError, "input_data: received .*ndarray"),
    ({"input_shape": (4,), "input_dtype": float}, TypeError, "input_dtype: received <class 'float'>"),
    ({"input_shape": (4,), "batch_size": 0}, ValueError, "batch_size: received 0"),
    ({"input_data": torch.zeros(3, 4), "batch_size": 5}, ValueError, "batch_size: received 5; expected -1, or 3"),
    ({"input_shape": (4,), "layer_modules": "LSTM"}, TypeError, "layer_modules: received LSTM"),
])
def test_a_bad_argument_is_named_with_a_call_that_works(kwargs, error, words):
    with pytest.raises(error, match=words):
        look(nn.Linear(4, 2), **kwargs)


@pytest.mark.parametrize("view", [summary, flop_summary])
def test_a_class_or_another_object_in_place_of_a_net_is_refused(view):
    with pytest.raises(TypeError, match="net: received the class ReLU.*Did you mean ReLU()"):
        view(nn.ReLU, (4,))
    with pytest.raises(TypeError, match=r"net: received .*\(function\).*nn.Module"):
        view(count, (4,))


# --- the totals ---


def test_d61_a_module_called_three_times_counts_once():
    net = Net(lambda self, x: self.layer(self.layer(self.layer(x))), layer=nn.Linear(4, 4))
    found = look(net, (4,))
    assert [(row.params, row.shared) for row in found.rows] == [(20, False), (0, True), (0, True)]
    assert found.total_params == 20 != sum(count(net) for _ in found.rows)  # control: 60
    assert str(found).count("(shared)") == 2


def test_d62_a_parameter_of_a_container_is_counted_and_has_a_row():
    net = Net(lambda self, x: self.layer(x + self.position), layer=nn.Linear(4, 4),
              position=nn.Parameter(torch.zeros(100, 4)))
    found = look(net, (100, 4))
    assert found.total_params == count(net) == 420 != count(net.layer)
    assert names(found) == ["Linear-1", "position"]
    assert found.rows[1].shapes == ((100, 4),)


def test_d63_parameters_used_as_functions_or_not_at_all_are_counted_and_shown():
    table = nn.Embedding(1000, 10)
    whole = Net(lambda self, ids: nn.functional.embedding(ids, self.table.weight) @ self.extra.weight.T,
                table=table, extra=nn.Linear(10, 10), unused=nn.Linear(2, 4))
    found = look(whole, (5,), input_dtype=torch.int64)
    assert found.total_params == count(whole) == 10_122
    assert names(found) == ["Net-1"]  # no other module was called inside it
    partly = Net(lambda self, x: self.used(x), used=nn.Linear(4, 4), unused=nn.Sequential(nn.Linear(2, 4)))
    found = look(partly, (4,))
    assert names(found) == ["Linear-1", "unused.0 (not called)"]
    assert found.total_params == 32 != found.rows[0].params  # control


def test_d64_a_module_shared_by_two_parents_counts_once():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.ReLU()))
    found = look(net, (4,))
    assert names(found) == ["Linear-1", "ReLU-2", "Linear-3", "ReLU-4"]
    assert found.total_params == 20 != sum(count(part) for part in net)  # control: 40


def test_d65_tied_weights_count_once():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    net[1].weight = net[0].weight
    found = look(net, (3,), input_dtype=torch.int64)
    assert [row.params for row in found.rows] == [40, 10]
    assert found.total_params == 50 != sum(count(part) for part in net)  # control: 90


def test_frozen_parameters_are_not_trainable():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    net[0].requires_grad_(False)
    found = look(net, (4,))
    assert (found.trainable_params, found.non_trainable_params) == (5, 20)


def test_bytes_of_parameters_follow_their_dtype():
    assert look(nn.Linear(4, 2).double(), (4,)).params_mb == 2 * look(nn.Linear(4, 2), (4,)).params_mb


# --- the sizes ---


def test_d66_the_input_size_is_that_of_the_numbers():
    data = torch.zeros(256, 3, 16, 16)
    found = look(nn.Conv2d(3, 1, 3), data, batch_size=256)
    assert found.input_mb == 0.75 == data.numel() * 4 / MB
    assert look(nn.Conv2d(3, 1, 3), data[:128], batch_size=128).input_mb != found.input_mb  # control
    assert look(nn.Conv2d(3, 1, 3), data[:128]).input_mb == pytest.approx(0.75 / 256)  # of one sample


def test_data_whose_tensors_differ_in_length_is_measured_whole():
    net = Net(lambda self, edges, nodes: self.layer(nodes), layer=nn.Linear(4, 2))
    found = look(net, (torch.zeros(2, 9, dtype=torch.int64), torch.zeros(5, 4)))
    assert found.input_mb == pytest.approx((2 * 9 * 8 + 5 * 4 * 4) / MB)


def test_d70_a_tuple_is_several_arguments_and_their_sizes_add_up():
    net = Net(lambda self, a, b: self.layer(a) + b, layer=nn.Linear(4, 2))
    made_up, given = look(net, [(4,), (2,)]), look(net, (torch.zeros(1, 4), torch.zeros(1, 2)))
    assert made_up.input_mb == pytest.approx((4 + 2) * 4 / MB) == given.input_mb
    assert made_up.input_mb != pytest.approx(4 * 2 * 4 / MB)  # control: the product
    one = Net(lambda self, pair: self.layer(pair[0]), layer=nn.Linear(4, 2))
    assert look(one, (torch.zeros(1, 4), torch.zeros(1, 2))).input_mb == given.input_mb  # as one argument
    one = Net(lambda self, pair: self.layer(pair[0]), layer=nn.Linear(4, 2))
    with pytest.raises(TypeError) as error:  # control: in neither way
        look(one, (torch.zeros(1, 5), torch.zeros(1, 2)))
    assert any("With all inputs in one container: RuntimeError: mat1 and mat2" in note for note in error.value.__notes__)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_net_is_refused_in_words_and_its_operations_are_counted():
    scripted = torch.jit.script(nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"Summarise it before torch.jit.script"):
        look(scripted, (4,))
    assert flop_summary(scripted, (4,), write=lambda text: None) == 16


# --- shapes of outputs ---


def test_d68_only_a_dimension_that_counts_samples_is_shown_as_minus_one():
    found = look(nn.LSTM(5, 6), torch.zeros(7, 4, 5))
    assert found.rows[0].shapes == ((7, 4, 6), (1, 4, 6), (1, 4, 6))
    found = look(nn.LSTM(5, 6, batch_first=True, bidirectional=True), (7, 5))
    assert found.rows[0].shapes == ((-1, 7, 12), (2, -1, 6), (2, -1, 6))
    assert "\n" + " " * 42 + "[2, -1, 6]\n" in str(found)
    turned = Net(lambda self, x: self.layer(x.transpose(0, 1)), layer=nn.Linear(5, 2))
    assert look(turned, (7, 5)).rows[0].shapes == ((7, 3, 2),)
    assert look(nn.Linear(5, 2), (7, 5)).rows[0].shapes == ((-1, 7, 2),)  # control


@pytest.mark.parametrize(("output", "shapes"), [
    (lambda x: {"a": x, "b": {"c": x[:, :1]}}, ((-1, 4), (-1, 1))),
    (lambda x: None, ()),
    (lambda x: (x, (x[:, :1], [x[:, :2]])), ((-1, 4), (-1, 1), (-1, 2))),
    (lambda x: 3.5, ()),
    (lambda x: x.sum(), ((),)),
])
def test_d69_a_layer_may_put_out_anything(output, shapes):
    found = look(Net(lambda self, x: output(x)), (4,))
    assert found.rows[0].shapes == shapes
    assert "Net-1" in str(found)


def test_d69_a_layer_may_put_out_a_packed_sequence():
    packed = pack_padded_sequence(torch.zeros(2, 3, 5), [3, 2], batch_first=True)
    found = look(nn.GRU(5, 6, batch_first=True), packed)
    assert found.rows[0].shapes == ((-1, 6), (1, 2, 6))  # five steps in, five out; a state for each sequence
    assert found.total_params == count(nn.GRU(5, 6))


# --- nets of every kind ---


def test_a_net_may_be_one_layer_or_empty():
    assert names(look(nn.ReLU(), (4,))) == ["ReLU-1"]
    empty = look(nn.Sequential(), (4,))
    assert (empty.total_params, names(empty)) == (0, ["Sequential-1"])


def test_attention_is_one_row_with_all_its_parameters():
    net = nn.MultiheadAttention(8, 2)
    found = look(net, (torch.zeros(5, 2, 8),) * 3)
    assert names(found) == ["MultiheadAttention-1"]
    assert found.total_params == count(net) != count(net.out_proj)  # control


def test_a_transformer_shows_its_layers_though_it_has_a_fast_path():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = look(net, (5, 8))
    assert [name.split("-")[0] for name in names(found)] == [
        "MultiheadAttention", "Dropout", "LayerNorm", "Linear", "Dropout", "Linear", "Dropout", "LayerNorm"]
    assert found.total_params == count(net)
    assert names(look(net, (5, 8), layer_modules=nn.TransformerEncoderLayer)) == ["TransformerEncoderLayer-1"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_reparametrised_layer_is_one_row():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    found = look(net, (3,))
    assert names(found) == ["ParametrizedLinear-1", "ReLU-2"]
    assert found.total_params == count(net) == 4 + 12 + 4


def test_lists_and_dicts_of_modules_and_parameters_are_counted():
    net = Net(lambda self, x: self.by_name["a"](self.listed[0](x)) + self.raw[0],
              listed=nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), by_name=nn.ModuleDict({"a": nn.Linear(4, 2)}),
              raw=nn.ParameterList([nn.Parameter(torch.zeros(2))]))
    found = look(net, (4,))
    assert names(found) == ["Linear-1", "Linear-2", "listed.1 (not called)", "raw.0"]
    assert found.total_params == count(net) == 52


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("view", [summary, flop_summary])
def test_a_lazy_net_is_summarised_and_stays_lazy(view):
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
    known = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    assert view(net, (3, 8, 8), write=str) == view(known, (3, 8, 8), write=str)
    assert all(nn.parameter.is_lazy(parameter) for parameter in net.parameters())
    net(torch.zeros(1, 3, 8, 8))
    assert count(net) == count(known)  # and can still be made real


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_layer_that_is_not_reached_counts_nothing():
    net = Net(lambda self, x: self.used(x), used=nn.LazyLinear(3), unused=nn.LazyLinear(3))
    assert look(net, (4,)).total_params == 15


def test_wrapped_nets_are_seen_through():
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    assert look(nn.DataParallel(net), (4,)).rows == look(net, (4,)).rows
    assert list(flop_summary(nn.DataParallel(net), (4,), write=str).by_module) == ["Sequential", "Sequential.0"]
    assert look(torch.compile(net, backend="eager"), (4,)).rows == look(net, (4,)).rows


def test_a_call_that_raises_inside_the_net_and_is_caught_there_confuses_nothing():
    def forward(self, x):
        try:
            return self.wrong(x)
        except RuntimeError:
            return self.right(x) if self.right else x

    net = Net(forward, wrong=nn.Sequential(nn.Linear(9, 2)), right=None)
    assert names(look(net, (4,))) == ["wrong.0.weight", "wrong.0.bias"]
    net.right = nn.Linear(4, 2)
    found = look(net, (4,))
    assert names(found) == ["Linear-1", "wrong.0.weight", "wrong.0.bias"]
    assert found.total_params == count(net) == 30


# --- nothing is disturbed ---


class Noisy(nn.Module):
    """Does in its forward all that a summary must undo."""

    def __init__(self):
        super().__init__()
        self.ids = nn.Embedding(5, 4, max_norm=0.1)
        self.norm, self.drop, self.layer = nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))
        self.last, self.fails = None, False

    def forward(self, x):
        self.calls += 1
        self.replaced = self.replaced + 1
        self.last = torch.rand(2) + random.random() + np.random.rand()
        out = self.layer(self.drop(self.norm(x)) + self.ids(torch.zeros(len(x), dtype=torch.int64)))
        if self.fails:
            raise RuntimeError("on purpose")
        return out


def states():
    _, key, position, *_ = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (key.tolist(), position)


def hooks(net):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def trace(net):
    return ({name: value.clone() for name, value in net.state_dict().items()}, [m.training for m in net.modules()],
            hooks(net), net.last, [p.requires_grad for p in net.parameters()], [p.grad for p in net.parameters()])


def same(one, other):
    return (one[0].keys() == other[0].keys() and all(torch.equal(one[0][key], other[0][key]) for key in one[0])
            and str(one[1:]) == str(other[1:]))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("view", [summary, flop_summary])
def test_d67_modes_buffers_attributes_hooks_and_random_states_are_left_alone(view, fails):
    net = Noisy()
    net.fails = fails
    net.drop.eval()  # one part frozen by the user
    net.layer.weight.requires_grad_(False)
    net.layer.bias.grad = torch.ones(2)
    before, streams, buffer = trace(net), states(), net.replaced
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            view(net, (4,), write=str)
    else:
        view(net, (4,), write=str)
    assert same(before, trace(net))
    assert states() == streams
    assert net.replaced is buffer
    other = copy.deepcopy(net)
    other.fails = False
    other(torch.rand(3, 4))
    assert not same(before, trace(other))  # control: a plain call disturbs all of it
    assert all(one != two for one, two in zip(states(), streams, strict=True))


def test_a_graph_that_waits_for_its_backward_survives():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    loss = net(torch.ones(3, 4)).sum()
    look(net, (4,))
    loss.backward()
    assert net[0].weight.grad is not None


def test_the_users_own_hooks_stay():
    net, seen = nn.Linear(4, 2), []
    net.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    look(net, (4,))
    assert hooks(net) == 1
    assert len(seen) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_d70_made_up_input_follows_the_net_to_the_accelerator_and_its_random_state_stays():
    net = Net(lambda self, x: self.layer(x + torch.rand_like(x)), layer=nn.Linear(4, 2)).cuda()
    before = torch.cuda.get_rng_state()
    assert look(net, (4,)).rows == look(net, torch.zeros(2, 4)).rows
    assert torch.equal(before, torch.cuda.get_rng_state())
    net(torch.zeros(1, 4, device="cuda"))
    assert not torch.equal(before, torch.cuda.get_rng_state())  # control


# --- flops ---


def test_a_linear_layer_costs_two_operations_for_a_weight():
    assert flop_summary(nn.Linear(10, 5), (10,), write=str) == 2 * 10 * 5
    assert flop_summary(nn.Linear(10, 5), torch.zeros(7, 10), write=str) == 7 * 100
    assert flop_summary(nn.Linear(10, 5), (10,), batch_size=7, write=str) == 7 * 100 != 100  # control


def test_a_convolution_costs_its_formula():
    flops = flop_summary(nn.Conv2d(3, 32, 3), (3, 32, 32), write=str)
    assert flops == 2 * (3 * 3 * 3) * 32 * 30 * 30
    assert flops != 2 * (3 * 3 * 3) * 32 * 32 * 32  # control: the size of the input


def test_flops_are_told_module_by_module(capsys):
    flops = flop_summary(digits(), input_shape=(3, 32, 32))
    assert capsys.readouterr().out == (GOLDEN / "summary_flops.txt").read_text()
    assert flops.by_module["Sequential"] == flops
    assert sum(flops.by_module[f"Sequential.{place}"] for place in (0, 2, 7, 9)) == flops


def test_a_transformer_in_eval_mode_costs_what_it_costs_in_train_mode():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.).eval()
    x = torch.zeros(1, 5, 8)
    with FlopCounterMode(display=False) as fused, torch.no_grad():
        net(x)
    cost = flop_summary(net.train(), x, write=str)  # 5120; from 2.15 on torch counts the attention itself too, 800
    assert flop_summary(net.eval(), x, write=str) == cost != fused.get_total_flops()  # control: the fast path hides it
    assert cost in (5120, 5920)


def test_a_net_without_counted_work_costs_nothing(capsys):
    assert flop_summary(nn.ReLU(), (4,)) == 0
    assert "Total FLOPs: 0" in capsys.readouterr().out


def test_an_error_names_the_layer_that_failed_and_the_shape_it_was_called_with():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(RuntimeError) as caught:
        summary(net, input_shape=(5,))
    assert "called with [3, 5]" in caught.value.__notes__[0]
    assert "The layer that failed: Linear(in_features=4, out_features=3" in caught.value.__notes__[0]
    assert "ReLU" not in caught.value.__notes__[0]
