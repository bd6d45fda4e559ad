"""From raw texts to rows of tokens, and to a model that reads them."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, random_split

from torchkeras import KerasModel
from torchkeras.data import Vocabulary, clean_text, pad, text_dataset
from torchkeras.data.memory import in_memory
from torchkeras.metrics import Accuracy

POLARITY = Path(__file__).parents[3] / "shared" / "data" / "rt_polarity"


@pytest.mark.parametrize(("text", "words"), [
    ("Great movie!<br />Don't  miss\nthe co-writer's cut.", "great movie dont miss the co writers cut"),
    ("a < b and c > d", "a b and c d"), ("<a href='x'>Link</a>", "link"), ("über_alles №1 …", "über alles 1"),
    ("", ""), ("好看,的", "好看 的"), ("it’s", "its")])
def test_a_text_is_reduced_to_its_words(text, words):
    assert clean_text(text) == words


def test_the_most_frequent_words_are_numbered_from_two_on():
    texts = ["the cat saw the dog", "The dog ran; the end"]
    vocabulary = Vocabulary.build(texts, max_words=5)
    assert vocabulary.words == ["the", "dog", "cat"]  # of those that came once, the first of the alphabet
    assert len(vocabulary) == 5
    assert vocabulary.encode("The dog bit a cat").tolist() == [2, 3, 0, 0, 4]
    assert vocabulary.encode("").tolist() == []
    assert vocabulary.encode("a").dtype == torch.int64
    assert Vocabulary.build(reversed(texts), max_words=5).words == vocabulary.words
    assert Vocabulary.build(texts).words != vocabulary.words  # control: the limit cuts


def test_there_are_ten_thousand_numbers_unless_asked_otherwise():
    vocabulary = Vocabulary.build(f"w{number}" for number in range(12_000))
    assert len(vocabulary) == 10_000
    assert max(vocabulary.encode(word).item() for word in vocabulary.words) == 9_999  # an index of the embedding


def test_tokens_can_be_read_again():
    vocabulary = Vocabulary(["good", "film"])
    row = pad(vocabulary.encode("a good film"), 5)
    assert row.tolist() == [1, 1, 0, 2, 3]
    assert vocabulary.decode(row) == "<unknown> good film"
    assert Vocabulary(vocabulary.words).encode("good").item() == 2


def test_another_tokenizer_can_take_texts_apart():
    vocabulary = Vocabulary.build(["好看", "好的"], tokenize=list)
    assert vocabulary.words[0] == "好"
    assert vocabulary.encode("好坏").tolist() == [2, 0]


@pytest.mark.parametrize(("tokens", "length", "row"), [
    ([5, 6], 4, [1, 1, 5, 6]), ([5, 6, 7], 3, [5, 6, 7]), ([5, 6, 7], 2, [6, 7]), ([], 2, [1, 1])])
def test_rows_are_padded_on_the_left_and_cut_there(tokens, length, row):
    assert pad(torch.tensor(tokens, dtype=torch.int64), length).tolist() == row


def test_a_text_dataset_holds_tokens_and_float_labels():
    texts = ["a good film", "bad " * 300]
    dataset = text_dataset(texts, [1, 0], Vocabulary.build(texts))
    tokens, label = dataset[1]
    assert (tokens.dtype, tokens.shape, label.dtype, label.tolist()) == (torch.int64, (200,), torch.float32, [0.0])
    assert tokens.tolist() == [2] * 200
    assert (dataset[0][0][:-3] == 1).all()
    loader = DataLoader(random_split(dataset, [1, 1])[0], batch_size=2)
    assert in_memory(loader) is not None  # batches are taken at once, not sample by sample
    assert [tuple(part.shape) for part in next(iter(loader))] == [(1, 200), (1, 1)]


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda: clean_text(None), TypeError, "text: received None .*expected a str"),
    (lambda: Vocabulary.build("one text"), TypeError, "texts: received a str; expected a list of texts"),
    (lambda: Vocabulary.build(["a", float("nan")]), TypeError, r"texts\[1\]: received nan"),
    (lambda: Vocabulary.build(["a"], max_words=2), ValueError, "max_words: received 2"),
    (lambda: Vocabulary(["a", "b", "a"]), ValueError, "words: received 'a' more than once"),
    (lambda: Vocabulary(["a"]).decode([3]), ValueError, "tokens: received numbers from 3 to 3; .*from 0 to 2"),
    (lambda: pad(torch.tensor([1]), 0), ValueError, "length: received 0"),
    (lambda: text_dataset(["a"], [1, 0], Vocabulary(["a"])), ValueError, r"received labels of shape \(2,\) for 1"),
    (lambda: Vocabulary(["a"]).rows(["a"], 0), ValueError, "length: received 0")])
def test_bad_input_is_refused_with_its_name(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


class Bag(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embedding = nn.EmbeddingBag(words, 16, padding_idx=1)
        self.linear = nn.Linear(16, 1)

    def forward(self, tokens):
        return self.linear(self.embedding(tokens))


def fitted(train, val, words, **options):
    torch.manual_seed(0)
    net = Bag(words)
    model = KerasModel(net, "bce_with_logits", {"acc": Accuracy()}, torch.optim.Adam(net.parameters(), lr=0.01))
    return model, model.fit(train, val, monitor="val_acc", ckpt_path=None, quiet=True, **options)


def test_a_model_learns_from_generated_texts():
    g = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 2, (200,), generator=g).tolist()
    texts = [f"the film was {('awful', 'lovely')[kind]} number {number}" for number, kind in enumerate(kinds)]
    vocabulary = Vocabulary.build(texts[:150])
    train, val = (text_dataset(texts[part], kinds[part], vocabulary, 10) for part in (slice(150), slice(150, None)))
    model, history = fitted(train, val, len(vocabulary), epochs=20, batch_size=10)
    assert history["val_acc"].max() == 1.0
    new = vocabulary.rows(["The film was LOVELY, number 999!", "the film was awful, number 999"], 10)
    good = model.predict(new, output="classes")
    assert good.tolist() == [[1], [0]]
    other = text_dataset(texts[150:], kinds[150:][::-1], vocabulary, 10)
    assert model.evaluate(other)["val_acc"] < 0.8  # control


@pytest.mark.skipif(not POLARITY.is_dir(), reason="needs the sentences, in the folder shared beside the code")
def test_a_bag_of_words_tells_good_reviews_from_bad_ones():
    texts, labels = [], []
    for label, name in enumerate(("rt-polarity.neg", "rt-polarity.pos")):
        lines = (POLARITY / name).read_text(encoding="utf-8").splitlines()
        texts += lines
        labels += [label] * len(lines)
    assert len(texts) == 2 * 5331
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    held_back, rest = order[:len(texts) // 10], order[len(texts) // 10:]
    vocabulary = Vocabulary.build(texts[number] for number in rest)
    assert len(vocabulary) == 10_000
    train, val = (text_dataset([texts[number] for number in part], [labels[number] for number in part], vocabulary, 60)
                  for part in (rest, held_back))
    model, history = fitted(train, val, len(vocabulary), epochs=6, batch_size=64)
    assert history["val_acc"].max() > 0.75
    assert model.evaluate(val)["val_acc"] == pytest.approx(history["val_acc"].max())
    with torch.no_grad():
        model.net.embedding.weight.copy_(model.net.embedding.weight.roll(7, 0))
    assert model.evaluate(val)["val_acc"] < 0.6  # control: each word with the vector of another
