"""Batches of every kind get to the device, and stay whole until it has read them."""

from collections import UserDict

import torch
from tests.gpu.parts import QUIET, adam, by_fit, mlp, table
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from torchkeras import Callback, KerasModel


class Box:
    """A batch that moves itself, as a PackedSequence or a tokenizer's output does."""

    def __init__(self, x):
        self.x = x

    def to(self, device, **_):
        return Box(self.x.to(device))


class Slow(nn.Module):
    """Gives the mean of each row, but on a GPU only long after it was asked to."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, given):
        x = given if isinstance(given, torch.Tensor) else given.x
        if x.is_cuda:
            torch.cuda._sleep(200_000_000)  # a tenth of a second
        return x.mean(1, keepdim=True) * self.weight


class Means:
    """Keeps the mean of the predictions of each batch."""

    def __init__(self):
        self.seen = []

    def update(self, preds, labels):
        self.seen.append(preds.detach().mean())

    def compute(self):
        return 0.0

    def reset(self):
        pass


def seen_by_the_net(device, wrap, numbers):
    size = (64, 2 ** 18) if device.type == "cuda" else (64, 16)
    data = [(wrap(torch.full(size, float(number))), torch.zeros(size[0], 1)) for number in numbers]
    means, net = Means(), Slow()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    KerasModel(net, nn.MSELoss(), {"seen": means}, optimizer).fit(
        (one for one in data), epochs=1, steps_per_epoch=len(data), cpu=device.type == "cpu",
        **QUIET)
    return [round(float(one), 3) for one in means.seen][-len(data):]


def test_tensors_are_not_overwritten_while_the_device_reads_them(device):
    assert seen_by_the_net(device, lambda x: x, range(8)) == list(range(8))
    assert seen_by_the_net(device, lambda x: x, [3, 1, 2]) == [3, 1, 2]  # control: not any row


def test_batches_that_move_themselves_are_not_overwritten_either(device):
    assert seen_by_the_net(device, Box, range(8)) == list(range(8))


class InPlace(UserDict):
    """A batch that moves itself in place, as a tokenizer's output does."""

    @property
    def x(self):
        return self["x"]

    def to(self, device, **_):
        self.data = {name: one.to(device) for name, one in self.data.items()}
        return self


def test_the_batches_of_a_tokenizer_are_whole_and_stay_where_their_owner_has_them(device):
    made = []

    def wrap(x):
        made.append(InPlace(x=x))
        return made[-1]

    assert seen_by_the_net(device, wrap, range(8)) == list(range(8))
    assert {one["x"].device.type for one in made} == {"cpu"}


def trains(device, net, data):
    before = [one.detach().clone() for one in net.parameters()]
    history = by_fit(device, net, adam(net), data, 1)[2]
    assert history["train_loss"].notna().all()
    assert not all(map(torch.equal, before, net.parameters()))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x, mask):
        return self.inner(x * mask)


def test_an_expanded_tensor_can_be_a_feature(device):
    x, y = table(30)
    trains(device, Masked(), [((x, torch.ones(1, 7).expand(30, 7)), y)] * 3)


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x, adjacency):
        return self.inner(torch.sparse.mm(adjacency, x))


def test_a_sparse_tensor_can_be_a_feature(device):
    x, y = table(30)
    trains(device, Graph(), [((x, torch.eye(30).to_sparse()), y)] * 3)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.say = nn.GRU(4, 8), nn.Linear(8, 3)

    def forward(self, packed):
        return self.say(self.read(packed)[1][0])


def test_packed_sequences_can_be_features(device):
    drawn = torch.Generator().manual_seed(0)
    packed = pack_sequence([torch.randn(length, 4, generator=drawn) for length in (5, 3)])
    trains(device, Reader(), [(packed, torch.tensor([0, 2]))] * 4)


class Relabel(Callback):
    """Changes labels in place before the second epoch, as pseudo-labels are."""

    def __init__(self, y):
        self.y = y

    def on_epoch_start(self, model):
        if model.run.epoch == 2:
            self.y.fill_(0)


def accuracy_at_the_end(device, callbacks):
    x, y = table()
    net = mlp()
    return by_fit(device, net, adam(net), (x, y), 3, metrics=["accuracy"], batch_size=33,
                  callbacks=[one(y) for one in callbacks])[2]["train_accuracy"].iloc[-1]


def test_labels_changed_in_place_between_epochs_are_seen_on_the_device(device):
    assert accuracy_at_the_end(device, [Relabel]) > 0.9
    assert accuracy_at_the_end(device, []) < 0.7  # control: the labels are drawn at random
