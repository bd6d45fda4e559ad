"""Imports go down only, and heavy packages are imported where they are needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchkeras"
FLOORS = [  # a file imports from its own floor and those below; the first match counts
    ("engine.checks engine.keywords engine.tracebacks engine.moments engine.allocator engine.attempt engine.words "
     "engine.meeting engine.ending engine.forking engine.together engine.optimizers engine.known engine.leftover "
     "engine.files engine.tensorfile engine.picklecheck engine.historyfile "
     "engine.wrappers engine.netstate engine.weights", 0),
    ("engine.state data metrics losses names outputs joined task functional summary display.text display.plot "
     "display.screen display.svg display.html display.samples display.figures display.targets display.png "
     "display.classes display.page display.boxed display.digest", 1),
    ("engine.when engine.config engine.history engine.monitor engine.run engine.modes engine.denominator "
     "engine.pieces engine.components engine.shards", 2),
    ("engine.weighing engine.means engine.recognition engine.interrupt engine.joining "
     "engine.explain engine.families engine.divergence engine.nextlabels", 3),
    ("engine.schedule engine.step engine.epoch engine.callback engine.hardware engine.checkpoint engine.session "
     "engine.gradients engine.lockstep engine.fast engine.ways engine.wholestep engine.wholeblock "
     "engine.forms engine.updates engine.trial engine.hooks engine.sameness engine.vault engine.snapshot "
     "engine.packing engine.archive engine.keeper engine.keeping engine.statefolder engine.stateform "
     "engine.inexact engine.examination engine.metricstate engine.generators engine.preflight engine.broadcast "
     "engine.metriccheck engine.memento engine.datakeeper engine.putting engine.iterators engine.reach "
     "engine.leftalone engine.peek engine.rehearsal engine.optimizerstate engine.steps engine.threshold "
     "engine.weightfile engine.bestfile engine.olderstate engine.best", 4),
    ("engine.loop", 5),
    ("engine.predicting", 6),
    ("callbacks display.live display.notebook display.progress display.report display.stopwatch display.epochlines "
     "utils", 6),
    ("engine.launch engine.worker engine.jobfolder", 5),
    ("arguments launched saving verify kerasmodel model dialects train lightmodel lightpass lightflags vlog "
     "kerascallbacks", 7),
]
LAZY = {"matplotlib", "IPython", "rich", "pandas", "lightning", "pytorch_lightning", "torchmetrics", "wandb", "mlflow",
        "tensorboard", "plotext", "accelerate", "sklearn", "safetensors", "cloudpickle", "filelock", "PIL",
        "transformers"}


def files() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def floor(name: str) -> int | None:
    return next((number for names, number in FLOORS
                 for one in names.split() if name == one or name.startswith(one + ".")), None)


def imports(tree: ast.AST) -> set[str]:
    """The modules that a file imports, but for those under TYPE_CHECKING."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        else:
            found |= imports(node)
    return found


def climbs(name: str, tree: ast.AST) -> list[str]:
    own = floor(name)
    targets = {one.removeprefix("torchkeras.") for one in imports(tree) if one.startswith("torchkeras.")}
    return sorted(target for target in targets if (floor(target) or 0) > (own or 0))


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_go_down_only(path):
    assert floor(name_of(path)) is not None, "give the file a floor"
    assert climbs(name_of(path), ast.parse(path.read_text())) == []




def test_control_an_import_that_climbs_is_found():
    assert climbs("engine.step", ast.parse("def f():\n    from torchkeras.engine.loop import fit")) != []


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
