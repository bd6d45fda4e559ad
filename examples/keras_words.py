"""Tumours told apart in Keras's words: a subclass, a loop of single batches with a falling rate, and fit with callbacks."""

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Model
from torchkeras.keras.callbacks import EarlyStopping, ReduceLROnPlateau


class Tumour(Model):
    """Thirty measurements of cells in, the probability of a benign tumour out."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(30, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the probability of each sample."""
        return self.out(self.hidden(x).relu()).sigmoid()


def load_data(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Read the 569 samples that scikit-learn carries, in one order: 400 to train, the rest to test."""
    found = load_breast_cancer()
    x = torch.tensor(found.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor(found.target, dtype=torch.float32)[:, None]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x[order[:400]], y[order[:400]]), TensorDataset(x[order[400:]], y[order[400:]])


def own_loop(model: Model, train: TensorDataset, test: TensorDataset, epochs: int) -> dict[str, float]:
    """Train batch by batch; the rate is halved once in the middle."""
    for epoch in range(1, epochs + 1):
        model.reset_metrics()
        if epoch == epochs // 2 + 1:
            model.optimizer.learning_rate = model.optimizer.learning_rate / 2
            print(f"epoch {epoch}: learning rate {model.optimizer.learning_rate}")
        for x, y in DataLoader(train, batch_size=20, shuffle=True):
            trained = model.train_on_batch(x, y, reset_metrics=False, return_dict=True)
        for x, y in DataLoader(test, batch_size=20):
            tested = model.test_on_batch(x, y, reset_metrics=False, return_dict=True)
        print(f"epoch {epoch}:", ", ".join(f"{name} {value:.3f}" for name, value in trained.items()))
    return tested


def with_callbacks(model: Model, train: TensorDataset, test: TensorDataset, epochs: int) -> dict[str, float]:
    """Train with fit, where an error on a malignant tumour counts twice."""
    history = model.fit(train, validation_data=test, batch_size=20, epochs=epochs, class_weight={0: 2.0, 1: 1.0},
                        verbose=2, callbacks=[ReduceLROnPlateau("val_loss", factor=0.5, patience=2),
                                              EarlyStopping("val_loss", patience=5, restore_best_weights=True)])
    print(f"ended after {len(history.epoch)} epochs, learning rate {model.learning_rate}")
    return model.evaluate(test, return_dict=True)


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train both ways; gives loss, accuracy and AUC of each on samples that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    train, test = load_data(options.seed)
    measured = {}
    for name, way in (("own loop", own_loop), ("fit", with_callbacks)):
        torch.manual_seed(options.seed)
        model = Tumour()
        model.compile(optimizer="nadam", loss="binary_crossentropy", metrics=["accuracy", "AUC"])
        measured[name] = way(model, train, test, options.epochs)
    return measured


if __name__ == "__main__":
    print(main())
