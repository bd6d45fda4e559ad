"""FSDP: a net in pieces trains as a whole one does, and is whole afterwards."""

import copy

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel

X = torch.randn(53, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (53,), generator=torch.Generator().manual_seed(0))
Y[::5] = -100  # labels that do not count, unevenly spread over the processes


class Blocks(nn.Module):
    """Blocks that are divided one by one, a tied weight, a buffer."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)])
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.last.weight = self.first.weight
        self.head = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.seen += 1
        x = self.last(self.first(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def fitted(path, seed=1, **options):
    """Two runs, the second of which goes on with the optimizer of the first."""
    torch.manual_seed(seed)
    net = Blocks().double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    model = KerasModel(net, nn.CrossEntropyLoss(), {"f": "accuracy"}, optimizer,
                       torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    torch.manual_seed(2)
    histories = []
    for epochs in (3, 2):
        path.unlink(missing_ok=True)  # weights in a file compete in one process, and are not compared with FSDP
        histories.append(model.fit(
            (X, Y), (X[:20], Y[:20]), epochs=epochs, batch_size=8, quiet=True, cpu=True, ckpt_path=path,
            gradient_accumulation_steps=3, clip_grad_norm=1.0, clip_grad_value=0.05, **options))
    return model, torch.tensor([row for history in histories for row in history.to_numpy().tolist()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        return (fitted(folder / "one.pt"), fitted(folder / "shards.pt", fsdp=True, num_processes=2), folder)


def test_the_numbers_are_those_of_one_process(runs):
    (_, one), (_, two), _ = runs
    torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-12)


def test_control_another_start_has_other_numbers(runs, tmp_path):
    with torch.random.fork_rng():
        _, other = fitted(tmp_path / "other.pt", seed=3)
    assert not torch.allclose(runs[1][1], other, rtol=1e-3)


def test_net_and_optimizer_are_whole_afterwards(runs):
    (one, _), (two, _), _ = runs
    for (name, mine), other in zip(one.net.state_dict().items(), two.net.state_dict().values(), strict=True):
        assert type(other) is torch.Tensor
        torch.testing.assert_close(other, mine, rtol=1e-12, atol=1e-12, msg=name)
    for mine, other in zip(one.net.parameters(), two.net.parameters(), strict=True):
        for name, value in one.optimizer.state[mine].items():
            torch.testing.assert_close(two.optimizer.state[other][name], value, rtol=1e-12, atol=1e-12)


def test_plain_torch_reads_the_one_file_of_weights(runs):
    _, (two, _), folder = runs
    net = Blocks().double()
    net.load_state_dict(torch.load(folder / "shards.pt"))
    copied = copy.deepcopy(two.net).eval()
    assert torch.equal(net.eval()(X), copied(X))


def test_fp16_is_refused():
    model = KerasModel(nn.Linear(2, 1), "mse")
    with pytest.raises(ValueError, match="mixed_precision: received 'fp16' with fsdp=True"):
        model.fit((X[:, :2], X[:, :1]), fsdp=True, mixed_precision="fp16")


def test_one_process_has_nothing_to_divide():
    model = KerasModel(nn.Linear(6, 3).double(), nn.CrossEntropyLoss())
    assert len(model.fit((X, Y), epochs=1, fsdp=True, ckpt_path=None, quiet=True)) == 1


class Fail(Callback):
    """Fails in the second process, in the second epoch."""

    def on_step_end(self, model):
        if model.run.communicator.rank == 1 and model.run.epoch == 2:
            raise LookupError("in the second")


def test_an_error_in_one_process_ends_all_of_them_and_waits_for_nobody():
    net = Blocks().double()
    before = copy.deepcopy(net.state_dict())
    model = KerasModel(net, nn.CrossEntropyLoss())
    with pytest.raises(LookupError, match="in the second"):
        model.fit((X, Y), epochs=2, batch_size=8, quiet=True, cpu=True, ckpt_path=None, fsdp=True, num_processes=2,
                  callbacks=[Fail()])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def gone_on_with(path, *starts):
    """One run in several starts, each in so many processes up to an epoch."""
    for epochs, options in starts:
        torch.manual_seed(1)
        net = Blocks().double()
        model = KerasModel(net, nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(net.parameters(), lr=0.01))
        model.fit((X, Y), epochs=epochs, batch_size=8, quiet=True, cpu=True, ckpt_path=path, seed=3, resume=True,
                  **options)  # judged by train_loss, which falls: the last weights are the best
    return net, model.run.notes


def test_one_process_goes_on_with_what_two_wrote_with_fsdp(tmp_path):
    net, notes = gone_on_with(tmp_path / "two", (1, {"fsdp": True, "num_processes": 2}), (2, {}))
    one, _ = gone_on_with(tmp_path / "one", (2, {}))
    for mine, other in zip(one.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-12, atol=1e-12)
    assert "resume: world has changed: 2 became 1" in notes
    assert "resume: fsdp has changed: True became False" in notes
    begun, _ = gone_on_with(tmp_path / "control", (1, {}))
    assert not torch.allclose(begun.head.weight, one.head.weight, atol=1e-6)
