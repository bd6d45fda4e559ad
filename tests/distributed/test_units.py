"""What the processes do with numbers and lists, without processes."""

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras.core.communicator import Communicator
from torchkeras.distributed.reducible_metrics import in_order
from torchkeras.distributed.sharded_data import shard_slice, take


@pytest.mark.parametrize("world", range(1, 6))
@pytest.mark.parametrize("count", range(0, 18))
def test_parts_are_even_and_make_up_the_whole(count, world):
    parts = [list(range(count))[shard_slice(count, rank, world)] for rank in range(world)]
    assert sum(parts, []) == list(range(count))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_parts_of_the_largest_size_would_not_be_even():
    assert [shard_slice(4, rank, 3) for rank in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert [len(part) for part in torch.arange(4).split(2)] == [2, 2]  # control: nothing would be left for the third


BATCH = {"x": torch.arange(10).reshape(5, 2), "names": list("abcde"), "scale": torch.tensor(2.0), "kind": "train",
         "pair": (np.arange(5), [torch.arange(5) * 2, torch.tensor(3)])}


def test_a_part_takes_the_rows_of_what_has_a_row_for_each_sample():
    found = take(BATCH, 5, slice(1, 3), "train_data")
    assert found["x"].tolist() == [[2, 3], [4, 5]]
    assert found["names"] == ["b", "c"]
    assert found["pair"][0].tolist() == [1, 2]
    assert found["pair"][1][0].tolist() == [2, 4]
    assert isinstance(found["pair"], tuple)


def test_a_part_leaves_what_has_no_rows():
    found = take(BATCH, 5, slice(1, 3), "train_data")
    assert found["scale"] is BATCH["scale"]
    assert found["kind"] == "train"


def test_a_tensor_with_other_rows_than_samples_is_refused_since_nobody_knows_whose_they_are():
    with pytest.raises(ValueError, match=r"train_data: received a batch of 5 samples with a tensor of shape \(2, 9\)"):
        take({"x": torch.zeros(5), "edges": torch.zeros(2, 9)}, 5, slice(1, 3), "train_data")


def test_a_list_of_one_item_a_sample_is_divided_by_items():
    images = tuple(torch.zeros(3, 4 + one, 5) for one in range(3))
    found = take((images, tuple({"boxes": torch.ones(one, 4)} for one in range(3))), 3, slice(1, 3), "train_data")
    assert [tuple(one.shape) for one in found[0]] == [(3, 5, 5), (3, 6, 5)]
    assert [len(one["boxes"]) for one in found[1]] == [1, 2]


def test_the_parts_of_all_make_up_the_batch():
    parts = [take(BATCH, 5, shard_slice(5, rank, 3), "train_data") for rank in range(3)]
    assert torch.equal(torch.cat([part["x"] for part in parts]), BATCH["x"])
    assert sum((part["names"] for part in parts), []) == BATCH["names"]
    assert not torch.equal(torch.cat([part["x"] for part in parts[::-1]]), BATCH["x"])  # control


def test_a_list_of_tensors_is_no_list_of_samples():
    first, second = take([torch.arange(2), torch.arange(2) + 5], 2, slice(0, 1), "train_data")
    assert (first.tolist(), second.tolist()) == ([0], [5])


def test_a_part_is_no_copy():
    x = torch.zeros(4)
    assert take(x, 4, slice(2, 4), "train_data").data_ptr() == x[2:].data_ptr()


def test_what_cannot_be_divided_is_refused_by_name():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(2), torch.zeros(1)])
    with pytest.raises(TypeError, match="val_data: .* PackedSequence .*DataLoader over a Dataset"):
        take((packed, torch.zeros(2)), 2, slice(0, 1), "val_data")


def test_items_of_several_processes_come_in_the_order_of_their_batches():
    dealt = [["a", "d"], ["b", "e"], ["c"]]
    assert in_order(dealt, [[0, 3], [1, 4], [2]]) == list("abcde")
    assert in_order(dealt, [[0, 1], [2, 3], [4]]) == list("adbec")  # control: the numbers decide


def test_parts_of_one_batch_come_in_the_order_of_the_processes():
    assert in_order([["a0", "b0"], ["a1"], ["a2", "b2"]], [[0, 1], [0], [0, 1]]) == ["a0", "a1", "a2", "b0", "b2"]


def test_items_that_are_not_one_a_batch_come_process_after_process():
    assert in_order([["a", "b", "c"], ["d"]], [[0], [1]]) == list("abcd")


def test_equal_numbers_compare_no_items():
    """Items may be tensors, which have no order."""
    found = in_order([[torch.zeros(2)], [torch.ones(2)]], [[0], [0]])
    assert [one.tolist() for one in found] == [[0, 0], [1, 1]]


def test_one_process_agrees_with_itself():
    alone = Communicator()
    assert (alone.rank, alone.world_size, alone.is_main_process) == (0, 1, True)
    assert alone.all_gather("mine") == ["mine"]
    assert alone.broadcast("mine") == "mine"
    assert alone.reduce_on_main(lambda values: [*values, "made"], "mine") == ["mine", "made"]
    assert list(alone.interleave(iter("abc"), 1)) == list("abc")
    assert alone.request is None


def test_one_process_raises_its_own_errors():
    alone = Communicator()
    for context in (alone.raise_on_all_ranks, alone.watch_others):
        with pytest.raises(LookupError), context():
            raise LookupError
    with pytest.raises(ZeroDivisionError):
        alone.reduce_on_main(lambda values: 1 / 0, None)


def test_older_names_of_what_a_callback_asks_still_answer():
    one = Communicator()
    assert (one.world, one.main) == (one.world_size, one.is_main_process) == (1, True)
