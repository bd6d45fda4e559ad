"""Tensors in memory come by index: the same batches as from the loader itself, drawn from the same random numbers."""

from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from torchkeras.data import batches, located
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.memory import in_memory

X, Y = torch.arange(46.0).reshape(23, 2), torch.arange(23)
DATA = TensorDataset(X, Y)


class FromTheEnd:
    def __iter__(self):
        return iter([[-1, 0], [5, -3, 2]])

    def __len__(self):
        return 2


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


LOADERS = {
    "in order": lambda: DataLoader(DATA, 5),
    "shuffled": lambda: DataLoader(DATA, 5, shuffle=True),
    "without the last": lambda: DataLoader(DATA, 5, shuffle=True, drop_last=True),
    "with workers": lambda: DataLoader(DATA, 5, shuffle=True, num_workers=1),
    "with a generator": lambda: DataLoader(DATA, 5, shuffle=True, generator=seeded()),
    "one tensor": lambda: DataLoader(TensorDataset(X), 5, shuffle=True),
    "a subset": lambda: DataLoader(Subset(DATA, [4, 2, 9, 9, 11]), 2, shuffle=True),
    "a subset of a subset": lambda: DataLoader(Subset(random_split(DATA, [20, 3], seeded())[0], range(3, 17)), 4),
    "a subset by draw": lambda: DataLoader(DATA, 4, sampler=SubsetRandomSampler([3, 1, 8, 20, 5])),
    "weights": lambda: DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * 23, 30)),
    "with replacement": lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True, num_samples=37)),
    "twice and a half": lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=57)),
    "batches of one's own": lambda: DataLoader(DATA, batch_sampler=FromTheEnd()),
    "a batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 6, True)),
    "arrays": lambda: ArrayDataset((X, Y)).loader(5, shuffle=True),
    "a loader over arrays": lambda: DataLoader(ArrayDataset((X, Y)), 5, shuffle=True),
    "a loader over nested arrays": lambda: DataLoader(ArrayDataset({"image": X, "pair": (Y, (X[:, 0].clone(),))}), 5),
    "a subset of arrays": lambda: DataLoader(Subset(ArrayDataset((X, Y)), [4, 2, 9]), 2, shuffle=True),
    "nested arrays": lambda: ArrayDataset({"image": X, "pair": (Y, X[:, 0])}).loader(5, shuffle=True),
}


def passes(source, count=3):
    torch.manual_seed(7)
    return [list(source) for _ in range(count)], torch.rand(2)


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other) or len(one) != len(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and same(list(one.values()), list(other.values()))
    return all(map(same, one, other))


@pytest.mark.parametrize("name", LOADERS)
def test_batches_order_types_and_random_numbers_are_the_loaders_own(name):
    fast = in_memory(LOADERS[name]())
    assert fast is not None
    assert same(passes(LOADERS[name]()), passes(fast))


def test_control_another_order_is_seen():
    one, _ = passes(LOADERS["shuffled"]())
    torch.manual_seed(8)
    assert not same(one, [list(LOADERS["shuffled"]()) for _ in range(3)])


def test_a_kept_generator_is_left_where_the_loader_leaves_it():
    plain, fast = LOADERS["with a generator"](), LOADERS["with a generator"]()
    list(plain)
    list(in_memory(fast))
    assert torch.equal(plain.generator.get_state(), fast.generator.get_state())


def test_workers_that_persist_draw_their_seed_once():
    def loader():
        return DataLoader(DATA, 5, shuffle=True, num_workers=1, persistent_workers=True)

    assert same(passes(loader()), passes(in_memory(loader())))


class Items(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index], Y[index]


class OwnLoader(DataLoader):
    pass


@pytest.mark.parametrize("loader", [
    lambda: DataLoader(Items(), 2),
    lambda: OwnLoader(DATA, 2),
    lambda: DataLoader(DATA, 2, collate_fn=lambda samples: samples),
    lambda: DataLoader(DATA, None),
    lambda: DataLoader(TensorDataset(X.t()), 2),  # stacking would change its layout
    lambda: DataLoader(TensorDataset(nn.Parameter(X)), 2),
    lambda: DataLoader(DATA, 2, num_workers=1, worker_init_fn=print),
    lambda: [X, Y],
])
def test_what_does_more_than_select_is_left_alone(loader):
    assert in_memory(loader()) is None


@pytest.mark.parametrize("name", ["in order", "shuffled", "a subset"])
def test_writing_into_a_batch_leaves_the_data_alone(name):
    before = X.clone()
    for batch in batches(LOADERS[name](), name="train_data"):
        batch[0].zero_()
    assert torch.equal(X, before)


def test_what_a_step_does_to_a_batch_does_not_reach_the_next_one():
    weight = torch.ones(2, requires_grad=True)
    seen = []
    for x, _ in in_memory(DataLoader(DATA, 5)):
        assert x.is_leaf
        assert not x.requires_grad
        seen.append(x.clone())
        x.mul_(weight).mul_(2)
        assert x.requires_grad
    assert torch.equal(torch.cat(seen), X)


@pytest.mark.parametrize(("width", "together"), [(1, 8), (1 << 10, 4), (1 << 15, 1)])
def test_small_batches_are_fetched_together(width, together, monkeypatch):
    fetched = []
    fetch = located.select_rows
    monkeypatch.setattr(located, "select_rows", lambda tensor, index: fetched.append(len(index)) or fetch(tensor, index))
    found = list(in_memory(DataLoader(TensorDataset(torch.zeros(160, width)), 8, shuffle=True)))
    assert [x.shape for x, in found] == [(8, width)] * 20
    assert fetched[0] == 8 * together


@pytest.mark.parametrize("batch_size", [3, 7, 20, 30])
@pytest.mark.parametrize("cut", [0, 1, 3, None])
def test_passes_that_are_cut_short_leave_a_samplers_own_generator_where_the_loader_leaves_it(batch_size, cut):
    def passes(way):
        dataset, generator = TensorDataset(torch.arange(20.0).view(20, 1)), torch.Generator().manual_seed(1)
        loader = DataLoader(dataset, batch_size, sampler=RandomSampler(dataset, generator=generator))
        return [[batch[0].flatten().tolist() for batch in islice(way(loader), stop)] for stop in (cut, cut, None)]

    assert passes(lambda loader: iter(in_memory(loader))) == passes(iter)
