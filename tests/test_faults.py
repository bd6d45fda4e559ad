"""A few of each fault that ``make faults`` tries in full; in a process of its own, which forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: forks, /proc and resource limits"),
              pytest.mark.timeout(300)]
CHECKS = ["kill -9 at random", "kill -9 with a loss with a state, two optimizers, odd sizes",
          "control: without generators", "SIGTERM at random", "a crash at every file operation",
          "truncated files", "single bits flipped", "control: the same by weights_only", "malicious states",
          "odd files around the states",
          "files that claim too much",
          "full disk", "places that cannot be written", "two runs in one folder", "200 saves, 20 resumes",
          "2 processes, one killed", "loggers in runs that are killed",
          "strangers who connect", "strangers' files in the temporary folder"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "results.json"
    done = subprocess.run([sys.executable, "-m", "tests.faults", "--quick", "--out", str(out)], cwd=ROOT, text=True,
                          capture_output=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))})
    return json.loads(out.read_text()) if out.exists() else {"error": done.stderr[-3000:]}


@pytest.mark.parametrize("name", CHECKS)
def test_every_fault_is_survived(results, name):
    assert results[name]["right"], results[name]
