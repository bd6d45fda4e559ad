"""A rare ring inside a common one, 1,000 points among 6,000: focal loss for the rare ones, L1 and L2 on the weights."""

import argparse
from pathlib import Path

import torch

from ring_points import make_rings, save_rings
from rings import make_net
from torchkeras import KerasModel
from torchkeras.losses import FocalLoss, L1Loss, L2Loss


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the three losses added up; gives loss, accuracy and AUC on points that the net has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--inner", type=int, default=1000)
    parser.add_argument("--outer", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the picture")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    train, test = make_rings(options.inner, options.outer), make_rings(options.inner, options.outer)

    net = make_net()
    focal = FocalLoss(gamma=2.0, alpha=0.75, from_logits=True)
    model = KerasModel(net, loss_fn=focal + L1Loss(net, beta=1e-5) + L2Loss(net, alpha=1e-4),
                       metrics_dict=["accuracy", "auc", "recall"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=0.01))
    model.fit(train, validation_split=0.2, epochs=options.epochs, batch_size=100, monitor="val_auc",
              ckpt_path=None, patience=None)

    measured = model.evaluate(test)
    print("\non points it has not seen: " + ", ".join(f"{name} {number:.4f}" for name, number in measured.items()))
    options.output.mkdir(parents=True, exist_ok=True)
    save_rings(options.output / "focal_rings.png", *test, {"predicted": net})
    return measured


if __name__ == "__main__":
    main()
