"""Each job gives the number that it must on every device, in measured time."""

import sys
from pathlib import Path

import pytest
import torch
from tests.examples.helpers import few_digits

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import cpu_vs_gpu  # noqa: E402 (the examples are scripts in a folder, not a package)


def test_each_job_is_timed_and_right(monkeypatch, capsys):
    monkeypatch.setattr(cpu_vs_gpu, "load_digits", lambda folder: few_digits())
    table = cpu_vs_gpu.main(["--small", "--epochs", "5"])
    devices = 1 + torch.accelerator.is_available()
    product, regression, cnn = table.values()
    assert [len(one) for one in table.values()] == [devices] * 3
    for seconds, result in product.values():
        assert seconds > 0
        assert result == pytest.approx(200, rel=0.02)  # a sum of 200 products of variance 1
    for _, result in regression.values():
        assert result == pytest.approx(4, abs=0.2)  # the variance of the noise
    for _, result in cnn.values():
        assert 0.5 < result < 1  # guessing gives 0.1
    shown = capsys.readouterr().out
    assert "cpu: " in shown
    assert all(name in shown for name in table)


def test_control_a_regression_that_stops_early_is_not_there_yet():
    assert cpu_vs_gpu.regress("cpu", 10_000, 30) > 10
