"""Loaders that say where they are go on exactly, whatever they draw as a pass begins."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from torchkeras import KerasModel

X, Y = torch.randn(60, 5), torch.randint(0, 3, (60,))


class Rows(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return X[index], Y[index]


class Stateful:
    """Draws a seed as an iterator of it is made, as torchdata's loader does."""

    def __init__(self):
        self.done, self.seed = 0, 0

    def __len__(self):
        return 10

    def __iter__(self):
        self.seed = int(torch.empty((), dtype=torch.int64).random_())
        return self.given()

    def given(self):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(self.seed))
        while self.done < 10:
            index = order[6 * self.done:6 * self.done + 6]
            self.done += 1
            yield self.batch(index)
        self.done = 0

    def batch(self, index):
        return X[index], Y[index]

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


class AsAGenerator(Stateful):
    """Draws the seed with the first batch, since its __iter__ is a generator function."""

    def __iter__(self):
        self.seed = int(torch.empty((), dtype=torch.int64).random_())
        yield from self.given()


class NoisyBatches(Stateful):
    """Draws noise for each batch and nothing for the pass."""

    def __iter__(self):
        self.seed = 3
        yield from self.given()

    def batch(self, index):
        return X[index] + torch.randn(len(index), 5), Y[index]


class Both(NoisyBatches):
    """Draws a seed as an iterator is made, and noise for each batch."""

    def __iter__(self):
        self.seed = int(torch.empty((), dtype=torch.int64).random_())
        return self.given()


def model():
    torch.manual_seed(1)
    return KerasModel(nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3)), "cross_entropy")


@pytest.mark.parametrize("kind", [Stateful, AsAGenerator, NoisyBatches])
def test_a_run_that_goes_on_is_the_one_without_a_break(kind):
    report = model().verify_resume(kind(), steps=20)
    assert report.identical, str(report)


def test_what_is_drawn_as_an_iterator_is_made_is_drawn_before_the_generators_are_put_back():
    report = model().verify_resume(Both(), steps=20)
    assert report.identical, str(report)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 1])
def test_torchdatas_loader_goes_on_exactly(workers):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    loader = torchdata.StatefulDataLoader(Rows(), 6, shuffle=True, num_workers=workers)
    report = model().verify_resume(loader, steps=20)
    assert report.identical, str(report)
