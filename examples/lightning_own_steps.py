"""LightModel as a subclass: steps, optimizer and schedule of one's own, with Lightning's tools around them."""

import argparse

import pandas as pd
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ring_points import make_rings
from torchkeras import LightModel


class Rings(LightModel):
    """Mixes points while training, and measures with points as they are."""

    def __init__(self, width: int = 16, rate: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                    nn.Linear(width, 1))
        self.rate = rate
        self.save_hyperparameters()

    def forward(self, points):
        """Return logits."""
        return self.layers(points)

    def shared_step(self, batch):
        """Used by training_step, validation_step and test_step: the loss, and what else is to be averaged."""
        points, labels = batch
        logits = self(points)
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels),
                "acc": ((logits > 0) == (labels > 0.5)).float().mean()}

    def training_step(self, batch, batch_idx):
        """Blend each point, and its label, with another."""
        points, labels = batch
        other, share = torch.randperm(len(points)), torch.rand(len(points), 1) * 0.2
        mixed = [(1 - share) * one + share * one[other] for one in (points, labels)]
        return super().training_step(mixed, batch_idx)  # counts its numbers into the row of the epoch

    def predict_step(self, batch, batch_idx):
        """Return probabilities."""
        return self(batch[0]).sigmoid()

    def configure_optimizers(self):
        """Halve the rate every five epochs."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.5)]


def main(argv: list[str] | None = None) -> tuple[pd.DataFrame, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", default="outputs", help="folder for the best weights")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    train, val, test = (DataLoader(TensorDataset(*make_rings()), 50, shuffle=number == 0) for number in range(3))

    best = ModelCheckpoint(options.output, "rings-{epoch}", monitor="val_acc", mode="max")
    trainer = LightModel.Trainer(gpus=0, max_epochs=options.epochs, logger=False, enable_progress_bar=False,
                                 callbacks=[best, EarlyStopping("val_loss", patience=5)], enable_model_summary=False)
    model = Rings()
    trainer.fit(model, train, val)
    loaded = Rings.load_from_checkpoint(best.best_model_path)  # its layers are made by __init__
    [measured] = trainer.test(loaded, test, verbose=False)
    print(f"best: {best.best_model_path}, {measured['test_acc']:.1%} of new points")
    return model.get_history(), measured["test_acc"]


if __name__ == "__main__":
    main()
