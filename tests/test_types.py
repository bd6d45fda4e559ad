"""What users write against the library is accepted by mypy, and their slips are found."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".mypy_cache"  # that of `make types`: with an empty one, reading torch takes minutes
LENIENT = ("# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators, "
           "allow-any-generics, allow-subclassing-any, no-warn-return-any, no-warn-unused-ignores, implicit-reexport")
CALLBACKS = LENIENT + '''
from torch import nn

from torchkeras import Callback, KerasModel


class Typed(Callback):
    def on_step_end(self, model: KerasModel) -> None:
        if model.run.global_step == 10 and model.run.logs:
            model.run.stop("ten steps are enough")

    def on_validation_epoch_end(self, model: KerasModel) -> None:
        print(model.run.epoch, model.run.monitor.best, model.history.last("val_loss"), model.net)


class Untyped(Callback):
    def on_fit_start(self, model):
        model.run.notes.append("from a callback")


model = KerasModel(nn.Linear(1, 1), nn.MSELoss(), {"mae": nn.L1Loss()})
model.fit([], callbacks=[Typed(), Untyped()])
'''
MISSPELT = CALLBACKS.replace("model.run.global_step", "model.run.global_steps")


def readme() -> str:
    """Return the Python blocks of README.md as one file, on the lines that they have there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        first = text.count("\n", 0, block.start(1))
        lines[first:first + block[1].count("\n")] = block[1].splitlines()
    return "\n".join([LENIENT, *lines[1:]])


def reported(folder: Path, files: dict[str, str]) -> dict[str, list[str]]:
    """Return mypy's errors by file: one process for all of them, as a user would start it."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={CACHE}", "--no-error-summary",
         *(str(folder / name) for name in files)],
        cwd=ROOT, env=os.environ | {"MYPYPATH": str(ROOT / "src")}, text=True, capture_output=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    return {name: [line for line in errors if name in line.partition(":")[0]] for name in files}


@pytest.mark.timeout(1200)  # the first time, with an empty cache
def test_code_of_users_has_no_type_error_and_a_misspelt_attribute_is_found(tmp_path):
    files = {"readme.py": readme(), "callbacks.py": CALLBACKS, "misspelt.py": MISSPELT}
    found = reported(tmp_path, files)
    assert found["readme.py"] == found["callbacks.py"] == []
    [error] = found["misspelt.py"]  # the control
    assert '"Run" has no attribute "global_steps"' in error


def test_all_blocks_of_the_readme_are_read():
    assert readme().count("\nimport torch\n") == 1
    assert len(re.findall(r"^class \w+\(.*StepRunner\):", readme(), flags=re.MULTILINE)) == 2
    assert "torch.equal(one, other)" in readme()
