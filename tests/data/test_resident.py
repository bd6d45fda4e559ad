"""Data on an accelerator, as far as it can be told without one."""

from collections import UserDict
from contextlib import contextmanager

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from torchkeras.data import batches, located, pinning, resident
from torchkeras.data.batch import to_device

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
    assert not resident.fits_on(1, ELSEWHERE)


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


def test_memory_that_torch_holds_unused_is_free_and_no_more_than_4_gib_are_taken(free, monkeypatch):
    gib = 2**30
    free(8 * gib)
    assert [resident.fits_on(size, ELSEWHERE) for size in (2 * gib, 2 * gib + 1)] == [True, False]
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 5 * gib)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: gib)
    assert [resident.fits_on(size, ELSEWHERE) for size in (3 * gib, 3 * gib + 1)] == [True, False]
    free(80 * gib)
    assert [resident.fits_on(size, ELSEWHERE) for size in (4 * gib, 4 * gib + 1)] == [True, False]


def test_of_the_parts_of_a_split_only_their_own_rows_are_copied(free):
    free(10**9)
    whole = TensorDataset(torch.arange(2000.0).reshape(1000, 2), torch.arange(1000))
    parts = [Subset(whole, list(range(900))), Subset(whole, list(range(-100, 0)))]
    found = [batches(DataLoader(one, 50), name="train_data", device=ELSEWHERE) for one in parts]
    for one in found:
        one.prepare_pass(divide=False)
    assert [tuple(one.device_data.samples.tensors[0].shape) for one in found] == [(900, 2), (100, 2)]
    assert [one.memory.samples.nbytes for one in found] == [900 * 16, 100 * 16]
    again = Subset(whole, [3, 3, 1] * 500)  # more rows than there are: the tensors whole, and their index
    longer = batches(DataLoader(again, 50), name="train_data", device=ELSEWHERE)
    longer.prepare_pass(divide=False)
    assert tuple(longer.device_data.samples.tensors[0].shape) == (1000, 2)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}])
def test_the_rows_of_a_split_are_the_samples_of_its_loader(options):
    whole = TensorDataset(X, Y)
    for chosen in ([4, 2, -1, 11, 0], [1, 1, 2] * 9, torch.tensor([5, 3])):
        loader = DataLoader(Subset(whole, chosen), 3, **options)
        copy = batches(loader, name="train_data").memory.on(torch.device("cpu"))
        torch.manual_seed(3)
        expected = [one.tolist() for batch in loader for one in batch]
        torch.manual_seed(3)
        assert [one.tolist() for batch in copy for one in batch] == expected


def test_a_copy_is_given_back_and_batches_are_then_moved_one_by_one(free):
    free(10**9)
    found = batches((X, Y), name="train_data", batch_size=5, device=ELSEWHERE)
    assert not found.give_back()  # control: nothing is there yet
    found.prepare_pass(divide=False)
    assert found.device_data.is_on(ELSEWHERE)
    assert found.give_back()
    assert found.device_data.tree[0] is X


class Stream:
    """Stands in for a stream of CUDA: says who waits for whom."""

    def __init__(self, name, told):
        self.name, self.told = name, told

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def streams(monkeypatch):
    """Streams of a device that is none, and what happens on them."""
    told, inside = [], ["main"]

    @contextmanager
    def within(stream):
        inside.append(stream.name)
        yield
        inside.pop()

    kind = torch.Tensor.to

    def moved(tensor, *args, **options):
        if args:
            told.append(f"{tuple(tensor.shape)} to {torch.device(args[0]).type} on {inside[-1]}")
        return kind(tensor, *args, **({} if args else options))

    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main", told))
    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "record_stream",
                        lambda leaf, stream: told.append(f"{tuple(leaf.shape)} kept for {stream.name}"))
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda leaf, pin_memory: told.append("pinned") or empty_like(leaf))
    mover = resident.DevicePrefetcher(ELSEWHERE)
    mover.stream = Stream("side", told)
    return mover, told


def test_a_copy_runs_on_a_stream_of_its_own_and_the_computation_waits_for_it(streams):
    mover, told = streams
    x, rest = mover((X, {"y": Y}))
    assert [x.device, rest["y"].device] == [ELSEWHERE, ELSEWHERE]
    assert told[:7] == ["pinned", "(23, 2) to meta on side", "pinned", "(23,) to meta on side", "main waits for side",
                        "(23, 2) kept for main", "(23,) kept for main"]


class Box:
    """Moves itself, and shows nobody what it holds."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Box(self.x.to(device))


class InPlace(UserDict):
    """Moves itself in place, as a tokenizer's output does."""

    def to(self, device):
        self.data = {name: one.to(device) for name, one in self.data.items()}
        return self


def test_what_moves_itself_is_read_by_no_stream_that_torch_does_not_know_of(streams):
    mover, told = streams
    box, y = mover((Box(X), Y))
    assert [box.x.device, y.device] == [ELSEWHERE, ELSEWHERE]
    assert "(23, 2) to meta on main" in told  # its memory is that of the stream which computes
    assert not any(one.startswith("(23, 2)") and "side" in one for one in told)
    told.clear()
    packed, y = mover((pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]), Y))
    assert packed.data.device == ELSEWHERE
    assert packed.batch_sizes.is_cpu
    assert {"(4, 2) to meta on side", "(4, 2) kept for main"} <= {*told}
    assert "(3,) kept for main" not in told  # the lengths stay on the CPU
    told.clear()
    given = InPlace(x=X)
    assert mover(given)["x"].device == ELSEWHERE
    assert {"(23, 2) to meta on side", "(23, 2) kept for main"} <= {*told}
    assert given["x"] is X  # the user's own stays where it was


@pytest.mark.parametrize("odd", [torch.eye(3).to_sparse(), torch.ones(3, requires_grad=True)], ids=["sparse", "learns"])
def test_tensors_that_cannot_be_pinned_move_in_the_stream_that_computes(streams, odd):
    mover, told = streams
    assert mover([odd, Y])[0].device == ELSEWHERE
    assert told.count("pinned") == 1  # control: the labels are
    assert sum("kept" in one for one in told) == 1


def test_an_expanded_tensor_is_pinned_by_a_copy_that_is_dense(streams):
    mover, told = streams
    mask = torch.ones(1, 7).expand(30, 7)
    with pytest.raises(RuntimeError, match="single memory location"):  # control: as pin_memory copies
        torch.empty_strided(mask.shape, mask.stride()).copy_(mask)
    assert mover.pin(mask).stride() == (7, 1)
    images = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert mover.pin(images).stride() == images.stride()
    assert told.count("pinned") == 2


@pytest.mark.parametrize(("kind", "expected"), [("cuda", True), ("mps", False), ("xpu", False), ("cpu", False)])
def test_only_cuda_reads_a_batch_after_the_program_goes_on(kind, expected, monkeypatch):
    # torch on MPS does not hold the source of such a copy; one to the CPU can be read too early
    seen = []
    monkeypatch.setattr(torch.Tensor, "to", lambda leaf, device, non_blocking: seen.append(non_blocking) or leaf)
    to_device((X, {"y": Y}), kind)
    to_device([torch.eye(3).to_sparse()], kind)
    assert seen == [expected, expected, False]


def test_an_index_is_copied_to_the_device_once_a_batch_and_from_pinned_memory(monkeypatch):
    moved = []
    monkeypatch.setattr(located, "index_on", lambda index, device: moved.append(device) or index)
    found = batches(DataLoader(TensorDataset(X, Y), 5, sampler=WeightedRandomSampler(torch.ones(23), 20)),
                    name="train_data")
    assert len(list(found)) == len(moved) == 4  # not once for each of the two tensors


def test_an_index_waits_for_nothing_on_a_gpu(monkeypatch):
    told, empty_like, to = [], torch.empty_like, torch.Tensor.to
    monkeypatch.setattr(torch, "empty_like", lambda leaf, pin_memory: told.append("pinned") or empty_like(leaf))
    monkeypatch.setattr(torch.Tensor, "to", lambda leaf, device, non_blocking=False: told.append(non_blocking) or leaf)
    for kind in ("cuda", "mps"):
        pinning.index_on(Y, torch.device(kind))
    assert told == ["pinned", True, False]
    monkeypatch.setattr(torch.Tensor, "to", to)
    assert pinning.index_on(Y, ELSEWHERE).device == ELSEWHERE
