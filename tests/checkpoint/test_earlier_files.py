"""What version 5.0.0a1 wrote is read: ``tests/fixtures/5.0.0a1`` was made by it, with ``tests/checkpoint/earlier.py``."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoint import earlier

WRITTEN = Path(__file__).parents[1] / "fixtures" / "5.0.0a1"
NUMBERS = json.loads((WRITTEN / "numbers.json").read_text())  # what 5.0.0a1 came to without a break


def close(found, expected):
    """Whether two trees of numbers are the same up to the rounding of another processor."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    return found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_run_that_an_earlier_version_was_stopped_in_goes_on_to_the_numbers_that_it_would_have_had(tmp_path):
    shutil.copytree(WRITTEN, tmp_path / "run")
    found = earlier.numbers(*earlier.run(tmp_path / "run" / "best.pt", resume=True))
    assert close(found, NUMBERS)


def test_a_state_whose_history_is_among_its_tensors_is_gone_on_with(tmp_path):
    whole = earlier.numbers(*earlier.run(tmp_path / "whole.pt", later=True))
    shutil.copytree(WRITTEN.parent / "state-2", tmp_path / "run")
    model, *others = earlier.run(tmp_path / "run" / "best.pt", later=True, resume=True)
    assert close(earlier.numbers(model, *others), whole)
    assert not any("changed" in note for note in model.run.notes)
    newest = max((tmp_path / "run" / "best.pt.state").glob("0*"))
    assert (newest / "MANIFEST").read_text().startswith("torchkeras-state 3\n")
    assert (newest / "history.rows").stat().st_size == 8 * earlier.EPOCHS * len(whole["history"])


def test_control_other_samples_than_such_a_state_was_written_with_are_refused(tmp_path, monkeypatch):
    shutil.copytree(WRITTEN.parent / "state-2", tmp_path / "run")
    made = earlier.data(later=True)
    made[0].dataset.indices[0], made[0].dataset.indices[1] = made[0].dataset.indices[1], made[0].dataset.indices[0]
    monkeypatch.setattr(earlier, "data", lambda later: made)
    with pytest.raises(ValueError, match="train_data: received .*all contents: 1248 bytes, 3c25"):
        earlier.run(tmp_path / "run" / "best.pt", later=True, resume=True)


def test_control_without_the_state_the_callback_alone_comes_to_other_numbers(tmp_path):
    found = earlier.numbers(*earlier.run(tmp_path / "best.pt", resume=True, initial_epoch=2))
    assert not close(found["weights"], NUMBERS["weights"])
    assert not close(found["callback"], NUMBERS["callback"])


@pytest.mark.parametrize("name", ["whole.pt", "whole.safetensors"])
def test_weights_that_an_earlier_version_wrote_are_loaded(name):
    model = earlier.build()
    model.load_ckpt(WRITTEN / name)
    read = load_file(WRITTEN / name) if name.endswith("s") else torch.load(WRITTEN / name, weights_only=True)
    assert all(torch.equal(value, read[key]) for key, value in model.net.state_dict().items())
    assert close({key: value.double().flatten().tolist() for key, value in model.net.state_dict().items()},
                 NUMBERS["weights"])
