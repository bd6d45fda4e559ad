"""What a screen shows, as text: compared with what it should be, at every width."""

import math

import pytest

from torchkeras.display import text

LINE = {"epoch": 3, "epochs": 10, "stage": "train", "step": 12, "steps": 48, "elapsed": 0.5, "left": 63.0,
        "numbers": {"train_loss": 0.51234, "train_acc": 0.8125, "lr": 3e-4}, "best": "0.5001"}


@pytest.mark.parametrize(("value", "expected"), [
    (0.123456, "0.1235"), (12.5, "12.5000"), (3e-4, "0.0003"), (1.25e-7, "1.25e-07"), (3.0, "3"), (1e9, "1e+09"),
    (math.nan, "nan"), (math.inf, "inf"), (-0.5, "-0.5000"), (0.0, "0")])
def test_a_number_takes_few_characters(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.2, "0:00"), (7, "0:07"), (750, "12:30"), (7380, "2h03m")])
def test_a_duration_reads_at_a_glance(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(("width", "expected"), [
    (60, "epoch 3/10 ━━──── 12/48  left 1:03  loss 0.5123  acc 0.8125"),
    (80, "epoch 3/10 ━━──── 12/48  left 1:03  loss 0.5123  acc 0.8125  best 0.5001"),
    (160, "epoch 3/10 ━━━━━━────────────────── 12/48  left 1:03  loss 0.5123  acc 0.8125  best 0.5001  lr 0.0003  "
          "24 steps/s")])
def test_the_live_line_shows_what_fits_and_never_more(width, expected):
    found = text.progress_line(**LINE, width=width)
    assert found == expected
    assert len(found) <= width


def test_the_live_line_does_without_a_length():
    found = text.progress_line(**(LINE | {"steps": None, "left": None}), width=80)
    assert found == "epoch 3/10 step 12  loss 0.5123  acc 0.8125  best 0.5001  lr 0.0003  24 steps/s"


def test_the_live_line_says_when_it_is_validation():
    found = text.progress_line(**(LINE | {"stage": "val", "numbers": {"val_loss": 0.25}}), width=80)
    assert found == "epoch 3/10 val ━━──────── 12/48  left 1:03  loss 0.2500  best 0.5001  24 steps/s"


@pytest.mark.parametrize("width", [60, 80, 160])
def test_head_and_rows_of_the_table_stand_under_each_other(width):
    row = {"epoch": 3, "train_loss": 0.51, "train_acc": 0.81, "lr": 3e-4, "val_loss": 0.5, "val_a_very_long_name": 0.8}
    head, body = text.header(list(row), width), text.table_row(row, width, star=True)
    assert len(head) <= width
    assert len(body) <= width
    assert body.endswith(" ★")
    assert len(text.table_row(row, width, star=False)) + 2 == len(body)
    assert head.index("train_loss") + len("train_loss") == body.index("0.5100") + len("0.5100")


def test_a_plain_line_can_be_searched_for():
    row = {"epoch": 2, "train_loss": 0.5, "val_loss": math.nan}
    assert text.plain_line("12:00:00", row, 10, 1.25) == "12:00:00 epoch=2/10 train_loss=0.5000 seconds=1.2"


def test_the_messages_are_those_that_users_know():
    assert text.device_line("cuda:0") == "<<<<<< ⚡️ cuda:0 is used >>>>>>"
    assert text.device_line("cpu") == "<<<<<< 🐌 cpu is used >>>>>>"
    assert text.device_line("mps") == "<<<<<< 🚀 mps is used >>>>>>"
    assert text.best_line("val_acc", 0.9412) == "<<<<<< reach best val_acc : 0.9412 >>>>>>"
    reason = "val_acc without improvement in 3 epoch, early stopping"
    assert text.stop_line(reason) == f"<<<<<< {reason} >>>>>>"
