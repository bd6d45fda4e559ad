"""Which of two rings does a point belong to? One net on three levels: gradients alone, layers, and fit (two faces)."""

import argparse
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ring_points import Scores, make_rings, save_rings
from torchkeras import Model
from torchkeras.data import data_iter


def make_net() -> nn.Sequential:
    """Two hidden layers and one logit."""
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))


def low_level(x: Tensor, y: Tensor, epochs: int) -> Scores:
    """Weights of one's own; what the layers, the loss and the optimizer do is written out."""
    sizes = (2, 16, 16, 1)
    weights = [torch.randn(size, after) * (2 / size) ** 0.5 for size, after in pairwise(sizes)]
    parameters = [one.requires_grad_() for w in weights for one in (w, torch.zeros(w.shape[1]))]

    def logits(points: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = parameters
        return ((points @ w1 + b1).relu() @ w2 + b2).relu() @ w3 + b3

    for _ in range(epochs):
        for points, labels in data_iter(x, y, batch_size=50):
            yes = logits(points).sigmoid().clamp(1e-7, 1 - 1e-7)
            loss = -(labels * yes.log() + (1 - labels) * (1 - yes).log()).mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data -= 0.1 * gradient
    return logits


def middle_level(x: Tensor, y: Tensor, epochs: int) -> Scores:
    """Layers, a loss and an optimizer of torch's; the loop is still one's own."""
    net, loss_fn = make_net(), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for points, labels in data_iter(x, y, batch_size=50):
            loss_fn(net(points), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def high_level(x: Tensor, y: Tensor, epochs: int) -> Scores:
    """The same in Keras's words: compile and fit, which also measures and shows how it goes."""
    model = Model(make_net())
    model.compile(optimizer=torch.optim.Adam(model.net.parameters(), lr=0.01), loss=nn.BCEWithLogitsLoss(),
                  metrics=["accuracy", "AUC"])
    model.fit(x, y, validation_split=0.2, batch_size=50, epochs=epochs)
    return model.net


def lightning_level(x: Tensor, y: Tensor, epochs: int) -> Scores:
    """The same by the Trainer of Lightning."""
    from torchkeras import LightModel

    net = make_net()
    model = LightModel(net, "bce_with_logits", ["accuracy", "auc"], torch.optim.Adam(net.parameters(), lr=0.01))
    trainer = LightModel.Trainer(gpus=0, max_epochs=epochs, logger=False, enable_checkpointing=False,
                                 enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True))
    return net


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train on each level; gives the accuracy of each on points that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the picture")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    (x, y), (new_x, new_y) = make_rings(), make_rings()
    levels = {"low level": low_level, "middle level": middle_level, "high level": high_level}
    if find_spec("pytorch_lightning"):
        levels["lightning"] = lightning_level
    nets = {name: level(x, y, options.epochs) for name, level in levels.items()}
    accuracy = {name: ((net(new_x) > 0) == (new_y > 0)).float().mean().item() for name, net in nets.items()}
    print("\n" + "\n".join(f"{name:14}{share:.1%} of {len(new_y):,} new points" for name, share in accuracy.items()))
    options.output.mkdir(parents=True, exist_ok=True)
    save_rings(options.output / "rings.png", new_x, new_y, nets)
    return accuracy


if __name__ == "__main__":
    main()
