"""The film reviews of the examples: a folder with rt-polarity, or sentences made here that read a little like them."""

import random
from pathlib import Path
from typing import NamedTuple

PRAISE = ["moving", "funny", "gripping", "clever", "warm", "brilliant", "honest", "charming", "fresh", "touching",
          "witty", "superb"]
BLAME = ["dull", "tired", "clumsy", "shallow", "noisy", "dreary", "stale", "hollow", "lifeless", "muddled", "tedious",
         "bland"]
PARTS = ["script", "plot", "acting", "camera", "dialogue", "score", "ending", "cast", "pacing", "humour", "story",
         "direction"]
FRAMES = ("the {part} is {word}", "a {word} {part}", "{part} that stays {word}", "with {word} {part}",
          "one {word} film about {part}", "it has a {word} {part}")
FILLERS = ["the film", "in two hours", "on the whole", "if you like such things", "from start to finish", "again"]


class Reviews(NamedTuple):
    """Texts, and 1 for praise, 0 for blame; the last tenth is held back."""

    train_texts: list[str]
    train_labels: list[int]
    test_texts: list[str]
    test_labels: list[int]


def load_reviews(folder: Path | None = None, samples: int = 4000, seed: int = 0) -> Reviews:
    """Reviews in a random but fixed order, from ``rt-polarity.pos`` and ``rt-polarity.neg`` in a folder, or made."""
    dice = random.Random(seed)
    if folder is None:
        reviews = [(made_up(label, dice), label) for label in (0, 1) for _ in range(samples // 2)]
    else:
        reviews = [(line, label) for label, name in enumerate(("rt-polarity.neg", "rt-polarity.pos"))
                   for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    dice.shuffle(reviews)
    texts, labels = [text for text, _ in reviews], [label for _, label in reviews]
    cut = len(texts) * 9 // 10
    return Reviews(texts[:cut], labels[:cut], texts[cut:], labels[cut:])


def made_up(label: int, dice: random.Random) -> str:
    """Three remarks, one in six of them of the other opinion, and one in eight turned round by a "not"."""
    remarks = []
    for _ in range(3):
        praising, negated = (dice.random() < 1 / 6) != bool(label), dice.random() < 1 / 8
        word = dice.choice(PRAISE if praising != negated else BLAME)
        remarks.append(dice.choice(FRAMES).format(part=dice.choice(PARTS), word=f"not {word}" if negated else word))
    return " , ".join(dice.sample([*remarks, dice.choice(FILLERS)], k=4))
