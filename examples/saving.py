"""Save and load: weights, some of them, renamed, several nets in one file, and a whole model."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchkeras import Input, KerasModel, functional, load_checkpoint, load_weights, save_checkpoint


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU())


def compare(name: str, one: Tensor, other: Tensor) -> None:
    print(f"{name}: {'the same' if torch.equal(one, other) else 'NOT the same'}")


def weights_only(folder: Path, x: Tensor) -> None:
    """The usual way: the code makes the net, the file fills it. Plain torch reads the file too."""
    net = nn.Sequential(backbone(), nn.Linear(16, 3))
    KerasModel(net, "cross_entropy").save_ckpt(folder / "net.pt")
    other = nn.Sequential(backbone(), nn.Linear(16, 3))
    other.load_state_dict(torch.load(folder / "net.pt"))
    compare("weights", net(x), other(x))


def in_part_and_renamed(folder: Path) -> None:
    """A warm start: a net with another head, and one whose layers have other names."""
    wider = nn.Sequential(backbone(), nn.Linear(16, 10))
    print(load_weights(wider, folder / "net.pt", strict=False))  # names what was left out
    named = nn.ModuleDict({"body": backbone(), "head": nn.Linear(16, 3)})
    print(load_weights(named, folder / "net.pt", rename={"0.": "body.", "1.": "head."}))


def several(folder: Path) -> None:
    """Two nets, two optimizers and a number of your own loop in one file; reading it runs no code."""
    maker, judge = nn.Linear(4, 8), nn.Linear(8, 1)
    steps = {"maker_step": torch.optim.Adam(maker.parameters()), "judge_step": torch.optim.SGD(judge.parameters(), 0.1)}
    save_checkpoint(folder / "both.safetensors", maker=maker, judge=judge, epoch=7, **steps)
    fresh = nn.Linear(4, 8)
    found = load_checkpoint(folder / "both.safetensors", maker=fresh)  # one of them will do
    compare(f"one of several, of epoch {found['epoch']}", fresh.weight, maker.weight)


def whole_by_drawing(folder: Path, x: Tensor) -> None:
    """A drawn net says its own structure: JSON beside safetensors is a whole model without any code."""
    features = Input((8,))
    hidden = nn.Linear(8, 16)(features).relu()
    net = functional.build(features, nn.Linear(16, 3)(hidden))
    (folder / "drawn.json").write_text(json.dumps(net.get_config()))
    save_file(net.state_dict(), folder / "drawn.safetensors")
    again = functional.FunctionalModel.from_config(json.loads((folder / "drawn.json").read_text()))
    again.load_state_dict(load_file(folder / "drawn.safetensors"))
    compare("a drawn net", net(x), again(x))


def whole_by_torch(folder: Path, x: Tensor) -> None:
    """torch.save(net) keeps the object by pickle. Loading runs code in the file: do it with your own files only.

    The classes must still be where they were. torch refuses such files unless it is told to trust them.
    """
    net = nn.Sequential(backbone(), nn.Linear(16, 3))
    torch.save(net, folder / "whole.pt")
    try:
        torch.load(folder / "whole.pt")
    except Exception as error:
        print(f"{type(error).__name__}: not without weights_only=False")
    again = torch.load(folder / "whole.pt", weights_only=False)
    compare("a pickled net", net(x), again(x))


def main(argv: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the files")
    folder = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x = torch.randn(5, 8)
    weights_only(folder, x)
    in_part_and_renamed(folder)
    several(folder)
    whole_by_drawing(folder, x)
    whole_by_torch(folder, x)
    return sorted(path.name for path in folder.iterdir())


if __name__ == "__main__":
    main()
