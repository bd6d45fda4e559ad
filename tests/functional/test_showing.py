"""The table and the picture of a drawn net."""

import copy
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
import torch
from benchmarks.drawn import drawn_resnet18
from tests.functional.nets import small, text_net
from torch import nn

from torchkeras import KerasModel, flop_summary, summary
from torchkeras.functional import Input, build, picture, to_svg
from torchkeras.functional.picture import BETWEEN, levels, place_boxes, place_row, route

SVG = "{http://www.w3.org/2000/svg}"


def look(net, *args, **kwargs):
    found = summary(net, *args, write=lambda text: None, **kwargs)
    assert sum(row.params for row in found.rows) == found.total_params == sum(one.numel() for one in net.parameters())
    return found


def row(found, name: str):
    return next(one for one in found.rows if one.name == name)


# --- the table ---


def test_a_row_for_each_step_says_what_it_is_connected_to():
    found = look(text_net())
    assert row(found, "tokens (Input)").connected == ()
    assert row(found, "embedding_1 (Embedding)").shapes == ((-1, 200, 7),)
    joined = row(found, "concatenate_1 (Concatenate)")
    assert joined.connected == ("global_max_pool1d_1", "global_max_pool1d_2", "global_max_pool1d_3")
    assert (found.total_params, row(found, "linear_1 (Linear)").params) == (78_938, 97)
    lines = str(found).splitlines()
    assert lines[1].endswith("Param #  Connected to")
    column = lines[1].index("Connected to")
    assert [line[column:] for line in lines if line[column:].startswith("global")] == list(joined.connected)


def test_shared_layers_own_parameters_and_sizes_of_a_batch_are_told():
    found = look(small(), batch_size=4)
    assert [row(found, f"conv2d_1{call} (Conv2d)").shared for call in ("", "_call_1")] == [False, True]
    assert row(found, "parameter_1 (Parameter)").params == 3
    assert row(found, "view_1").shapes == ((4, 108),)
    assert row(found, "view_1").connected == ("sub_1", "size_1")


def test_sizes_and_operations_are_those_of_the_same_net_as_a_module_among_others():
    net = small()
    alone, inside = look(net), look(nn.Sequential(net), (3, 6, 6))
    assert (alone.forward_backward_mb, alone.params_mb) == (inside.forward_backward_mb, inside.params_mb)
    assert flop_summary(net, write=lambda text: None) == flop_summary(
        nn.Sequential(net), (3, 6, 6), write=lambda text: None) > 0
    assert [one.connected for one in inside.rows] == [None] * len(inside.rows)


def test_data_of_other_sizes_than_drawn_give_the_rows_of_the_calls():
    x = Input((3, 8, 8))
    net = build(x, nn.ReLU()(nn.Conv2d(3, 4, 3)(x)))
    assert row(look(net, torch.ones(2, 3, 9, 9)), "Conv2d-1").shapes == ((-1, 4, 7, 7),)
    assert row(look(net, torch.ones(2, 3, 8, 8)), "conv2d_1 (Conv2d)").shapes == ((-1, 4, 6, 6),)


def test_looking_disturbs_nothing_and_the_face_shows_the_same(capsys):
    net = small()
    before = copy.deepcopy(net.state_dict())
    KerasModel(net).summary()
    assert "Connected to" in capsys.readouterr().out
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# --- the picture ---


@pytest.mark.parametrize("make", [small, text_net, drawn_resnet18])
def test_the_picture_is_xml_with_a_box_for_each_node_and_an_arrow_for_each_connection(make, tmp_path):
    net = make()
    picture = ET.fromstring(to_svg(net, tmp_path / "net.svg"))
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == net._repr_svg_() == to_svg(net)
    titles = [text.text for text in picture.iter(f"{SVG}text") if text.get("font-weight") == "bold"]
    assert len(titles) == len(net.plan.nodes) + 1
    arrows = [path for path in picture.iter(f"{SVG}path") if path.get("marker-end")]
    outputs = 2 if make is small else 1
    assert len(arrows) == sum(len(node.sources()) for node in net.plan.nodes) + outputs


def test_boxes_of_the_picture_do_not_overlap_and_lie_inside():
    picture = ET.fromstring(to_svg(small()))
    width, height = float(picture.get("width")), float(picture.get("height"))
    boxes = [tuple(float(box.get(key)) for key in ("x", "y", "width", "height"))
             for box in picture.iter(f"{SVG}rect") if box.get("rx")]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    rows: dict[float, list] = {}
    for x, y, w, _ in sorted(boxes):
        rows.setdefault(y, []).append((x, x + w))
    assert all(left[1] < right[0] for row in rows.values() for left, right in pairwise(row))
    assert any(len(row) > 1 for row in rows.values())  # control: there are neighbours


def test_arrows_lead_down_past_other_boxes_without_crossing_where_that_can_be():
    names = ["a", "b", "c", "d"]
    arrows = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
    level = levels(names, arrows)
    assert level == {"a": 0, "b": 1, "c": 2, "d": 3}
    rows, ways = route(arrows, level)
    assert ways[-1] == ["a", "a>d@1", "a>d@2", "d"]
    assert [row.index(f"a>d@{place}") for place, row in ((1, rows[1]), (2, rows[2]))] == [1, 1]
    middle = place_boxes(rows, ways, {name: 10.0 for row in rows for name in row})
    assert middle["b"] + 10 < middle["a>d@1"]


def test_names_are_escaped_and_other_nets_have_no_picture():
    class Less(nn.ReLU):
        pass

    Less.__name__ = "Less<T>"
    x, layer = Input((3,)), Less()
    assert "Less&lt;T&gt;" in to_svg(build(x, layer(x), {"less": layer}))
    with pytest.raises(TypeError, match="net.*a Linear.*functional.build"):
        to_svg(nn.Linear(3, 1))


def test_sorting_the_rows_of_a_picture_looks_at_each_row_and_not_at_all_for_each(monkeypatch):
    looked = []
    plain = picture.relative_positions
    monkeypatch.setattr(picture, "relative_positions", lambda row: looked.append(len(row)) or plain(row))
    for size in (20, 200):
        looked.clear()
        names = [f"n{number}" for number in range(size)]
        arrows = list(pairwise(names)) + [("n0", "n9")]
        rows, _ = route(arrows, levels(names, arrows))
        assert sum(looked) == 9 * sum(map(len, rows))  # once at first, and once a turn


def test_boxes_of_a_row_that_all_want_one_place_stand_side_by_side_around_it():
    row = [f"n{number}" for number in range(2000)]  # joined one by one: copies of ever longer rows would take minutes
    middle: dict[str, float] = {}
    place_row(row, dict.fromkeys(row, 7.0), dict.fromkeys(row, 10.0), middle)
    places = [middle[name] for name in row]
    assert sum(places) / len(places) == pytest.approx(7.0)
    assert all(after - before == pytest.approx(10.0 + BETWEEN) for before, after in pairwise(places))
