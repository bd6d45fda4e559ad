"""What fit_ddp's processes import: nothing from where the caller itself would not take it."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from torchkeras.distributed import launcher

JOB = textwrap.dedent("""
    import os, sys, torch
    from torchkeras.distributed import launcher
    from torchkeras.core.rng import random_states

    def work():
        import importlib, json, sys
        import beside  # what the caller finds, its processes find
        evil = [name for name, one in sys.modules.items() if "downloads" in (getattr(one, "__file__", None) or "")]
        return {"evil": evil, "beside": beside.__file__}

    def run():
        parts = {"work": work, "arguments": {}, "dtype": torch.float32, "random": random_states()}
        try:
            found = launcher.run(1, parts)
            print("TOLD", len(found["evil"]), found["evil"], os.path.exists(os.environ["MARK"]))
        except Exception as error:
            print("TOLD", type(error).__name__, error)
""")
EVIL = "import os; open(os.environ['MARK'], 'a').close()\n"
NAMES = ("random", "numbers", "torch", "torchkeras", "sitecustomize", "usercustomize", "accelerate", "cloudpickle",
         "json", "site", "encodings")


@pytest.fixture
def folders(tmp_path):
    """A folder of downloads with modules of well-known names, which is the current one, and the user's scripts."""
    for name in ("downloads", "scripts", "library"):
        (tmp_path / name).mkdir()
    for name in NAMES:
        (tmp_path / "downloads" / f"{name}.py").write_text(EVIL)
    (tmp_path / "library" / "beside.py").write_text("")
    (tmp_path / "scripts" / "job.py").write_text(JOB)
    return tmp_path


def told(folders, command, script, where="downloads", path=()):
    """What a caller says that is started somewhere."""
    (folders / "scripts" / "main.py").write_text(script)
    paths = [str(folders / "library"), str(launcher.__file__).rpartition("/torchkeras/")[0], *path]
    done = subprocess.run([sys.executable, *command], cwd=folders / where, capture_output=True, text=True, env={
        **os.environ, "MARK": str(folders / "mark"), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"})
    found = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert found, done.stderr[-2000:]
    return found


def test_a_script_in_another_folder_takes_nothing_from_the_current_one(folders):
    script = "import job; job.run()"
    assert told(folders, ["../scripts/main.py"], script) == ["TOLD 0 [] False"]


def test_a_notebook_whose_folder_comes_first_goes_on_with_the_modules_of_python_that_it_has(folders):
    for name in ("cloudpickle", "accelerate"):  # these it would take itself
        (folders / "downloads" / f"{name}.py").unlink()
    script = "import sys, job; sys.path.insert(0, ''); job.run()"
    assert told(folders, ["../scripts/main.py"], script) == ["TOLD 0 [] False"]


def test_a_module_a_relative_python_path_and_a_change_of_folder_take_nothing_from_the_new_one(folders):
    # the caller looks into its folder of scripts; "." and "" meant that one, and not the one that it went to
    script = "import os, job; os.chdir('../downloads'); job.run()"
    found = told(folders, ["-m", "main"], script, where="scripts", path=(".", ""))
    assert found == ["TOLD 0 [] False"]


def test_a_caller_that_does_not_look_at_pythonpath_starts_processes_that_do_not(folders):
    paths = [str(folders / "library"), str(launcher.__file__).rpartition("/torchkeras/")[0]]
    script = f"import sys; sys.path[:0] = {paths}; import job; job.run()"
    found = told(folders, ["-E", "../scripts/main.py"], script, path=[str(folders / "downloads")])
    assert found == ["TOLD 0 [] False"]


@pytest.mark.parametrize(("asked", "known", "expected"), [
    ("/a:/b", ["/a", "/b"], "/a:/b"), ("/a:/gone", ["/a"], "/a"), ("src", ["/here/src"], "/here/src"),
    ("src", ["/there/src"], ""), ("", ["/here"], "/here"), ("", ["", "/else"], "")])
@pytest.mark.skipif(os.sep != "/", reason="the paths are POSIX's")
def test_a_relative_path_counts_from_where_the_caller_began(asked, known, expected, monkeypatch):
    monkeypatch.setattr(launcher.os.path, "abspath", lambda path: os.path.normpath(os.path.join("/here", path)))
    monkeypatch.setattr(sys, "path", known)
    assert launcher.python_path(asked) == expected


@pytest.mark.parametrize(("option", "name"), [("-E", "ignore_environment"), ("-s", "no_user_site"), ("-S", "no_site")])
def test_options_that_keep_a_caller_from_looking_keep_its_processes(option, name, monkeypatch):
    none = {"ignore_environment": 0, "no_user_site": 0, "no_site": 0}
    monkeypatch.setattr(launcher, "sys", SimpleNamespace(flags=SimpleNamespace(**none)))
    assert launcher.flags() == ["-P"]
    monkeypatch.setattr(launcher, "sys", SimpleNamespace(flags=SimpleNamespace(**none | {name: 1})))
    assert launcher.flags() == ["-P", option]
