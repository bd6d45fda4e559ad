"""Turn texts into rows of word indices: clean, count, number and pad."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.core.types import Data
from torchkeras.data.arrays import ArrayDataset

UNKNOWN, PADDING = 0, 1
SPECIAL = ("<unknown>", "<padding>")
TAG = re.compile(r"</?[a-z][^<>]*>")
APOSTROPHES = re.compile("['’`]")
NO_WORD = re.compile(r"[\W_]+")


def clean_text(text: str) -> str:
    """Return a text as lower-case words with a space between them.

    HTML tags and punctuation become spaces; apostrophes are removed, so ``don't`` is one word.

    Args:
        text: the text.

    Raises:
        TypeError: it is no str.

    Example:
        >>> clean_text("Great movie!<br />Don't  miss the co-writer's cut.")
        'great movie dont miss the co writers cut'
    """
    if not isinstance(text, str):
        raise bad_type("text", received=f"{text!r} ({type(text).__name__})", expected="a str",
                       fix="Read files as text, and fill missing values with ''.")
    return NO_WORD.sub(" ", APOSTROPHES.sub("", TAG.sub(" ", text.lower()))).strip()


def words_of(text: str) -> list[str]:
    """Return the words of a text, cleaned."""
    return clean_text(text).split()


class Vocabulary:
    """Number the words of texts, as a net with an ``Embedding`` reads them.

    Number 0 stands for every word that is not in the list, 1 for padding; the words follow from 2
    on. Make one from your training texts with :meth:`build`.

    Args:
        words: the words, each once, in the order of their numbers.
        tokenize: splits a text into words; by default it is cleaned by :func:`clean_text` and split
            at spaces. For languages without spaces between words pass a segmenter, such as
            ``jieba.lcut``.

    Attributes:
        words: all words; their position plus 2 is their number.

    Raises:
        TypeError: ``words`` is one text instead of a list.
        ValueError: a word is there twice.

    Example:
        >>> vocabulary = Vocabulary(["good", "film"])
        >>> vocabulary.encode("A good, good film!")
        tensor([0, 2, 2, 3])
        >>> len(vocabulary)
        4
    """

    def __init__(self, words: Iterable[str],
                 tokenize: Callable[[str], Sequence[str]] = words_of) -> None:
        self.words, self.tokenize = texts_in("words", words), tokenize
        self.numbers = {word: number
                        for number, word in enumerate(self.words, start=len(SPECIAL))}
        if len(self.numbers) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise bad_value("words", received=f"{twice!r} more than once",
                            expected="each word once")

    @classmethod
    def build(cls, texts: Iterable[str], max_words: int = 10_000,
              tokenize: Callable[[str], Sequence[str]] = words_of) -> Vocabulary:
        """Make a vocabulary of the most frequent words of texts.

        Args:
            texts: the training texts. Leave out those of validation, whose words are not known in
                practice either.
            max_words: the size of the embedding: how many numbers there are at most, including the
                two special ones.
            tokenize: as above.

        Returns:
            The vocabulary; words of the same frequency are in alphabetical order, so the order of
            the texts does not matter.

        Raises:
            TypeError: a text is no str.
            ValueError: ``max_words`` is below 3.

        Example:
            >>> Vocabulary.build(["a good film", "a bad film", "a film"], max_words=4).words
            ['a', 'film']
        """
        whole_number("max_words", max_words, least=len(SPECIAL) + 1)
        counts = Counter(word for text in texts_in("texts", texts) for word in tokenize(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:max_words - len(SPECIAL)], tokenize)

    def __len__(self) -> int:
        """Return how many numbers there are: the ``num_embeddings`` of an ``Embedding``."""
        return len(self.words) + len(SPECIAL)

    def encode(self, text: str) -> Tensor:
        """Return the numbers of a text's words.

        Args:
            text: the text.

        Returns:
            An int64 tensor ``(words,)``.

        Raises:
            TypeError: it is no str.

        Example:
            >>> Vocabulary(["film"]).encode("the film")
            tensor([0, 2])
        """
        return torch.tensor([self.numbers.get(word, UNKNOWN) for word in self.tokenize(text)],
                            dtype=torch.int64)

    def rows(self, texts: Iterable[str], length: int = 200) -> Tensor:
        """Return the numbers of several texts as one tensor, for instance to predict with.

        Args:
            texts: the texts.
            length: the numbers of each text: padded on the left, or the last ones; see
                :func:`pad`.

        Returns:
            An int64 tensor ``(texts, length)``.

        Raises:
            TypeError: a text is no str.
            ValueError: ``length`` is below 1.

        Example:
            >>> Vocabulary(["good", "film"]).rows(["good film", "film"], length=3)
            tensor([[1, 2, 3],
                    [1, 1, 3]])
        """
        whole_number("length", length, least=1)
        found = texts_in("texts", texts)
        if not found:
            return torch.zeros((0, length), dtype=torch.int64)
        return torch.stack([pad(self.encode(text), length) for text in found])

    def decode(self, tokens: Iterable[int] | Tensor) -> str:
        """Return the words of numbers, to see what a net reads; padding is left out.

        Args:
            tokens: numbers, as :meth:`encode` gives them.

        Raises:
            ValueError: a number is out of range.

        Example:
            >>> Vocabulary(["film"]).decode([1, 1, 0, 2])
            '<unknown> film'
        """
        numbers = [int(token) for token in tokens]
        if not all(0 <= number < len(self) for number in numbers):
            raise bad_value("tokens", received=f"numbers from {min(numbers)} to {max(numbers)}",
                            expected=f"numbers from 0 to {len(self) - 1}")
        known = [*SPECIAL, *self.words]
        return " ".join(known[number] for number in numbers if number != PADDING)


def pad(tokens: Tensor, length: int = 200) -> Tensor:
    """Bring a row of tokens to one length: pad on the left, or keep the last ones.

    The end of a text stays at the end of the row, which a recurrent net reads last.

    Args:
        tokens: ``(words,)``.
        length: the length of the result.

    Raises:
        ValueError: ``length`` is below 1.

    Example:
        >>> pad(torch.tensor([5, 6]), 4), pad(torch.tensor([5, 6, 7]), 2)
        (tensor([1, 1, 5, 6]), tensor([6, 7]))
    """
    whole_number("length", length, least=1)
    row = torch.full((length,), PADDING, dtype=torch.int64)
    if len(tokens):
        row[-len(tokens):] = tokens[-length:]
    return row


def text_dataset(texts: Iterable[str], labels: Data, vocabulary: Vocabulary,
                 length: int = 200) -> ArrayDataset:
    """Make a Dataset of texts with one label each.

    Args:
        texts: the texts.
        labels: a number for each: 0 and 1, or any other to predict.
        vocabulary: numbers the words; made from the training texts.
        length: the tokens of a sample: padded on the left, or the last ones.

    Returns:
        A Dataset of (int64 tokens ``(length,)``, float label ``(1,)``), for a net that returns one
        number per sample. It is in memory; ``fit``, ``random_split`` and DataLoaders accept it.

    Raises:
        TypeError: a text is no str.
        ValueError: there are more texts than labels or fewer, or none.

    Example:
        >>> texts = ["a good film", "a bad film"]
        >>> dataset = text_dataset(texts, [1, 0], Vocabulary.build(texts), length=4)
        >>> dataset[0]
        (tensor([1, 2, 5, 3]), tensor([1.]))
    """
    tokens = vocabulary.rows(texts, length)
    truth = ArrayDataset({"labels": labels}).tree["labels"]
    if truth.numel() != len(tokens):
        raise bad_value("labels", expected="one number a text",
                        received=f"labels of shape {tuple(truth.shape)} for {len(tokens)} texts")
    return ArrayDataset((tokens, truth.reshape(-1, 1).to(torch.get_default_dtype())))


def texts_in(argument: str, texts: Iterable[str]) -> list[str]:
    """Return texts as a list; raise for a single text, which would be read letter by letter."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise bad_type(argument, received=f"a {type(texts).__name__}",
                       expected="a list of texts")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise bad_type(f"{argument}[{number}]", expected="a str",
                           received=f"{text!r} ({type(text).__name__})",
                           fix="Fill missing values with ''.")
    return found
