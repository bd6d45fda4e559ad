"""How a run ends: patience, NaN, a listener's wish, an error; and what the net holds then."""

import math

import pytest
import torch
from torch import nn

import torchkeras
from torchkeras import Callback, KerasModel
from torchkeras.engine.callback import CallbackList


def problem():
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    return nn.Linear(4, 1), x, x.sum(1, keepdim=True)


class Script:
    """A metric that says what it is told to, one number an epoch."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = iter(numbers)

    def update(self, preds, labels) -> None: ...

    def compute(self) -> float:
        return next(self.numbers)

    def reset(self) -> None: ...

    def __deepcopy__(self, memo):  # training and validation read from one script
        return self


class Weights(Callback):
    """Keeps a copy of the weights after each epoch."""

    def __init__(self):
        self.after = []

    def on_validation_epoch_end(self, model):
        self.after.append(model.net.weight.detach().clone())


def scripted(numbers, **options):
    """Runs with a training metric of the given numbers; the first is spent on the look at the first batch."""
    net, x, y = problem()
    keep = Weights()
    model = KerasModel(net, "mse", {"said": Script(math.nan, *numbers)}, torch.optim.SGD(net.parameters(), lr=0.05))
    options = {"mode": "max", "monitor": "train_said", "ckpt_path": None, "quiet": True, "callbacks": [keep]} | options
    history = model.fit((x, y), epochs=len(numbers), batch_size=10, **options)
    return model, history, keep.after


def test_patience_ends_the_run_and_the_best_weights_come_back():
    model, history, after = scripted([1, 3, 2, 2, 2, 2], patience=2)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history.attrs["stop_reason"] == "train_said without improvement in 2 epoch, early stopping"
    assert torch.equal(model.net.weight, after[1])
    assert not torch.equal(model.net.weight, after[3])


def test_without_patience_every_epoch_runs():
    _, history, _ = scripted([1, 3, 2, 2, 2, 2], patience=None)
    assert len(history) == 6
    assert history.attrs["stop_reason"] is None


def test_an_equal_number_is_no_improvement():
    model, _, after = scripted([1, 1, 1], patience=None)
    assert model.run.monitor.best_epoch == 1
    assert torch.equal(model.net.weight, after[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_number_that_is_not_finite_is_never_the_best(bad, position):
    numbers = [1.0, 3.0, 2.0, 2.5]
    numbers[position] = bad
    model, _, after = scripted(numbers, patience=None)
    finite = [number if math.isfinite(number) else -1 for number in numbers]
    best = finite.index(max(finite))
    assert model.run.monitor.best == max(finite)
    assert torch.equal(model.net.weight, after[best])


def test_mode_min_takes_the_smallest():
    model, _, after = scripted([3, 1, 2], mode="min")
    assert torch.equal(model.net.weight, after[1])


class Poison(nn.Module):
    """A loss that becomes NaN or infinite at a given call."""

    def __init__(self, call, value):
        super().__init__()
        self.calls, self.call, self.value = 0, call, value

    def forward(self, preds, labels):
        self.calls += 1
        loss = nn.functional.mse_loss(preds, labels)
        return loss * self.value if self.calls == self.call else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_update_and_the_best_comes_back(value, tmp_path):
    net, x, y = problem()
    keep = Weights()
    optimizer = torch.optim.Adam(net.parameters())
    model = KerasModel(net, Poison(10, value), optimizer=optimizer)  # 4 batches an epoch: epoch 3, step 2
    with pytest.warns(RuntimeWarning, match="fit: train_loss is"):
        history = model.fit((x, y), epochs=5, batch_size=10, ckpt_path=tmp_path / "best.pt", quiet=True,
                            callbacks=[keep])
    assert history["epoch"].tolist() == [1, 2]
    assert history.attrs["stop_reason"].startswith(f"train_loss is {value} in epoch 3, step 2: ")
    assert torch.equal(net.weight, keep.after[1])
    assert all(torch.isfinite(value).all() for value in torch.load(tmp_path / "best.pt").values())
    assert optimizer.state[net.weight]["step"] == 9  # the poisoned step did not reach the optimizer


def test_a_loss_that_is_not_finite_in_the_first_epoch_gives_back_the_weights_of_the_start():
    net, x, y = problem()
    start = net.weight.detach().clone()
    with pytest.warns(RuntimeWarning, match="train_loss is nan in epoch 1, step 3"):
        history = KerasModel(net, Poison(3, math.nan)).fit((x, y), epochs=5, batch_size=10, ckpt_path=None, quiet=True)
    assert len(history) == 0
    assert torch.equal(net.weight, start)


def test_a_validation_loss_that_is_not_finite_ends_the_run_and_keeps_the_row(tmp_path):
    net, x, y = problem()
    keep = Weights()
    model = KerasModel(net, Poison(6, math.nan))  # 1 training and 1 validation batch an epoch: epoch 3's validation
    with pytest.warns(RuntimeWarning, match="val_loss is nan in epoch 3"):
        history = model.fit((x, y), (x, y), epochs=5, batch_size=40, ckpt_path=tmp_path / "b", quiet=True,
                            callbacks=[keep])
    assert history.attrs["stop_reason"].startswith("val_loss is nan in epoch 3: ")
    assert history["val_loss"].isna().tolist() == [False, False, True]
    assert torch.equal(net.weight, keep.after[1])
    assert torch.equal(torch.load(tmp_path / "b")["weight"], keep.after[1])


def test_a_listener_can_end_the_run_in_mid_epoch():
    net, x, y = problem()

    class Enough(Callback):
        def on_step_end(self, model):
            if model.run.global_step == 6:
                model.run.stop("enough")

    model = KerasModel(net, "mse")
    history = model.fit((x, y), epochs=9, batch_size=10, ckpt_path=None, quiet=True, callbacks=[Enough()])
    assert (len(history), model.run.global_step, history.attrs["stop_reason"]) == (1, 6, "enough")


def test_a_run_that_ends_before_anything_was_judged_keeps_what_it_learned():
    net, x, y = problem()
    start = net.weight.detach().clone()

    class Enough:
        def on_step_end(self, model):
            model.run.stop("enough")

    history = KerasModel(net, "mse").fit((x, y), batch_size=10, ckpt_path=None, quiet=True, callbacks=[Enough()])
    assert len(history) == 0
    assert not torch.equal(net.weight, start)


def test_a_listener_can_end_the_run_at_the_end_of_an_epoch():
    net, x, y = problem()

    class Enough:
        def on_validation_epoch_end(self, model):
            model.run.stop("one is enough")

    history = KerasModel(net, "mse").fit((x, y), epochs=9, ckpt_path=None, quiet=True, callbacks=[Enough()])
    assert len(history) == 1


@pytest.mark.parametrize("moment", ["on_fit_start", "on_epoch_start", "on_step_end", "on_train_epoch_end",
                                    "on_validation_epoch_end", "on_fit_end"])
def test_an_error_in_any_moment_arrives_and_everything_is_put_back(moment):
    net, x, y = problem()
    net.train()
    heard = []

    class Broken:
        def on_exception(self, model):
            heard.append(model.run.active)

    def fail(model):
        raise ZeroDivisionError("mine")

    broken = Broken()
    setattr(broken, moment, fail)
    model = KerasModel(net, "mse")
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit((x, y), epochs=2, ckpt_path=None, quiet=True, callbacks=[broken])
    assert heard == [True]
    assert not model.active
    assert net.training


def three_of_which_two_fail(moment, heard):
    """Listeners for a moment; the first and the third fail in it."""
    def listener(number):
        def hear(model, *logs):
            heard.append(number)
            if number != 2:
                raise (ZeroDivisionError if number == 1 else LookupError)(f"of listener {number}")

        one = type("Listener", (), {})()
        setattr(one, moment, hear)
        return one

    return [listener(number) for number in (1, 2, 3)]


def test_every_listener_hears_of_the_end_and_the_first_error_of_several_is_raised():
    net, x, y = problem()
    heard = []
    ends = three_of_which_two_fail("on_fit_end", heard)
    told = type("Told", (), {"on_exception": lambda self, model: heard.append("exception")})()
    with pytest.raises(ZeroDivisionError, match="of listener 1") as found:
        KerasModel(net, "mse").fit((x, y), epochs=1, ckpt_path=None, quiet=True, callbacks=[*ends, told])
    assert heard == [1, 2, 3, "exception"]
    assert found.value.__notes__ == ["A callback failed in on_fit_end too: LookupError('of listener 3')"]


def test_every_listener_hears_of_an_error_and_none_takes_its_place():
    net, x, y = problem()
    heard = []

    def broken(preds, labels):
        raise OverflowError("of the run")

    with pytest.raises(OverflowError, match="of the run") as found:
        KerasModel(net, broken).fit((x, y), epochs=1, ckpt_path=None, quiet=True,
                                    callbacks=three_of_which_two_fail("on_exception", heard))
    assert heard == [1, 2, 3]
    assert [note for note in found.value.__notes__ if "callback" in note] == [
        "A callback failed in on_exception too: ZeroDivisionError('of listener 1')",
        "A callback failed in on_exception too: LookupError('of listener 3')"]


def test_a_second_ctrl_c_while_listeners_hear_of_the_end_waits_for_none_of_them():
    net, x, y = problem()
    heard = []

    def pressed(model):
        raise KeyboardInterrupt

    first = type("Pressed", (), {"on_fit_end": staticmethod(pressed)})()
    last = type("Last", (), {"on_fit_end": lambda self, model: heard.append("end"),
                             "on_exception": lambda self, model: heard.append("exception")})()
    with pytest.raises(KeyboardInterrupt):
        KerasModel(net, "mse").fit((x, y), epochs=1, ckpt_path=None, quiet=True, callbacks=[first, last])
    assert heard == ["exception"]


def test_callbacks_in_keras_words_all_hear_of_the_end():
    net, x, y = problem()
    heard = []
    model = torchkeras.Model(net)
    model.compile(loss="mse")
    with pytest.raises(ZeroDivisionError, match="of listener 1") as found:
        model.fit(x, y, epochs=1, verbose=0, callbacks=three_of_which_two_fail("on_train_end", heard))
    assert heard == [1, 2, 3]
    assert found.value.__notes__ == ["A callback failed in on_train_end too: LookupError('of listener 3')"]


def test_an_error_of_a_listener_at_the_end_does_not_hold_the_net():
    import gc
    import weakref

    net, x, y = problem()
    gone = weakref.ref(net)
    gc.collect()
    gc.disable()
    try:
        try:
            announced(net)
        except ZeroDivisionError:
            del net
        assert gone() is None
    finally:
        gc.enable()


def announced(net):
    """Tell listeners of the end of a run, of whom two fail."""
    CallbackList(three_of_which_two_fail("on_fit_end", []), net).announce_end("on_fit_end")


def test_an_error_before_the_first_update_leaves_no_trace():
    net, x, y = problem()
    net = nn.Sequential(net, nn.BatchNorm1d(1))
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in net.state_dict().items()}

    def broken(preds, labels):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        KerasModel(net, broken).fit((x, y), epochs=1, seed=3, ckpt_path=None, quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_validation_runs_when_it_is_due_and_after_the_last_epoch():
    net, x, y = problem()
    history = KerasModel(net, "mse").fit((x, y), (x, y), epochs=5, validation_freq=2, ckpt_path=None, quiet=True)
    assert history["val_loss"].notna().tolist() == [False, True, False, True, True]


def test_a_second_fit_goes_on_with_weights_and_optimizer_and_a_fresh_history():
    def run(*epochs):
        net, x, y = problem()
        model = KerasModel(net, "mse", optimizer=torch.optim.Adam(net.parameters(), lr=0.01))
        histories = [model.fit((x, y), epochs=count, shuffle=False, ckpt_path=None, quiet=True) for count in epochs]
        return net.weight, histories

    twice, histories = run(2, 3)
    once, _ = run(5)
    assert torch.equal(twice, once)
    assert [history["epoch"].tolist() for history in histories] == [[1, 2], [1, 2, 3]]
    assert not torch.equal(run(4)[0], once)


def test_initial_epoch_counts_on_from_the_epochs_behind():
    net, x, y = problem()
    history = KerasModel(net, "mse").fit((x, y), epochs=5, initial_epoch=3, ckpt_path=None, quiet=True)
    assert history["epoch"].tolist() == [4, 5]


def test_frozen_modules_stay_frozen_and_a_net_in_eval_mode_trains():
    net, x, y = problem()
    net = nn.Sequential(net, nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    net[1].eval()
    KerasModel(net, "mse").fit((x, y), (x, y), epochs=1, ckpt_path=None, quiet=True)
    assert [module.training for module in net] == [True, False, True]
    assert torch.equal(net[1].running_mean, torch.zeros(1))
    assert not torch.equal(net[2].running_mean, torch.zeros(1))
    net.eval()
    before = net[1].running_mean.clone()
    KerasModel(net, "mse").fit((x, y), epochs=1, ckpt_path=None, quiet=True)
    assert not net.training
    assert not torch.equal(net[1].running_mean, before)
