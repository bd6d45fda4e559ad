"""What torchrun starts in each process: all cases one after another; each process writes down what it found.

Run as ``torchrun --nproc-per-node 2 -m tests.distributed.job FOLDER [PART OF A NAME]``.
"""

import faulthandler
import gc
import os
import pickle
import sys
import time
import warnings
from pathlib import Path

import tests.distributed.goingon  # noqa: F401 (it adds cases)
import torch
from tests.distributed.cases import CASES, OWN, REFUSED, WORLDS

LIMIT = 40  # seconds for a case: one that hangs tells where, and ends the launch


def found(case):
    """What a case gives, or its error, and how long it took."""
    began = time.perf_counter()
    try:
        result = case(seed=0)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    return result | {"own_seconds": time.perf_counter() - began}


def main(folder, part=""):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("error")
    gc.freeze()  # what was imported is no garbage, and takes long to look through
    with Path(folder, os.environ["RANK"]).open("wb") as file:
        for name, case in (OWN | REFUSED | CASES).items():
            if part in name and int(os.environ["WORLD_SIZE"]) in WORLDS[name]:
                faulthandler.dump_traceback_later(LIMIT, exit=True)
                pickle.dump((name, found(case)), file)
                file.flush()  # it is there even if the next case ends the process
    faulthandler.cancel_dump_traceback_later()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
