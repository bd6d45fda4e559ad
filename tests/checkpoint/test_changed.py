"""What changed between the stop of a run and its resumption is refused in mid-epoch, or said."""

import pytest
import torch
from tests.faults.runs import StopAt
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from torchkeras import KerasModel
from torchkeras.checkpoint import run_fingerprint, run_state
from torchkeras.data import contents, fingerprint

N = 1000
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)


def one_changed(at=777):
    x = X.clone()
    x[at, 1] += 1e-3  # far from the 64 rows that are spread evenly
    return x


class Own(Dataset):
    def __init__(self, count=N):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return X[index], Y[index]


def other_collate(samples):
    return default_collate(samples)


class Odd(SequentialSampler):
    pass


class Scaled(nn.Module):
    """A loss with an option, and with a counter that the run changes."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.steps = scale, 0
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, preds, labels):
        self.steps += 1
        return self.scale * ((preds - labels) ** 2).mean()


def loss_of(power):
    def loss(preds, labels):
        return ((preds - labels).abs() ** power).mean()

    return loss


def other_code(preds, labels):
    return (preds - labels).abs().mean()


def model(loss=None, lr=0.01, scheduler=None, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, **options)
    return KerasModel(net, nn.MSELoss() if loss is None else loss, None, optimizer,
                      None if scheduler is None else scheduler(optimizer))


def loader(x=X, batch=100, **options):
    return DataLoader(TensorDataset(x, Y), batch, **{"shuffle": "sampler" not in options, **options})


def begin(path, data, step, one=None, **options):
    one = one or model()
    one.fit(data, epochs=3, ckpt_path=path, quiet=True, save_every=1, seed=0, callbacks=[StopAt(step)], **options)


def go_on(path, data, one=None, **options):
    one = one or model()
    one.fit(data, epochs=3, ckpt_path=path, quiet=True, resume=True, **options)
    return " ".join(one.run.notes)


def subset(indices, x=X):
    return DataLoader(Subset(TensorDataset(x, Y), indices), 100)


def pairs(x):
    return [(x[begin:begin + 100], Y[begin:begin + 100]) for begin in range(0, N, 100)]


def concat(x):
    return DataLoader(ConcatDataset([TensorDataset(X[:500], Y[:500]), TensorDataset(x[500:], Y[500:])]), 100)


def samples(x):
    return DataLoader([(one, label) for one, label in zip(x, Y, strict=True)], 100)


CHANGES = {
    "one number of a TensorDataset": (loader(), loader(one_changed())),
    "one number of arrays": ((X, Y), (one_changed(), Y)),
    "one number of numpy arrays": ((X.numpy(), Y.numpy()), (one_changed().numpy(), Y.numpy())),
    "one number of a subset": (subset(range(N)), subset(range(N), one_changed())),
    "what was chosen": (subset(range(N)), subset([*range(500), 501, 500, *range(502, N)])),
    "one number of lists of batches": (pairs(X), pairs(one_changed())),
    "one number of joined datasets": (concat(X), concat(one_changed())),
    "one number of a list of samples": (samples(X), samples(one_changed())),
    "shuffle": (loader(), loader(shuffle=False)),
    "shuffle of arrays": ((X, Y, True), (X, Y, False)),
    "drop_last": (loader(batch=90), loader(batch=90, drop_last=True)),
    "the batch size": (loader(), loader(batch=50)),
    "replacement": (loader(), loader(sampler=RandomSampler(range(N), replacement=True))),
    "the weights of a sampler": (loader(sampler=WeightedRandomSampler([1.0] * N, N)),
                                 loader(sampler=WeightedRandomSampler([1.0] * 999 + [2.0], N))),
    "the class of a sampler": (loader(sampler=SequentialSampler(range(N))), loader(sampler=Odd(range(N)))),
    "the batch sampler": (loader(shuffle=False), DataLoader(TensorDataset(X, Y), batch_sampler=BatchSampler(
        RandomSampler(range(N)), 100, False))),
    "the collate function": (loader(), loader(collate_fn=other_collate)),
    "the class of a dataset": (loader(), DataLoader(Own(), 100, shuffle=True)),
}


def given(data):
    """Data for fit: arrays with their shuffle in the third place."""
    return ((data[:2], {"shuffle": data[2]}) if isinstance(data, tuple) and len(data) == 3 else (data, {}))


@pytest.mark.parametrize("change", CHANGES)
def test_in_mid_epoch_other_data_or_another_order_is_refused_and_between_epochs_said(change, tmp_path):
    (before, how), (after, other_how) = map(given, CHANGES[change])
    options = {} if isinstance(before, (DataLoader, list)) else {"batch_size": 100}
    begin(tmp_path / "inside", before, 4, **options, **how)
    with pytest.raises(ValueError, match="train_data: received"):
        go_on(tmp_path / "inside", after, **options, **other_how)
    assert "train_data has changed" not in go_on(tmp_path / "inside", before, **options, **how)  # control
    begin(tmp_path / "between", before, -(-N // (90 if change == "drop_last" else 100)), **options, **how)
    assert "train_data has changed" in go_on(tmp_path / "between", after, **options, **other_how)


def test_of_a_dataset_of_ones_own_the_length_alone_is_compared_and_that_is_said(tmp_path):
    begin(tmp_path / "best", DataLoader(Own(), 100), 4)
    assert "only the length of its Own is compared" in go_on(tmp_path / "best", DataLoader(Own(), 100))


LOSSES = {
    "its class": (nn.MSELoss(), nn.L1Loss()), "an option": (nn.HuberLoss(delta=1.0), nn.HuberLoss(delta=2.0)),
    "its name": ("mse", "mae"), "an option of one's own": (Scaled(1.0), Scaled(2.0)),
    "a variable that it holds": (loss_of(2), loss_of(3)),
    "its code": (lambda preds, labels: (preds - labels).abs().mean(),
                 lambda preds, labels: (preds - labels).square().mean()),
    "another function": (loss_of(2), other_code),
}


@pytest.mark.parametrize("change", LOSSES)
def test_another_loss_is_refused_in_mid_epoch_and_said_between_epochs(change, tmp_path):
    before, after = LOSSES[change]
    begin(tmp_path / "inside", (X, Y), 4, model(before), batch_size=100)
    with pytest.raises(ValueError, match="loss_fn: received"):
        go_on(tmp_path / "inside", (X, Y), model(after), batch_size=100)
    assert "loss_fn" not in go_on(tmp_path / "inside", (X, Y), model(before), batch_size=100)  # control
    begin(tmp_path / "between", (X, Y), 10, model(before), batch_size=100)
    assert "loss_fn has changed" in go_on(tmp_path / "between", (X, Y), model(after), batch_size=100)


def test_what_the_run_itself_changes_in_a_loss_is_no_change(tmp_path):
    loss = Scaled()
    begin(tmp_path / "best", (X, Y), 4, model(loss), batch_size=100)
    assert loss.steps > 0  # control
    assert "loss_fn" not in go_on(tmp_path / "best", (X, Y), model(Scaled()), batch_size=100)


def test_other_class_weights_are_refused_in_mid_epoch(tmp_path):
    def classifier():
        torch.manual_seed(0)
        return KerasModel(nn.Linear(3, 2), "cross_entropy")

    labels = (Y[:, 0] > 0).long()
    begin(tmp_path / "best", (X, labels), 4, classifier(), batch_size=100, class_weight={0: 1.0, 1: 2.0})
    with pytest.raises(ValueError, match="class_weight"):
        go_on(tmp_path / "best", (X, labels), classifier(), batch_size=100, class_weight={0: 1.0, 1: 3.0})


def test_a_rate_that_the_script_changed_is_said_and_the_saved_one_goes_on(tmp_path):
    def steps(optimizer, gamma=0.5):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma)

    begin(tmp_path / "best", (X, Y), 14, model(scheduler=steps, momentum=0.5), batch_size=100)
    other = model(lr=0.5, scheduler=lambda optimizer: steps(optimizer, 0.9), momentum=0.9)
    told = go_on(tmp_path / "best", (X, Y), other, batch_size=100)
    assert "lr is 0.5 in the script; the run began with 0.01, and goes on with the saved 0.005" in told
    assert "momentum is 0.9 in the script" in told
    assert "gamma: 0.5 became 0.9" in told
    assert other.optimizer.param_groups[0]["momentum"] == 0.5


def test_the_same_script_and_a_notebook_that_goes_on_are_told_of_no_changed_rate(tmp_path):
    def steps(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    for notebook in (False, True):
        one = model(scheduler=steps)
        begin(tmp_path / "best", (X, Y), 14, one, batch_size=100)
        assert one.optimizer.param_groups[0]["lr"] == 0.005  # control: it moved
        again = one if notebook else model(scheduler=steps)
        assert "in the script" not in go_on(tmp_path / "best", (X, Y), again, batch_size=100)


def test_a_state_of_an_older_version_is_compared_in_what_it_knows(tmp_path, monkeypatch):
    def older(model, run):
        found = snapshot_facts(model, run)
        found["train_data"]["contents"] = fingerprint.sample_fingerprint(run.data.train.source, fingerprint.as_texts)
        for name in ("loss_fn", "rates", "schedule"):
            found.pop(name)
        known = ("length", "samples", "batch size", "contents", "kind")
        found["train_data"] = {name: found["train_data"][name] for name in known}
        found["asked"] = {name: value for name, value in found["asked"].items()
                          if name not in ("min_delta", "restore_best")}
        return found

    snapshot_facts = run_fingerprint.run_fingerprint
    monkeypatch.setattr(run_state, "run_fingerprint", older)
    begin(tmp_path / "best", loader(), 4)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="train_data"):
        go_on(tmp_path / "best", loader(batch=50))
    told = go_on(tmp_path / "best", loader())
    assert "an older version wrote the state" in told
    assert "has changed" not in told


def test_data_is_looked_at_once_a_run(tmp_path, monkeypatch):
    seen = []
    real = contents.contents
    monkeypatch.setattr(run_fingerprint, "contents", lambda source, known: seen.append(source) or real(source, known))
    begin(tmp_path / "best", loader(), 25)
    assert len(seen) == 1


def test_large_data_is_looked_at_in_spread_blocks_and_that_is_said(monkeypatch):
    monkeypatch.setattr(contents, "LIMIT", 4000)
    monkeypatch.setattr(contents, "BLOCK", 100)
    found, unseen = contents.contents(loader())
    assert "evenly spread parts" in unseen
    last = X.clone()
    last[-1, -1] += 1
    assert contents.contents(loader(last))[0] != found
    first = X.clone()
    first[0, 0] += 1
    assert contents.contents(loader(first))[0] != found
    monkeypatch.setattr(contents, "LIMIT", 1 << 20)
    assert contents.contents(loader())[1] == ""


def test_a_fingerprint_sees_numbers_that_changed_a_little_and_blocks_that_changed_places(monkeypatch):
    monkeypatch.setattr(contents, "BLOCK", 100)
    found = contents.contents([X])[0]
    rows = 100 // X[0].nbytes
    least, swapped, apart = X.clone(), X.clone(), X.clone()
    least[N // 2, 1] = torch.nextafter(X[N // 2, 1], torch.tensor(9.0))
    swapped[:rows], swapped[rows:2 * rows] = X[rows:2 * rows], X[:rows]
    apart[[0, N - 1]] = X[[N - 1, 0]]
    assert found == contents.contents([X.clone()])[0]
    assert len({found, *(contents.contents([one])[0] for one in (least, swapped, apart))}) == 4


@pytest.mark.parametrize("make", [lambda x: x.t().contiguous().t(), lambda x: x[::2], lambda x: x > 0,
                                  lambda x: x.to(torch.bfloat16), lambda x: x.to(torch.complex64).conj(),
                                  lambda x: x[:0], lambda x: x.long()])
def test_tensors_of_every_kind_have_a_fingerprint(make):
    one = [make(X).clone()] if make(X).numel() else [make(X)]
    assert contents.contents(one)[0] == contents.contents([make(X)])[0]
    if one[0].numel():
        other = one[0].clone()
        other[-1, -1] = ~other[-1, -1] if other.dtype == torch.bool else other[-1, -1] + 2
        assert contents.contents([other])[0] != contents.contents(one)[0]


def test_a_run_that_is_judged_by_another_number_looks_for_the_best_anew(tmp_path):
    labels = torch.arange(N) % 3
    for monitor, epochs in (("val_loss", 2), ("val_accuracy", 5)):
        torch.manual_seed(0)
        net = nn.Linear(3, 3)
        model = KerasModel(net, "cross_entropy", ["accuracy"], torch.optim.Adam(net.parameters(), lr=0.05))
        rows = model.fit((X, labels), (X, labels), epochs=epochs, batch_size=100, seed=0, quiet=True, patience=None,
                         monitor=monitor, ckpt_path=tmp_path / "best.pt", resume=True)
    assert any("monitor: earlier numbers cannot be compared" in note for note in model.run.notes)
    assert model.run.monitor.best == rows["val_accuracy"].iloc[1:].max() <= 1.0
    assert model.evaluate((X, labels))["val_accuracy"] == pytest.approx(model.run.monitor.best)


def test_a_run_with_another_loss_measures_its_best_weights_by_it(tmp_path):
    for factor, epochs in ((1e-6, 2), (1.0, 4)):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        loss = (lambda preds, labels: 1e-6 * nn.functional.mse_loss(preds, labels)) if factor < 1 else nn.MSELoss()
        model = KerasModel(net, loss, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
        rows = model.fit((X, Y), (X, Y), epochs=epochs, batch_size=100, seed=0, quiet=True, patience=None,
                         ckpt_path=tmp_path / "best.pt", resume=True)
    assert rows["val_loss"].iloc[1] < rows["val_loss"].iloc[3]  # control: the numbers of before look better
    assert model.run.monitor.best_epoch == 4
    assert model.evaluate((X, Y))["val_loss"] == pytest.approx(rows["val_loss"].iloc[3])
