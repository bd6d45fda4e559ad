"""A run that is killed in mid-epoch and started again ends as one that was not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import resume_after_kill  # noqa: E402 (the examples are scripts in a folder, not a package)


def test_what_is_killed_goes_on_in_mid_epoch_and_ends_the_same():
    undisturbed, killed, went_on = resume_after_kill.main(["--kills", "1"])
    assert undisturbed[:2] == ["epoch 1 step 1", "epoch 4 step 25"]
    assert killed[1:3] == ["epoch 2 step 13", "killed"]
    epoch, step = int(went_on[0].split()[1]), int(went_on[0].split()[3])
    assert (1, 1) < (epoch, step) < (4, 25)  # neither from the beginning nor at the end
    assert undisturbed[2:] == went_on[2:]
    assert len(undisturbed[2]) == 16
    assert killed[2:] != went_on[2:]
    assert 0.7 < float(went_on[3]) <= 1
