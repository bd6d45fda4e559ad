"""Learn the same digits in three styles: a script, a function, a class (twice: KerasModel, LightModel). One result."""

import argparse
import copy
import time
from importlib.util import find_spec

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from digits import Digits, load_digits
from mnist_cnn import make_net, scaled
from torchkeras import KerasModel, train_model

ACCURACY = {"acc": "accuracy"}


def script(net, optimizer, loss_fn, train, val, epochs):
    """All by hand: train, measure, keep the best weights."""
    best_loss, best_weights = float("inf"), {}
    for _ in range(epochs):
        net.train()
        for images, labels in train:
            loss_fn(net(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        net.eval()
        with torch.no_grad():
            loss = sum(loss_fn(net(images), labels).item() * len(labels) for images, labels in val) / len(val.dataset)
        if loss < best_loss:
            best_loss, best_weights = loss, copy.deepcopy(net.state_dict())
    net.load_state_dict(best_weights)


def function(net, optimizer, loss_fn, train, val, epochs):
    """One call."""
    train_model(net, optimizer, loss_fn, ACCURACY, train, val, epochs, ckpt_path=None, cpu=True, plot=False)


def keras_class(net, optimizer, loss_fn, train, val, epochs):
    """A model to keep: it can be fitted, measured, saved and asked again."""
    KerasModel(net, loss_fn, ACCURACY, optimizer).fit(train, val, epochs, ckpt_path=None, cpu=True, plot=False)


def lightning_class(net, optimizer, loss_fn, train, val, epochs):
    """The same model driven by Lightning, which leaves the last weights in the net."""
    from torchkeras import LightModel

    trainer = LightModel.Trainer(gpus=0, max_epochs=epochs, logger=False, enable_checkpointing=False,
                                 enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(LightModel(net, loss_fn, ACCURACY, optimizer), train, val)


def main(argv: list[str] | None = None, digits: Digits | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    epochs, digits = parser.parse_args(argv).epochs, digits or load_digits()
    data = TensorDataset(scaled(digits.train_images), torch.from_numpy(digits.train_labels))
    train, val = random_split(data, [0.9, 0.1], torch.Generator().manual_seed(0))
    test = scaled(digits.test_images), torch.from_numpy(digits.test_labels)

    rows, reference = [], None
    for style in [script, function, keras_class, lightning_class][:3 + bool(find_spec("pytorch_lightning"))]:
        torch.manual_seed(0)
        net, began = make_net(), time.perf_counter()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
        style(net, optimizer, nn.CrossEntropyLoss(), DataLoader(train, 64, shuffle=True), DataLoader(val, 256), epochs)
        seconds, reference = time.perf_counter() - began, reference or copy.deepcopy(net.state_dict())
        same = all(torch.equal(weight, reference[name]) for name, weight in net.state_dict().items())
        numbers = KerasModel(net, "cross_entropy", ACCURACY).evaluate(test, batch_size=500, cpu=True)
        rows.append((style.__name__, *numbers.values(), "bit for bit" if same else "no", round(seconds, 1)))
    table = pd.DataFrame(rows, columns=["style", "test_loss", "test_acc", "the script's weights", "seconds"])
    print(table.to_string(index=False))
    return table


if __name__ == "__main__":
    main()
