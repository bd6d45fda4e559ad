"""The benchmarks run with nothing but this package, and give no time to a loop whose numbers are wrong."""

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from benchmarks import gpu, stepcost
from benchmarks.one import measure
from benchmarks.registry import CONTENDERS
from benchmarks.table import table
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
OURS = [name for name, one in CONTENDERS.items() if one.smoke and one.installed()]
ROUNDING = ("tuned loop, fused", "torchkeras fast")
EVERYWHERE = [name for name, one in WORKLOADS.items() if not one.needs_gpu]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--threads", "1", "--out", str(folder / "times.json"),
               "--environments", str(folder), "--only", *EVERYWHERE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "times.json").read_text())


def test_the_table_has_a_row_with_right_numbers_for_each_contender_and_workload(smoke):
    printed, _ = smoke
    sections = printed.split("\n\n")
    for workload in EVERYWHERE:
        rows = next(one for one in sections if one.startswith(f"{workload}: ")).splitlines()[1:]
        names = [name for name in OURS if CONTENDERS[name].takes(workload)]
        assert [row.split("  ")[0] for row in rows] == names
        for name, row in zip(names, rows, strict=True):
            assert row.endswith("bit-equal") or ("differ by up to" in row and name in ROUNDING), row


def test_the_table_says_on_what_it_ran_and_who_is_missing(smoke):
    printed, written = smoke
    assert f"{written['hardware']['cores']} cores, torch threads: 1, GPU: " in printed
    assert f"torch {version('torch')}; " in printed
    assert "not installed: " in printed
    assert "skorch" in printed.partition("not installed: ")[2]


def test_every_measurement_is_written_for_later(smoke):
    _, written = smoke
    assert {(one["contender"], one["workload"]) for one in written["measurements"]} == {
        (name, workload) for name in OURS for workload in EVERYWHERE if CONTENDERS[name].takes(workload)}


def too_fast(job):
    job.learning_rate *= 1.1
    return CONTENDERS["tuned loop"].run(job)


def without_last_batch(job):
    rows = len(job.x) // job.batch_size * job.batch_size
    job.x, job.y = job.x[:rows], job.y[:rows]
    return CONTENDERS["tuned loop"].run(job)


def not_a_number(job):
    accuracy = CONTENDERS["tuned loop"].run(job)
    list(job.weights.values())[-1].fill_(float("nan"))
    return accuracy


def blind(job):
    CONTENDERS["tuned loop"].run(job)
    return 0.0


def tells_nothing(job):
    CONTENDERS["tuned loop"].run(job)


def row_of(run, workload="tiny"):
    contender = dataclasses.replace(CONTENDERS["tuned loop"], run=run)
    found = measure(contender, WORKLOADS[workload], smoke=True) | {"contender": "tuned loop", "workload": workload}
    return table([found]).splitlines()[-1]


@pytest.mark.parametrize("wrong", [too_fast, without_last_batch, not_a_number, blind, tells_nothing])
def test_a_loop_with_wrong_numbers_gets_no_time(wrong):
    words = row_of(wrong).removeprefix("tuned loop").split()
    assert words[:6] == ["-"] * 6
    assert words[6:8] == ["wrong", "numbers:"]


def test_control_the_same_loop_done_right_gets_one():
    words = row_of(CONTENDERS["tuned loop"].run).removeprefix("tuned loop").split()
    assert float(words[0].replace(",", "")) > 0
    assert words[-1] == "bit-equal"


def test_a_loop_that_does_not_tell_its_epochs_is_refused():
    with pytest.raises(RuntimeError, match="reported 0 epochs of 2"):
        row_of(lambda job: None)


# --- the cost of a step beside another checkout ---


def two_trees(slower):
    """What two trees measure where one takes so many times as long for each step of fit."""
    def of(factor):
        return {f"{case}: {name}": {"us": 10.0 if name == stepcost.TUNED else 30.0 * factor, "right": True,
                                    "difference": 0.0}
                for case in stepcost.CASES for name in (stepcost.TUNED, *stepcost.WAYS.values())}
    return of(slower), of(1.0)


def test_a_step_that_costs_more_than_the_baselines_is_seen_in_the_ratio():
    found = stepcost.row("MLP", "exact", [two_trees(1.0), two_trees(1.1), two_trees(1.3)])
    assert found == ["MLP, exact", "33.0", "30.0", "+23.0", "+20.0", "1.100", "1.000-1.300", "bit-equal"]
    assert stepcost.row("MLP", "exact", [two_trees(1.0)])[5] == "1.000"  # control


def test_a_slow_moment_of_the_machine_is_no_cost_of_a_tree():
    new, old = two_trees(1.0)
    slowed = {key: one | {"us": 2 * one["us"]} for key, one in new.items()}
    assert stepcost.row("MLP", "fast", [(slowed, old)])[5] == "1.000"


def test_wrong_numbers_get_no_ratio():
    new, old = two_trees(1.0)
    new["MLP: torchkeras fast"]["right"] = False
    assert stepcost.row("MLP", "fast", [(new, old)])[1:] == ["-"] * 6 + ["wrong numbers"]
    assert stepcost.row("MLP", "exact", [(new, old)])[5] == "1.000"  # control


def test_two_trees_are_timed_in_turn_each_with_its_own_package(tmp_path):
    shutil.copytree(ROOT / "src" / "torchkeras", tmp_path / "src" / "torchkeras")
    marked = tmp_path / "src" / "torchkeras" / "__init__.py"
    marked.write_text(f"open({str(tmp_path / 'seen')!r}, 'w').close()\n" + marked.read_text())
    command = [sys.executable, "-m", "benchmarks.stepcost", "--smoke", "--repeats", "1", "--baseline"]
    done = subprocess.run([*command, str(tmp_path / "src")], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n\n")[1].splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == [
        f"{case}, {way}" for case in stepcost.CASES for way in stepcost.WAYS]
    assert not [line for line in lines if "wrong numbers" in line]
    assert (tmp_path / "seen").exists()  # the baseline's package was imported


def test_a_baseline_without_the_package_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(stepcost.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess(
        [], 0, json.dumps({"package": str(ROOT / "src" / "torchkeras" / "__init__.py"), "measured": {}}), ""))
    with pytest.raises(SystemExit, match="holds no package torchkeras"):
        stepcost.call(tmp_path, stepcost.parse(["--smoke"]))
    assert stepcost.call(ROOT / "src", stepcost.parse(["--smoke"])) == {}  # control


def test_the_timings_of_a_gpu_run_in_small_without_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "call", in_process)
    gpu.main(["--out", str(tmp_path / "gpu.json"), "--only", "mlp", "gpt"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {one["workload"] for one in found["timings"]} == {"mlp", "gpt"}
    assert not [one for one in found["timings"] if "error" in one]
    loops = {one["loop"]: one for one in found["timings"] if one["workload"] == "mlp"}
    assert loops.keys() >= {"plain", "compiled", "torchkeras exact", "torchkeras fast", "plain, again"}
    assert loops["torchkeras exact"]["apart"] == 0 < loops["torchkeras exact"]["moved"]
    assert "no GPU: times mean nothing" in capsys.readouterr().out


def in_process(command, seconds):
    """What the worker of a workload prints; of the large nets, one loop."""
    name = command[-1]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed, (
            warnings.catch_warnings()):
        warnings.simplefilter("ignore")  # of peers
        if name == "gpt":
            patch.setattr(gpu, "loops", lambda bf16, loops=gpu.loops: {"plain": loops(bf16)["plain"]})
        gpu.main(["--worker", name])
    return printed.getvalue().splitlines()


def test_a_gpu_check_that_fails_or_dies_or_takes_too_long_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "checks", lambda seconds: {"test_a": "failure: other bits"})
    monkeypatch.setattr(gpu, "call", lambda command, seconds: iter(()))
    with pytest.raises(SystemExit, match="failed: test_a"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert "test_a: failure: other bits" in capsys.readouterr().out
    monkeypatch.undo()
    assert list(gpu.call(["-c", "print(1)"], 60)) == ["1"]  # control
    assert "not done within 1 s" in list(gpu.call(["-c", "import time; time.sleep(60)"], 1))[0]
    for end in ("os._exit(9)", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"):
        code = f"import os, signal, sys; sys.stderr.write('gone'); sys.stderr.flush(); {end}"
        assert "gone" in list(gpu.call(["-c", code], 60))[-1]


@pytest.mark.parametrize(("code", "said"), [
    ("print('.'), print('.'), print('.'), print('.', flush=True), time.sleep(60)", "not done within 2 s"),
    ("os._exit(3)", "ended with exit code 3"), ("", "no check was found in tests/gpu")])
def test_gpu_checks_that_do_not_come_to_an_end_or_are_none_are_a_failure(monkeypatch, tmp_path, capsys, code, said):
    call = gpu.call

    def instead(command, seconds, sound=(0,)):
        [report] = [one.partition("=")[2] for one in command if one.startswith("--junitxml")] or [None]
        if report is None:  # a workload
            return iter(())
        if not code:
            Path(report).write_text("<testsuites/>")
        return call(["-c", f"import os, time; {code}"], 2, sound)

    monkeypatch.setattr(gpu, "call", instead)
    with pytest.raises(SystemExit, match="failed: the checks as a whole"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert said in capsys.readouterr().out
    assert said in json.loads((tmp_path / "gpu.json").read_text())["checks"]["error"]


def test_the_gpt_is_the_one_of_124_million_parameters():
    with torch.device("meta"):
        net = gpu.workloads(small=False)["gpt"].net()
    assert sum(one.numel() for one in net.parameters()) == 124_475_904
