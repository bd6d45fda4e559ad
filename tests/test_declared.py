"""Everything that the library imports is declared, so that it is there after pip install."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {"PIL": "pillow", "pytorch_lightning": "pytorch-lightning", "IPython": "ipykernel", "mlflow": "mlflow-skinny",
         "sklearn": "scikit-learn"}  # distributions that are called otherwise; ipykernel brings IPython
FOREIGN = {"lightning": "only looked for, as another name of pytorch-lightning",
           "transformers": "imported by the callback for its own Trainer only",
           "pyarrow": "only looked at where the user's own data is of it"}


def imported(text: str) -> set[str]:
    """The top-level packages that a file imports, anywhere in it, or names to ``needed`` and ``import_module``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in ("needed", "import_module", "__import__"):
                found.add(str(node.args[0].value))
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"torchkeras", "__future__"}


def declared() -> set[str]:
    """The distributions in dependencies and extras, but for those of developers."""
    extras = [one for name, listed in PROJECT["optional-dependencies"].items() if name != "dev" for one in listed]
    return {re.split(r"[\[<>=!~; ]", one)[0].lower() for one in [*PROJECT["dependencies"], *extras]}


def undeclared(text: str) -> set[str]:
    return {name for name in imported(text) - set(FOREIGN) if NAMES.get(name, name).lower() not in declared()}


FOLDERS = sorted({path.parent for path in (ROOT / "src").rglob("*.py")})


@pytest.mark.parametrize("folder", FOLDERS, ids=[one.name for one in FOLDERS])
def test_what_is_imported_is_declared(folder):
    assert {path.name: found for path in folder.glob("*.py") if (
        found := undeclared(path.read_text(encoding="utf-8")))} == {}


def test_an_import_that_is_not_declared_is_found():
    text = "def f():\n    from nowhere.at_all import x\n    needed('nothing.there', 1)\n    import torch, os"
    assert undeclared(text) == {"nowhere", "nothing"}


# --- what others promise no name for ---


def read_at_import(tree: ast.AST) -> list[ast.AST]:
    """The parts of a file that run when it is imported: all but the bodies of functions."""
    if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [part for one in (*tree.decorator_list, *tree.args.defaults) for part in read_at_import(one)]
    return [tree, *(part for one in ast.iter_child_nodes(tree) for part in read_at_import(one))]


def private(text: str) -> set[str]:
    """The private names of other packages, and the insides of functions, that a file reads when it is imported."""
    parts = read_at_import(ast.parse(text))
    foreign, found = set(), set()
    for one in parts:
        own = isinstance(one, ast.ImportFrom) and (one.module or "").startswith(("torchkeras", "__future__"))
        if isinstance(one, (ast.Import, ast.ImportFrom)) and not own:
            foreign |= {(alias.asname or alias.name).partition(".")[0] for alias in one.names}
            names = [f"{getattr(one, 'module', '')}.{alias.name}" for alias in one.names]
            found |= {name for name in names if "._" in name}
    for one in parts:
        if isinstance(one, ast.Attribute):
            hidden = one.attr.startswith("_") and one.attr not in ("__file__", "__call__", "__version__", "__mro__")
            if hidden and ast.unparse(one).partition(".")[0] in foreign:
                found.add(ast.unparse(one))
    return found - {"Tensor.__add__", "Tensor.__sub__", "Tensor.__mul__", "Tensor.__truediv__"}


@pytest.mark.parametrize("folder", FOLDERS, ids=[one.name for one in FOLDERS])
def test_importing_reads_nothing_that_another_package_may_change_without_a_word(folder):
    assert {path.name: found for path in folder.glob("*.py") if (
        found := private(path.read_text(encoding="utf-8")))} == {}


def test_a_private_name_that_is_read_at_import_is_found():
    text = ("import torch\nfrom torch import nn\nfrom torch.nn.modules.batchnorm import _BatchNorm\n"
            "A = torch.autograd.Function.apply.__func__.__code__\nclass B:\n    call = nn.Module._call_impl\n"
            "def late():\n    return torch._C\ndef soon(kind=torch._dynamo):\n    pass\n")
    assert private(text) == {"torch.nn.modules.batchnorm._BatchNorm", "torch.autograd.Function.apply.__func__.__code__",
                             "torch.autograd.Function.apply.__func__", "nn.Module._call_impl", "torch._dynamo"}
