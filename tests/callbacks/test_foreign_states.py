"""States of callbacks that somebody else made: they name no file to remove, and cost a clear error or nothing."""

import pytest

from torchkeras import CheckpointCorruptError
from torchkeras.callbacks.logger import RowLogger
from torchkeras.callbacks.mlflow import MLflowCallback
from torchkeras.callbacks.tensorboard import TensorBoardCallback
from torchkeras.callbacks.wandb import WandbCallback
from torchkeras.kerascallbacks import CSVLogger, EpochCheckpoint, JSONLLogger

KINDS = {"csv": lambda folder: CSVLogger(folder / "a.csv"), "jsonl": lambda folder: JSONLLogger(folder / "a.jsonl"),
         "rows": lambda folder: RowLogger(), "epochs": lambda folder: EpochCheckpoint(folder),
         "tensorboard": lambda folder: made(TensorBoardCallback), "wandb": lambda folder: made(WandbCallback),
         "mlflow": lambda folder: made(MLflowCallback)}
NO_COUNTS = [-1, -10**30, 10**30, 1.5, float("nan"), True, "3", [1], {"a": 1}]
NO_MOMENTS = [-1.0, float("nan"), float("inf"), 10**400, True, "now", [0.0]]
NO_NAMES = ["", "..", ".", "../../else", "a/b", "a\\b", "a?b=c", "a%2Fb", "a#b", "c:", "a\nb", "a\0b", "x" * 257,
            3, ["a"]]
NO_FILES = [["/etc/passwd"], ["../epoch_1.pt"], ["a/epoch_1.pt"], ["epoch_1.pt/../../x"], ["best.pt"], ["epoch_1.pt\n"],
            ["epoch_-1.pt"], ["epoch_01.pt"], ["epoch_\u0661.pt"], ["epoch_1.pt", 3], [None], "epoch_1.pt", 7,
            {"epoch_1.pt": 1}, ["epoch_" + "9" * 400 + ".pt"], [""], [["epoch_1.pt"]]]
HOSTILE = [(kind, name, value) for names, values in (
    ([("csv", "earlier"), ("jsonl", "earlier"), ("rows", "logged"), ("tensorboard", "logged"), ("wandb", "logged"),
      ("mlflow", "logged")], NO_COUNTS),
    ([("rows", "began"), ("tensorboard", "began"), ("wandb", "began"), ("wandb", "opened_at"), ("mlflow", "began")],
     NO_MOMENTS),
    ([("wandb", "run_id"), ("mlflow", "run_id")], NO_NAMES), ([("epochs", "files")], NO_FILES))
    for kind, name in names for value in values]


def made(kind):
    """One of a service that may not be installed here; what a state holds is looked at without it."""
    one = kind.__new__(kind)
    RowLogger.__init__(one)
    return one


@pytest.mark.parametrize(("kind", "name", "value"), HOSTILE)
def test_a_value_that_a_callback_never_saves_is_refused_with_its_name(kind, name, value, tmp_path):
    one = KINDS[kind](tmp_path)
    before = repr(one.stopped)
    with pytest.raises(CheckpointCorruptError, match=f"what was saved of {type(one).__name__} has .* as its '{name}'"):
        one.load_state_dict({name: value})
    assert repr(one.stopped) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [None, 3, "files", ["files"]], ids=repr)
def test_a_state_that_is_no_dict_is_refused(kind, state, tmp_path):
    with pytest.raises(CheckpointCorruptError, match="what was saved of"):
        KINDS[kind](tmp_path).load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_control_what_a_callback_saves_it_takes_again(kind, tmp_path):
    one, other = KINDS[kind](tmp_path), KINDS[kind](tmp_path)
    other.load_state_dict(one.state_dict() if kind != "wandb" else {"run_id": None})
    for state in ({"files": ["epoch_1.pt", "epoch_20.pt"]}, {"logged": 3, "began": 1.7e9, "run_id": "a-b_c.1 x(2)"},
                  {"earlier": 3}, {}):
        other.load_state_dict(state)
