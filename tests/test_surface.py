"""What users may call, with arguments and defaults, is written down: it changes only on purpose.

    python -m tests.test_surface        writes tests/golden/surface.txt anew
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, MemberDescriptorType, ModuleType

import pytest
import torch
from torch import nn

import torchkeras
from torchkeras.engine.config import FitConfig
from torchkeras.keras.epochs import FitHistory
from torchkeras.training.loading import LoadReport
from torchkeras.training.verify import ResumeReport

GOLDEN = Path(__file__).parent / "golden" / "surface.txt"
COMMAND = "python -m tests.test_surface"
LIGHTNING = "torchkeras.LightModel"  # pytorch-lightning is optional
MODULES = {  # what is imported from where; None: what its __all__ lists
    "torchkeras": (*torchkeras.__all__, "colorful", "delete_object"),
    "torchkeras.kerasmodel": ("EpochRunner", "KerasModel", "StepRunner"),
    "torchkeras.kerascallbacks": None,
    "torchkeras.model": ("Model",),
    "torchkeras.train": ("train_model",),
    "torchkeras.data": None,
    "torchkeras.data.text": ("PADDING", "UNKNOWN", "Vocabulary", "clean_text", "pad",
                             "text_dataset"),
    "torchkeras.display.plot": ("save_curves",),
    "torchkeras.functional": None,
    "torchkeras.keras.callbacks": None,
    "torchkeras.keras.optimizers": None,
    "torchkeras.losses": None,
    "torchkeras.metrics": None,
    "torchkeras.saving": ("load_checkpoint", "load_weights", "save_checkpoint"),
    "torchkeras.summary": None,
    "torchkeras.utils": ("colorful", "delete_object", "printlog", "seed_everything"),
    "torchkeras.vlog": ("VLog",),
}
RECORDS = (FitConfig, FitHistory, LoadReport, ResumeReport)  # taken and given back, not imported
CALLED = ("__call__", "__contains__", "__enter__", "__exit__", "__getitem__", "__iter__", "__len__")
# a signature must not evaluate annotations, which may name what only type checkers import
UNEVALUATED = {"annotation_format": importlib.import_module("annotationlib").Format.STRING} if (
    sys.version_info >= (3, 14)) else {}


class Shown:
    """A default as it is written, the same on every machine."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        """Return the value where it has one way to be written, else its name if users know it."""
        value = self.value
        if isinstance(value, dict):
            return "{" + ", ".join(f"{Shown(a)!r}: {Shown(b)!r}" for a, b in value.items()) + "}"
        if isinstance(value, (set, frozenset)):
            return "{" + ", ".join(sorted(repr(Shown(one)) for one in value)) + "}"
        if type(value) in (tuple, list):
            return "(" + ", ".join(repr(Shown(one)) for one in value) + ")"
        if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
            return repr(value)
        name = getattr(value, "__qualname__", type(value).__qualname__)
        module = getattr(value, "__module__", type(value).__module__)
        private = own(module) and name not in torchkeras.__all__
        return "<own>" if private or name == "_HAS_DEFAULT_FACTORY_CLASS" else f"<{name}>"


def signature(function: object, bound: bool = False) -> str:
    """Return the names, kinds and defaults of a function's parameters, without their types."""
    found = inspect.signature(function, **UNEVALUATED)
    parameters = [one.replace(annotation=one.empty, default=one.empty if one.default is one.empty
                              else Shown(one.default)) for one in found.parameters.values()]
    return str(inspect.Signature(parameters[bound:]))


def own(name: str | None) -> bool:
    """Whether a module is this package's."""
    return (name or "").partition(".")[0] == "torchkeras"


def members(kind: type) -> dict[str, object]:
    """Return what a class has of this package, inherited or not."""
    found: dict[str, object] = {}
    for one in reversed(kind.__mro__):
        if own(one.__module__):
            found |= vars(one)
    return found


def member(name: str, value: object) -> str | None:
    """Return a method, a property or an attribute as a line; None for what is listed as a field."""
    if isinstance(value, (classmethod, staticmethod)):
        kind = type(value).__name__
        return f"{name}{signature(value.__func__, kind == 'classmethod')}  [{kind}]"
    if isinstance(value, FunctionType):
        return name + signature(value, True)
    if isinstance(value, (property, functools.cached_property)):
        settable = isinstance(value, functools.cached_property) or value.fset is not None
        return f"{name}  [property{', settable' if settable else ''}]"
    if isinstance(value, MemberDescriptorType) or type(value).__name__ == "_tuplegetter":
        return None
    return f"{name} = {Shown(value)!r}"


def fields(kind: type) -> Iterator[str]:
    """List the fields of a dataclass or a named tuple."""
    for one in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        given = one.default if one.default_factory is dataclasses.MISSING else one.default_factory
        yield f"{one.name}{'' if given is dataclasses.MISSING else f' = {Shown(given)!r}'}  [field]"
    for name in getattr(kind, "_fields", ()):
        yield f"{name}  [field]"


def made(kind: type) -> str:
    """Return the arguments that make an instance, or whose they are where they are another's."""
    maker = next(one for one in kind.__mro__ if "__init__" in vars(one) or "__new__" in vars(one))
    return signature(kind) if own(maker.__module__) else f"(...)  [as {maker.__qualname__}]"


def of_class(kind: type, seen: dict[object, str]) -> Iterator[str]:
    """List a class: how it is made, its fields, then its members by name, but for inherited ones.

    What it has from a class that is listed already is pointed at, by the name of that class.
    """
    yield made(kind)
    base = next((one for one in kind.__mro__[1:] if one in seen), None)
    if base is not None:
        yield f"  [with all of {seen[base]}]"
    inherited = {} if base is None else members(base)
    listed = list(fields(kind))
    yield from (f".{one}" for one in listed)
    names = {one.partition(" ")[0] for one in listed}
    for name, value in sorted(members(kind).items()):
        if name in names or (name.startswith("_") and name not in CALLED):
            continue
        if name in inherited and inherited[name] is value:
            continue
        if line := member(name, value):
            yield f".{line}"


def of_value(name: str, value: object, seen: dict[object, str]) -> Iterator[str]:
    """List a public name; what another name has already shown is only pointed at."""
    if isinstance(value, ModuleType):
        yield f"{name}  [module]"
        for one in sorted(one for one in vars(value) if value.__name__ not in MODULES
                          and not one.startswith("_") and defined_in(value, one)):
            yield from of_value(f"{name}.{one}", getattr(value, one), seen)
    elif not isinstance(value, (type, FunctionType)):
        version = name.endswith("__version__")
        yield f"{name}  [attribute]" if version else f"{name} = {Shown(value)!r}"
    elif value in seen:
        yield f"{name} is {seen[value]}"
    else:
        seen[value] = name
        lines = of_class(value, seen) if isinstance(value, type) else [signature(value)]
        yield from (name + line for line in lines)


def defined_in(module: ModuleType, name: str) -> bool:
    """Whether a module defines a class or a function itself."""
    return getattr(vars(module)[name], "__module__", None) == module.__name__ and isinstance(
        vars(module)[name], (type, FunctionType))


def attributes(kind: type[nn.Module]) -> list[str]:
    """Return what an instance has that another module has not."""
    instance = kind(nn.Linear(1, 1))
    names = {*vars(instance), *dict(instance.named_children())} - set(vars(nn.Module()))
    return sorted(name for name in names if not name.startswith("_"))


def surface() -> list[str]:
    """List everything, a line each."""
    seen: dict[object, str] = {}
    lines = []
    for path, names in MODULES.items():
        module = importlib.import_module(path)
        listed = sorted(module.__all__ if names is None else names)
        # a class comes after those that it inherits from
        for name in sorted(listed, key=lambda one: len(getattr(getattr(module, one), "__mro__", ()))):
            lines += of_value(f"{path}.{name}", getattr(module, name), seen)
    for kind in (torchkeras.KerasModel, torchkeras.Model):
        lines += [f"torchkeras.{kind.__name__}.{name}  [attribute]" for name in attributes(kind)]
    for kind in RECORDS:
        lines += of_value(kind.__name__, kind, seen)
    if find_spec("pytorch_lightning"):
        lines += of_value(LIGHTNING, torchkeras.LightModel, seen)
    return lines


def golden() -> list[str]:
    """Return the lines of the file, without those for which a package is missing here."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [one for one in lines if find_spec("pytorch_lightning") or not one.startswith(LIGHTNING)]


def difference(expected: list[str], found: list[str]) -> str:
    """Return the lines that are gone (-) and new (+), and what to do; nothing where both agree."""
    lines = [one for one in difflib.unified_diff(expected, found, n=0, lineterm="")
             if not one.startswith(("---", "+++", "@@"))]
    advice = f"If it is meant: {COMMAND}, and a line in CHANGELOG.md; the old way goes on working."
    return "\n".join(["What users call has changed:", *lines, advice]) if lines else ""


def test_what_users_may_call_is_what_it_was():
    assert (found := difference(golden(), surface())) == "", found


def changed(monkeypatch, function) -> str:
    monkeypatch.setattr(torchkeras.KerasModel, "evaluate", function)
    return difference(golden(), surface())


EVALUATE = torchkeras.KerasModel.evaluate


def as_it_is(change):
    """A function with the signature of evaluate, but for what ``change`` does to its parameters."""
    def evaluate(*_, **__):
        raise NotImplementedError
    parameters = list(inspect.signature(EVALUATE).parameters.values())
    evaluate.__signature__ = inspect.Signature(change(parameters))
    return evaluate


WRONG = {
    "a default": lambda old: [*old[:-2], old[-2].replace(default=17), old[-1]],
    "a name": lambda old: [*old[:-2], old[-2].replace(name="other"), old[-1]],
    "a kind": lambda old: [*old[:2], old[2].replace(kind=old[1].kind), *old[3:]],
    "one less": lambda old: old[:-1],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_control_a_changed_signature_is_found_and_the_message_says_what_to_do(monkeypatch, change):
    found = changed(monkeypatch, as_it_is(change))
    lines = found.splitlines()
    name = "torchkeras.KerasModel.evaluate"
    assert [one.partition("(")[0] for one in lines[1:-1]] == [f"-{name}", f"+{name}"]
    assert COMMAND in lines[-1]


def test_types_may_become_stricter(monkeypatch):
    stricter = as_it_is(lambda old: [one.replace(annotation=int) for one in old])
    assert changed(monkeypatch, stricter) == ""


def test_control_a_method_that_is_gone_or_new_is_found(monkeypatch):
    monkeypatch.setattr(torchkeras.Callback, "on_lunch", lambda self, model: None, raising=False)
    monkeypatch.delattr(torchkeras.KerasModel, "predict")
    found = difference(golden(), surface()).splitlines()[1:-1]
    assert "+torchkeras.Callback.on_lunch(model)" in found
    assert any(one.startswith("-torchkeras.KerasModel.predict(") for one in found)


def test_what_is_inherited_is_listed_once_and_what_is_overridden_is_listed_again():
    class Base:
        def same(self, one):
            raise NotImplementedError

        def other(self, one):
            raise NotImplementedError

    class Derived(Base):
        def other(self, one, two):
            raise NotImplementedError

    for kind in (Base, Derived):
        kind.__module__ = "torchkeras.example"
    assert list(of_class(Derived, {Base: "Base"}))[1:] == ["  [with all of Base]", ".other(one, two)"]
    assert list(of_class(Derived, {}))[1:] == [".other(one, two)", ".same(one)"]


def test_what_is_written_holds_no_address_and_no_path():
    text = GOLDEN.read_text(encoding="utf-8")
    assert "0x" not in text
    assert str(Path.home()) not in text


if __name__ == "__main__":
    if not find_spec("pytorch_lightning"):
        raise SystemExit("pip install pytorch-lightning first: LightModel is part of the surface.")
    GOLDEN.write_text("\n".join(surface()) + "\n", encoding="utf-8")
