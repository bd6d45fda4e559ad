"""Processes never disagree: what ends one run ends all, for the same reason, and nothing is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.distributed.together_job import CASES

JOB = Path(__file__).with_name("together_job.py")
LIMIT = 200  # seconds for all launches, imports on a busy machine included; one that hangs waits for half an hour
pytestmark = pytest.mark.timeout(400)
FATAL = ["SIGTERM", "exception", "exception in the main process", "exception in all", "failure that is caught",
         "killed", "killed main"]
IN_ORDER = [name for name in CASES if name not in FATAL]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """What two processes told, how they ended, and what they printed of it."""

    def __init__(self, folder: Path) -> None:
        self.codes = json.loads((folder / "codes.json").read_text())
        self.errors = [(folder / f"{rank}.err").read_text() for rank in range(2)]
        files = [folder / f"{rank}.json" for rank in range(2)]
        self.told = [json.loads(file.read_text()) if file.exists() else {} for file in files]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """All jobs, by forks of one process: most of the time of each would be imports."""
    folder = tmp_path_factory.mktemp("jobs")
    names = {name: IN_ORDER if name == "in order" else [name] for name in [*FATAL, "in order"]}
    for name in names:
        (folder / name).mkdir()
    asked = [[str(folder / name), free_port(), *cases] for name, cases in names.items()]
    path = os.pathsep.join([str(JOB.parents[2] / "src"), str(JOB.parents[2])])
    with (folder / "said").open("w+") as said:
        started = subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(JOB),
             json.dumps(asked)], stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path})
        try:
            started.wait(LIMIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        said.seek(0)
        assert started.returncode == 0, said.read()
    return {name: Job(folder / name) for name in names}


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_wish_of_one_process_ends_the_run_of_all_alike(jobs, name):
    job = jobs["in order"]
    assert job.codes == [0, 0], job.errors
    first, second = (told[name] for told in job.told)
    for key in ("reason", "epochs", "trained", "weights"):
        assert first[key] == second[key], key
    assert (first["reason"] is None) == (name == "nothing")


@pytest.mark.parametrize(("name", "trained", "epochs"), [
    ("stop in all at one step", [13], [1]),  # where all ask at one step, there it ends
    ("stop in a step", [13, 14], [1]),  # the other process was in that step, or one further
    ("stop by the main process", [13, 14], [1]),
    ("Ctrl-C", [13, 14], [1]),
    ("stop before an epoch", [10, 11], [1]),
    ("stop after training", [20], [1, 2]),
    ("stop after an epoch", [20], [1, 2]),
    ("stop in a long measuring", [20], [1]),
    ("stop after an uneven measuring", [13, 14], [1]),
    ("stop in an uneven measuring", [20], [1]),
])
def test_a_run_ends_where_it_was_asked_to(jobs, name, trained, epochs):
    told = jobs["in order"].told[0][name]
    assert told["trained"] in trained
    assert told["epochs"] == epochs


@pytest.mark.parametrize(("name", "step"), [("NaN", 3), ("NaN in accumulation", 4)])
def test_a_loss_that_is_nan_in_one_process_spoils_no_optimizer(jobs, name, step):
    told = jobs["in order"].told[0][name]
    assert told["reason"].startswith(f"train_loss is nan in process 1 in epoch 2, step {step}: features, labels and ")
    assert [one[name]["warned"] for one in jobs["in order"].told] == [[], [f"fit: {told['reason']}"]]  # who has it
    assert told["finite"]
    assert told["epochs"] == [1]


def test_sigterm_to_one_ends_all_with_the_code_of_a_terminated_program(jobs):
    job = jobs["SIGTERM"]
    assert job.codes == [143, 143], job.errors
    assert [told["error"] for told in job.told] == ["SystemExit: 143"] * 2


@pytest.mark.parametrize(("name", "failing"), [("exception", 1), ("exception in the main process", 0)])
def test_an_error_in_one_process_is_told_by_the_others(jobs, name, failing):
    job = jobs[name]
    assert job.codes == [1, 1], job.errors
    assert job.told[failing]["error"] == "LookupError: nothing there"
    assert job.told[1 - failing]["error"] == f"ProcessFailed: process {failing} failed: LookupError: nothing there"


def test_an_error_in_all_is_everyones_own(jobs):
    assert [told["error"] for told in jobs["exception in all"].told] == ["LookupError: nothing there"] * 2


def test_a_process_that_fails_and_lives_on_does_not_keep_the_others(jobs):
    job = jobs["failure that is caught"]
    assert job.codes[0] == 1
    assert "process 0 ends: process 1 failed: LookupError: nothing there" in job.errors[0]


@pytest.mark.parametrize(("name", "killed"), [("killed", 1), ("killed main", 0)])
def test_a_process_that_is_killed_ends_the_others(jobs, name, killed):
    job = jobs[name]
    assert job.codes[killed] == -9
    assert job.codes[1 - killed] == 1
    # process 0 takes the store of the job with it, whichever of both is noticed first
    words = "another process ended without reporting an error|lost the connection to the job's key-value store"
    assert re.match(f"ProcessFailed: ({words})", job.told[1 - killed]["error"])
