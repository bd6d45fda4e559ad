"""What is sent and kept in lists, in one piece: the same numbers, the same order, less memory."""

import tracemalloc

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, TensorDataset

from torchkeras.core.communicator import Communicator
from torchkeras.distributed import reducible_metrics, sharded_data
from torchkeras.metrics import AUC
from torchkeras.metrics.function import FunctionMetric


def sampled(rows=1000, drop_last=False, own=False, number=None):
    generator = torch.Generator().manual_seed(3) if own else None
    sampler = RandomSampler(TensorDataset(torch.zeros(rows)), generator=generator, num_samples=number)
    return BatchSampler(sampler, 32, drop_last)


@pytest.mark.parametrize("steps", [None, 3], ids=["whole passes", "passes cut short"])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"own": True}, {"own": True, "number": 2500},
                                     {"number": 40}, {"number": 2000}], ids=str)
def test_a_random_order_is_the_samplers_own_pass_after_pass(options, steps, monkeypatch):
    monkeypatch.setattr(sharded_data, "LISTED", 7)
    found = []
    for wrap in (sharded_data.lean, lambda one: one):
        torch.manual_seed(1)
        own = sampled(**options)
        found.append([list(sharded_data.islice(wrap(own), steps)) for _ in range(3)] + [torch.rand(2).tolist()])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]  # control: each pass has its own order


def test_other_samplers_are_left_as_they_are():
    data = TensorDataset(torch.zeros(9))
    repeated = BatchSampler(RandomSampler(data, replacement=True), 2, False)
    for one in (BatchSampler(SequentialSampler(data), 2, False), repeated, [[1, 2], [3]]):
        assert sharded_data.lean(one) is one


def test_an_order_holds_no_list_of_all_its_numbers():
    peaks = []
    for wrap in (sharded_data.lean, lambda one: one):
        tracemalloc.start()
        next(iter(wrap(sampled(1_000_000))))
        peaks.append(tracemalloc.get_traced_memory()[1])  # Python's own objects; the order itself takes 8 MB beside
        tracemalloc.stop()
    assert peaks[0] < 1.5e6 < 30e6 < peaks[1]


class OneOf(Communicator):
    """Process 0 of three, whose hands are counted."""

    world_size = 3

    def __init__(self):
        self.sent = []

    def broadcast(self, value):
        self.sent.append(value)
        return value


@pytest.mark.parametrize("limit", [1, 100, 10**9])
@pytest.mark.parametrize("batches", [0, 1, 6, 7, 9])
def test_batches_are_sent_in_whole_rounds_of_few_numbers_and_none_is_lost(batches, limit, monkeypatch):
    monkeypatch.setattr(sharded_data, "NUMBERS_AT_ONCE", limit)
    given = [[number, number] for number in range(batches)]
    numbers = sharded_data.ShardedBatchSampler(given, None, OneOf())
    assert list(numbers.order()) == given
    *full, (last, more) = numbers.communicator.sent
    assert all(len(keys) % 3 == 0 and follows for keys, follows in full)
    assert not more
    assert limit > 1 or all(len(keys) == 3 for keys, _ in full)


def halves(make, batches=40, size=8):
    """Two metrics that each saw every other batch, one that saw all, and who saw which."""
    generator = torch.Generator().manual_seed(0)
    parts, whole, counted = [make(), make()], make(), [[], []]
    for number in range(batches):
        preds = torch.randn(size - number % 3, 1, generator=generator)
        labels = (torch.randn(len(preds), 1, generator=generator) > 0).float()
        parts[number % 2].update(preds, labels)
        whole.update(preds, labels)
        counted[number % 2].append(number)
    return parts, whole, counted


METRICS = {"ours": AUC, "a function": lambda: FunctionMetric(lambda preds, labels: (preds * torch.arange(
    len(preds))[:, None] * labels).sum())}


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
def test_lists_that_are_sent_in_one_piece_give_the_number_of_one_process(make):
    parts, whole, counted = halves(make)
    packs = [reducible_metrics.local_state(one) for one in parts]
    assert all(isinstance(value, reducible_metrics.Pieces) for value in packs[0][0].values()
               if not torch.is_tensor(value))
    assert reducible_metrics.reduced(parts[0], packs, counted).compute() == whole.compute()


def test_the_order_of_batches_counts_for_a_function_of_the_places():
    parts, whole, counted = halves(METRICS["a function"])  # control of the test above
    packs = [reducible_metrics.local_state(one) for one in parts]
    found = reducible_metrics.reduced(parts[0], packs, counted[::-1]).compute()
    assert found != whole.compute()


@pytest.mark.parametrize("kept", [[], [torch.tensor(1.0), torch.tensor(2.0)], [torch.zeros(1), torch.zeros(1).long()],
                                  [torch.zeros(1, 2), torch.zeros(1, 3)], ["words"], torch.zeros(3)], ids=str)
def test_what_does_not_go_into_one_tensor_is_sent_as_it_is(kept):
    assert reducible_metrics.concatenated(kept) is kept
    assert reducible_metrics.unpacked(kept) is kept


def test_pieces_keep_their_sizes_even_of_nothing():
    kept = [torch.arange(3), torch.arange(0), torch.arange(2)]
    found = reducible_metrics.unpacked(reducible_metrics.concatenated(kept))
    assert [one.tolist() for one in found] == [[0, 1, 2], [], [0, 1]]


def test_a_score_takes_about_five_bytes_on_its_way_however_small_the_batches():
    metric = AUC()
    for _ in range(3000):
        metric.update(torch.randn(4), torch.ones(4))
    found = reducible_metrics.local_state(metric)[0]
    assert sum(value.whole.nbytes for value in found.values()) == 5 * 4 * 3000
