"""Model keeps the promises of KerasModel: resume, several processes, reports, streams, odd epochs."""


import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel, Model
from torchkeras.keras import callbacks
from torchkeras.keras.running import options_of_fit

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 4, generator=GENERATOR)
Y = X.sum(1, keepdim=True) + torch.randn(120, 1, generator=GENERATOR)
QUIET = {"verbose": 0, "batch_size": 10}


def model(optimizer="nadam", metrics=("mae",)):
    torch.manual_seed(0)
    made = Model(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1)))
    made.compile(optimizer, "mse", list(metrics))
    return made


def weights(made):
    return torch.cat([one.detach().flatten() for one in made.parameters()])


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, model):
        if model.run.global_step == self.step:
            model.run.stop("enough for today")


# Resume

@pytest.mark.parametrize("name", ["nadam", "adam", "rmsprop", "muon", "sgd"])
def test_a_stopped_run_resumes_bit_for_bit_with_its_whole_history(name, tmp_path):
    whole, first, second = model(name), model(name), model(name)
    asked = {"epochs": 4, "seed": 3, "validation_split": 0.2, "resume": True, "save_every": 3, **QUIET}
    expected = whole.fit(X, Y, ckpt_path=tmp_path / "a.pt", **asked)
    first.fit(X, Y, ckpt_path=tmp_path / "b.pt", callbacks=[StopAt(17)], **asked)
    assert not torch.equal(weights(first), weights(whole))  # control
    found = second.fit(X, Y, ckpt_path=tmp_path / "b.pt", **asked)
    assert torch.equal(weights(second), weights(whole))
    assert found.history == expected.history
    assert found.epoch == expected.epoch == [0, 1, 2, 3]
    assert second.history is found


def kinds():
    return [callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
            callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0)]


def test_callbacks_go_on_where_they_were(tmp_path):
    asked = {"epochs": 7, "seed": 3, "validation_split": 0.2, "save_every": "epoch", "resume": True,
             "restore_best": False, **QUIET}
    told, before, after = kinds(), kinds(), kinds()
    whole, first, second = model(), model(), model()
    expected = whole.fit(X, Y, ckpt_path=tmp_path / "a.pt", callbacks=told, **asked)
    first.fit(X, Y, ckpt_path=tmp_path / "b.pt", callbacks=[*before, StopAt(10 * 3)], **asked)
    found = second.fit(X, Y, ckpt_path=tmp_path / "b.pt", callbacks=after, **asked)
    assert found.history == expected.history
    assert found.history["learning_rate"][-1] < found.history["learning_rate"][0]  # it was lowered
    assert (after[0].best, after[0].wait, after[1].wait) == (told[0].best, told[0].wait, told[1].wait)
    assert torch.equal(weights(second), weights(whole))


def test_backup_and_restore_is_resume(tmp_path):
    asked = {"epochs": 3, "seed": 1, **QUIET}
    whole, first, second = model(), model(), model()
    expected = whole.fit(X, Y, **asked).history
    backup = callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)
    first.fit(X, Y, callbacks=[backup, StopAt(14)], **asked)
    assert (tmp_path / "backup").exists()
    assert second.fit(X, Y, callbacks=[callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)],
                      **asked).history == expected
    assert torch.equal(weights(second), weights(whole))
    assert not (tmp_path / "backup").exists()  # the run is over
    kept = callbacks.BackupAndRestore(tmp_path / "kept", delete_checkpoint=False)
    model().fit(X, Y, callbacks=[kept], **asked)
    assert (tmp_path / "kept").exists()
    with pytest.raises(ValueError, match="BackupAndRestore beside ckpt_path"):
        model().fit(X, Y, callbacks=[backup], ckpt_path=tmp_path / "x.pt", **asked)


def test_the_best_weights_come_back_where_a_path_or_resume_asks_for_them(tmp_path):
    class Worse:
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.param_groups[0]["lr"] = 0.001 if epoch == 0 else -0.05

        def on_epoch_end(self, epoch, logs=None):
            self.weights = [*getattr(self, "weights", []), weights(self.model)]

    for asked, kept in (({}, -1), ({"ckpt_path": tmp_path / "a.pt", "resume": True}, 0),
                        ({"ckpt_path": tmp_path / "b.pt", "save_every": 5, "restore_best": False}, -1)):
        worse, made = Worse(), model()
        made.fit(X, Y, epochs=3, callbacks=[worse], **asked, **QUIET)
        assert torch.equal(weights(made), worse.weights[kept])
        assert not torch.equal(worse.weights[0], worse.weights[-1])


def test_verify_resume_says_yes_and_leaves_the_model_alone():
    made = model()
    before = weights(made)
    assert made.verify_resume(X, Y, batch_size=10, validation_data=(X, Y), steps=12).identical
    assert torch.equal(weights(made), before)
    with pytest.raises(TypeError, match="some in Keras's words"):
        made.verify_resume(X, Y, callbacks=[callbacks.EarlyStopping()])


# Several processes

def test_two_processes_give_the_numbers_of_one_and_bring_callbacks_back():
    one, two = model("sgd"), model("sgd")
    for made in (one, two):
        made.net[1].p = 0.0
    asked = {"epochs": 3, "seed": 0, "cpu": True, "validation_data": (X, Y), "shuffle": False, **QUIET}
    stop, other = (callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True) for _ in range(2))
    expected = one.fit(X, Y, callbacks=[stop], **asked)
    found = two.fit_ddp(2, X, Y, callbacks=[other, callbacks.ProgbarLogger()], **asked)
    for name, values in expected.history.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5)
    assert torch.allclose(weights(one), weights(two), atol=1e-6)
    assert not torch.allclose(weights(one), weights(model("sgd")), atol=1e-6)  # control
    assert other.best == pytest.approx(stop.best, rel=1e-5)
    assert other.best_epoch == stop.best_epoch == 2
    assert two.history is found
    assert two.evaluate_ddp(2, X, Y, cpu=True) == pytest.approx(one.evaluate(X, Y), rel=1e-5)
    two.train_on_batch(X, Y)  # it is the model that it was


# Reports, streams

def test_report_validate_and_streams(tmp_path):
    made = model()
    made.fit(X, Y, epochs=2, report=tmp_path / "a.html", **QUIET)
    assert made.report(tmp_path / "b.html").exists()
    assert (tmp_path / "a.html").exists()
    found = made.validate(DataLoader(TensorDataset(X, Y), 7))
    assert list(found) == ["val_loss", "val_mae"]
    assert list(found.values()) == pytest.approx(made.evaluate(X, Y))
    whole = made.predict(X)
    stream = made.predict(X, batch_size=50, stream=True)
    assert not isinstance(stream, np.ndarray)
    assert np.allclose(np.concatenate(list(stream)), whole, atol=1e-6)
    preds, labels = made.predict((X, Y), with_labels=True)
    assert np.allclose(preds, whole, atol=1e-6)
    assert np.array_equal(labels, Y.numpy())


def test_predict_gives_classes_as_the_loss_defines_them():
    torch.manual_seed(0)
    made = Model(nn.Linear(4, 3))
    made.compile("adam", nn.CrossEntropyLoss())
    assert np.array_equal(made.predict(X, output="classes"), made.predict(X).argmax(1))
    assert made.predict(X, output="probabilities").sum(1) == pytest.approx(np.ones(120), rel=1e-5)


# Options

def test_every_option_of_kerasmodel_is_one_of_model():
    import inspect

    ours = {*inspect.signature(Model.fit).parameters, *options_of_fit(Model.fit)}
    missing = set(inspect.signature(KerasModel.fit).parameters) - ours
    assert missing == {"train_data", "val_data", "quiet"}  # x and y, validation_data, verbose
    assert {"resume", "save_every", "keep", "num_processes", "fsdp", "sync_batchnorm", "find_unused_parameters",
            "min_delta", "report"} <= set(options_of_fit(Model.fit))


def test_options_for_several_processes_are_taken():
    made = model("sgd")
    made.fit(X, Y, epochs=1, sync_batchnorm=True, find_unused_parameters=True, fsdp=True, **QUIET)
    config = made.engine.run.config
    assert (config.sync_batchnorm, config.find_unused_parameters, config.fsdp) == (True, True, True)
    with pytest.raises(ValueError, match=r"EarlyStopping\(restore_best_weights=True\) with fsdp=True"):
        made.fit(X, Y, fsdp=True, callbacks=[callbacks.EarlyStopping("loss", restore_best_weights=True)], **QUIET)


def test_validation_has_batches_of_its_own_and_epochs_from_a_list():
    sizes = []

    class Sizes:
        def on_test_batch_end(self, batch, logs=None):
            sizes.append(batch)

    made = model()
    history = made.fit(X, Y, epochs=5, validation_split=0.25, validation_batch_size=15, validation_freq=[1, 4],
                       callbacks=[Sizes()], **QUIET)
    assert sizes == [0, 1, 0, 1]
    assert len(history.history["val_loss"]) == 2
    assert [row["epoch"] for row in history.rows if "val_loss" in row] == [1, 4]
    other = model().fit(X, Y, epochs=5, validation_data=(X[90:], Y[90:]), validation_batch_size=7, **QUIET).history
    assert len(other["val_loss"]) == 5
    for wrong in ([], [0], "2"):
        with pytest.raises((TypeError, ValueError), match="validation_freq"):
            made.fit(X, Y, validation_split=0.25, validation_freq=wrong, **QUIET)
    with pytest.raises(ValueError, match="validation_batch_size: received 3"):
        made.fit(X, Y, validation_data=DataLoader(TensorDataset(X, Y)), validation_batch_size=3, **QUIET)


# Steps that go on

def seen_in(made, data, **asked):
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x):
            if self.training:
                seen.append(x.flatten().tolist())
            return self.linear(x)

    made = Model(Net())
    made.compile("sgd", "mse")
    made.fit(*data, verbose=0, **asked)
    return seen


NUMBERED = (torch.arange(12.0).reshape(12, 1), torch.zeros(12, 1))


def test_an_epoch_of_some_steps_goes_on_where_the_last_one_ended():
    found = seen_in(None, NUMBERED, batch_size=2, epochs=4, steps_per_epoch=2, shuffle=False)
    assert [one[0] for one in found] == [0, 2, 4, 6, 8, 10, 0, 2]  # six batches, then from the beginning
    shuffled = seen_in(None, NUMBERED, batch_size=2, epochs=6, steps_per_epoch=2)
    passes = [sorted(sum(shuffled[start:start + 6], [])) for start in (0, 6)]
    assert passes == [list(range(12))] * 2
    assert shuffled[:6] != shuffled[6:]  # a new order


def test_data_that_ends_in_mid_epoch_makes_it_shorter_with_a_warning():
    with pytest.warns(RuntimeWarning, match="ended after 2 of 4 batches"):
        found = seen_in(None, NUMBERED, batch_size=2, epochs=3, steps_per_epoch=4, shuffle=False)
    assert [one[0] for one in found] == [0, 2, 4, 6, 8, 10, 0, 2, 4, 6]


def test_loaders_and_streams_go_on_too():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(*NUMBERED, strict=True))

    ready = [*zip(NUMBERED[0].split(2), NUMBERED[1].split(2), strict=True)]
    for data in (DataLoader(TensorDataset(*NUMBERED), 2), DataLoader(Stream(), 2), ready):
        found = seen_in(None, (data,), epochs=4, steps_per_epoch=2)
        assert [one[0] for one in found] == [0, 2, 4, 6, 8, 10, 0, 2]


def test_as_many_steps_as_the_data_has_change_nothing():
    plain, same = (seen_in(None, NUMBERED, batch_size=2, epochs=2, shuffle=False, **asked)
                   for asked in ({}, {"steps_per_epoch": 6}))
    assert plain == same
    made = model()
    made.fit(X, Y, epochs=2, steps_per_epoch=12, **QUIET)
    with pytest.raises(ValueError, match="at most 12 steps"):
        made.fit(X, Y, steps_per_epoch=13, **QUIET)


@pytest.mark.parametrize("asked", [{"resume": True}, {"save_every": 5}, {"num_processes": 2, "cpu": True}])
def test_where_it_goes_on_a_run_is_neither_resumed_nor_shared(asked, tmp_path):
    made = model()
    with pytest.raises(ValueError, match="steps_per_epoch: received 3 of 12 batches"):
        made.fit(X, Y, steps_per_epoch=3, ckpt_path=tmp_path / "x.pt", **asked, **QUIET)


# Weights by output

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x).sigmoid()}


def test_each_output_has_sample_weights_of_its_own():
    torch.manual_seed(0)
    made = Model(Two())
    made.compile("sgd", {"a": "mse", "b": "binary_crossentropy"})
    labels, share = {"a": Y, "b": (Y > 0).float()}, torch.linspace(0, 1, 120)
    with torch.no_grad():
        preds = made(X)
        of_a = ((preds["a"] - Y).square()[:, 0] * share).mean().item()
        of_b = nn.functional.binary_cross_entropy(preds["b"], labels["b"]).item()
    for given in ({"a": share}, [share, None]):
        found = made.evaluate(X, labels, sample_weight=given, batch_size=7, return_dict=True)
        assert found == pytest.approx({"loss": of_a + of_b, "a_loss": of_a, "b_loss": of_b}, rel=1e-5)
    assert made.evaluate(X, labels)[1] != pytest.approx(of_a, rel=1e-3)  # control
    assert made.test_on_batch(X, labels, sample_weight={"a": share})[0] == pytest.approx(of_a + of_b, rel=1e-5)
    history = made.fit(X, labels, sample_weight={"a": share, "b": share}, validation_data=(X, labels, {"a": share}),
                       epochs=2, **QUIET).history
    assert history["loss"] == pytest.approx([a + b for a, b in zip(history["a_loss"], history["b_loss"], strict=True)])
    for wrong, words in (({"c": share}, "'c'"), ([share], "1 entries")):
        with pytest.raises(ValueError, match="sample_weight") as error:
            made.evaluate(X, labels, sample_weight=wrong)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="where there is one output"):
        model().evaluate(X, Y, sample_weight={"a": share})


# The cost of lines

def test_the_cost_of_step_lines_does_not_grow_with_the_epoch():
    called = []

    def spread(y_pred, y_true):
        called.append(len(y_pred))
        return (y_pred - y_true).abs().max()

    def cost(batches):
        called.clear()
        made = Model(nn.Linear(1, 1))
        made.compile(loss_func=nn.MSELoss(), optimizer="sgd", metrics_dict={"spread": spread})
        made.fit(1, dl_train=[(torch.ones(1, 1), torch.zeros(1, 1))] * batches, log_step_freq=1)
        return sum(called)

    few, many = cost(100), cost(400)
    assert many < 4 * few * 1.5  # samples that the function went through; each line anew: 16 times
    assert few > 3 * 100  # control: it is shown on the way, too


def test_lines_show_the_numbers_so_far(capsys):
    made = Model(nn.Linear(4, 1))
    made.compile(loss_func=nn.MSELoss(), optimizer=torch.optim.SGD(made.parameters(), 0.0),
                 metrics_dict={"mae": lambda y_pred, y_true: (y_pred - y_true).abs().mean()})
    made.fit(1, dl_train=DataLoader(TensorDataset(X, Y), 10), log_step_freq=6)
    lines = [eval(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{'step'")]
    with torch.no_grad():
        for line in lines:
            rows = slice(0, 10 * line["step"])
            assert line["mae"] == pytest.approx((made(X[rows]) - Y[rows]).abs().mean().item(), abs=1e-3)
            assert line["loss"] == pytest.approx((made(X[rows]) - Y[rows]).square().mean().item(), abs=1e-3)
