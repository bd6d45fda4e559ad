"""A run as SVG and HTML: compared with files, and looked through for what would not show."""

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from torchkeras.display import html, svg
from torchkeras.display.html import Shown

GOLDEN = Path(__file__).parents[1] / "golden"
HISTORY = {"epoch": [1, 2, 3, 4], "train_loss": [0.9, 0.6, 0.45, 0.4], "train_acc": [0.6, 0.7, 0.8, 0.85],
           "lr": [3e-4] * 4, "val_loss": [0.8, 0.65, 0.5, 0.55], "val_acc": [0.62, 0.71, 0.79, 0.78]}
BATCHES = [(place / 10, 1.2 - place / 50) for place in range(1, 41)]
RUNNING = Shown(device="cuda:0", epoch=5, epochs=10, fraction=0.425, step=12, steps=48, seconds=83.0, left=112.0,
                rate=1234.5, numbers={"train_loss": 0.39, "train_acc": 0.86, "lr": 3e-4}, history=HISTORY,
                monitor="val_loss", best=0.5, best_epoch=3, notes=["monitor: val_loss, min (by its name)"],
                batches=BATCHES)
ENDED = Shown(state="stopped", reason="val_loss without improvement in 1 epoch, early stopping", device="cpu", epoch=4,
              epochs=10, fraction=0.4, seconds=83.0, history=HISTORY, monitor="val_loss", best=0.5, best_epoch=3)


class Reader(HTMLParser):
    """Every tag is closed, and in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(markup):
    reader = Reader()
    reader.feed(markup)
    assert reader.open == []
    return reader.seen


@pytest.mark.parametrize(("name", "shown"), [("notebook_running.html", RUNNING), ("notebook_ended.html", ENDED)])
def test_a_view_is_the_one_on_file(name, shown):
    assert html.view(shown) + "\n" == (GOLDEN / name).read_text(encoding="utf-8")


def test_curves_are_those_on_file():
    drawn = svg.chart(HISTORY, "loss", best_epoch=3, batches=BATCHES)
    assert drawn + "\n" == (GOLDEN / "curves.svg").read_text(encoding="utf-8")
    assert svg.chart(HISTORY, "loss", best_epoch=2, batches=BATCHES) != drawn


@pytest.mark.parametrize("shown", [RUNNING, ENDED, Shown(), Shown(history={"epoch": []})])
def test_a_view_is_whole_and_needs_no_script_no_network_and_no_identifier(shown):
    seen = read(html.view(shown))
    assert not {tag for tag, _ in seen} & {"script", "link", "img", "iframe", "object"}
    names = {name for _, attributes in seen for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("id", "src", "href")}


def test_a_chart_is_valid_xml_and_keeps_its_looks_without_a_style_sheet():
    root = ET.fromstring(svg.chart(HISTORY, "loss", best_epoch=3, batches=BATCHES))
    assert not root.findall(".//*[@style]")
    paths = root.findall("{http://www.w3.org/2000/svg}path")
    assert all("stroke" in path.attrib or "fill" in path.attrib for path in paths)
    assert root.attrib["fill"] == "currentColor"


def test_names_and_reasons_from_outside_are_text_and_never_markup():
    evil = "<b>&\"'"
    shown = Shown(state="failed", reason=evil, device=evil, monitor=evil, best=1.0, best_epoch=1, notes=[evil],
                  history={"epoch": [1, 2], f"val_{evil}": [1.0, 2.0]}, numbers={evil: 1.0})
    drawn = html.view(shown)
    assert evil not in drawn
    assert drawn.count("&lt;b&gt;") >= 6
    read(drawn)


@pytest.mark.parametrize("values", [
    [0.5], [0.5, 0.5], [math.nan, 0.5], [math.inf, -math.inf], [1e300, 1e-300, 0.0], [-1e99, 1e99], [1e-99, 1e99],
    [0.0, 0.0], [-3.0, 1000.0], [1e-12, 2e-12], [5e-324, 1.0]])
def test_any_numbers_give_a_picture_inside_its_frame_or_none(values):
    history = {"epoch": list(range(1, len(values) + 1)), "val_loss": values}
    drawn = svg.chart(history, "loss", best_epoch=1, batches=[(0.5, values[0]), (0.75, values[-1])])
    if drawn:
        ET.fromstring(drawn)
        assert "nan" not in drawn.replace("nan\"", "")
        for x, y in re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn):
            assert svg.LEFT <= float(x) <= svg.RIGHT
            assert svg.TOP <= float(y) <= svg.BOTTOM
    else:
        assert not any(abs(value) < svg.LARGEST for value in values)


def test_an_axis_is_logarithmic_where_numbers_span_two_decades():
    assert svg.upright(0.001, 1.0).log
    assert not svg.upright(0.1, 1.0).log
    assert not svg.upright(0.0, 1.0).log
    assert svg.decades(0.001, 1.0) == pytest.approx([0.001, 0.01, 0.1, 1.0])


@pytest.mark.parametrize(("low", "high", "whole", "expected"), [
    (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1.0, 7.0, True, [1, 2, 3, 4, 5, 6, 7]),
    (0.0, 2.0, True, [0, 1, 2]), (1.0, 100.0, True, [20, 40, 60, 80, 100])])
def test_an_axis_is_marked_at_few_round_numbers(low, high, whole, expected):
    assert svg.ticks(low, high, 7 if whole else 5, whole) == pytest.approx(expected)


def test_one_wild_batch_does_not_flatten_the_curves():
    batches = [(place / 100, 0.5) for place in range(1, 400)]
    calm = svg.chart(HISTORY, "acc", batches=batches)
    wild = svg.chart(HISTORY, "acc", batches=[*batches, (4.0, 1e9)])
    places = re.compile(r'cy="[^"]+"')
    assert places.findall(wild) == places.findall(calm)
    assert places.findall(svg.chart(HISTORY, "acc", batches=[(1.0, -5.0)] * 50)) != places.findall(calm)


def test_a_long_line_is_drawn_with_few_points_and_ends_where_it_ends():
    history = {"epoch": list(range(1, 5001)), "val_loss": [1 / epoch for epoch in range(1, 5001)]}
    drawn = svg.chart(history, "loss", best_epoch=5000)
    assert len(drawn) < 12_000
    assert svg.thinned([(float(epoch), 0.0) for epoch in range(1, 5001)])[-1] == (5000.0, 0.0)


def test_a_long_table_shows_the_first_the_best_and_the_last_epochs():
    epochs = list(range(1, 101))
    assert html.places(Shown(history={"epoch": epochs}, best_epoch=40)) == [0, 39, *range(90, 100)]
    assert html.places(Shown(history={"epoch": epochs}, best_epoch=4, rows=12)) == list(range(12))
    shown = Shown(history={"epoch": epochs, "val_loss": [float(epoch) for epoch in epochs]}, best_epoch=40)
    drawn = html.table(shown)
    assert drawn.count("⋮") == 2
    assert drawn.count("★") == 1
    assert drawn.index("<td") < drawn.index("★")


def test_a_running_epoch_has_a_row_of_its_own():
    assert "font-style:italic" in html.table(RUNNING)
    assert "font-style:italic" not in html.table(ENDED)
