"""Ready batches that hold arrays: from generators, lists and DataLoaders with a collate_fn."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from torchkeras import KerasModel, Model
from torchkeras.core.communicator import Communicator
from torchkeras.data import Batches, batches
from torchkeras.data.ready import BatchReader
from torchkeras.distributed.sharded_data import ShardedBatches

X = np.random.default_rng(0).normal(size=(30, 3))
Y, W = X[:, :1] * 2, np.linspace(0.5, 1.5, 30)
CUTS = [slice(begin, begin + 10) for begin in (0, 10, 20)]
ARRAYS = [(X[cut], Y[cut], W[cut]) for cut in CUTS]
TENSORS = [tuple(torch.tensor(one, dtype=torch.float32) for one in batch) for batch in ARRAYS]


def stacked(samples):
    return tuple(np.stack(one) for one in zip(*samples, strict=True))


KINDS = {"a list": lambda: ARRAYS, "a generator": lambda: iter(ARRAYS), "a DataLoader": lambda: DataLoader(
    list(zip(X, Y, W, strict=True)), 10, collate_fn=stacked)}


def started(face, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    if face is KerasModel:
        return KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    model = Model(net)
    model.compile(optimizer="sgd", loss="mse")
    return model


def numbers(face, make):
    """All numbers of a fit with validation, an evaluate and a predict."""
    model = started(face)
    if face is KerasModel:
        row = model.fit(make(), make(), epochs=1, ckpt_path=None, quiet=True)[["train_loss", "val_loss"]].values
        after = list(model.evaluate(make()).values())
    else:
        row = list(model.fit(make(), validation_data=make(), verbose=0).history.values())
        after = model.evaluate(make())
    return [np.asarray(one, float).ravel() for one in (row, after, np.asarray(model.predict(make())))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("face", [KerasModel, Model])
def test_batches_of_arrays_give_the_numbers_of_the_same_tensors(face, kind):
    expected = numbers(face, lambda: TENSORS)
    unweighted = numbers(face, lambda: [one[:2] for one in TENSORS])
    for got, same, other in zip(numbers(face, KINDS[kind]), expected, unweighted, strict=True):
        np.testing.assert_allclose(got, same, rtol=1e-5, atol=1e-6)
        assert not np.allclose(same, other)


def test_dtypes_are_those_of_arrays():
    kinds = [np.float64, np.float32, np.float16, np.int32, np.uint8, np.uint16, bool]
    read = BatchReader()([np.zeros(2, kind) for kind in kinds])
    expected = [torch.float32, torch.float32, torch.float16, torch.int64, torch.uint8, torch.int64, torch.bool]
    assert [one.dtype for one in read] == expected
    assert BatchReader(torch.float64)((np.zeros(2), 1))[0].dtype == torch.float64


def test_a_net_of_float64_gets_batches_of_float64():
    model = Model(nn.Linear(3, 1).double())
    model.compile(optimizer="sgd", loss="mse")
    assert model.predict([(X,)]).dtype == np.float64


def test_views_of_any_order_frames_and_nested_batches_become_tensors():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    read = BatchReader()({"x": [X[::-1][:2], X[:2].astype(">f8"), frame], "n": 3})
    assert read["n"] == 3
    assert all(isinstance(one, torch.Tensor) for one in read["x"])
    np.testing.assert_allclose(read["x"][0].numpy(), X[::-1][:2].astype("f4"))
    np.testing.assert_allclose(read["x"][1].numpy(), X[:2].astype("f4"))
    assert read["x"][2].tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_text_objects_and_masked_arrays_stay_as_they_are():
    given = (np.zeros(2), np.array(["a", "b"]), np.array([None, 1]), np.ma.masked_equal([1.0, 2.0], 2.0))
    read = BatchReader()(given)
    assert isinstance(read[0], torch.Tensor)
    assert all(a is b for a, b in zip(read[1:], given[1:], strict=True))


def test_text_that_a_net_cannot_take_is_explained():
    model = started(Model)
    with pytest.raises(TypeError) as error:
        model.predict([(np.array([["a", "b", "c"]]),)])
    assert "text" in "".join(error.value.__notes__)


def test_batches_of_tensors_are_passed_on_as_the_same_objects():
    reader = BatchReader()
    assert all(reader(batch) is batch for batch in TENSORS)
    assert reader.convert is not reader.of_tensors


def test_a_net_that_writes_to_its_input_leaves_read_only_arrays_alone():
    fixed = np.ones((2, 3), np.float32)
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BatchReader()(fixed).add_(1)
    assert fixed.sum() == 6


def reused(count=3):
    """Batches in one buffer, which is written anew for each."""
    buffer = np.empty((2, 3), np.float32)
    for number in range(count):
        buffer[:] = number
        yield (buffer,)


def test_a_buffer_that_a_generator_writes_again_keeps_each_batch_apart():
    model = Model(nn.Identity())
    assert model.predict(reused())[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    kept = [batch[0] for batch in batches(reused(), name="data")]
    assert kept[0][0, 0] == 2  # the control: without a copy, all batches are the last


class Second(Communicator):
    """The second of two processes, of which the first has the same data."""

    rank, world_size, is_main_process = 1, 2, False

    def all_gather(self, value):
        return [value, value]


@pytest.mark.parametrize("divide", [True, False])
def test_one_of_several_processes_gets_its_rows_as_tensors(divide):
    data = Batches(ARRAYS, name="data")
    data.sharing = ShardedBatches(ARRAYS, "data", None, Second())
    data.divide = divide
    expected = [tuple(one[5:] for one in batch) for batch in TENSORS] if divide else TENSORS[1:2]
    found = list(data)
    assert len(found) == len(expected)
    for batch, same in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, same, strict=True))
