"""A path that begins with ~ is in the home folder, wherever a path is given."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import torchkeras
from torchkeras import (
    KerasModel,
    Model,
    load_checkpoint,
    load_weights,
    plot_history,
    save_checkpoint,
    train_model,
)
from torchkeras.data import ImageFolder, cache
from torchkeras.display.plot import save_curves
from torchkeras.display.report import ReportWriter, write_report
from torchkeras.functional import Input, build
from torchkeras.functional.picture import to_svg
from torchkeras.kerascallbacks import (
    CSVLogger,
    EpochCheckpoint,
    JSONLLogger,
    TensorBoardCallback,
    VisMetric,
)

X = torch.zeros(8, 2)
HISTORY = {"epoch": [1, 2], "train_loss": [2.0, 1.0]}


def fit(*callbacks, **options):
    model = KerasModel(nn.Linear(2, 2), "mse")
    model.fit((X, X), (X, X), epochs=1, callbacks=callbacks, **{"quiet": True, "ckpt_path": None, **options})
    return model


def there_and_back(write, read):
    def both(path):
        write(path)
        read(path)

    return both


def images(path):
    folder = Path(path).expanduser() / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "1.png")
    assert len(ImageFolder(path)) == 1


def twice(path):
    for _ in range(2):
        cache(TensorDataset(X), path)


def resumed(path):
    fit(ckpt_path=path, resume=True)
    assert Path(f"{path}.state").expanduser().is_dir()
    assert fit(ckpt_path=path, resume=True).run.global_step == 1  # the step of the first fit


WAYS = {
    "fit(ckpt_path=)": ("best.pt", lambda path: fit(ckpt_path=path)),
    "fit(resume=True)": ("best.pt", resumed),
    "train_model": ("best.pt", lambda path: train_model(
        nn.Linear(2, 2), None, "mse", None, (X, X), (X, X), 1, path, quiet=True)),
    "fit(report=)": ("a.html", lambda path: fit(report=path)),
    "save_ckpt, load_ckpt": ("a.pt", there_and_back(*(lambda path, name=name: getattr(
        KerasModel(nn.Linear(2, 2), "mse"), name)(path) for name in ("save_ckpt", "load_ckpt")))),
    "Model.save, load": ("a.pt", there_and_back(*(lambda path, name=name: getattr(
        Model(nn.Linear(2, 2)), name)(path) for name in ("save", "load")))),
    "load_weights": ("a.safetensors", there_and_back(
        lambda path: KerasModel(nn.Linear(2, 2), "mse").save_ckpt(path),
        lambda path: load_weights(nn.Linear(2, 2), path))),
    "save_checkpoint": ("a.safetensors", there_and_back(
        lambda path: save_checkpoint(path, epoch=3), lambda path: load_checkpoint(path))),
    "CSVLogger": ("a.csv", lambda path: fit(CSVLogger(path))),
    "JSONLLogger": ("a.jsonl", lambda path: fit(JSONLLogger(path))),
    "EpochCheckpoint": ("weights", lambda path: fit(EpochCheckpoint(path))),
    "TensorBoardCallback": ("runs", lambda path: fit(TensorBoardCallback(path))),
    "VisMetric": ("a.png", lambda path: fit(VisMetric(save_path=path))),
    "ReportWriter": ("a.html", lambda path: fit(ReportWriter(path))),
    "write_report": ("a.html", lambda path: write_report(fit(), path)),
    "model.report": ("a.html", lambda path: fit().report(path)),
    "plot_history": ("a.png", lambda path: plot_history(HISTORY, path)),
    "save_curves": ("a.png", lambda path: save_curves(HISTORY, path)),
    "to_svg": ("a.svg", lambda path: to_svg(build(one := Input((3,)), one.relu()), path)),
    "cache": ("samples", twice), "ImageFolder": ("images", images),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_that_begins_with_a_tilde_is_in_the_home_folder(name, kind, monkeypatch, tmp_path):
    if name.startswith("TensorBoard") and find_spec("tensorboard") is None:
        pytest.skip("needs tensorboard")
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    file, use = WAYS[name]
    use(kind(f"~/{file}"))
    assert (home / file).exists()
    assert list(here.iterdir()) == []


def test_what_takes_a_path_is_known_here():
    """Public names whose arguments say that they take a path; a new one is to be tried above."""
    import inspect

    from torchkeras import kerascallbacks

    found = set()
    for module in (torchkeras, torchkeras.data, kerascallbacks):
        for name in module.__all__:
            one = getattr(module, name)
            parts = {name: one} | ({f"{name}.{key}": value for key, value in vars(one).items() if key[0] != "_"
                                    and inspect.isfunction(value)} if inspect.isclass(one) else {})
            for part, value in parts.items():
                if callable(value) and not inspect.ismodule(value):
                    try:
                        asked = inspect.signature(value).parameters.values()
                    except ValueError:
                        continue
                    found |= {part for parameter in asked if any(
                        word in str(parameter.annotation) for word in ("PathLike", "FilePath"))}
    assert found == {
        "CSVLogger", "EpochCheckpoint", "ImageFolder", "JSONLLogger", "KerasModel.fit",
        "KerasModel.load_ckpt", "KerasModel.report", "KerasModel.save_ckpt", "ReportWriter", "TensorBoardCallback",
        "VisMetric", "cache", "load_checkpoint", "load_weights", "plot_history", "save_checkpoint", "train_model"}
