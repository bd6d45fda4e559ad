"""What a batch counts: the same loss, metrics and weights at every batch size, for every layout and loss."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import KerasModel, Model, StepRunner
from torchkeras.weighting.denominator import Denominator, known_denominator

N = 60
QUIET = {"epochs": 1, "ckpt_path": None, "quiet": True}
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 5, generator=GENERATOR)
CLASSES = torch.randint(0, 4, (N,), generator=GENERATOR)
VALUES = torch.randn(N, 4, generator=GENERATOR)
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])
IGNORED = CLASSES.where(torch.arange(N) % 3 > 0, torch.tensor(-100))
HOLES = VALUES.where(torch.rand(N, 4, generator=GENERATOR) > 0.3, torch.nan)


def flat(outputs=4):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))


def of_holes(preds, labels):
    there = ~labels.isnan()
    return (preds - labels.nan_to_num())[there].square().mean()


def info_nce(preds, labels):
    return F.cross_entropy(preds @ preds.T, torch.arange(len(preds)))


def cox(preds, labels):
    order = labels.argsort(descending=True)
    risk = preds[:, 0][order]
    return (risk.logcumsumexp(0) - risk).mean()


def trained(make, loss_fn, data, accumulated=1, face=KerasModel, **options):
    """The weights after one epoch of plain gradient descent."""
    net = make()
    model = face(net, loss_fn, optimizer=torch.optim.SGD(net.parameters(), lr=0.5))
    history = model.fit(data, gradient_accumulation_steps=accumulated, **options, **QUIET)
    return nn.utils.parameters_to_vector(net.parameters()).detach(), history["train_loss"][0]


class Focal(nn.CrossEntropyLoss):
    """A loss of torch's with a forward of its own: what its options say is not what it does."""

    def forward(self, preds, labels):
        losses = F.cross_entropy(preds, labels, reduction="none")
        return ((1 - (-losses).exp()) * losses).mean()


class Summed(nn.Module):
    """A loss that adds up, whatever its attribute says."""

    reduction = "mean"

    def forward(self, preds, labels):
        return F.cross_entropy(preds, labels, reduction="sum")


def without(*marks):
    def loss(preds, labels):
        used = torch.stack([labels != mark for mark in marks]).all(0)
        return F.cross_entropy(preds[used], labels[used].long())

    return loss


def of_numbers_above(mark):
    return lambda preds, labels: (preds - labels)[labels != mark].square().mean()


def marked(mark):
    return CLASSES.where(torch.arange(N) % 3 > 0, torch.tensor(mark))


MEANS = {
    "a function that ignores -1": (without(-1), marked(-1)),
    "a function that ignores 255": (without(255), marked(255).to(torch.uint8)),
    "a function that ignores two": (without(-1, 2), marked(-1)),
    "classes of int8": (without(-1), marked(-1).to(torch.int8)),
    "a function that leaves out -1.0": (of_numbers_above(-1.0), HOLES.nan_to_num(-1.0)),
    "a function that leaves out 0.0": (of_numbers_above(0.0), HOLES.nan_to_num(0.0)),
    "a class of torch's with a forward of its own": (Focal(ignore_index=2, weight=WEIGHT), CLASSES),
    "an attribute that lies": (Summed(), CLASSES),
    "partial with class weights": (functools.partial(F.cross_entropy, weight=WEIGHT), CLASSES),
    "partial with ignore_index": (functools.partial(F.cross_entropy, ignore_index=2), CLASSES),
    "a function that ignores -100": (lambda preds, labels: F.cross_entropy(preds, labels), IGNORED),
    "a function that ignores 0": (lambda preds, labels: F.cross_entropy(preds, labels, ignore_index=0), CLASSES),
    "a function over numbers": (lambda preds, labels: (preds - labels).square().mean(), VALUES),
    "a function that leaves out NaN": (of_holes, HOLES),
    "a function that adds up": (lambda preds, labels: F.cross_entropy(preds, labels, reduction="sum"), CLASSES),
    "a sum over columns": (lambda preds, labels: (preds - labels).square().sum(1).mean(), VALUES),
    "soft labels with class weights": (nn.CrossEntropyLoss(weight=WEIGHT), VALUES.softmax(1)),
    "torch's own": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1), CLASSES)}


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("name", MEANS)
def test_evaluate_gives_the_loss_of_all_samples_at_every_batch_size(name, size):
    loss_fn, labels = MEANS[name]
    net = flat()
    with torch.no_grad():
        whole = float(loss_fn(net(X), labels))
    found = KerasModel(net, loss_fn).evaluate((X, labels), batch_size=size)["val_loss"]
    assert found == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("name", MEANS)
def test_accumulated_batches_give_the_weights_of_the_large_one(name):
    loss_fn, labels = MEANS[name]
    small, loss = trained(flat, loss_fn, (X, labels), 4, batch_size=5, shuffle=False)
    large, other = trained(flat, loss_fn, (X, labels), 1, batch_size=20, shuffle=False)
    assert torch.allclose(small, large, rtol=0, atol=1e-4 if "adds up" in name or "lies" in name else 1e-6)
    assert loss == pytest.approx(other, rel=1e-5)
    shifted, _ = trained(flat, loss_fn, (X, labels), 4, batch_size=4, shuffle=False)
    assert not torch.allclose(shifted, large, rtol=0, atol=1e-5)  # control: other windows


@pytest.mark.parametrize(("loss_fn", "labels"), [
    (info_nce, CLASSES), (cox, torch.rand(N)), (lambda preds, labels: (preds - labels).square().mean().sqrt(), VALUES),
    (lambda preds, labels: F.cross_entropy(preds, labels, weight=WEIGHT), CLASSES)],
    ids=["contrastive", "survival", "root", "weights that nobody can know"])
def test_a_loss_that_is_no_mean_is_not_divided_and_fit_says_what_its_number_is(loss_fn, labels):
    with pytest.raises(ValueError, match="loss_fn: received a loss which is no mean .*StepRunner.count"):
        trained(flat, loss_fn, (X, labels), 2, batch_size=10)
    net = flat()
    model = KerasModel(net, loss_fn)
    model.fit((X, labels), batch_size=10, **QUIET)
    assert any("depends on the batch size" in note for note in model.run.notes)
    with pytest.warns(UserWarning, match="depends on the batch size"):
        model.evaluate((X, labels), batch_size=10)
    with torch.no_grad():
        whole = float(loss_fn(net.eval()(X), labels))
    assert model.evaluate((X, labels), batch_size=N)["val_loss"] == pytest.approx(whole, rel=1e-6)


def test_a_weighed_class_that_comes_late_is_told_and_not_divided():
    labels = CLASSES.clone()
    labels[:30] = 1

    def loss_fn(preds, labels):
        return F.cross_entropy(preds, labels, weight=WEIGHT)

    model = KerasModel(flat(), loss_fn)
    with pytest.warns(UserWarning, match="depends on the batch size"):
        model.evaluate((X, labels), batch_size=10)
    with pytest.raises(ValueError, match="loss_fn: received a loss which is no mean"):
        trained(flat, loss_fn, (X, labels), 2, batch_size=10, shuffle=False)


def test_a_label_that_is_left_out_and_comes_late_is_left_out_or_refused_where_batches_were_put_together():
    late = CLASSES.where((torch.arange(N) < 30) | (torch.arange(N) % 3 > 0), torch.tensor(50))
    net, loss_fn = flat(), without(50)
    with torch.no_grad():
        whole = loss_fn(net(X), late).item()
    for size in (7, 10, 60):
        assert KerasModel(net, loss_fn).evaluate((X, late), batch_size=size)["val_loss"] == pytest.approx(whole, 1e-6)
    model = KerasModel(net, loss_fn)
    with pytest.raises(ValueError, match="loss_fn: received a loss of which only a later batch .* StepRunner.count"):
        model.fit((X, late), batch_size=10, shuffle=False, gradient_accumulation_steps=2, **QUIET)
    model.fit((X, late), batch_size=10, shuffle=False, **QUIET)  # control: nothing is put together


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
@pytest.mark.parametrize("mark", [-100, -1, 0, 2, 99, 255])
def test_batches_with_hardly_any_label_that_counts(mark, share):
    generator = torch.Generator().manual_seed(mark + 200)
    labels = torch.randint(0, 4, (N,), generator=generator)
    labels[torch.rand(N, generator=generator) < share] = mark
    labels[-1] = 3
    net, loss_fn = flat(), without(mark)
    with torch.no_grad():
        whole = loss_fn(net(X), labels).item()
    for size in (1, 2, 5, N):
        found = KerasModel(net, loss_fn).evaluate((X, labels), batch_size=size)["val_loss"]
        assert found == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("loss_fn", [
    lambda preds, labels: F.cross_entropy(preds, labels, weight=WEIGHT),
    lambda preds, labels: (preds[:, 0] - labels).square().mean().sqrt()], ids=["weighed", "a root"])
def test_one_sample_at_a_time_tells_by_the_next_one(loss_fn):
    with pytest.warns(UserWarning, match="depends on the batch size"):
        KerasModel(flat(), loss_fn).evaluate((X, CLASSES), batch_size=1)
    with pytest.raises(ValueError, match="loss_fn: received a loss which is no mean"):
        trained(flat, loss_fn, (X, CLASSES), 8, batch_size=1, shuffle=False)


@pytest.mark.parametrize("mark", [9.0, 2.0, 0.5, -9.0])
def test_a_number_that_occurs_often_may_be_left_out(mark):
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (N, 4)).float()
    labels[torch.rand(N, 4) < 0.4] = mark

    def loss_fn(preds, labels):
        used = labels != mark
        return F.binary_cross_entropy_with_logits(preds[used], labels[used])

    net = flat()
    with torch.no_grad():
        whole = loss_fn(net(X), labels).item()
    for size in (4, 8, 13, 60):
        found = KerasModel(net, loss_fn).evaluate((X, labels), batch_size=size)["val_loss"]
        assert found == pytest.approx(whole, rel=1e-6)


def test_what_was_told_in_evaluate_does_not_pass_a_later_fit_that_divides():
    model = KerasModel(flat(), info_nce)
    with pytest.warns(UserWarning, match="depends on the batch size"):
        model.evaluate((X, CLASSES), batch_size=10)
    with pytest.raises(ValueError, match="loss_fn: received a loss which is no mean"):
        model.fit((X, CLASSES), batch_size=10, gradient_accumulation_steps=2, **QUIET)


def test_a_count_of_ones_own_makes_such_a_loss_exact():
    class Weighed(StepRunner):
        def count(self, batch):
            return WEIGHT[batch[1]].sum().item()

    class Own(KerasModel):
        StepRunner = Weighed

    def loss_fn(preds, labels):
        return F.cross_entropy(preds, labels, weight=WEIGHT)

    net = flat()
    with torch.no_grad():
        whole = float(loss_fn(net(X), CLASSES))
    for size in (1, 7, 60):
        assert Own(net, loss_fn).evaluate((X, CLASSES), batch_size=size)["val_loss"] == pytest.approx(whole, rel=1e-6)
    small, _ = trained(flat, loss_fn, (X, CLASSES), 4, Own, batch_size=5, shuffle=False)
    large, _ = trained(flat, loss_fn, (X, CLASSES), 1, Own, batch_size=20, shuffle=False)
    assert torch.allclose(small, large, rtol=0, atol=1e-6)


def test_a_forward_of_ones_own_is_counted_by_the_labels_that_it_gives():
    class Shifted(StepRunner):
        def forward(self, batch):
            ids, mask = batch
            logits = self.net(ids)
            return logits[:, :-1].flatten(0, 1), ids.where(mask, -100)[:, 1:].flatten()

    class Own(KerasModel):
        StepRunner = Shifted

    torch.manual_seed(0)
    ids = torch.randint(0, 9, (20, 6))
    mask = torch.arange(6) < torch.randint(2, 7, (20, 1))
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    with torch.no_grad():
        logits = net(ids)
        whole = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids.where(mask, -100)[:, 1:].flatten()).item()
    for size in (1, 6, 20):
        found = Own(net, "cross_entropy").evaluate(DataLoader(TensorDataset(ids, mask), size))["val_loss"]
        assert found == pytest.approx(whole, rel=1e-6)


# layouts

class Images(Dataset):
    """Images of unlike sizes, each with two numbers."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 6 + index % 4, 7, generator=generator), torch.randn(2, generator=generator)


class Detector(nn.Module):
    """Takes a list of images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 2, 3)

    def forward(self, images):
        return torch.stack([self.layer(one[None]).mean((0, 2, 3)) for one in images])


def stacked(preds, labels):
    return F.mse_loss(preds, torch.stack(list(labels)))


def by_columns(samples):
    return tuple(zip(*samples, strict=True))


def images(size):
    return DataLoader(Images(), size, collate_fn=by_columns)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 11])
def test_lists_of_images_count_images_not_channels(size):
    net, every = Detector(), by_columns([Images()[index] for index in range(11)])
    with torch.no_grad():
        whole = stacked(net(every[0]), every[1])
    assert KerasModel(net, stacked).evaluate(images(size))["val_loss"] == pytest.approx(whole.item(), rel=1e-6)
    small, _ = trained(Detector, stacked, images(2), 2)
    large, _ = trained(Detector, stacked, images(4))
    assert torch.allclose(small, large, rtol=0, atol=1e-6)


class Graphs(Dataset):
    """Graphs of two to six nodes, with a number to find for each node."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        nodes = 2 + index % 5
        return {"x": torch.randn(nodes, 1, generator=generator), "y": torch.randn(nodes, 1, generator=generator),
                "edges": torch.randint(0, nodes, (2, nodes + 3), generator=generator)}


class GraphNet(nn.Module):
    """One step of passing on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(1, 1)

    def forward(self, x, edges):
        return self.layer(x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def joined(samples):
    """One large graph of several, as graph libraries make it."""
    firsts = torch.tensor([0, *(len(one["x"]) for one in samples)]).cumsum(0)
    edges = torch.cat([one["edges"] + first for one, first in zip(samples, firsts, strict=False)], 1)
    return {"edges": edges, **{name: torch.cat([one[name] for one in samples]) for name in ("x", "y")}}


@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), lambda preds, labels: (preds - labels).square().mean()],
                         ids=["torch's", "a function"])
def test_batches_of_graphs_count_the_labels_of_their_nodes(loss_fn):
    net, whole = GraphNet(), joined([Graphs()[index] for index in range(12)])
    with torch.no_grad():
        expected = loss_fn(net(whole["x"], whole["edges"]), whole["y"]).item()
    for size in (1, 5, 12):
        loader = DataLoader(Graphs(), size, collate_fn=joined)
        assert KerasModel(net, loss_fn).evaluate(loader)["val_loss"] == pytest.approx(expected, rel=1e-6)
    if isinstance(loss_fn, nn.Module):
        small, large = (trained(GraphNet, loss_fn, DataLoader(Graphs(), 12 // steps, collate_fn=joined), steps)[0]
                        for steps in (3, 1))
        assert torch.allclose(small, large, rtol=0, atol=1e-6)


class Recurrent(nn.Module):
    """Takes time first."""

    def __init__(self, last=False):
        super().__init__()
        torch.manual_seed(3)
        self.rnn, self.head, self.last = nn.RNN(3, 4), nn.Linear(4, 1), last

    def forward(self, x):
        states = self.head(self.rnn(x)[0])
        return states[-1] if self.last else states


@pytest.mark.parametrize("last", [False, True], ids=["a label a step", "a label a sequence"])
@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), lambda preds, labels: (preds - labels).square().mean()],
                         ids=["torch's", "a function"])
def test_batches_with_time_first_count_their_labels(loss_fn, last):
    x, y = torch.randn(13, 6, 3), torch.randn(13, 1) if last else torch.randn(13, 6, 1)

    def collate(samples):
        inputs, labels = (torch.stack(column, 1) for column in by_columns(samples))
        return inputs, labels.transpose(0, 1) if last else labels

    net = Recurrent(last)
    with torch.no_grad():
        whole = loss_fn(net(x.transpose(0, 1)), y if last else y.transpose(0, 1)).item()
    for size in (1, 3, 4, 13):
        loader = DataLoader(TensorDataset(x, y), size, collate_fn=collate)
        assert KerasModel(net, loss_fn).evaluate(loader)["val_loss"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("shape", "loss_fn"), [
    ((1, 6, 5), nn.BCEWithLogitsLoss()),
    ((1, 6, 5), lambda preds, labels: F.binary_cross_entropy_with_logits(preds, labels)),
    ((6, 5), lambda preds, labels: F.binary_cross_entropy_with_logits(preds[:, 0], labels)),
    ((1, 6, 5), lambda preds, labels: F.binary_cross_entropy_with_logits(preds, labels, reduction="none").sum((2, 3))
     .mean())], ids=["torch's", "a function", "without a channel", "a sum over pixels"])
def test_pixels_are_counted(shape, loss_fn):
    torch.manual_seed(5)
    x, y = torch.randn(13, 3, 6, 5), torch.randint(0, 2, (13, *shape)).float()
    net = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        whole = loss_fn(net(x), y).item()
    for size in (1, 3, 4, 13):
        found = KerasModel(net, loss_fn).evaluate(DataLoader(TensorDataset(x, y), size))["val_loss"]
        assert found == pytest.approx(whole, rel=1e-6)


class Flat(nn.Module):
    """Classes for every place of a text, in rows below each other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 20)

    def forward(self, x):
        return self.head(self.embedding(x)).flatten(0, 1)


def test_rows_for_every_place_are_counted_by_the_labels_of_the_places():
    texts, net = Texts(), Flat()

    def loss_fn(preds, labels):
        return F.cross_entropy(preds, labels.flatten())

    with torch.no_grad():
        whole = loss_fn(net(texts.ids), texts.labels).item()
    for size in (1, 7, 30):
        found = KerasModel(net, loss_fn).evaluate(DataLoader(TensorDataset(texts.ids, texts.labels), size))["val_loss"]
        assert found == pytest.approx(whole, rel=1e-6)


# nets that bring their own loss

class Language(nn.Module):
    """A language model, or one that fills in tokens; it is given text too, of which it knows nothing."""

    def __init__(self, shifted):
        super().__init__()
        torch.manual_seed(2)
        self.embedding, self.head, self.shifted = nn.Embedding(20, 8), nn.Linear(8, 20), shifted

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embedding(input_ids).cumsum(1))
        if labels is None:
            return {"logits": logits}
        seen, truth = (logits[:, :-1], labels[:, 1:]) if self.shifted else (logits, labels)
        return {"logits": logits, "loss": F.cross_entropy(seen.flatten(0, 1), truth.flatten())}


class Texts(Dataset):
    """Token numbers, of which the last are padding."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 20, (30, 9), generator=generator)
        self.labels = self.ids.where(torch.arange(9) < torch.randint(2, 10, (30, 1), generator=generator), -100)

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.labels[index], "text": "so it was"}


@pytest.mark.parametrize("shifted", [False, True], ids=["fills in", "goes on"])
def test_a_net_with_its_own_loss_over_tokens_is_counted_by_tokens(shifted):
    texts, net = Texts(), Language(shifted)
    with torch.no_grad():
        whole = net(texts.ids, texts.labels)["loss"].item()
    for size in (1, 7, 30):
        found = KerasModel(net).evaluate(DataLoader(texts, size))["val_loss"]
        assert found == pytest.approx(whole, rel=1e-6)
    small, loss = trained(lambda: Language(shifted), None, DataLoader(texts, 5), 3)
    large, other = trained(lambda: Language(shifted), None, DataLoader(texts, 15))
    assert torch.allclose(small, large, rtol=0, atol=1e-6)
    assert loss == pytest.approx(other, rel=1e-6)


def test_a_loss_verb_of_ones_own_is_counted_by_what_it_leaves_out():
    class Verb(StepRunner):
        def loss(self, preds, labels, weights=None):
            return F.cross_entropy(preds.flatten(0, 1), labels.flatten())

    class Own(KerasModel):
        StepRunner = Verb

    texts = Texts()
    net = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 20))
    with torch.no_grad():
        whole = F.cross_entropy(net(texts.ids).flatten(0, 1), texts.labels.flatten()).item()
    for loss_fn in (None, "cross_entropy"):
        for size in (1, 7, 30):
            loader = DataLoader(TensorDataset(texts.ids, texts.labels), size)
            assert Own(net, loss_fn).evaluate(loader)["val_loss"] == pytest.approx(whole, rel=1e-6)


def test_what_could_not_be_looked_at_is_told():
    class Box:
        def __init__(self, x, y):
            self.x, self.y = x, y

        def to(self, *args, **options):
            return self

    class Verbs(StepRunner):
        def forward(self, batch):
            x, y = (batch.x, batch.y) if isinstance(batch, Box) else batch
            return self.net(x), y

        def loss(self, preds, labels, weights=None):
            return F.cross_entropy(preds, labels)

    class Own(KerasModel):
        StepRunner = Verbs

    pairs = list(zip(X.split(12), CLASSES.split(12), strict=True))
    for batches, told in (([Box(*pair) for pair in pairs], True), (pairs, False)):
        model = Own(flat(), None)
        model.fit(batches, **QUIET)
        assert any("could not be examined" in note for note in model.run.notes) == told


def test_an_update_of_ones_own_changes_nothing_of_the_count():
    class Gentle(StepRunner):
        def update(self):
            super().update()

    class Own(KerasModel):
        StepRunner = Gentle

    loss_fn, labels = MEANS["a function that ignores 0"]
    small, _ = trained(flat, loss_fn, (X, labels), 4, Own, batch_size=5, shuffle=False)
    large, _ = trained(flat, loss_fn, (X, labels), 1, batch_size=20, shuffle=False)
    assert torch.allclose(small, large, rtol=0, atol=1e-6)


# several outputs

class Two(nn.Module):
    """Two classifiers on one trunk."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.trunk, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.trunk(x).tanh()
        return {"a": self.a(hidden), "b": self.b(hidden)}


def own_cross_entropy(preds, labels):
    return F.cross_entropy(preds, labels)


EMPTY_FIRST = IGNORED.where(torch.arange(N) > 13, torch.tensor(-100))


def two(loss_a):
    net = Two()
    model = Model(net)
    model.compile(optimizer=torch.optim.SGD(net.parameters(), lr=0.5), loss_weights={"a": 0.7, "b": 2.0},
                  loss={"a": loss_a, "b": nn.CrossEntropyLoss(weight=WEIGHT)})
    return net, model


@pytest.mark.parametrize("loss_a", [nn.CrossEntropyLoss(), own_cross_entropy], ids=["torch's", "a function"])
def test_each_of_several_outputs_is_a_mean_of_its_own_though_batches_have_no_label_of_one(loss_a):
    net, model = two(loss_a)
    labels = {"a": EMPTY_FIRST, "b": CLASSES}
    with torch.no_grad():
        preds = net(X)
        a = F.cross_entropy(preds["a"], EMPTY_FIRST).item()
        b = F.cross_entropy(preds["b"], CLASSES, weight=WEIGHT).item()
    for size in (1, 7, 13, 60):
        found = model.evaluate(X, labels, batch_size=size, return_dict=True)
        assert found["loss"] == pytest.approx(0.7 * a + 2 * b, rel=1e-6)
        assert found["a_loss"] == pytest.approx(a, rel=1e-6)
        assert found["b_loss"] == pytest.approx(b, rel=1e-6)


def test_accumulated_batches_of_several_outputs_give_the_weights_of_the_large_one():
    found = []
    for size, steps in ((5, 4), (20, 1), (20, 3)):
        net, model = two(nn.CrossEntropyLoss())
        past = model.fit(X, {"a": EMPTY_FIRST, "b": CLASSES}, batch_size=size, shuffle=False, verbose=0,
                         gradient_accumulation_steps=steps)
        found.append((nn.utils.parameters_to_vector(net.parameters()).detach(), past.history["loss"][0]))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert not torch.allclose(found[2][0], found[1][0], rtol=0, atol=1e-4)  # control


def test_weights_of_one_change_nothing_beside_several_outputs_that_leave_labels_out():
    _, model = two(nn.CrossEntropyLoss())
    labels = {"a": EMPTY_FIRST, "b": CLASSES}
    plain, ones = (model.evaluate(X, labels, batch_size=7, sample_weight=weights, return_dict=True)["loss"]
                   for weights in (None, torch.ones(N)))
    assert ones == pytest.approx(plain, rel=1e-6)


# weights of samples and classes

@pytest.mark.parametrize("loss_fn", [
    nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=2), nn.CrossEntropyLoss(weight=WEIGHT),
    nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2), nn.CrossEntropyLoss(reduction="sum"),
    functools.partial(F.cross_entropy, weight=WEIGHT)])
@pytest.mark.parametrize("size", [1, 7, 60])
def test_weights_of_one_change_nothing(loss_fn, size):
    net = flat()
    labels = IGNORED.where(CLASSES > 0, CLASSES) if getattr(loss_fn, "ignore_index", -100) == -100 else CLASSES
    plain = KerasModel(net, loss_fn).evaluate((X, labels), batch_size=size)["val_loss"]
    ones = KerasModel(net, loss_fn).evaluate((X, labels, torch.ones(N)), batch_size=size)["val_loss"]
    assert ones == pytest.approx(plain, rel=1e-6)
    histories = [trained(flat, loss_fn, (X, labels), batch_size=size, class_weight=weights)
                 for weights in (None, {0: 1.0, 1: 1.0, 3: 1.0})]
    assert histories[1][1] == pytest.approx(histories[0][1], rel=1e-5)
    other, _ = trained(flat, loss_fn, (X, labels), batch_size=size, class_weight={0: 5.0})
    assert not torch.allclose(other, histories[0][0], rtol=0, atol=1e-4)  # control


def test_class_weights_that_nobody_would_look_at_are_refused():
    class Own(StepRunner):
        def loss(self, preds, labels, weights=None):
            return F.cross_entropy(preds, labels)

    class OwnStep(KerasModel):
        StepRunner = Own

    with pytest.raises(ValueError, match="class_weight: .*a net that computes its own loss"):
        KerasModel(Language(False)).fit(DataLoader(Texts(), 5), class_weight={0: 2.0}, **QUIET)
    with pytest.raises(ValueError, match="class_weight: .*StepRunner"):
        OwnStep(flat(), "cross_entropy").fit((X, CLASSES), class_weight={0: 2.0}, **QUIET)
    with pytest.raises(ValueError, match="class_weight: .*whole numbers"):
        KerasModel(flat(1), "mse").fit((X, X[:, :1]), class_weight={0: 2.0}, **QUIET)


def test_whole_numbers_as_third_item_of_a_loader_are_refused_and_as_third_array_are_weights():
    index = torch.arange(N)
    loader = DataLoader(TensorDataset(X, CLASSES, index), 10)
    for call in (lambda model: model.fit(loader, **QUIET), lambda model: model.evaluate(loader)):
        with pytest.raises(ValueError, match="whole numbers .*third item") as caught:
            call(KerasModel(flat(), "cross_entropy"))
        assert "floats" in str(caught.value)
        assert "StepRunner.forward" in str(caught.value)
    with torch.no_grad():
        losses = F.cross_entropy(flat()(X), CLASSES, reduction="none")
    found = KerasModel(flat(), "cross_entropy").evaluate((X, CLASSES, index))["val_loss"]
    assert found == pytest.approx((losses * index).mean().item(), rel=1e-6)
    zeros = DataLoader(TensorDataset(X, CLASSES, index % 2), 10)
    found = KerasModel(flat(), "cross_entropy").evaluate(zeros)["val_loss"]
    assert found == pytest.approx((losses * (index % 2)).mean().item(), rel=1e-6)


def test_a_loss_that_takes_the_index_gets_it():
    given = []

    def loss_fn(preds, labels, index):
        given.extend(index.tolist())
        return F.cross_entropy(preds, labels)

    KerasModel(flat(), loss_fn).fit(DataLoader(TensorDataset(X, CLASSES, torch.arange(N)), 60), **QUIET)
    assert sorted(set(given)) == list(range(N))


def test_a_net_of_two_required_inputs_gets_the_first_two_items():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(5, 4)

        def forward(self, left, right):
            return self.layer(left - right)

    net = Pairs()
    with torch.no_grad():
        whole = F.cross_entropy(net(X, X.flip(0)), CLASSES).item()
    loader = DataLoader(TensorDataset(X, X.flip(0), CLASSES), 7)
    assert KerasModel(net, "cross_entropy").evaluate(loader)["val_loss"] == pytest.approx(whole, rel=1e-6)


# batches of which nothing counts

@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_batch_of_which_no_label_counts_is_a_step_of_the_plain_loop_and_weighs_nothing(place, momentum):
    labels = CLASSES.clone()
    labels[10 * place:10 * place + 10] = -100
    plain = flat()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=momentum)
    for x, y in zip(X.split(10), labels.split(10), strict=True):
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    net = flat()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
    history = KerasModel(net, nn.CrossEntropyLoss(), optimizer=optimizer).fit(
        (X, labels), (X, labels), batch_size=10, shuffle=False, **QUIET)
    assert len(history) == 1
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        whole = F.cross_entropy(plain.eval()(X), labels).item()
    assert history["val_loss"][0] == pytest.approx(whole, rel=1e-6)
    for steps in (2, 3):
        small, _ = trained(flat, nn.CrossEntropyLoss(), (X, labels), steps, batch_size=10, shuffle=False)
        large, _ = trained(flat, nn.CrossEntropyLoss(), (X, labels), batch_size=10 * steps, shuffle=False)
        assert torch.allclose(small, large, rtol=0, atol=1e-6)


def test_an_empty_batch_weighs_nothing():
    ready = [(X[:10], VALUES[:10]), (X[:0], VALUES[:0]), (X[10:15], VALUES[10:15])]
    net = flat()
    with torch.no_grad():
        whole = F.mse_loss(net(X[:15]), VALUES[:15]).item()
    assert KerasModel(net, "mse").evaluate(ready)["val_loss"] == pytest.approx(whole, rel=1e-6)
    weights, _ = trained(flat, nn.MSELoss(), ready)
    without, _ = trained(flat, nn.MSELoss(), [ready[0], ready[2]])
    assert torch.equal(weights, without)


# parts of a loss

def test_a_loss_may_give_its_parts_which_are_means_over_the_samples_of_the_batches_that_have_them():
    def loss_fn(preds, labels):
        parts = {"first": preds[:, 0].mean()}
        if labels[0] > 0:
            parts["second"] = preds[:, 1].mean()
        return F.cross_entropy(preds, labels), parts

    net = flat()
    found = KerasModel(net, loss_fn).evaluate((X, CLASSES), batch_size=7)
    with torch.no_grad():
        preds = net(X)
    having = torch.cat([torch.full((len(part),), bool(part[0] > 0)) for part in CLASSES.split(7)])
    assert having.any()
    assert not having.all()
    assert found["val_first"] == pytest.approx(preds[:, 0].mean().item(), rel=1e-5)
    assert found["val_second"] == pytest.approx(preds[having, 1].mean().item(), rel=1e-5)
    history = KerasModel(flat(), loss_fn).fit((X, CLASSES), (X, CLASSES), batch_size=7, **QUIET)
    assert {"train_first", "train_second", "val_first", "val_second"} <= set(history.columns)


def test_parts_with_the_name_of_another_column_are_refused():
    def loss_fn(preds, labels):
        loss = F.cross_entropy(preds, labels)
        return loss, {"acc": loss}

    with pytest.raises(ValueError, match="loss_fn: .*'acc'"):
        KerasModel(flat(), loss_fn, {"acc": "accuracy"}).fit((X, CLASSES), **QUIET)


def test_other_numbers_of_a_step_are_means_and_the_rate_is_the_last():
    class Telling(StepRunner):
        def measure(self, loss, preds, labels):
            losses, metrics = super().measure(loss, preds, labels)
            return losses, metrics | {f"{self.stage}_top": preds.max(1).values.mean().item()}

    class Own(KerasModel):
        StepRunner = Telling

    net = flat()
    found = Own(net, "cross_entropy").evaluate((X, CLASSES), batch_size=7)["val_top"]
    with torch.no_grad():
        assert found == pytest.approx(net(X).max(1).values.mean().item(), rel=1e-6)


@pytest.mark.parametrize(("loss_fn", "kind"), [
    (nn.MSELoss(), "elements"), (F.l1_loss, "elements"), (nn.KLDivLoss(reduction="batchmean"), "samples"),
    (nn.NLLLoss(), "valid"), (nn.MSELoss(reduction="sum"), "sum"), (lambda preds, labels: 0, None)])
def test_what_is_known_of_a_loss_by_its_kind(loss_fn, kind):
    found = known_denominator(loss_fn)
    assert (None if found is None else found.kind) == kind


def test_a_denominator_counts_labels_that_are_not_left_out():
    labels = torch.tensor([[1, -100, 2], [-100, -100, 3]])
    assert Denominator("valid", ignored=(-100,)).count(labels, 2) == 3
    assert Denominator("valid", ignored=(-100, 2)).count(labels, 2) == 2
    assert Denominator("shifted", ignored=(-100,)).count(labels, 2) == 2
    assert Denominator("elements").count(labels, 2) == 6
    assert Denominator("elements", dims=(1,)).count(labels, 2) == 3
    assert Denominator("valid", ignored=(float("nan"),)).count(torch.tensor([1.0, float("nan")]), 2) == 1
