"""A tiny BERT, made in code and trained from nothing, tells commands from questions; then it judges sentences."""

import argparse
import os
import random

import torch

from torchkeras import KerasModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded

QUESTIONS = ("where is {}", "who has {}", "what is {}", "can you see {}")
COMMANDS = ("bring {} here", "look for {}", "take {} away", "give me {}")
THINGS = ("the red ball", "a cup", "my hat", "the small door", "an apple", "your book")
NAMES = ("a command", "a question")


def sentences(count: int, seed: int = 0) -> tuple[list[str], torch.Tensor]:
    """Sentences, and for each whether it is a question (1) or a command (0)."""
    draw = random.Random(seed)
    labels = [number % 2 for number in range(count)]
    return [draw.choice(QUESTIONS if label else COMMANDS).format(draw.choice(THINGS)) for label in labels], (
        torch.tensor(labels))


def encode(texts: list[str], vocabulary: dict[str, int], length: int = 8) -> dict[str, torch.Tensor]:
    """Numbers for words, filled up with 0; the mask says which are words."""
    rows = [([vocabulary.get(word, 1) for word in text.split()] + [0] * length)[:length] for text in texts]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def make_net(words: int) -> torch.nn.Module:
    """A BERT of two small layers."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(
        vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=2))


def main(argv: list[str] | None = None) -> float:
    """Train, measure, and judge the held-back sentences; gives the share judged rightly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="sentences to make up")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    texts, labels = sentences(options.samples)
    known = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(known, start=2)}
    data, cut = encode(texts, vocabulary), options.samples * 4 // 5
    train = {name: value[:cut] for name, value in data.items()} | {"labels": labels[:cut]}
    test = {name: value[cut:] for name, value in data.items()} | {"labels": labels[cut:]}

    net = make_net(len(vocabulary) + 2)
    # the net brings its own loss, so none is given; metrics see its logits
    model = KerasModel(net, loss_fn=None, metrics_dict=["accuracy"],
                       optimizer=torch.optim.AdamW(net.parameters(), lr=1e-3))
    model.fit(train, test, epochs=options.epochs, batch_size=16, ckpt_path=None, plot=False)
    print(model.evaluate(test))

    classes = model.predict(test, output="classes")
    right = int((classes == test["labels"]).sum())
    print(f"{right} of {len(classes)} sentences are judged rightly")
    for text in ("where is my hat", "give me the small door"):
        [guess] = model.predict(encode([text], vocabulary), output="classes").tolist()
        print(f"{text!r} is {NAMES[guess]}")
    return right / len(classes)


if __name__ == "__main__":
    main()
