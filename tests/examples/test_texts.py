"""Praise is told from blame, the vocabulary's words are judged rightly, and the three-branch net has its size."""

import sys
from pathlib import Path

import pytest
import torch
from tests.examples.helpers import check_picture

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import reviews  # noqa: E402 (the examples are scripts in a folder, not a package)
import text_branches  # noqa: E402
import text_classification  # noqa: E402
from torchkeras.data import Vocabulary  # noqa: E402


def test_a_bag_of_words_tells_praise_from_blame(tmp_path, monkeypatch):
    judged = {}
    monkeypatch.setattr(text_classification, "save_words", lambda path, scores, words: judged.update(
        zip(words, scores.tolist(), strict=True)))
    accuracy = text_classification.main(["--epochs", "5", "--samples", "2000", "--output", str(tmp_path)])
    assert 0.75 < accuracy < 0.95  # a coin gives 0.5, and one remark in six is of the other opinion
    assert min(judged[word] for word in reviews.PRAISE) > max(judged[word] for word in reviews.BLAME)


def test_the_words_are_drawn(tmp_path):
    text_classification.save_words(tmp_path / "words.png", torch.randn(40), [f"word {number}" for number in range(40)])
    check_picture(tmp_path / "words.png")


def test_the_branches_read_what_a_bag_cannot(tmp_path, capsys):
    accuracy = text_branches.main(["--epochs", "8", "--samples", "2000", "--length", "30", "--output", str(tmp_path)])
    assert "Total params: 78,938" in capsys.readouterr().out
    assert 0.65 < accuracy < 0.95
    assert (tmp_path / "text_branches.svg").read_text().startswith("<svg")
    check_picture(tmp_path / "text_branches.png")


def test_reviews_come_in_one_order_with_a_tenth_held_back():
    found, again, other = reviews.load_reviews(samples=200), reviews.load_reviews(samples=200), reviews.load_reviews(
        samples=200, seed=1)
    assert found == again != other
    assert (len(found.train_texts), len(found.test_texts)) == (180, 20)
    assert sum(found.train_labels) + sum(found.test_labels) == 100
    assert len(Vocabulary.build(found.train_texts)) > 50


def test_a_folder_of_reviews_is_read_with_its_labels(tmp_path):
    (tmp_path / "rt-polarity.pos").write_text("fein\n" * 10, encoding="utf-8")
    (tmp_path / "rt-polarity.neg").write_text("öde\n" * 10, encoding="utf-8")
    found = reviews.load_reviews(tmp_path)
    assert set(zip(found.train_texts, found.train_labels, strict=True)) == {("fein", 1), ("öde", 0)}
    assert len(found.test_texts) == 2


@pytest.mark.parametrize("label", [0, 1])
def test_most_remarks_are_of_the_opinion_of_the_label(label):
    import random

    words = " ".join(reviews.made_up(label, random.Random(number)) for number in range(300)).split()
    praise, blame = (sum(word in listed for word in words) for listed in (reviews.PRAISE, reviews.BLAME))
    assert (praise > 2 * blame) == bool(label)
    assert (blame > 2 * praise) == (not label)
