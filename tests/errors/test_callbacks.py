"""A listener that waits for a moment which never comes is refused before the run begins."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel, Model

X, Y = torch.randn(32, 4), torch.randn(32, 1)


def fit(*callbacks):
    net = nn.Linear(4, 1)
    before = net.weight.detach().clone()
    try:
        KerasModel(net, "mse", optimizer="sgd").fit((X, Y), callbacks=list(callbacks), epochs=1, ckpt_path=None,
                                                   quiet=True)
    except TypeError:
        assert torch.equal(net.weight, before)
        raise


def keras_fit(*callbacks):
    model = Model(nn.Linear(4, 1))
    model.compile(optimizer="sgd", loss="mse")
    model.fit(X, Y, epochs=1, verbose=0, callbacks=list(callbacks))


def listener(name, base=Callback, **more):
    return type("Mine", (base,), {name: lambda self, *args: None, **more})()


MEANT = {
    "on_epoch_end": "on_train_epoch_end (the training pass is over) or on_validation_epoch_end",
    "on_epoch_finish": "on_validation_epoch_end", "on_train_begin": "'on_fit_start'", "on_train_end": "'on_fit_end'",
    "on_epoch_begin": "'on_epoch_start'", "on_train_batch_end": "'on_step_end'", "on_batch_end": "'on_step_end'",
    "on_train_start": "'on_fit_start'", "on_train_epoch_start": "'on_epoch_start'", "on_fit_strat": "'on_fit_start'",
    "on_validation_end": "'on_validation_epoch_end'", "on_batch_begin": "StepRunner", "on_error": "'on_exception'",
    "on_save_checkpoint": "save_ckpt", "on_something_else": "underscore"}


@pytest.mark.parametrize("base", [Callback, object])
@pytest.mark.parametrize("name", MEANT)
def test_a_method_that_would_never_be_called_is_refused_and_told_what_it_may_have_meant(name, base):
    with pytest.raises(TypeError, match=f"callbacks: received Mine.{name}, which would never be called") as found:
        fit(listener(name, base, on_step_end=lambda self, model: None))
    assert MEANT[name] in str(found.value)


def test_an_object_whose_hooks_are_attributes_is_looked_at_too():
    with pytest.raises(TypeError, match="on_epoch_end, which would never be called"):
        fit(SimpleNamespace(on_step_end=lambda model: None, on_epoch_end=lambda model: None))


def test_control_a_function_that_a_callback_was_given_is_its_own_affair():
    told = []

    class Told(Callback):
        def __init__(self, on_better):
            self.on_better = on_better

        def on_fit_end(self, anything):
            self.on_better(anything.run.epoch)

    fit(Told(told.append))
    assert told == [1]


def test_an_argument_may_have_any_name():
    seen = []

    class Named(Callback):
        def on_epoch_start(self, m):
            seen.append(m.run.epoch)

        def on_fit_end(self, trainer, more=None):
            seen.append(trainer.run.epoch)

    fit(Named())
    assert seen == [1, 1]


def test_a_hook_that_is_set_on_one_object_is_heard():
    seen, one = [], Callback()
    one.on_fit_end = lambda model: seen.append(model.run.epoch)
    fit(one)
    assert seen == [1]


@pytest.mark.parametrize("hook", [lambda self: None, lambda self, model, logs: None, lambda self, *, model: None])
def test_a_hook_that_cannot_be_called_with_the_model_is_refused(hook):
    with pytest.raises(TypeError, match=r"received Mine.on_step_end\(.*\); expected a method of one argument"):
        fit(type("Mine", (), {"on_step_end": hook})())


def test_a_hook_that_a_call_would_not_run_is_refused():
    class Waits:
        async def on_step_end(self, model):
            raise AssertionError

    class Yields:
        def on_step_end(self, model):
            yield

    for one in (Waits(), Yields()):
        with pytest.raises(TypeError, match="async or yields"):
            fit(one)


def test_models_in_keras_words_take_callbacks_of_both_kinds_and_of_each():
    seen = []

    class Both:
        def on_epoch_end(self, epoch, logs):
            seen.append("keras")

        def on_validation_epoch_end(self, model):
            seen.append("ours")

        def on_predict_begin(self, logs=None):
            raise AssertionError

    keras_fit(Both())
    assert sorted(seen) == ["keras", "ours"]
    with pytest.raises(TypeError, match="on_epoch_end, which would never be called"):
        fit(Both())


@pytest.mark.parametrize(("name", "text"), [("on_epoch_ends", "'on_epoch_end'"), ("on_train_starts", "Did you mean"),
                                            ("on_fit_begin", "'on_fit_start'")])
def test_models_in_keras_words_refuse_names_of_neither_kind(name, text):
    with pytest.raises(TypeError, match=f"Mine.{name}, which would never be called") as found:
        keras_fit(listener(name, object, on_epoch_end=lambda self, epoch, logs: None))
    assert text in str(found.value)


@pytest.mark.parametrize("name", ["VisProgress", "VisMetric", "VisDisplay", "EpochCheckpoint", "CSVLogger",
                                  "JSONLLogger"])
def test_the_callbacks_of_this_library_pass(name):
    from torchkeras import kerascallbacks
    from torchkeras.core.moments import MOMENTS, public_hooks

    kind = getattr(kerascallbacks, name)
    assert set(public_hooks(kind.__new__(kind), MOMENTS)) <= set(MOMENTS)
