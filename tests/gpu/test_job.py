"""One process that is launched as a job talks as many do: over NCCL on a GPU, else over gloo."""

import os
import socket
import subprocess
import sys

from tests.conftest import ROOT
from tests.gpu import job


def launched(device):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.run([sys.executable, "-m", "tests.gpu.job", device.type], cwd=ROOT, text=True,
                          capture_output=True, timeout=100, env={**os.environ, **told})


def test_a_process_that_is_all_of_a_job_computes_and_exchanges(device):
    done = launched(device)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [one.__name__ for one in job.TRIED]
