"""Everything that can be given as data, over epochs, and what is refused."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

from torchkeras.data import ArrayDataset, Batches, batches

X, Y = torch.randn(10, 3), torch.arange(10)


class Squares(Dataset):
    """A map-style Dataset of a length."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError
        return torch.tensor(float(index)), index**2


class Stream(IterableDataset):
    """Samples without a length."""

    def __iter__(self):
        return iter(range(10))


class Measured(Stream):
    """Samples with a length."""

    def __len__(self):
        return 10


class Duck:
    """A Dataset that does not derive from torch's."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index


class Endless:
    """Ready batches for ever, anew each time; it counts what is taken."""

    taken = 0

    def __iter__(self):
        while True:
            self.taken += 1
            yield [X[:2], Y[:2]]


def ready(count, size=2):
    """A generator of ready batches, numbered."""
    return ((torch.full((size, 1), float(number)), torch.zeros(size)) for number in range(count))


def first_labels(data):
    return [batch[1].tolist() for batch in data]


def facts(data):
    return data.length, data.samples, data.last_batch


IN_FOURS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("data", [
    (X, Y), [X, Y], (X.numpy(), Y.numpy()), (pd.DataFrame(X.numpy()), pd.Series(Y.numpy())), (X.tolist(), Y.tolist()),
    [X, Y.tolist()], ArrayDataset((X, Y)), TensorDataset(X, Y), ((X, {"b": X}), Y), [(X, X), Y],
    TensorDataset(X[:7], Y[:7]) + TensorDataset(X[7:], Y[7:]), Subset(ArrayDataset((X, Y)), range(10)),
], ids=lambda data: type(data).__name__)
def test_data_of_samples_becomes_batches_of_the_asked_size(data):
    found = batches(data, name="train_data", batch_size=4)
    assert first_labels(found) == IN_FOURS
    assert first_labels(found) == IN_FOURS
    assert facts(found) == (3, 10, 2)
    assert len(found) == 3
    assert found.batch_size == 4


def test_single_arrays_dicts_and_lists_of_numbers_are_batched():
    for data in (X, X.numpy(), pd.DataFrame(X.numpy()), X.tolist()):
        found = list(batches(data, name="data", batch_size=4))
        assert torch.allclose(torch.cat(found), X)
    assert [len(batch) for batch in batches([1, 2, 3], name="data", batch_size=2)] == [2, 1]
    first = next(iter(batches({"x": X, "y": Y}, name="data", batch_size=4)))
    assert first["y"].tolist() == [0, 1, 2, 3]


def test_the_batch_size_is_32_when_none_is_given():
    assert facts(batches(torch.ones(70, 2), name="data")) == (3, 70, 6)
    assert facts(batches(Squares(70), name="data")) == (3, 70, 6)
    assert len(next(iter(batches(Stream(), name="data")))) == 10


def test_an_object_written_like_a_dataset_is_one():
    assert [batch.tolist() for batch in batches(Duck(), name="data", batch_size=4)] == IN_FOURS


def test_shuffled_data_holds_each_sample_once_and_starts_anew_each_epoch():
    for data in ((X, Y), Squares(), ConcatDataset([Squares(6), Squares(4)])):
        found = batches(data, name="data", batch_size=4, shuffle=True)
        first, second = (torch.cat([batch[1] for batch in found]) for _ in range(2))
        assert torch.equal(first.sort().values, second.sort().values)
        assert not torch.equal(first, second)


def test_a_random_split_keeps_its_samples():
    torch.manual_seed(0)
    left, right = random_split(ArrayDataset((X, Y)), [6, 4])
    parts = [torch.cat([y for _, y in batches(part, name="data", batch_size=4)]) for part in (left, right)]
    assert torch.cat(parts).sort().values.tolist() == list(range(10))
    assert [len(part) for part in parts] == [6, 4]
    assert facts(batches(left, name="data", batch_size=4)) == (2, 6, 2)


def test_a_dataloader_with_workers_is_used_as_it_is():
    loader = DataLoader(Squares(), batch_size=4, num_workers=2)
    found = batches(loader, name="data")
    assert found.source is loader
    assert first_labels(found) == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]
    assert len(list(batches(loader, name="data", steps=1))) == 1


@pytest.mark.parametrize(("loader", "expected"), [
    (DataLoader(Squares(10), 4), (3, 10, 2)),
    (DataLoader(Squares(10), 4, drop_last=True), (2, 8, 4)),
    (DataLoader(Squares(8), 4), (2, 8, 4)),
    (DataLoader(Squares(10), 4, sampler=SubsetRandomSampler(range(5))), (2, 5, 1)),
    (DataLoader(Measured(), 4), (3, 10, 2)),
    (DataLoader(Measured(), 4, drop_last=True), (2, 8, 4)),
    (DataLoader(Measured(), 4, num_workers=2), (3, None, None)),
    (DataLoader(Stream(), 4), (None, None, None)),
    (DataLoader(Squares(), batch_sampler=[[0, 1], [2]]), (2, None, None)),
    (DataLoader(Squares(), batch_size=None), (10, None, None)),
])
def test_length_samples_and_last_batch_are_told_where_they_can_be(loader, expected):
    found = batches(loader, name="data")
    assert facts(found) == expected
    if loader.num_workers == 0 and expected[1] is not None:
        given = [len(batch[0] if isinstance(batch, list) else batch) for batch in found]
        assert (len(given), sum(given), given[-1]) == expected


def test_steps_cut_the_epoch_and_its_counts():
    assert facts(batches(DataLoader(Squares(10), 4), name="data", steps=2)) == (2, 8, 4)
    assert facts(batches(DataLoader(Squares(10), 4), name="data", steps=3)) == (3, 10, 2)
    assert facts(batches(Stream(), name="data", steps=1)) == (1, None, None)
    found = batches((X, Y), name="data", batch_size=4, steps=2)
    assert first_labels(found) == first_labels(found) == IN_FOURS[:2]


def test_steps_take_exactly_that_many_batches_from_the_source():
    endless = Endless()
    found = batches(endless, name="data", steps=3)
    for epoch in (1, 2):
        assert len(list(found)) == 3
        assert endless.taken == 3 * epoch
    assert facts(found) == (3, None, None)


def test_a_size_set_on_a_dataloader_counts_as_steps():
    loader = DataLoader(Squares(10), 4)
    loader.size = 2
    found = batches(loader, name="data")
    assert len(list(found)) == len(found) == 2
    assert len(batches(loader, name="data", steps=3)) == 3
    loader.size = 5
    with pytest.raises(ValueError, match="data: received 5 steps an epoch for 3 batches; expected at most 3"):
        batches(loader, name="data")


def test_a_size_of_a_dataloader_subclass_is_its_own_affair():
    class Images(DataLoader):
        """Its size is that of the pictures."""

    loader = Images(Squares(10), 4)
    loader.size = (224, 224)
    assert len(batches(loader, name="data")) == 3


def test_a_list_of_ready_batches_is_used_in_order_and_counted():
    found = batches([(X[:4], Y[:4]), (X[4:], Y[4:])], name="data")
    assert first_labels(found) == first_labels(found) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert facts(found) == (2, 10, 6)
    assert facts(batches([{"x": X}], name="data")) == (1, 10, 10)
    assert facts(batches([[X, Y], ["no", "tensor"]], name="data")) == (2, None, None)
    assert facts(batches([(X[:4], Y[:4]), (X[4:], Y[4:])], name="data", steps=1)) == (1, 4, 4)


def test_a_generator_without_steps_lasts_one_epoch():
    found = batches(ready(3), name="train_data")
    assert facts(found) == (None, None, None)
    assert len(list(found)) == 3
    with pytest.raises(ValueError, match="train_data ran out of data: received no batch in this epoch") as caught:
        list(found)
    assert "Give steps_per_epoch" in str(caught.value)
    assert "an iterable that can start again" in str(caught.value)


def test_a_generator_with_steps_goes_on_where_it_stopped():
    found = batches(ready(5), name="train_data", steps=2)
    epochs = [[float(x[0]) for x, _ in found] for _ in range(3)]
    assert epochs == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="ran out of data"):
        list(found)


def test_streams_start_anew_each_epoch():
    found = batches(Stream(), name="data", batch_size=4)
    assert [batch.tolist() for batch in found] == [batch.tolist() for batch in found] == IN_FOURS


def test_an_unknown_length_says_so():
    found = batches(ready(3), name="train_data")
    with pytest.raises(TypeError, match="train_data: a generator does not tell its length; give the number of steps"):
        len(found)
    assert found
    assert found.length is None


def test_batches_move_to_the_device():
    found = batches((X, Y), name="data", batch_size=4, device="meta")
    assert {tensor.device.type for batch in found for tensor in batch} == {"meta"}
    found.device = None
    assert next(iter(found))[0].device.type == "cpu"


def test_attributes_are_read_from_the_source_and_set_on_the_batches():
    loader = DataLoader(Squares(), 4)
    found = batches(loader, name="data")
    assert found.dataset is loader.dataset
    found.note = "mine"
    assert not hasattr(loader, "note")
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = found.absent
    assert first_labels(copy.deepcopy(found)) == first_labels(pickle.loads(pickle.dumps(found))) == first_labels(found)


def test_iterating_leaves_the_random_state_as_the_plain_loader_does():
    loader = DataLoader(Squares(), 4, shuffle=True)
    states = []
    for steps in (None, 2):
        for data in (loader, batches(loader, name="data", steps=steps)):
            torch.manual_seed(0)
            for number, _ in enumerate(data, start=1):
                if number == steps:
                    break
            states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
    list(loader)
    assert not torch.equal(torch.get_rng_state(), states[0])


def test_making_batches_draws_no_random_number():
    before = torch.get_rng_state()
    for data in ((X, Y), Squares(), DataLoader(Squares(), shuffle=True), [(X, Y)]):
        batches(data, name="data")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("data", "words"), [
    ("data.csv", "train_data: received a str"), (None, "train_data: received None"), (3, "received a int"),
    (np.float64(3), "received a float64"), (nn.Sequential(nn.Linear(1, 1)), "received a Sequential"),
    (object(), "received a object"), (Squares, r"received the class Squares.*Did you mean Squares\(...\)"),
    (ready, r"received the function ready.*Did you mean ready\(\)"),
])
def test_what_cannot_be_data_is_refused_with_a_list_of_what_can(data, words):
    with pytest.raises(TypeError, match=words) as caught:
        batches(data, name="train_data")
    assert "expected a DataLoader, a Dataset, arrays" in str(caught.value)
    assert "or an iterable of batches" in str(caught.value)


@pytest.mark.parametrize(("data", "words"), [
    (DataLoader(Squares(3), 8, drop_last=True), r"0 batches \(dataset of 3 samples, batch_size=8, drop_last=True\); "
                                                r"expected at least one batch. Pass drop_last=False"),
    (DataLoader(Squares(0), 8), r"dataset of 0 samples.*Check what the dataset reads"),
    (Squares(0), "a Squares of 0 samples; expected at least one sample. Check"),
    ([], "an empty list; expected at least one batch or array"),
    ((np.zeros((0, 2)), np.zeros(0)), "0 samples"),
])
def test_data_known_to_be_empty_is_refused_before_any_work(data, words):
    with pytest.raises(ValueError, match="train_data: received .*" + words):
        batches(data, name="train_data")


def test_data_that_turns_out_empty_is_refused_when_read():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match=r"data: received a DataLoader of 0 batches \(dataset of unknown samples"):
        list(batches(Nothing(), name="data"))
    with pytest.raises(ValueError, match="a generator that gives no batch; expected .* can be read only once"):
        list(batches(ready(0), name="data"))
    with pytest.raises(ValueError, match="gives no batch; expected at least one batch. Check"):
        list(Batches(map_like := type("Empty", (), {"__iter__": lambda self: iter(())})(), name="data"))
    assert list(map_like) == []


def test_more_steps_than_batches_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="data: received 9 steps an epoch for 3 batches; expected at most 3 steps"):
        batches((X, Y), name="data", batch_size=4, steps=9)


def test_options_that_do_not_go_with_the_data_are_refused():
    loader = DataLoader(Squares(), 4)
    with pytest.raises(ValueError, match="batch_size: received 8 for data, a DataLoader .* expected None. Set it"):
        batches(loader, name="data", batch_size=8)
    with pytest.raises(ValueError, match="shuffle: received True for data, a DataLoader"):
        batches(loader, name="data", shuffle=True)
    with pytest.raises(ValueError, match="batch_size: received 8 for data, a generator that yields ready batches"):
        batches(ready(2), name="data", batch_size=8)
    with pytest.raises(ValueError, match="shuffle: received True for data, an IterableDataset.*inside its __iter__"):
        batches(Stream(), name="data", shuffle=True)
    with pytest.raises(ValueError, match="batch_size: received 0"):
        batches((X, Y), name="data", batch_size=0)
    with pytest.raises(TypeError, match="steps: received 1.5"):
        batches((X, Y), name="data", steps=1.5)


def test_a_dataset_without_a_length_is_refused_with_the_fix():
    class Unsized(Dataset):
        def __getitem__(self, index):
            return index

    with pytest.raises(TypeError, match="data: received a Unsized without a length; expected .* Define __len__"):
        batches(Unsized(), name="data")
