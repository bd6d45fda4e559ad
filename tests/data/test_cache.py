"""A dataset read once: the same samples and batches, in memory and on disk."""

import json
import re
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from torchkeras import KerasModel
from torchkeras.data import cache
from torchkeras.data.memory import in_memory

Pair = namedtuple("Pair", "left right")


class Read(Dataset):
    """Samples that are made when they are asked for; counts how often."""

    def __init__(self, make, count=200):
        self.make, self.count, self.reads = make, count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        self.reads += 1
        return self.make(number)


SAMPLES = {
    "a tensor": lambda i: torch.full((2, 3), i),
    "image and label": lambda i: (torch.full((1, 4), i / 7), i % 3),
    "numpy and numbers": lambda i: (np.full(3, i, dtype=np.float32), float(i), bool(i % 2)),
    "half precision": lambda i: (torch.full((2,), i, dtype=torch.bfloat16), torch.tensor(i, dtype=torch.uint8)),
    "a dict": lambda i: {"x": torch.tensor([i, i + 1.0]), "ids": (np.int64(i), torch.tensor(-i))},
    "a namedtuple": lambda i: Pair(torch.tensor([i]), i),
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    assert type(one) is type(other)
    pairs = zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else zip(one, other, strict=True)
    return all(same(left, right) for left, right in pairs)


def batches_of(dataset, **options):
    torch.manual_seed(1)
    loader = DataLoader(dataset, 32, shuffle=True, **options)
    return [list(loader) for _ in range(2)]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("where", ["memory", "disk", "disk, found again"])
def test_batches_from_the_cache_are_those_of_the_dataset(name, where, tmp_path):
    folder = None if where == "memory" else tmp_path / "deep" / "cache"
    if where == "disk, found again":
        cache(Read(SAMPLES[name]), folder)
    source = Read(SAMPLES[name])
    found = cache(source, folder)
    assert source.reads < (40 if where == "disk, found again" else 240)
    source.make = None  # nothing is read any more
    plain = batches_of(Read(SAMPLES[name]))
    assert same(batches_of(found), plain)
    torch.manual_seed(1)
    quick = in_memory(DataLoader(found, 32, shuffle=True))
    assert same([list(quick) for _ in range(2)], plain)
    assert not same(batches_of(found)[0], plain[1])  # control


def test_two_workers_read_the_same_and_the_random_state_is_left_alone():
    state = torch.get_rng_state()
    one, two = (cache(Read(SAMPLES["image and label"]), num_workers=workers) for workers in (0, 2))
    assert same(one.tree, two.tree)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_from_a_cache_is_training_from_the_dataset():
    def weights(data):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3))
        KerasModel(net, "cross_entropy").fit(DataLoader(data, 16, shuffle=True), epochs=2, ckpt_path=None, quiet=True)
        return net[0].weight

    def row(i):
        return torch.randn(4, generator=torch.Generator().manual_seed(i)), i % 3

    assert torch.equal(weights(cache(Read(row))), weights(Read(row)))
    part = cache(Subset(Read(row), range(50)))
    assert len(part) == 50


def test_what_a_net_writes_into_mapped_samples_does_not_reach_the_disk(tmp_path):
    found = cache(Read(SAMPLES["a tensor"]), tmp_path / "cache")
    found.tree.zero_()
    again = cache(Read(SAMPLES["a tensor"]), tmp_path / "cache")
    assert again.tree.sum() == 6 * sum(range(200))


def test_samples_on_disk_are_plain_numbers_beside_a_word_of_what_they_are(tmp_path):
    cache(Read(SAMPLES["image and label"]), tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["0.bin", "1.bin", "cache.json"]
    assert np.array_equal(np.fromfile(tmp_path / "cache" / "1.bin", np.int64), np.arange(200) % 3)
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["of"].startswith("200 samples, ")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def unsteady(i):
    return torch.rand(2)


@pytest.mark.parametrize(("data", "error", "words"), [
    (iter([1]), TypeError, "dataset: received a list_iterator"),
    (Read(SAMPLES["a tensor"], 0), ValueError, "0 samples"),
    (Read(unsteady), ValueError, "samples that differ when they are read again: [0, 28"),
    (Read(lambda i: torch.zeros(2 + i // 70)), ValueError, "samples that do not join (stack expects"),
    (Read(lambda i: torch.zeros(2 + i // 128)), ValueError, "samples 128 to 191 of other shapes"),
    (Read(lambda i: torch.zeros(2, dtype=torch.float64 if i > 127 else None)), ValueError, "of other shapes or types"),
    (Read(lambda i: {"a": 1} if i < 150 else {"b": 1}), ValueError, "samples that do not join"),
    (Read(lambda i: (1, "text")), TypeError, "samples with str in them"),
    (Read(lambda i: (1, None)), ValueError, "samples that do not join"),
    (Read(lambda i: ()), TypeError, "samples with nothing in them")])
def test_what_cannot_be_cached_is_refused_with_the_reason_and_nothing_is_left(data, error, words, tmp_path):
    with pytest.raises(error, match=re.escape(words)):
        cache(data, tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(tmp_path):
    cache(Read(SAMPLES["a tensor"]), tmp_path / "cache")
    with pytest.raises(ValueError, match="a cache of this dataset"):
        cache(Read(SAMPLES["a dict"]), tmp_path / "cache")
    with pytest.raises(ValueError, match="a cache of this dataset"):
        cache(Read(SAMPLES["a tensor"], 199), tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with pytest.raises(ValueError, match="a cache of something else"):
        cache(Read(SAMPLES["a tensor"]), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis").exists()
    assert len(cache(Read(SAMPLES["a tensor"]), tmp_path / "cache")) == 200


def test_number_of_workers():
    with pytest.raises(ValueError, match="num_workers"):
        cache(TensorDataset(torch.zeros(3)), num_workers=-1)
