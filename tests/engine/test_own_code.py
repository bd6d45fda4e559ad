"""Users' own steps and epoch runners around ours: gradients of several batches make the update of the large batch."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import EpochRunner, KerasModel, StepRunner

X = torch.arange(16.0).reshape(-1, 1) / 8
Y = 2 * X + 1
QUIET = {"ckpt_path": None, "quiet": True, "cpu": True}


def net_of():
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def loader(size=2):
    return DataLoader(TensorDataset(X, Y), size)


def weights(net):
    return torch.cat([net.weight.detach().flatten(), net.bias.detach()])


def by_hand(size):
    net = net_of()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in loader(size):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return weights(net)


class Holding:
    """A step of a user's own make that leaves the work to one of ours."""

    def __init__(self, **parts):
        self.inner = StepRunner(**parts)
        self.__dict__.update(parts)

    def __call__(self, batch):
        return self.inner(batch)


class Wrapping(EpochRunner):
    """An epoch runner that shows its step through an object of its own."""

    def __init__(self, step_runner, quiet=False):
        class Shown:
            stage, net, accelerator = step_runner.stage, step_runner.net, step_runner.accelerator
            metrics_dict = step_runner.metrics_dict

            def __call__(self, batch):
                return step_runner(batch)

        super().__init__(Shown(), quiet)


class Around(EpochRunner):
    def __call__(self, loader):
        return super().__call__(batch for batch in loader)


def fitted(step=StepRunner, runner=EpochRunner):
    net = net_of()
    model = KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    model.StepRunner, model.EpochRunner = step, runner
    model.fit(loader(), epochs=1, gradient_accumulation_steps=2, patience=None, **QUIET)
    return weights(net), model.run.optimizer_steps


@pytest.mark.parametrize(("step", "runner"), [
    (StepRunner, EpochRunner), (Holding, EpochRunner), (StepRunner, Wrapping), (StepRunner, Around)])
def test_accumulated_batches_make_the_update_of_the_large_batch(step, runner):
    found, updates = fitted(step, runner)
    torch.testing.assert_close(found, by_hand(4))
    assert updates == 4
    assert not torch.allclose(found, by_hand(2), atol=0.01)  # control


def accumulated(use):
    net = net_of()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    use(StepRunner(net, nn.MSELoss(), accelerator, optimizer=optimizer), accelerator, net)
    return weights(net)


def called_in_accumulate(step, accelerator, net):
    for batch in loader():
        with accelerator.accumulate(net):
            step(batch)


def test_a_step_outside_of_any_run_goes_by_its_accelerator():
    torch.testing.assert_close(accumulated(called_in_accumulate), by_hand(4))
    torch.testing.assert_close(accumulated(lambda step, *_: EpochRunner(step)(loader())), by_hand(4))


def called_after_a_pass(step, accelerator, net):
    EpochRunner(step)(loader(6))  # the last window has 6 samples and 4
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
    called_in_accumulate(step, accelerator, net)


def test_a_pass_leaves_no_window_behind():
    torch.testing.assert_close(accumulated(called_after_a_pass), by_hand(4))


def test_a_batch_after_the_pass_is_divided_as_its_accelerator_says():
    class Extra(EpochRunner):
        def __call__(self, loader):
            row = super().__call__(loader)
            self.before = weights(self.net)
            self.step_runner((X[:2], Y[:2]))
            moved.append(weights(self.net) - self.before)
            return row

    moved, net = [], net_of()
    model = KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    model.EpochRunner = Extra
    model.fit(loader(6), epochs=1, gradient_accumulation_steps=2, **QUIET)
    start = net_of()
    with torch.no_grad():
        for one, other in zip(start.parameters(), net.parameters(), strict=True):
            one.copy_(other)
        start.weight -= moved[0][0]
        start.bias -= moved[0][1]
    nn.functional.mse_loss(start(X[:2]), Y[:2]).backward()
    gradient = torch.cat([start.weight.grad.flatten(), start.bias.grad])
    torch.testing.assert_close(moved[0], -0.1 * gradient / 2)


def summed(preds, labels):
    return ((preds - labels) ** 2).sum()


def test_a_loss_that_adds_up_is_found_outside_of_any_run_too():
    step = StepRunner(net_of(), summed, Accelerator(cpu=True), "val")
    with torch.no_grad():
        assert EpochRunner(step)(loader(3))["val_loss"] == pytest.approx(float((Y ** 2).sum()))


def test_the_numbers_so_far_of_a_loss_that_adds_up_add_up():
    seen = []

    class Reading:
        def on_step_end(self, model):
            seen.append(model.run.current_metrics().get("train_loss", 0.0))  # of the steps before this one

    net = net_of()
    model = KerasModel(net, summed, optimizer=torch.optim.SGD(net.parameters(), 0.0))
    history = model.fit(loader(4), epochs=1, callbacks=[Reading()], **QUIET)
    sums = torch.stack([(part ** 2).sum() for part in Y.split(4)]).cumsum(0)
    assert seen == pytest.approx([0.0, *sums.tolist()[:-1]])
    assert history["train_loss"][0] == pytest.approx(float(sums[-1]))


def test_a_stop_ends_a_pass_in_the_middle_whoever_reads_the_data(tmp_path):
    class Stop:
        def on_step_end(self, model):
            if model.run.global_step == 3:
                model.run.stop("enough")

    for runner in (EpochRunner, Wrapping):
        net = net_of()
        model = KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), 0.1))
        model.EpochRunner = runner
        model.fit(loader(), epochs=2, callbacks=[Stop()], quiet=True, cpu=True, save_every=1,
                  ckpt_path=tmp_path / f"{runner.__name__}.pt")
        assert model.run.global_step == 3


class Named(StepRunner):
    """Methods and attributes with names that a user is free to take."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.strategy, self.microbatch, self.undecided = "greedy", 3, []

    def begin(self):
        raise AssertionError("called by nobody")

    check_finite = scored = feed = alarm = named_parts = adds_up = begin


class NamedPass(EpochRunner):
    take = around = local_row = reset = "mine"


def test_names_that_are_free_for_users_are_left_alone():
    found, _ = fitted(Named, NamedPass)
    assert torch.equal(found, fitted()[0])


class Clipping(StepRunner):
    def clip(self):
        for weight in self.net.parameters():
            weight.grad.zero_()


def test_fast_mode_leaves_a_clipping_of_the_users_own_to_plain_steps():
    net = net_of()
    model = KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), 0.1))
    model.StepRunner = Clipping
    model.fit(loader(), epochs=40, speed="fast", patience=None, **QUIET)
    assert torch.equal(weights(net), torch.zeros(2))
    assert "a StepRunner of your own" in model.run.notes[-1]


def test_older_names_of_what_a_run_counts_still_answer():
    seen = []

    class Reading:
        def on_step_end(self, model):
            run = model.run
            seen.append((run.trained, run.updates, run.numbers(), run.together.world, run.together.main))
            assert run.seconds is run.timings
            assert (run.global_step, run.optimizer_steps, run.current_metrics()) == seen[-1][:3]

    model = KerasModel(net_of(), nn.MSELoss())
    model.fit(loader(4), epochs=1, gradient_accumulation_steps=2, callbacks=[Reading()], **QUIET)
    assert [one[:2] for one in seen] == [(1, 0), (2, 1), (3, 1), (4, 2)]
    assert {one[3:] for one in seen} == {(1, True)}


class FiveVerbs(StepRunner):
    """Goes through the verbs by itself."""

    def __call__(self, batch):
        preds, labels = self.forward(batch)
        loss = self.loss(preds, labels)
        if self.training:
            self.backward(loss)
            self.update()
        return self.measure(loss, preds, labels)


class OneVerbLess(FiveVerbs):
    """Moves optimizer and schedule by itself."""

    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad()


class FiveVerbsModel(KerasModel):
    StepRunner = FiveVerbs


class OneVerbLessModel(KerasModel):
    StepRunner = OneVerbLess


def trained_by(kind, schedule=None, epochs=2):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.arange(30.0).reshape(10, 3) / 30
    model = kind(net, "mse", ["mae"], optimizer, lr_scheduler=schedule and schedule(optimizer))
    history = model.fit((x, x[:, :1]), (x, x[:, :1]), epochs=epochs, batch_size=4, ckpt_path=None, quiet=True, cpu=True, seed=1)
    return net.weight, history


def short_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=6)


@pytest.mark.parametrize(("kind", "schedule"), [
    (FiveVerbsModel, None), (FiveVerbsModel, short_cycle), (OneVerbLessModel, None)])
def test_a_call_of_ones_own_that_goes_through_the_verbs_has_the_numbers_of_ours(kind, schedule):
    (weight, history), (ours, expected) = trained_by(kind, schedule), trained_by(KerasModel, schedule)
    assert torch.equal(weight, ours)
    assert history.equals(expected)
    assert not history.equals(trained_by(kind, lambda one: torch.optim.lr_scheduler.StepLR(one, 1, 0.5))[1])
