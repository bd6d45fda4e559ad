"""Data on an accelerator, as far as it can be told without one."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from torchkeras.data import batches, resident

X, Y = torch.arange(46.0).reshape(23, 2), torch.arange(23)
ELSEWHERE = torch.device("meta")  # holds shapes only, which tells where a batch is


@pytest.fixture
def free(monkeypatch):
    """Bytes that are free on the accelerator."""
    def tell(count):
        monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (count, 10**9))

    return tell


class Rows(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, number):
        return X[number], Y[number]


@pytest.mark.parametrize("data", [
    lambda: DataLoader(TensorDataset(X, Y), 5, shuffle=True), lambda: DataLoader(TensorDataset(X, Y), 5),
    lambda: DataLoader(Subset(TensorDataset(X, Y), [4, 2, 9, 11]), 3, shuffle=True)])
def test_data_that_fits_lives_on_the_device_and_draws_the_same_numbers(data, free):
    size = X.numel() * 4 + Y.numel() * 8
    free(4 * size)
    found = batches(data(), name="train_data", device=ELSEWHERE)
    torch.manual_seed(3)
    shapes = [[one.shape for one in batch] for batch in found]
    drawn = torch.rand(2)
    assert found.device_data.is_on(ELSEWHERE)
    assert all(one.device == ELSEWHERE for batch in found for one in batch)
    torch.manual_seed(3)
    assert shapes == [[one.shape for one in batch] for batch in data()]
    assert torch.equal(torch.rand(2), drawn)


def test_data_that_takes_more_than_a_quarter_stays_and_its_batches_are_moved(free):
    free(4 * (X.numel() * 4 + Y.numel() * 8) - 1)
    found = batches((X, Y), name="train_data", batch_size=5, device=ELSEWHERE)
    assert all(one.device == ELSEWHERE for batch in found for one in batch)
    assert found.device_data.tree[0] is X


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, ValueError, AttributeError, AssertionError])
def test_a_device_that_does_not_tell_its_memory_is_not_filled(kind, monkeypatch):
    def silent(device):
        raise kind("not supported")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", silent)
    assert not resident.fits_on([X], ELSEWHERE)


def test_other_data_is_moved_batch_by_batch(free):
    free(10**9)
    found = batches(DataLoader(Rows(), 4), name="train_data", device=ELSEWHERE)
    assert [one.device for batch in found for one in batch] == [ELSEWHERE] * 4


def test_on_the_cpu_nothing_is_moved_or_asked_for(monkeypatch):
    monkeypatch.setattr(resident, "fits_on", None)
    found = batches((X, Y), name="train_data", batch_size=23, shuffle=False, device="cpu")
    assert found.device_data.tree[0] is X
    assert torch.equal(next(iter(found))[0], X)
    assert found.prefetcher is None


def test_a_copy_runs_on_a_stream_of_its_own_and_the_computation_waits_for_it(monkeypatch):
    told = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def within(stream):
        told.append(f"copy on {stream.name}")
        yield
        told.append("copied")

    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda leaf, stream: told.append(f"kept for {stream.name}"))
    monkeypatch.setattr(resident, "pinned", lambda leaf: told.append("pinned") or leaf)
    mover = resident.DevicePrefetcher(ELSEWHERE)
    mover.stream = Stream("side")
    x, rest = mover((X, {"y": Y}))
    assert [x.device, rest["y"].device] == [ELSEWHERE, ELSEWHERE]
    assert told == ["copy on side", "pinned", "pinned", "copied", "main waits for side", "kept for main",
                    "kept for main"]
