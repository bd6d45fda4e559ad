"""A digest of a history: all of a short one, few points of a long one, the best and the newest too."""

import itertools
import math

import pytest

from torchkeras.display.digest import MOST, Digest, place_of
from torchkeras.engine.history import History

NAN = math.nan


def grown(rows, every=1, start=1):
    history = History()
    for epoch in range(start, start + rows):
        history.open(epoch)
        history.record({"train_loss": 1 / epoch,
                        "val_loss": 2 / epoch if epoch % every == 0 else NAN})
    return history


def all_points(history, name):
    return [(epoch, value) for epoch, value in zip(history["epoch"], history[name], strict=True)
            if math.isfinite(value)]


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 2 * MOST + 1])
@pytest.mark.parametrize("every", [1, 3])
def test_a_short_history_is_there_whole(rows, every):
    history = grown(rows, every)
    found = Digest().lines(history, rows, None)
    whole = {name: all_points(history, name) for name in history if name != "epoch"}
    assert found == {name: points for name, points in whole.items() if points}


@pytest.mark.parametrize("every", [1, 7])
def test_a_long_one_keeps_few_points_evenly_apart_and_the_newest_and_best(every):
    rows, best = 8_001, 8_001 // 7 // 2 * 7
    history = grown(rows, every)
    found = Digest().lines(history, rows, best)
    for name, points in found.items():
        assert MOST <= len(points) <= 2 * MOST + 3
        assert set(points) <= set(all_points(history, name))
        assert best in [epoch for epoch, _ in points]
        assert points[-1] == all_points(history, name)[-1]
        apart = {two - one for (one, _), (two, _) in itertools.pairwise(points[:-1])
                 if best not in (one, two)}
        assert len(apart) == 1


def test_what_is_asked_for_on_the_way_does_not_change_what_comes():
    rows = 3000
    history, asked = grown(rows), Digest()
    for count in range(1, rows + 1, 7):
        asked.lines(history, count, 5)
    assert asked.lines(history, rows, 9) == Digest().lines(history, rows, 9)


def test_the_newest_row_may_still_be_filled_and_a_column_may_come_late():
    history, digest = grown(3), Digest()
    digest.lines(history, 3)
    history.record({"val_loss": 9.0, "val_f1": 0.5})
    found = digest.lines(history, 3)
    assert found["val_loss"][-1] == (3, 9.0)
    assert found["val_f1"] == [(3, 0.5)]
    history.open(4)
    assert digest.lines(history, 3)["val_f1"] == [(3, 0.5)]
    history.record({"val_f1": 0.75})
    assert digest.lines(history, 4)["val_f1"] == [(3, 0.5), (4, 0.75)]


def test_a_row_that_is_taken_back_is_gone():
    history, digest = grown(5), Digest()
    digest.lines(history, 5)
    history.discard()
    assert digest.lines(history, 4) == Digest().lines(grown(4), 4)


def test_numbers_that_are_not_finite_are_no_points():
    history = {"epoch": [1, 2, 3], "train_loss": [math.inf, 2.0, NAN], "lr": [NAN] * 3}
    assert Digest().lines(history, 3, 3) == {"train_loss": [(2, 2.0)]}


def test_an_epoch_is_found_among_the_rows_that_count_or_not_at_all():
    assert [place_of([4, 5, 7], epoch, 3) for epoch in (4, 5, 7)] == [0, 1, 2]
    assert [place_of([4, 5, 7], epoch, 3) for epoch in (6, 9, 0, None)] == [None] * 4
    assert place_of([4, 5, 7], 7, 2) is None
