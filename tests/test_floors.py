"""Imports go down only, and heavy packages are imported where they are needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchkeras"
FLOORS = ("core < losses, metrics, summary, functional < data < state < weighting < checks < engine < "
          "diagnostics, distributed, checkpoint, acceleration, callbacks, display < training < "
          "kerasmodel, keras, lightning, lightmodel, model, saving, vlog, utils, kerascallbacks, train")
FLOOR = {name: number for number, names in enumerate(FLOORS.split(" < ")) for name in names.split(", ")}
STILL_CLIMBING = {  # imports that the loop has not given up yet; a pair that is gone leaves this list
    "core.modes": {"state.rng"}, "data.seeded": {"state.rng"}, "data.start": {"state.rng"},
    "data.source": {"distributed.sharded_data"}, "state.rng": {"distributed.communicator"},
    "weighting.examination": {"distributed.ddp"},
    "engine.device": {"distributed.communicator", "distributed.rendezvous", "distributed.restart"},
    "engine.epoch": {"distributed.communicator", "distributed.ddp", "distributed.reducible_metrics"},
    "engine.loop": {"checkpoint.best", "checkpoint.threshold", "diagnostics.rehearsal"},
    "engine.run": {"distributed.communicator", "distributed.fsdp"},
    "engine.step": {"distributed.communicator", "distributed.ddp"},
    "engine.steps": {"checkpoint.serialization", "distributed.ddp"},
}
LAZY = {"matplotlib", "IPython", "rich", "pandas", "lightning", "pytorch_lightning", "torchmetrics", "wandb", "mlflow",
        "tensorboard", "plotext", "accelerate", "sklearn", "safetensors", "cloudpickle", "filelock", "PIL",
        "transformers"}


def files() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def floor(name: str) -> int:
    return FLOOR[name.split(".")[0]]


def imports(tree: ast.AST) -> set[str]:
    """The modules that a file imports, but for those under TYPE_CHECKING."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            found |= imports(node)
    return found


def climbs(name: str, tree: ast.AST) -> set[str]:
    """Return the modules on higher floors that a module imports."""
    targets = {one.removeprefix("torchkeras.") for one in imports(tree) if one.startswith("torchkeras.")}
    return {module_of(target) for target in targets if floor(target) > floor(name)}


def module_of(target: str) -> str:
    """Return the module that an imported name is, or lies in."""
    return target if (SOURCE / f"{target.replace('.', '/')}.py").exists() else target.rpartition(".")[0] or target


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_go_down_only(path):
    assert climbs(name_of(path), ast.parse(path.read_text())) == STILL_CLIMBING.get(name_of(path), set())


def test_control_an_import_that_climbs_is_found():
    climbing = "def f():\n    from torchkeras.distributed.ddp import replicas"
    assert climbs("engine.step", ast.parse(climbing)) == {"distributed.ddp"}
    assert climbs("distributed.ddp", ast.parse("from torchkeras.engine.step import StepRunner")) == set()


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_heavy_packages_are_imported_inside_the_function_that_needs_them(path):
    top = ast.Module([node for node in ast.parse(path.read_text()).body
                      if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert not {one.split(".")[0] for one in imports(top)} & LAZY


def test_import_torchkeras_loads_none_of_them():
    heavy = sorted(LAZY - {"sklearn"})
    code = f"import sys, torchkeras; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 30, f"{node.name} has {lines} lines"


def test_the_four_core_files_can_be_read_in_ten_minutes():
    lines = sum(len((SOURCE / "engine" / f"{name}.py").read_text().splitlines())
                for name in ("step", "epoch", "loop", "callback"))
    assert lines <= 990
