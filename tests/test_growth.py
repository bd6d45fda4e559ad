"""The growth figures: each row runs in a process of its own, and is held to what is asked of it."""

import json
import math

import pytest
from benchmarks import growth
from torch import nn

from torchkeras import KerasModel


def test_a_row_is_measured_and_printed_with_what_is_asked_of_it(capsys):
    growth.main(["notebook-file", "--scale", "0.001", "--repeats", "1", "--json"])
    told = capsys.readouterr()
    found = json.loads(told.out)["rows"]
    assert [one["row"] for one in found] == ["notebook-file"]
    assert 1 < found[0]["figure"] < found[0]["asked"] == 100
    heading, row, *_ = told.err.split("measuring notebook-file\n")[1].splitlines()
    assert heading.split()[:4] == ["row", "measured", "against", "figure"]
    assert row.split()[0] == "notebook-file"
    assert "these figures mean nothing" in told.err


def entered(monkeypatch, **options):
    monkeypatch.setattr(growth, "ROWS", {})
    growth.row("made-up", "a row", **{"unit": "s", "limit": 2} | options)(lambda scale: 8.0)
    monkeypatch.setattr(growth, "in_process",
                        lambda name, part, scale: getattr(growth.ROWS[name], part)(scale))
    return growth.measured("made-up", 3, 1.0)


@pytest.mark.parametrize(("options", "figure"), [
    ({}, 8),
    ({"against": lambda scale: 7.0}, 1),
    ({"against": lambda scale: 4.0, "compare": growth.ratio}, 2),
    ({"against": lambda scale: 2.0, "compare": growth.exponent(2)}, 2)])
def test_a_figure_is_compared_as_its_row_says_and_what_is_over_is_marked(
        monkeypatch, options, figure):
    found = entered(monkeypatch, **options)
    assert math.isclose(found["figure"], figure)
    assert found["within"] == (figure <= 2)
    assert ("over" in growth.table([found])) == (figure > 2)


@pytest.mark.parametrize(("limit", "within"), [(8, True), (9, False)])
def test_a_row_of_what_has_to_be_managed_asks_for_the_least(monkeypatch, limit, within):
    found = entered(monkeypatch, limit=limit, least=True)
    shown = growth.table([found])
    assert found["within"] == within
    assert f">= {limit}" in shown
    assert ("under" in shown) == (not within)
    assert "over" not in shown


def test_a_row_that_fails_says_why_and_shows_no_figure(monkeypatch):
    def fails(*given):
        raise RuntimeError("no /proc here")

    monkeypatch.setattr(growth, "in_process", fails)
    shown = growth.table([growth.measured("predict-peak", 1, 1.0)]).splitlines()[-1]
    assert shown.split()[:4] == ["predict-peak", "-", "-", "-"]
    assert shown.endswith("no /proc here")


def test_a_name_is_a_row_or_a_section_and_an_unknown_one_is_refused(capsys):
    assert growth.matching(["metric"]) == ["metric-step"]
    assert growth.matching(["predict"])[:3] == ["predict-peak", "predict-labels", "predict-32"]
    assert growth.matching(["predict-32"]) == ["predict-32"]
    assert growth.matching([]) == list(growth.ROWS)
    with pytest.raises(SystemExit):
        growth.parse(["predikt"])
    assert "no row or section predikt" in capsys.readouterr().err


def test_memory_is_that_of_the_highest_moment():
    def work():
        gone = bytearray(b"1" * 60_000_000)
        del gone

    assert 50 < growth.peak(work) < 200
    assert growth.peak(lambda: None) < 10


def test_the_rows_of_predict_measure_the_same_predictions():
    net, x = growth.net_and_rows(1e-5)
    ours = KerasModel(net, "mse").predict(x, batch_size=32, cpu=True)
    assert ours.equal(growth.plain_predictions(net, x, 32))


@pytest.mark.parametrize("name", growth.matching(
    ["evaluate", "svg", "end", "weights", "state", "history", "predict-dict", "predict-pairs"]))
def test_a_row_and_what_it_is_held_against_give_numbers_at_a_tiny_size(name, monkeypatch):
    # starting processes takes seconds, and other tests do it
    monkeypatch.setattr(KerasModel, "evaluate_ddp",
                        lambda model, world, data, **options: model.evaluate(data, **options))
    chosen = growth.ROWS[name]
    for measure in filter(None, (chosen.measure, chosen.against)):
        assert 0 <= measure(1e-4) < math.inf


def test_the_row_of_many_tensors_counts_those_of_a_run_that_was_resumed(monkeypatch):
    assert growth.state_tensors(1e-3) == 100
    fit = KerasModel.fit
    monkeypatch.setattr(KerasModel, "fit", lambda model, *data, **options: fit(
        model, *data, **options | {"epochs": 1}))
    with pytest.raises(RuntimeError, match="1 epochs of 2"):
        growth.state_tensors(1e-3)


def test_the_row_of_saves_has_as_many_rows_of_history_as_it_says(monkeypatch):
    from torchkeras.checkpoint.history_file import HistoryFile

    rows, take = [], HistoryFile.take
    monkeypatch.setattr(HistoryFile, "take", lambda file, history, count: (
        rows.append((len(history), count)) or take(file, history, count)))
    assert growth.seconds_of_a_save(50, 3) > 0
    assert [(columns, count) for columns, count in rows if count > 1] == [(6, 50), (6, 51), (6, 52)]


def test_the_rows_of_dicts_and_loaders_measure_the_same_predictions():
    _, x = growth.net_and_rows(1e-5)
    net = growth.TwoOutputs()
    ours, plain = KerasModel(net, "mse").predict(x, batch_size=64), growth.plain_dict(net, x)
    assert ours.keys() == plain.keys()
    assert all(ours[name].equal(plain[name]) for name in plain)
    assert len(KerasModel(nn.Identity(), "mse").predict(growth.loader_of(1e-4, True))) == 200
