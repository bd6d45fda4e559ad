"""All cases in one process, and in several: one launch for each number of processes, begun when a test first asks."""

import functools
import os
import pickle
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tests.distributed.goingon  # noqa: F401 (it adds cases)
import torch
from tests.conftest import ROOT
from tests.distributed.cases import CASES, OWN, REFUSED

import torchkeras

LIMIT = 240  # seconds for a launch, imports included


class Launch(NamedTuple):
    """What several processes found, and how they ended."""

    found: list[dict]  # for each process: the results of each case that it came to
    code: int
    output: str

    def of(self, name):
        """What each process found in a case."""
        missing = [rank for rank, cases in enumerate(self.found) if name not in cases]
        if missing:
            raise LookupError(f"processes {missing} did not come to {name!r}:\n{self.output[-8000:]}")
        return [cases[name] for cases in self.found]


@functools.cache
def launch(world):
    """All cases in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m",
                   "tests.distributed.job", folder]
        path = os.pathsep.join([str(ROOT), str(Path(torchkeras.__file__).parents[1])])
        code, output = run(command, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path})
        return Launch([records(Path(folder, str(rank))) for rank in range(world)], code, output)


def run(command, environment):
    """The exit code and the output of a program, which is ended with its children when it takes too long."""
    with tempfile.TemporaryFile("w+") as output:  # a pipe would wait for whoever else may hold it
        job = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            job.wait(LIMIT)
        except subprocess.TimeoutExpired:
            output.write(f"not over after {LIMIT} seconds\n")
        finally:
            job.terminate()  # torchrun ends its processes then
            job.wait(60)
        output.seek(0)
        return job.returncode, output.read()


def records(path):
    """What a process wrote, as far as it came."""
    found = {}
    with path.open("rb") if path.exists() else open(os.devnull, "rb") as file:
        while True:
            try:
                name, result = pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                return found
            found[name] = result


@functools.cache
def alone(name, seed=0):
    """A case in this process."""
    with float64():
        return (CASES | OWN | REFUSED)[name](seed=seed)


@contextmanager
def float64():
    """Precise enough to tell rounding from mistakes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
