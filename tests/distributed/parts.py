"""Small nets, data, metrics and steps, of which the cases are made; everything in them is drawn from a seed."""

import random
import zlib

import numpy as np
import torch
import torchmetrics
from sklearn.metrics import accuracy_score  # here, since its import draws random numbers
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchkeras import Callback, EpochRunner, KerasModel, StepRunner
from torchkeras.functional import Input, build

WIDTH = 6


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def features(count, seed, width=WIDTH):
    return torch.randn(count, width, generator=drawn(seed))


def classes(count, seed, kinds=3):
    """Class numbers; all kinds occur."""
    return (torch.arange(count) % kinds)[torch.randperm(count, generator=drawn(seed + 1))]


def targets(count, seed):
    """Numbers that the features explain in part."""
    return features(count, seed)[:, :1] + 0.3 * torch.randn(count, 1, generator=drawn(seed + 2))


def mlp(seed, outputs=3, inputs=WIDTH):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def graph(seed):
    """A net drawn as a graph, with a shared layer and a residual."""
    torch.manual_seed(seed)
    x, shared = Input((WIDTH,)), nn.Linear(WIDTH, WIDTH)
    return build(x, nn.Linear(WIDTH, 3)(torch.tanh(shared(torch.tanh(shared(x)))) + x))


def sgd(net, rate=0.1):
    return torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)


def face(net, loss, metrics=None, optimizer=None, scheduler=None, step=None, **objects):
    """A KerasModel, with a step of its own if one is given."""
    model = KerasModel(net, loss, metrics, sgd(net) if optimizer is None else optimizer, scheduler, **objects)
    if step is not None:
        model.StepRunner = step
    return model


class Witness(Callback):
    """Sees the weights as training left them: at the end of ``fit`` the best ones are sent to every process."""

    def on_train_epoch_end(self, model):
        self.weights = flat(model.net)


def flat(module):
    return torch.cat([weight.detach().reshape(-1) for weight in module.parameters()])


def random_state():
    """A fingerprint of the global random generators."""
    return zlib.crc32(repr((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
                      .encode())


def fitted(model, train, val=None, **options):
    """What a run leaves behind."""
    witness = Witness()
    options = {"epochs": 1, "ckpt_path": None, "patience": None, "quiet": True} | options
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    history = model.fit(train, val, callbacks=[witness, *options.pop("callbacks", [])], **options)
    return {**history.to_dict("list"), "stop_reason": history.attrs["stop_reason"], "updates": model.run.optimizer_steps,
            "weights": flat(model.net), "weights_at_the_end": getattr(witness, "weights", None),
            "random_state": random_state()}


def loader(*tensors, size=4, shuffle=True, **options):
    return DataLoader(TensorDataset(*tensors), size, shuffle=shuffle, **options)


class Rows(Dataset):
    """Samples by number."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, number):
        return tuple(tensor[number] for tensor in self.tensors)


class Stream(IterableDataset):
    """Items one after another."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Uneven:
    """A batch sampler that draws batches of one to four samples."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        order = torch.randperm(self.count).tolist()
        while order:
            size = int(torch.randint(1, 5, ()))
            yield order[:size]
            order = order[size:]


class OwnLoader(DataLoader):
    """A loader that does something to its batches, so nobody can know what samples are in them."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x.flip(0), y.flip(0)


def ready(*tensors, size=4):
    """Ready batches."""
    return [tuple(parts) for parts in zip(*(tensor.split(size) for tensor in tensors), strict=True)]


def endless(batches):
    while True:
        yield from batches


class Two(nn.Module):
    """A net of two inputs, by position or by name."""

    def __init__(self, seed, outputs=3):
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.other = nn.Linear(4, outputs), nn.Linear(2, outputs)

    def forward(self, left, right):
        return self.one(left) * torch.tanh(self.other(right))


class Scaled(nn.Module):
    """A net that takes a number along with its batch."""

    def __init__(self, seed):
        super().__init__()
        self.inner = mlp(seed)

    def forward(self, x, scale):
        return self.inner(x) * scale


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Named(nn.Module):
    """A net of parts with names."""

    def __init__(self, seed):
        super().__init__()
        self.body, _, self.head = mlp(seed)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


class Experts(nn.Module):
    """A net of two parts, each for some samples."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.other = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)

    def forward(self, x):
        chosen = x[:, 0] > 0.3
        preds = x.new_zeros(len(x), 3)
        for part, its in ((self.one, chosen), (self.other, ~chosen)):
            if its.any():
                preds[its] = part(x[its])
        return preds


class Spare(nn.Module):
    """A net with a layer that it never uses."""

    def __init__(self, seed):
        super().__init__()
        self.used = mlp(seed)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


class OwnLoss(nn.Module):
    """A net that brings its own loss."""

    def __init__(self, seed):
        super().__init__()
        self.inner = mlp(seed)

    def forward(self, x, labels=None):
        logits = self.inner(x)
        return {"logits": logits} if labels is None else {
            "logits": logits, "loss": nn.functional.cross_entropy(logits, labels)}


class Tokens(nn.Module):
    """A net with its own loss over tokens, of this place or of the next."""

    def __init__(self, seed, shifted):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.head, self.shifted = nn.Embedding(9, 4), nn.Linear(4, 9), shifted

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embedding(input_ids).cumsum(1))
        seen, truth = (logits[:, :-1], labels[:, 1:]) if self.shifted else (logits, labels)
        return {"logits": logits, "loss": nn.functional.cross_entropy(seen.flatten(0, 1), truth.flatten())}


class Boxes(nn.Module):
    """A net that takes a list of images of unlike sizes."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 2, 3)

    def forward(self, images):
        return torch.stack([self.layer(one[None]).mean((0, 2, 3)) for one in images])


class Both(nn.Module):
    """A net with two outputs."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk, self.a, self.b = nn.Linear(WIDTH, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.trunk(x).tanh()
        return {"a": self.a(hidden), "b": self.b(hidden)}


class LearnedScale(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.inner = nn.CrossEntropyLoss()

    def forward(self, preds, labels):
        return self.inner(preds * self.log_scale.exp(), labels) + 0.01 * self.log_scale.square()


class LearnedCrossEntropy(nn.CrossEntropyLoss):
    """Cross entropy with a parameter of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, preds, labels):
        return super().forward(preds * self.log_scale.exp(), labels)


class Boxed:
    """A tensor in an object that nobody knows."""

    def __init__(self, tensor):
        self.tensor = tensor

    def to(self, device, **options):
        return Boxed(self.tensor.to(device, **options))


class WithBoxes(nn.Module):
    """A net for such objects."""

    def __init__(self, seed):
        super().__init__()
        self.inner = mlp(seed)

    def forward(self, box):
        return self.inner(box.tensor)


class MeanOfPreds(torchmetrics.Metric):
    """A torchmetrics object with a sum, a count, a largest value and a list."""

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("largest", torch.tensor(-torch.inf), dist_reduce_fx="max")
        self.add_state("kept", [], dist_reduce_fx="cat")

    def update(self, preds, labels):
        self.total = self.total + preds.double().sum()
        self.count = self.count + preds.numel()
        self.largest = torch.maximum(self.largest, preds.max().to(self.largest))
        self.kept.append(preds.argmax(1))

    def compute(self):
        kept = torchmetrics.utilities.dim_zero_cat(self.kept).double()
        turns = (kept * torch.arange(1, len(kept) + 1)).sum()  # depends on the order
        return {"mean": self.total / self.count, "largest": self.largest, "turns": turns}


class Unknown:
    """An object of nobody's library, whose number depends on the batches and their order."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.value, self.batches, self.sizes = 0.0, 0, []

    def update(self, preds, labels):
        self.value = 0.9 * self.value + float(preds.mean()) + float(labels.double().mean())
        self.batches += 1
        self.sizes.append(len(labels))

    def compute(self):
        return {"value": self.value, "batches": self.batches,
                "sizes": sum(size * 10 ** place for place, size in enumerate(self.sizes))}


class Callable:
    """An object of the older kind: it counts when it is called."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.seen = 0

    def __call__(self, preds, labels):
        self.right += int((preds.argmax(1) == labels).sum())
        self.seen += len(labels)
        return self.compute()

    def compute(self):
        return torch.tensor(self.right / max(self.seen, 1))


class CountedByCall(Callable):
    """The same with an ``update`` too."""

    def update(self, preds, labels):
        self(preds, labels)


class Numbers:
    """Records which samples came: each has its number for a label."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.found = []

    def update(self, preds, labels):
        self.found += labels.reshape(-1).tolist()

    def compute(self):
        return {"samples": len(self.found), "different": len(set(self.found)), "sum": sum(self.found),
                "order": sum(place * number for place, number in enumerate(self.found))}


def steepness(preds, labels):
    """A number that depends on the order of the samples."""
    return (preds.double().mean(1).diff().abs().sum() + labels.double().diff().abs().sum()) if len(labels) > 1 else 0.0


def correlation(preds, labels):
    """A number that one sample does not have."""
    if len(labels) < 2:
        raise ValueError("a correlation takes two samples")
    return np.corrcoef(preds[:, 0].numpy(), labels.reshape(-1).numpy())[0, 1]


def agreement(preds, labels):
    """Scikit-learn's, as users pass it."""
    return accuracy_score(labels, preds.argmax(1))


class Squeezed(StepRunner):
    """A step with a loss of its own."""

    def loss(self, preds, labels, weights=None):
        return super().loss(preds, labels, weights) + 0.1 * preds.square().mean()


class Twice(StepRunner):
    """A step that calls the net twice for one loss."""

    def forward(self, batch):
        x, y = batch
        return (self.net(x) + self.net(-x)) / 2, y


class ByName(StepRunner):
    """A step that calls the parts of a net by their names, not the net."""

    def forward(self, batch):
        x, y = batch
        return self.net.head(torch.tanh(self.net.body(x))), y


class ByPlace(StepRunner):
    """The same for a net of numbered parts."""

    def forward(self, batch):
        x, y = batch
        return self.net[2](self.net[1](self.net[0](x))), y


class Telling(StepRunner):
    """A step that tells more of its batch in validation."""

    def measure(self, loss, preds, labels):
        losses, told = super().measure(loss, preds, labels)
        losses[f"{self.stage}_square"] = loss.detach().square() if self.stage == "val" else loss.detach() * 2
        return losses, told | ({"val_last": preds.mean()} if self.stage == "val" else {})


class Doubling(StepRunner):
    """A step with a way of its own to learn."""

    def backward(self, loss):
        super().backward(loss * 2)


class Halved(StepRunner):
    """A step with a way of its own to call the net."""

    def forward(self, batch):
        features, labels = batch
        return self.net(features / 2), labels


class Listing(nn.Module):
    """Gives a list: an item for each sample, or one of two outputs."""

    def __init__(self, seed, one_each):
        super().__init__()
        self.inner, self.one_each = mlp(seed, outputs=2), one_each

    def forward(self, x):
        out = self.inner(x)
        return [row[:, None] for row in out] if self.one_each else [out, out[:, :1]]


class Rounding(EpochRunner):
    """A pass that rounds its numbers."""

    def row(self):
        return {name: round(value, 3) for name, value in super().row().items()}


class OlderPass:
    """A pass as it was written for older versions."""

    def __init__(self, steprunner, quiet=False):
        self.steprunner, self.stage, self.net = steprunner, steprunner.stage, steprunner.net
        self.accelerator, self.metrics_dict = steprunner.accelerator, steprunner.metrics_dict

    def __call__(self, dataloader):
        sums = {}
        for batch in dataloader:
            with self.accelerator.accumulate(self.net):
                losses, metrics = self.steprunner(batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
        log = {name: value / len(dataloader) for name, value in sums.items()}
        for name, metric in self.metrics_dict.items():
            log[f"{self.stage}_{name}"] = metric.compute().item()
            metric.reset()
        return log | ({"lr": metrics["lr"]} if self.stage == "train" else {})


class Thawing(Callback):
    """Decides in the second epoch whether the first layer learns."""

    def __init__(self, learns):
        self.learns = learns

    def on_epoch_start(self, model):
        if model.run.epoch == 2:
            model.net[0].requires_grad_(self.learns)


class OwnCheckpoint(KerasModel):
    """A model that keeps its last layer only as the best of a run."""

    def save_ckpt(self, ckpt_path="checkpoint", accelerator=None):
        torch.save(self.net[2].state_dict(), ckpt_path)

    def load_ckpt(self, ckpt_path="checkpoint"):
        self.net[2].load_state_dict(torch.load(ckpt_path))


class Older:
    """A step as it was written for older versions."""

    def __init__(self, net, loss_fn, accelerator, stage="train", metrics_dict=None, optimizer=None, lr_scheduler=None):
        self.net, self.loss_fn, self.metrics_dict, self.stage = net, loss_fn, metrics_dict, stage
        self.optimizer, self.lr_scheduler, self.accelerator = optimizer, lr_scheduler, accelerator

    def __call__(self, batch):
        x, y = batch
        preds = self.net(x)
        loss = self.loss_fn(preds, y)
        if self.optimizer is not None and self.stage == "train":
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.net.parameters(), 0.5)
            self.optimizer.step()
            if self.lr_scheduler is not None:
                self.lr_scheduler.step()
            self.optimizer.zero_grad()
        measured = {f"{self.stage}_{name}": metric(preds.detach(), y).item()
                    for name, metric in self.metrics_dict.items()}
        if self.stage == "train":
            measured["lr"] = self.optimizer.param_groups[0]["lr"]
        return {f"{self.stage}_loss": loss.item()}, measured


class Gathering(Older):
    """The same, which collects what it tells from all processes, as multi-GPU notebooks do."""

    def __call__(self, batch):
        losses, measured = super().__call__(batch)
        x, y = batch
        with torch.no_grad():
            preds = self.accelerator.gather(self.net(x))
        self.accelerator.gather(y)
        return losses, measured | {f"{self.stage}_width": float(preds.shape[1])}
