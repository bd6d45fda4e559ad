"""What a screen shows, as text: compared with what it should be, at every width."""

import math
from pathlib import Path

import pytest

from torchkeras.core import text

GOLDEN = Path(__file__).parents[1] / "golden"
ROW = {"epoch": 3, "train_loss": 0.51, "train_acc": 0.81, "lr": 3e-4, "val_loss": 0.5, "val_acc": 0.8}
LINE = {"epoch": 3, "epochs": 10, "stage": "train", "step": 12, "steps": 48, "elapsed": 0.5, "left": 63.0,
        "numbers": {"train_loss": 0.51234, "train_acc": 0.8125, "lr": 3e-4}, "best": "0.5001"}


@pytest.mark.parametrize(("value", "expected"), [
    (0.123456, "0.1235"), (12.5, "12.5000"), (3e-4, "0.0003"), (1.25e-7, "1.25e-07"), (3.0, "3"), (1e9, "1e+09"),
    (math.nan, "nan"), (math.inf, "inf"), (0.0051234, "0.005123"), (-0.5, "-0.5000"), (0.0, "0")])
def test_a_number_takes_few_characters(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.2, "0:00"), (7, "0:07"), (750, "12:30"), (7380, "2h03m")])
def test_a_duration_reads_at_a_glance(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize("width", [60, 80, 160])
def test_lines_and_table_look_as_on_file_and_are_never_too_wide(width):
    names = text.columns(list(ROW), width, "val_acc")
    drawn = [text.progress_line(**LINE, width=width), text.header(names), text.table_row(ROW, names, star=True),
             text.table_row(ROW | {"val_acc": math.nan}, names, star=False)]
    assert max(map(len, drawn)) <= width
    assert drawn == (GOLDEN / f"display_{width}.txt").read_text(encoding="utf-8").splitlines()


def test_the_live_line_does_without_a_length():
    found = text.progress_line(**(LINE | {"steps": None, "left": None}), width=80)
    assert found == "epoch 3/10 step 12  loss 0.5123  acc 0.8125  best 0.5001  lr 0.0003  24 steps/s"


def test_the_live_line_says_when_it_is_validation():
    found = text.progress_line(**(LINE | {"stage": "val", "numbers": {"val_loss": 0.25}}), width=80)
    assert found == "epoch 3/10 val ━━───── 25%  left 1:03  loss 0.2500  best 0.5001  eta 0:02  12/48"


def test_a_narrow_table_keeps_the_watched_number_and_drops_the_learning_rate():
    names = list(ROW)
    assert text.columns(names, 22, "val_acc") == ["epoch", "val_acc"]
    assert text.columns(names, 45, "val_acc") == ["epoch", "train_loss", "val_loss", "val_acc"]
    assert text.columns(names, 22, "train_acc") == ["epoch", "train_acc"]
    assert text.columns(names, 200, "val_acc") == names


def test_head_and_rows_of_the_table_stand_under_each_other():
    row = ROW | {"val_a_very_long_name": 0.8}
    head, body = text.header(list(row)), text.table_row(row, list(row), star=False)
    assert len(head) == len(body)
    assert head.index("train_loss") + len("train_loss") == body.index("0.5100") + len("0.5100")
    assert head.endswith("…")


def test_a_heartbeat_can_be_searched_for():
    state = {name: value for name, value in LINE.items() if name != "best"}
    assert text.rate_line("12:00:00", **state) == (
        "12:00:00 epoch=3/10 stage=train step=12/48 train_loss=0.5123 train_acc=0.8125 lr=0.0003 "
        "steps_per_second=24 left=1:03")
    assert "step=12 " in text.rate_line("12:00:00", **(state | {"steps": None}))


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1"])
def test_a_stream_that_knows_few_characters_gets_others(encoding):
    lines = [text.device_line("cuda:0"), text.device_line("cpu"), text.bar(0.5, 4) + text.STARRED + "🐌"]
    with pytest.raises(UnicodeEncodeError):
        lines[1].encode(encoding)
    assert [text.encodable(line, encoding) for line in lines] == [
        "<<<<<< * cuda:0 is used >>>>>>", "<<<<<< * cpu is used >>>>>>", "==-- **"]
    assert [text.encodable(line, "utf-8") for line in lines] == lines


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
