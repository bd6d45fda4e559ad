"""The numbers that are known beforehand: parameters, accuracy on real reviews, and the bits of a ResNet."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from benchmarks.drawn import drawn_resnet18
from benchmarks.nets import resnet18
from tests.functional.nets import MAX_WORDS, text_net
from torch import nn

from torchkeras import KerasModel

ROOT = Path(__file__).parents[2]
REVIEWS = Path(os.environ.get("TORCHKERAS_RT_POLARITY", ROOT.parent / "shared" / "data" / "rt_polarity"))
LENGTH = 40  # few reviews have more words, and of these the last count


def test_the_three_branch_text_net_has_78938_parameters():
    net = text_net()
    counts = {name: sum(one.numel() for one in layer.parameters()) for name, layer in net.named_children()}
    assert [count for count in counts.values() if count] == [70_000, 533, 2_272, 547, 2_400, 561, 2_528, 97]
    assert sum(one.numel() for one in net.parameters()) == 78_938


def reviews() -> tuple[torch.Tensor, torch.Tensor]:
    """Word ids (0 unknown, 1 padding on the left) and labels, in a fixed shuffled order."""
    texts, labels = [], []
    for name, label in (("neg", 0.0), ("pos", 1.0)):
        for line in (REVIEWS / f"rt-polarity.{name}").read_text(encoding="latin-1").splitlines():
            texts.append(line.split())
            labels.append([label])
    frequent = Counter(word for text in texts for word in text).most_common(MAX_WORDS - 2)
    ids = {word: number for number, (word, _) in enumerate(frequent, 2)}
    tokens = torch.ones(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        known = [ids.get(word, 0) for word in text[-LENGTH:]]
        row[LENGTH - len(known):] = torch.tensor(known)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return tokens[order], torch.tensor(labels)[order]


@pytest.mark.skipif(not REVIEWS.exists(), reason="needs the reviews, in the folder shared beside the code")
def test_the_text_net_judges_more_than_70_percent_of_unseen_reviews_rightly():
    tokens, labels = reviews()
    held = len(tokens) // 10
    torch.manual_seed(0)
    net = text_net(LENGTH)
    nn.init.uniform_(net.embedding_1.weight, -0.05, 0.05)
    model = KerasModel(net, "bce_with_logits", ["accuracy"], torch.optim.Adam(net.parameters(), lr=0.02))
    untrained = model.evaluate((tokens[:held], labels[:held]))["val_accuracy"]
    history = model.fit((tokens[held:], labels[held:]), (tokens[:held], labels[:held]), epochs=2, batch_size=256,
                        ckpt_path=None, quiet=True, seed=0, cpu=True)
    assert untrained < 0.6  # control
    assert history["val_accuracy"].max() > 0.70


def trained_alike(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, gradients and BatchNorm's means after one step."""
    preds = net(images)
    preds.square().mean().backward()
    return [preds, *(one.grad for one in net.parameters()), *net.buffers()]


def test_a_drawn_resnet18_has_the_outputs_and_gradients_of_the_written_one_to_the_bit():
    torch.manual_seed(0)
    written, drawn = resnet18(), drawn_resnet18()
    assert sum(one.numel() for one in drawn.parameters()) == 11_173_962
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(drawn.eval()(images), written.eval()(images))  # control: other weights, other outputs
    own, others = drawn.state_dict(), written.state_dict()
    drawn.load_state_dict(dict(zip(own, others.values(), strict=True)))
    pairs = list(zip(trained_alike(drawn.train(), images), trained_alike(written.train(), images), strict=True))
    assert len(pairs) == 1 + 62 + 60
    assert all(torch.equal(mine, other) for mine, other in pairs)
    assert torch.equal(drawn.eval()(images), written.eval()(images))
