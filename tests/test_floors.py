"""Imports go down only, and heavy packages are imported where they are needed."""

import ast
import functools
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchkeras"
FLOORS = ("core < losses, metrics, summary, functional < data < state < weighting < checks < engine < "
          "diagnostics, distributed, checkpoint, acceleration, callbacks, display < training < "
          "kerasmodel, keras, lightning, lightmodel, model, saving, vlog, utils, kerascallbacks, train, "
          "plots, tools, gone")
FLOOR = {name: number for number, names in enumerate(FLOORS.split(" < ")) for name in names.split(", ")}
STILL_CLIMBING: dict[str, set[str]] = {}
LAZY = {"matplotlib", "IPython", "rich", "pandas", "lightning", "pytorch_lightning", "torchmetrics", "wandb", "mlflow",
        "tensorboard", "plotext", "accelerate", "sklearn", "safetensors", "cloudpickle", "filelock", "PIL",
        "transformers"}


def files() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the parsed file, which several tests look at."""
    return ast.parse(path.read_text())


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
    assert climbs(name_of(path), tree_of(path)) == STILL_CLIMBING.get(name_of(path), set())


def test_control_an_import_that_climbs_is_found():
    climbing = "def f():\n    from torchkeras.distributed.ddp import replicas"
    assert climbs("engine.step", ast.parse(climbing)) == {"distributed.ddp"}
    assert climbs("distributed.ddp", ast.parse("from torchkeras.engine.step import StepRunner")) == set()


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_heavy_packages_are_imported_inside_the_function_that_needs_them(path):
    top = ast.Module([node for node in tree_of(path).body
                      if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert not {one.split(".")[0] for one in imports(top)} & LAZY


def test_import_torchkeras_loads_none_of_them():
    heavy = sorted(LAZY - {"sklearn"})
    code = f"import sys, torchkeras; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_functions_stay_short(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 30, f"{node.name} has {lines} lines"


LOOP = ("step", "passes", "epoch", "loop")  # what a reader of the loop reads, in this order


def branches(tree: ast.AST) -> int:
    """Count ifs, loops, handlers, further operands of and/or, and the parts of comprehensions."""
    plain = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler)
    nodes = list(ast.walk(tree))
    return (sum(isinstance(node, plain) for node in nodes)
            + sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
            + sum(1 + len(node.ifs) for node in nodes if isinstance(node, ast.comprehension)))


def code_lines(text: str) -> int:
    """Count lines that are neither empty, nor comments, nor docstrings."""
    tree, lines = ast.parse(text), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
                              tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def names_from_elsewhere(tree: ast.AST) -> set[str]:
    """Return what a file of the loop imports from other files of this package, but for the words of core/types.py."""
    own = {"torchkeras.core.types", *(f"torchkeras.engine.{name}" for name in LOOP)}
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("torchkeras") and node.module not in own for alias in node.names}


def test_the_four_files_of_the_loop_are_small_in_ideas():
    texts = [(SOURCE / "engine" / f"{name}.py").read_text() for name in LOOP]
    trees = [ast.parse(text) for text in texts]
    names = set().union(*map(names_from_elsewhere, trees))
    assert len(names) <= 25, sorted(names)
    assert sum(map(branches, trees)) / sum(map(code_lines, texts)) <= 0.20
    defaults = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3]
    assert defaults == []


def test_control_branches_lines_and_names_are_counted():
    text = '"""Doc."""\nfrom torchkeras.data import a, b\n\nif a and b:  # why\n    x = [c for c in b if c]\n'
    tree = ast.parse(text)
    assert (branches(tree), code_lines(text), names_from_elsewhere(tree)) == (4, 3, {"a", "b"})


def test_the_engine_is_the_loop_and_little_else():
    found = list((SOURCE / "engine").glob("*.py"))
    assert len(found) <= 20
    assert sum(len(path.read_text().splitlines()) for path in found) <= 1900


DOORS = {"core/communicator.py", "engine/run.py"}  # where one process answers for all, and older names
SAID = {"checkpoint/run_fingerprint.py", "checkpoint/rank_state.py", "core/keywords.py", "training/session.py",
        "lightning/steps.py", "lightning/model.py"}  # the number itself is compared, checked or passed on


def test_the_number_of_processes_is_asked_under_distributed_only():
    asked = {str(path.relative_to(SOURCE)) for path in files() if "world_size" in path.read_text()}
    outside = {name for name in asked if not name.startswith("distributed/")}
    assert outside <= DOORS | SAID


STANDARD = {"_asdict", "_fields", "_make", "_replace", "_getframe", "_exit", "_current_frames"}  # public in Python


def private_names(tree: ast.AST) -> set[str]:
    """Return the names with an underscore before them that are read of other objects, and modules that have one."""
    own = {"self", "cls"}
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and not (isinstance(node.value, ast.Name) and node.value.id in own)}
    read |= {part for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for part in node.module.split(".")}
    return {name for name in read if name.startswith("_") and not name.startswith("__")} - STANDARD


def names_defined(tree: ast.AST) -> set[str]:
    """Return the names of functions, classes and attributes that a file gives."""
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name) and node.value.id == "self"}


def test_private_names_of_other_packages_are_used_in_one_file():
    trees = {name_of(path): tree_of(path) for path in files()}
    ours = set().union(*map(names_defined, trees.values()))
    fence = trees.pop("core.internals")
    assert len(private_names(fence)) > 15
    used = {name: private_names(tree) - ours for name, tree in trees.items()}
    assert {name: found for name, found in used.items() if found} == {}


def test_control_private_names_are_found():
    tree = ast.parse("from torch._C import x\nself._own = a._theirs\nb._replace()\n__version__")
    assert private_names(tree) == {"_C", "_theirs"}
    assert names_defined(tree) == {"_own"}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import one another, straight or by way of others."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return [group for group in {frozenset(other for other in graph if other in reach[name] and name in reach[other])
                                for name in graph} if group]


def test_there_are_no_import_circles():
    names = {name_of(path) for path in files()}
    graph = {}
    for path in files():
        targets = {one.removeprefix("torchkeras.") for one in imports(tree_of(path))
                   if one.startswith("torchkeras.")}
        graph[name_of(path)] = {module_of(target) for target in targets} & names - {name_of(path)}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]  # control


def test_few_parameters_are_of_any_type():
    found = [node for path in SOURCE.rglob("*.py") for function in ast.walk(tree_of(path))
             if isinstance(function, ast.FunctionDef)
             for node in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs,
                          *filter(None, (function.args.vararg, function.args.kwarg)))
             if node.arg not in ("self", "cls")]
    bare = [node for node in found if isinstance(node.annotation, ast.Name) and node.annotation.id == "Any"]
    assert len(found) > 4000
    assert len(bare) / len(found) <= 0.08
