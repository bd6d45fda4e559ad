"""Praise or blame? A bag of word vectors learns it from film reviews, and what it thinks of each word can be read."""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from reviews import load_reviews
from torchkeras import KerasModel
from torchkeras.data import Vocabulary, text_dataset
from torchkeras.data.text import PADDING


class BagOfWords(nn.Module):
    """The mean of the words' vectors, and one logit from it."""

    def __init__(self, words: int, size: int = 32) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(words, size, mode="mean", padding_idx=PADDING)
        self.dropout, self.out = nn.Dropout(0.5), nn.Linear(size, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (samples, length) to logits (samples, 1)."""
        return self.out(self.dropout(self.vectors(tokens)))


def save_words(path: Path, scores: Tensor, words: list[str], most: int = 12) -> None:
    """The words that speak most against a film, and most for it."""
    shown = scores.argsort()[[*range(most), *range(-most, 0)]]
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.add_subplot(title="what the net thinks of words", xlabel="logit of a text of this word alone")
    colours = ["#E45756"] * most + ["#4C78A8"] * most
    axes.barh([words[number] for number in shown], scores[shown].tolist(), color=colours)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> float:
    """Build a vocabulary, train, draw the words; gives the accuracy on the held-back tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of rt-polarity.pos and .neg; default: sentences made here")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--samples", type=int, default=4000, help="how many sentences are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for weights and picture")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    reviews = load_reviews(options.data, options.samples)
    vocabulary = Vocabulary.build(reviews.train_texts, max_words=10_000)
    train = text_dataset(reviews.train_texts, reviews.train_labels, vocabulary, length=40)
    test = text_dataset(reviews.test_texts, reviews.test_labels, vocabulary, length=40)

    net = BagOfWords(len(vocabulary))
    model = KerasModel(net, loss_fn="bce_with_logits", metrics_dict=["accuracy", "auc"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-5))
    options.output.mkdir(parents=True, exist_ok=True)
    model.fit(train, validation_split=0.1, epochs=options.epochs, batch_size=64, monitor="val_accuracy", patience=4,
              ckpt_path=options.output / "text_classification.pt")
    accuracy = model.evaluate(test)["val_accuracy"]

    scores = model.predict(torch.arange(2, len(vocabulary))[:, None], batch_size=1000)[:, 0]
    save_words(options.output / "text_classification.png", scores, vocabulary.words)
    chances = model.predict(test, output="probabilities")[:, 0].tolist()
    print("\nit is       read as praise with")
    for text, label, chance in list(zip(reviews.test_texts, reviews.test_labels, chances, strict=True))[:8]:
        print(f"{'praise' if label else 'blame':8}{chance:8.0%}   {text.strip()[:90]}")
    print(f"\naccuracy on {len(test):,} reviews it has never seen: {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
