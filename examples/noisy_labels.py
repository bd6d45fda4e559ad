"""Digits of which two labels in five are wrong: symmetric cross entropy, and weights that decay by groups."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from torchkeras import KerasModel
from torchkeras.losses import SCELoss, decay_groups


def load_data(noise: float) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Read the 1,797 digits of 8 x 8 pixels that scikit-learn carries; spoil a share of the training labels."""
    found = load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    train, test = (x[:1200], y[:1200].clone()), (x[1200:], y[1200:])
    wrong = torch.rand(len(train[1])) < noise
    train[1][wrong] = (train[1][wrong] + torch.randint(1, 10, (int(wrong.sum()),))) % 10
    return train, test


def make_net() -> nn.Module:
    """Return a net that is large enough to learn wrong labels by heart."""
    return nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))


def optimizer_for(net: nn.Module, decay: float) -> torch.optim.Optimizer:
    """Return AdamW in which the weights of layers decay, but biases and the norm layer do not."""
    decayed, spared = decay_groups(net, weight_decay=decay, no_decay=("biases", "norms"))
    print(f"{len(decayed['params'])} tensors decay by {decay}, {len(spared['params'])} do not")
    return torch.optim.AdamW([decayed, spared], lr=1e-3)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train three times; gives the accuracy of each on clean labels that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong labels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    train, test = load_data(options.noise)
    accuracy = {}
    for name, loss_fn, decay in (("cross entropy", nn.CrossEntropyLoss(), 0.0),
                                 ("symmetric", SCELoss(num_classes=10, a=0.1, b=1.0), 0.0),
                                 ("symmetric, with decay", SCELoss(num_classes=10, a=0.1, b=1.0), 0.5)):
        torch.manual_seed(options.seed)
        net = make_net()
        model = KerasModel(net, loss_fn=loss_fn, metrics_dict=["accuracy"], optimizer=optimizer_for(net, decay))
        model.fit(train, epochs=options.epochs, batch_size=60, ckpt_path=None, patience=None, restore_best=False,
                  quiet=True)
        accuracy[name] = model.evaluate(test)["val_accuracy"]
        print(f"{name}: {accuracy[name]:.3f} right on clean labels")
    return accuracy


if __name__ == "__main__":
    main()
