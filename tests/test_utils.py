"""The small helpers, as notebooks use them."""

import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras.utils import colorful, delete_object, printlog, seed_everything


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_repeats_python_numpy_and_torch():
    assert seed_everything(7) == 7
    first, unseeded = draws(), draws()
    seed_everything(7)
    assert draws() == first
    assert all(one != other for one, other in zip(first, unseeded, strict=True))
    seed_everything(8)
    assert all(one != other for one, other in zip(draws(), first, strict=True))


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_both_ends_of_the_range_are_seeds(seed):
    assert seed_everything(seed) == seed


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (True, TypeError),
                                             (1.0, TypeError), ("1", TypeError), (None, TypeError)])
def test_what_is_no_seed_is_refused_before_anything_is_seeded(seed, error):
    seed_everything(3)
    expected = draws()
    seed_everything(3)
    with pytest.raises(error, match="seed: received .*; expected an int from 0 to 4294967295"):
        seed_everything(seed)
    assert draws() == expected


def test_deterministic_asks_torch_for_it_and_only_warns():
    code = """if True:
        import torch
        from torchkeras import seed_everything
        for deterministic in (False, True):
            seed_everything(1, deterministic=deterministic)
            print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False", "True", "True"]


def test_printlog_marks_the_moment_with_a_dated_rule(capsys):
    printlog("step 2")
    assert re.fullmatch(r"\n={80}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nstep 2\n\n", capsys.readouterr().out)


def test_a_text_is_coloured_and_the_colour_ends_with_it():
    assert colorful("best") == "\x1b[31mbest\x1b[0m"
    assert colorful("best", "cyan") != colorful("best")
    with pytest.raises(ValueError, match="Did you mean 'green'"):
        colorful("best", "gren")


def test_a_deleted_net_holds_no_memory():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    tensors = [*net.parameters(), *net.buffers()]
    assert all(one.device.type == "cpu" for one in tensors)
    delete_object(net)
    assert {one.device.type for one in [*net.parameters(), *net.buffers()]} == {"meta"}
