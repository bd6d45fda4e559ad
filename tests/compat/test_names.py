"""Names that older notebooks import: where they are, or what became of them."""

import importlib
import subprocess
import sys

import pytest

import torchkeras
from torchkeras.gone import GONE


def test_older_names_lead_to_the_same_functions():
    from torchkeras.plots import plot_metric
    from torchkeras.utils import colorful, delete_object, is_jupyter, printlog, seed_everything

    assert plot_metric is torchkeras.plot_metric
    assert torchkeras.plots.plot_metric is plot_metric
    assert is_jupyter() is False
    assert (printlog, seed_everything) == (torchkeras.printlog, torchkeras.seed_everything)
    assert (colorful, delete_object) == (torchkeras.colorful, torchkeras.delete_object)


@pytest.mark.parametrize("name", GONE)
def test_a_module_that_is_gone_says_what_became_of_it(name):
    told = rf"torchkeras\.{name} was part of an earlier version.*From torchkeras 3 and 4.*docs/from-torchkeras-3-and-4.md"
    for use in (lambda: importlib.import_module(f"torchkeras.{name}"), lambda: getattr(torchkeras, name),
                lambda: exec(f"from torchkeras import {name}"), lambda: exec(f"import torchkeras.{name}"),
                lambda: exec(f"from torchkeras.{name}.models import anything")):
        with pytest.raises(ModuleNotFoundError, match=told) as error:
            use()
        assert error.value.name == f"torchkeras.{name}"


def test_control_a_name_that_never_was_is_missing_as_always():
    with pytest.raises(AttributeError, match="has no attribute 'tabula'"):
        torchkeras.tabula  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="^No module named 'torchkeras.tabula'$"):
        importlib.import_module("torchkeras.tabula")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'tabular'$"):
        importlib.import_module("tabular")
    assert importlib.util.find_spec("torchkeras.kerasmodel") is not None


def test_import_stays_light_and_watches_once():
    code = """
import sys
before = set(sys.modules)
import torchkeras
loaded = {one for one in sys.modules if one.startswith("torchkeras.")}
print(sorted(loaded & {"torchkeras.plots", "torchkeras.tools", "torchkeras.vlog"}))
import importlib
importlib.reload(torchkeras)
print(sum(getattr(one, "__name__", "") == "GoneFinder" for one in sys.meta_path))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "1"]
