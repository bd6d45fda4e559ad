"""Three views of a text at once: branches that read 3, 5 and 7 words at a time, drawn with the functional API."""

import argparse
from pathlib import Path

import torch
from torch import nn

from reviews import load_reviews
from torchkeras import KerasModel
from torchkeras.data import Vocabulary, text_dataset
from torchkeras.display.plot import save_curves
from torchkeras.functional import (
    Concatenate,
    FunctionalModel,
    GlobalMaxPool1d,
    Input,
    SeparableConv1d,
    build,
    to_svg,
)

MAX_WORDS = 10_000


def make_net(length: int = 200) -> FunctionalModel:
    """Word vectors, a branch of separable convolutions for each kernel size, and one logit from all three."""
    tokens = Input((length,), torch.int64, name="tokens")
    words = nn.Dropout(0.3)(nn.Embedding(MAX_WORDS, 7)(tokens)).transpose(1, 2)
    branches = []
    for kernel in (3, 5, 7):
        x = nn.MaxPool1d(2)(SeparableConv1d(7, 64, kernel)(words).relu())
        branches.append(GlobalMaxPool1d()(SeparableConv1d(64, 32, kernel)(x).relu()))
    return build(tokens, nn.Linear(96, 1)(nn.Dropout(0.5)(Concatenate()(branches))))


def main(argv: list[str] | None = None) -> float:
    """Draw the net, train it, draw the curves; gives the accuracy on the held-back tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of rt-polarity.pos and .neg; default: sentences made here")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--samples", type=int, default=4000, help="how many sentences are made")
    parser.add_argument("--length", type=int, default=60, help="words of a text that are read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for weights and pictures")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    reviews = load_reviews(options.data, options.samples)
    vocabulary = Vocabulary.build(reviews.train_texts, max_words=MAX_WORDS)
    train = text_dataset(reviews.train_texts, reviews.train_labels, vocabulary, options.length)
    test = text_dataset(reviews.test_texts, reviews.test_labels, vocabulary, options.length)

    net = make_net(options.length)
    model = KerasModel(net, loss_fn="bce_with_logits", metrics_dict=["accuracy", "auc"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=3e-3))
    model.summary(train[:2][0])
    options.output.mkdir(parents=True, exist_ok=True)
    to_svg(net, options.output / "text_branches.svg")
    history = model.fit(train, validation_split=0.1, epochs=options.epochs, batch_size=64, monitor="val_accuracy",
                        patience=4, ckpt_path=options.output / "text_branches.pt")
    save_curves(history, options.output / "text_branches.png", best_epoch=model.run.monitor.best_epoch)
    accuracy = model.evaluate(test)["val_accuracy"]
    print(f"accuracy on {len(test):,} reviews it has never seen: {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
