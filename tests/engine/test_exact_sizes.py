"""Batches lie in memory as a DataLoader's own do, so kernels round alike: weights are bit for bit those of its loop.

Which kernel a BLAS takes for an address that is not aligned depends on the processor. The nets and losses here answer
to address and strides themselves, so that these tests fail on all of them.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from torchkeras import KerasModel
from torchkeras.data import batches
from torchkeras.data.memory import in_memory

WIDTHS_AND_BATCHES = [(1, 3), (3, 1), (5, 2), (5, 3), (7, 3), (7, 8), (9, 6)]
KINDS = ["float32", "float64", "float16", "bfloat16", "uint8", "bool", "int64", "image", "two inputs", "numbers"]
WAYS = [("loader", True, 2), ("loader", False, 0), ("arrays", True, 1), ("arrays", False, 2), ("subset", True, 1)]


def layout(tensor: torch.Tensor) -> float:
    """A number that is other where a kernel might be."""
    return 1 + 1e-3 * (tensor.data_ptr() % 64) + 1e-2 * (not tensor.is_contiguous())


class Sensitive(nn.Module):
    """A net that answers to how its inputs lie in memory."""

    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.last, self.dtype = nn.Linear(width, 8, dtype=dtype), nn.Linear(8, 3, dtype=dtype), dtype

    def forward(self, x):
        return self.last((self.first(x.flatten(1).to(self.dtype)) * layout(x)).relu()).float()


class OfTwo(Sensitive):
    """The same with two inputs."""

    def forward(self, x, z):
        return super().forward(x) * layout(z) + z


def loss_fn(preds, labels):
    found = nn.functional.mse_loss if labels.is_floating_point() else nn.functional.cross_entropy
    return found(preds, labels) * layout(labels)


def samples(kind: str, width: int, count: int) -> tuple[torch.Tensor, ...]:
    x, labels = torch.randn(count, width), torch.randint(0, 3, (count,))
    if kind == "two inputs":
        return x, torch.randn(count, 3), labels
    if kind == "numbers":
        return x, torch.randn(count, 3)
    if kind == "image":
        return torch.randint(0, 255, (count, 1, 2, width), dtype=torch.uint8), labels
    return (x * 3).abs().to(getattr(torch, kind)), labels


def net_for(kind: str, width: int) -> nn.Module:
    torch.manual_seed(1)
    floats = getattr(torch, kind, torch.float32)
    dtype = floats if isinstance(floats, torch.dtype) and floats.is_floating_point else torch.float32
    return (OfTwo if kind == "two inputs" else Sensitive)(2 * width if kind == "image" else width, dtype)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def by_hand(net, loader):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    torch.manual_seed(5)
    for *inputs, labels in loader:
        loss_fn(net(*inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


def by_fit(net, data, **options):
    model = KerasModel(net, loss_fn, optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    model.fit(data, epochs=1, ckpt_path=None, quiet=True, plot=False, seed=5, monitor="train_loss", **options)
    return net


def same_weights(kind, width, batch, way, shuffle, more):
    tensors = samples(kind, width, 9 * batch + min(more, batch - 1))
    dataset = TensorDataset(*tensors)
    if way == "subset":
        dataset = Subset(dataset, [-1, *range(2, len(dataset)), 3])
    loader = DataLoader(dataset, batch, shuffle=shuffle)
    expected = by_hand(net_for(kind, width), loader)
    if way == "arrays":
        *inputs, labels = tensors
        data = (inputs[0] if len(inputs) == 1 else tuple(inputs), labels)
        return equal(by_fit(net_for(kind, width), data, batch_size=batch, shuffle=shuffle), expected)
    return equal(by_fit(net_for(kind, width), loader), expected)


@pytest.mark.filterwarnings("ignore")
def test_weights_are_those_of_a_dataloaders_loop_at_every_size_and_type():
    cases = [(kind, *sizes, *way) for kind, sizes, way in itertools.product(KINDS, WIDTHS_AND_BATCHES, WAYS)
             if kind in ("float32", "two inputs") or way[0] != "loader"]
    cases += [("float32", 7, 33, "loader", True, more) for more in (1, 2, 3)]
    assert len(cases) > 200
    assert [case for case in cases if not same_weights(*case)] == []


def test_control_a_batch_that_lies_elsewhere_is_seen():
    torch.manual_seed(0)
    x, labels = samples("float32", 5, 30)
    ragged = [(x[i:i + 3], labels[i:i + 3]) for i in range(0, 30, 3)]  # views, of which most are not aligned
    expected = by_hand(net_for("float32", 5), DataLoader(TensorDataset(x, labels), 3))
    assert not equal(by_hand(net_for("float32", 5), ragged), expected)
    assert equal(by_hand(net_for("float32", 5), [(x.clone(), y.clone()) for x, y in ragged]), expected)


@pytest.mark.parametrize("make", [lambda x, y: DataLoader(TensorDataset(x, y), 3, shuffle=True),
                                  lambda x, y: DataLoader(Subset(TensorDataset(x, y), range(40)), 3),
                                  lambda x, y: batches({"a": x, "y": y}, name="data", batch_size=3).source])
@pytest.mark.parametrize("skip", [0, 1, 5, 11])
def test_every_batch_begins_where_a_tensor_of_its_own_would(make, skip):
    loader = make(torch.randn(47, 5, dtype=torch.float64), torch.rand(47) > 0.5)
    for batch in in_memory(loader).batches(loader.batch_sampler, skip):
        for leaf in batch.values() if isinstance(batch, dict) else batch:
            assert leaf.data_ptr() % 64 == 0
            assert leaf.is_contiguous()


@pytest.mark.parametrize("x", [torch.randn(5, 23).T, torch.randn(23, 9)[:, 2:],
                               torch.randn(23, 3, 4, 2).contiguous(memory_format=torch.channels_last)])
def test_arrays_in_any_order_of_memory_give_a_dataloaders_batches(x):
    plain = list(DataLoader(TensorDataset(x), 3))
    found = list(batches((x,), name="data", batch_size=3))
    assert [one.stride() for (one,) in found] == [one.stride() for (one,) in plain]
    assert all(torch.equal(one, other) for (one,), (other,) in zip(found, plain, strict=True))


@pytest.mark.parametrize(("width", "batch"), [(5, 3), (7, 8), (7, 33), (9, 2)])
def test_a_resumed_run_cuts_its_batches_as_the_whole_one(width, batch):
    torch.manual_seed(0)
    x, labels = samples("float32", width, 11 * batch + 1)
    model = KerasModel(net_for("float32", width), loss_fn)
    assert model.verify_resume((x, labels), batch_size=batch, steps=12).identical
    assert model.verify_resume(DataLoader(Subset(TensorDataset(x, labels), range(10 * batch)), batch, shuffle=True),
                               steps=12).identical


@pytest.mark.parametrize(("width", "batch"), [(5, 3), (7, 8)])
def test_evaluate_and_predict_read_the_batches_of_a_dataloader(width, batch):
    torch.manual_seed(0)
    x, labels = samples("float32", width, 9 * batch + 1)
    net = net_for("float32", width)
    model = KerasModel(net, "cross_entropy")
    with torch.no_grad():
        preds = [(net(a), b) for a, b in DataLoader(TensorDataset(x, labels), batch)]
        losses = sum(float(nn.functional.cross_entropy(a, b)) * len(b) for a, b in preds) / len(x)
    assert torch.equal(model.predict(x, batch_size=batch), torch.cat([one for one, _ in preds]))
    for data in ((x, labels), TensorDataset(x, labels)):
        assert model.evaluate(data, batch_size=batch)["val_loss"] == pytest.approx(losses, rel=1e-6)
