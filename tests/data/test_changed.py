"""What a callback puts in the place of samples, or writes into them, trains as with a plain DataLoader."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

from torchkeras import Callback, KerasModel
from torchkeras.data import batches


def parts():
    torch.manual_seed(0)
    dataset = TensorDataset(torch.randn(40, 5), torch.randint(0, 3, (40,)))
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), dataset


def relabelled(loader):
    tensors = loader.dataset.tensors
    loader.dataset.tensors = (tensors[0], (tensors[1] + 1) % 3)


def rewritten(loader):
    loader.dataset.tensors[1].add_(1).remainder_(3)


def other_memory(loader):
    loader.dataset.tensors[1].data = (loader.dataset.tensors[1] + 1) % 3


def grown(loader):
    loader.dataset.tensors = tuple(torch.cat([one, one[:7]]) for one in loader.dataset.tensors)


def smaller(loader):
    loader.dataset.tensors = tuple(one[:19] for one in loader.dataset.tensors)


def fewer(loader):
    loader.dataset.indices = list(loader.dataset.indices)[:-9]


def reordered(loader):
    loader.dataset.indices.reverse()


def another(loader):
    loader.dataset.dataset = TensorDataset(*(one.flip(0) for one in loader.dataset.dataset.tensors))


def weights(loader):
    loader.sampler.weights = loader.sampler.weights.flip(0)


def longer(loader):
    loader.sampler.num_samples = 31


def batch_size(loader):
    loader.batch_sampler.batch_size = 7


def collate(loader):
    loader.collate_fn = lambda samples: tuple(torch.stack(one) for one in zip(*samples, strict=True))


LOADERS = {
    "plain": lambda data: DataLoader(data, 3, shuffle=True), "in order": lambda data: DataLoader(data, 3),
    "subset": lambda data: DataLoader(Subset(data, list(range(3, 37))), 4, shuffle=True),
    "weighted": lambda data: DataLoader(data, 4, sampler=WeightedRandomSampler(torch.linspace(0, 1, 40), 24)),
    "drawn": lambda data: DataLoader(data, 4, sampler=RandomSampler(data, replacement=True, num_samples=20)),
}
BETWEEN = [("plain", relabelled), ("plain", rewritten), ("plain", other_memory), ("plain", grown), ("plain", smaller),
           ("in order", grown), ("in order", batch_size), ("plain", collate), ("subset", fewer), ("subset", reordered),
           ("subset", another), ("weighted", weights), ("weighted", longer)]
WITHIN = [("plain", relabelled), ("in order", rewritten), ("in order", other_memory), ("subset", another),
          ("in order", grown)]


def by_hand(kind, change, at_step):
    net, dataset = parts()
    loader, optimizer = LOADERS[kind](dataset), torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(5)
    for _ in range(3):
        for step, (x, y) in enumerate(loader, start=1):
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == at_step:
                change(loader)
        if at_step is None:
            change(loader)
    return net


class Changing(Callback):
    def __init__(self, change, loader, at_step):
        self.change, self.loader, self.at_step, self.lengths = change, loader, at_step, []

    def on_step_end(self, model):
        self.lengths.append((model.run.step, model.run.steps))
        if model.run.step == self.at_step:
            self.change(self.loader)

    def on_train_epoch_end(self, model):
        assert model.run.step == model.run.steps
        if self.at_step is None:
            self.change(self.loader)


def by_fit(kind, change, at_step):
    net, dataset = parts()
    loader = LOADERS[kind](dataset)
    model = KerasModel(net, "cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    best = copy.deepcopy(net)  # fit ends with the best weights; the last are compared here

    class Last(Callback):
        def on_train_epoch_end(self, model):
            best.load_state_dict(model.net.state_dict())

    model.fit(loader, epochs=3, ckpt_path=None, quiet=True, plot=False, seed=5, monitor="train_loss", patience=None,
              callbacks=[Last(), Changing(change, loader, at_step)])
    return best


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(("kind", "change"), BETWEEN)
def test_what_is_changed_between_epochs_trains_as_in_a_plain_loop(kind, change):
    assert equal(by_fit(kind, change, None), by_hand(kind, change, None))
    assert not equal(by_fit(kind, change, None), by_hand(kind, lambda loader: None, None)) or change is collate


@pytest.mark.parametrize(("kind", "change"), WITHIN)
def test_what_is_changed_in_the_middle_of_an_epoch_is_seen_in_the_next_batch(kind, change):
    assert equal(by_fit(kind, change, 4), by_hand(kind, change, 4))
    assert change is grown or not equal(by_fit(kind, change, 4), by_hand(kind, change, 5))


def test_length_and_last_batch_follow():
    _, dataset = parts()
    loader = DataLoader(dataset, 6)
    found = batches(loader, name="train_data")
    assert (found.length, found.samples, found.last_batch) == (7, 40, 4)
    grown(loader)
    found.renew()
    assert (found.length, found.samples, found.last_batch) == (8, 47, 5)
    smaller(loader)
    found.renew()
    assert (found.length, found.samples, found.last_batch) == (4, 19, 1)


def test_a_divided_dataset_that_grows_is_refused():
    net, dataset = parts()
    model = KerasModel(net, "cross_entropy")

    class Grow(Callback):
        def on_train_epoch_end(self, model):
            dataset.tensors = tuple(torch.cat([one, one]) for one in dataset.tensors)

    with pytest.raises(ValueError, match="80 samples in place of the 40 that validation_split divided"):
        model.fit(dataset, validation_split=0.2, epochs=3, ckpt_path=None, quiet=True, plot=False, callbacks=[Grow()])


def test_a_divided_dataset_that_is_relabelled_trains_on_the_new_labels():
    found = {}
    for change in (True, False):
        net, dataset = parts()

        class Relabel(Callback):
            def on_train_epoch_end(self, model, dataset=dataset, change=change):
                if change:
                    dataset.tensors = (dataset.tensors[0], (dataset.tensors[1] + 1) % 3)

        KerasModel(net, "cross_entropy").fit(dataset, validation_split=0.2, epochs=2, ckpt_path=None, quiet=True,
                                             plot=False, seed=1, callbacks=[Relabel()])
        found[change] = net
    assert not equal(found[True], found[False])


@pytest.mark.parametrize("change", [relabelled, rewritten, other_memory, grown])
def test_a_copy_on_an_accelerator_is_made_anew_where_samples_changed(change, monkeypatch):
    _, dataset = parts()
    loader = DataLoader(dataset, 6)
    found = batches(loader, name="train_data", device="cpu")
    resident = found.memory.on(torch.device("cpu"))  # copies in the place of an accelerator's
    monkeypatch.setattr("torchkeras.data.located.copy_to", lambda leaf, device: leaf.clone())
    list(resident)
    change(loader)
    plain, moved = list(loader), list(resident)
    assert all(torch.equal(a, b) for one, other in zip(plain, moved, strict=True)
               for a, b in zip(one, other, strict=True))
    kept = resident.samples.tensors[0]
    list(resident)
    assert resident.samples.tensors[0] is kept  # what did not change is not copied again
