"""The Python blocks of the READMEs run from top to bottom, and both READMEs hold the same code."""

import ast
import io
import re
import tokenize
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import torchkeras

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
WORDS = (tokenize.COMMENT, tokenize.STRING, tokenize.NL)  # what a translation may change


def blocks(text: str) -> list[tuple[int, str]]:
    """Python blocks with the line on which each begins."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


def run(text: str, name: str = "text") -> dict[str, Any]:
    """Run all blocks in one namespace; an error points to the line in the text."""
    namespace: dict[str, Any] = {"__name__": name}
    for line, block in blocks(text):
        exec(compile("\n" * line + block, name, "exec"), namespace)
    return namespace


def code(text: str) -> list[list[str]]:
    """The blocks as tokens, without comments and strings."""
    return [[token.string for token in tokenize.generate_tokens(io.StringIO(block).readline)
             if token.type not in WORDS] for _, block in blocks(text)]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_block_runs_after_those_above_it(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run(readme.read_text(encoding="utf-8"), readme.name)
    assert list(namespace["history"].columns)[0] == "epoch"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "circle.pt", "circle", "circle.state",
                                                          "circle.html"}


def test_both_readmes_hold_the_same_code():
    english, chinese = (path.read_text(encoding="utf-8") for path in READMES)
    assert code(english) == code(chinese)
    assert len(code(english)) >= 8
    assert code(english) != code(chinese.replace("epochs=2", "epochs=3", 1))  # the control


def test_both_readmes_have_the_same_headings_lists_and_tables():
    def outline(path: Path) -> list[str]:
        prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        return re.findall(r"^(#+ |- |\|)", prose, flags=re.MULTILINE)

    english, chinese = map(outline, READMES)
    assert english == chinese
    assert english.count("## ") >= 10


def test_a_block_with_an_error_fails_and_points_to_its_line():
    with pytest.raises(ZeroDivisionError) as error:
        run("# Title\n\n```python\none = 1\n```\nand\n```python\none / 0\n```\n", "broken.md")
    last = error.traceback[-1]
    assert (str(last.path).endswith("broken.md"), last.lineno + 1) == (True, 8)
    assert run("```python\none = 1\n```\n\n```python\ntwo = one + 1\n```\n")["two"] == 2


@pytest.mark.parametrize("readme", [*READMES, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_files_that_a_page_links_to_exist(readme):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", readme.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def unknown_names(text: str) -> set[str]:
    """Return what the classes in a text's blocks ask of themselves, and their base class has not."""
    unknown = set()
    for _, block in blocks(text):
        for node in ast.walk(ast.parse(block)):
            base = node.bases[0] if isinstance(node, ast.ClassDef) and node.bases else None
            kind = getattr(torchkeras, base.id, None) if isinstance(base, ast.Name) else None
            if kind is not None:
                known = set(dir(kind)) | {name for one in kind.__mro__ for name in getattr(one, "__annotations__", ())}
                known |= INSTANCE.get(base.id, set())
                known |= {one.attr for one in selves(node) if isinstance(one.ctx, ast.Store)}
                known |= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                unknown |= {f"{base.id}.{one.attr}" for one in selves(node) if one.attr not in known}
    return unknown


INSTANCE = {"StepRunner": set(vars(torchkeras.StepRunner(nn.Identity(), None, SimpleNamespace(mixed_precision="no"))))}


def selves(node: ast.AST) -> list[ast.Attribute]:
    """Return the attributes of ``self`` in a class."""
    return [one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name)
            and one.value.id == "self"]


@pytest.mark.parametrize("page", [*DOCS, *READMES], ids=lambda path: path.name)
def test_what_a_class_on_a_page_asks_of_its_base_is_there(page):
    assert unknown_names(page.read_text(encoding="utf-8")) == set()


def test_control_a_method_that_is_gone_is_found():
    text = "```python\nclass A(StepRunner):\n    def f(self):\n        self.mine = self.net\n        self.try_out(self.mine)\n```\n"
    assert unknown_names(text) == {"StepRunner.try_out"}
