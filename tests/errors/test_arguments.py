"""Arguments of the wrong kind, words of other libraries, files that are none: each is named."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import (
    KerasModel,
    Model,
    StepRunner,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    train_model,
)
from torchkeras.engine.config import FitConfig

X, Y = torch.randn(40, 4), torch.arange(40) % 3
QUIET = {"epochs": 1, "ckpt_path": None, "quiet": True}


def model(**parts):
    return KerasModel(nn.Linear(4, 3), "cross_entropy", ["accuracy"], **parts)


class Own(StepRunner):
    def measure(self, loss, preds, labels):
        losses, metrics = super().measure(loss, preds, labels)
        return {**losses, f"{self.stage}_own": loss.detach()}, metrics


@pytest.mark.parametrize("value", [3, None, ["val_loss"], nn.Linear(1, 1)])
def test_a_monitor_is_a_text(value):
    with pytest.raises(TypeError, match="monitor: received .*; expected a text"):
        model().fit((X, Y), monitor=value, **QUIET)


@pytest.mark.parametrize("step", [StepRunner, Own])
@pytest.mark.parametrize("name", ["val_accuracy", "val_own", "val_nothing"])
def test_a_number_of_the_validation_needs_one_whatever_the_step(step, name):
    one = model()
    one.StepRunner, before = step, one.net.weight.detach().clone()
    with pytest.raises(ValueError, match=f"monitor: received '{name}'.*Pass val_data"):
        one.fit((X, Y), monitor=name, **QUIET)
    assert torch.equal(one.net.weight, before)


def test_control_with_validation_data_a_number_of_ones_own_is_watched():
    one = model()
    one.StepRunner = Own
    assert "val_own" in one.fit((X, Y), (X, Y), monitor="val_own", mode="min", **QUIET)


@pytest.mark.parametrize("name", ["cpu", "plot", "quiet", "shuffle", "fsdp", "sync_batchnorm", "find_unused_parameters",
                                  "resume"])
@pytest.mark.parametrize("value", ["cuda", 1, 0, "no", [True]])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(TypeError, match=f"{name}: received .*expected True or False"):
        model().fit((X, Y), **{**QUIET, name: value})


@pytest.mark.parametrize("name", ["with_labels", "as_numpy", "stream", "cpu"])
def test_a_switch_of_predict_is_true_or_false(name):
    with pytest.raises(TypeError, match=f"{name}: received 'yes'"):
        model().predict(X, **{name: "yes"})
    with pytest.raises(TypeError, match="cpu: received 'cuda'"):
        model().evaluate((X, Y), cpu="cuda")


def test_control_bools_of_numpy_are_switches():
    assert len(model().fit((X, Y), **QUIET | {"cpu": np.bool_(True), "quiet": np.True_, "shuffle": np.False_})) == 1


@pytest.mark.parametrize("name", ["steps_per_epoch", "validation_steps", "batch_size"])
def test_no_steps_are_named_as_they_were_written(name):
    with pytest.raises(ValueError, match=f"^{name}: received 0"):
        model().fit((X, Y), (X, Y), **QUIET, **{name: 0})


@pytest.mark.parametrize("weights", [{np.int64(1): np.float32(2.5)}, {1: np.float64(2.5)}, {1: torch.tensor(2.5)},
                                     {np.int8(1): np.array(2.5)}])
def test_class_weights_of_numpy_are_numbers_everywhere(weights, tmp_path):
    assert repr(FitConfig(class_weight=weights).class_weight) == "{1: 2.5}"
    found = [model_of_seed().fit((X, Y), epochs=1, quiet=True, class_weight=one, resume=True,
                                 report=tmp_path / "r.html", ckpt_path=tmp_path / str(number))["train_loss"].tolist()
             for number, one in enumerate((weights, {1: 2.5}, {1: 2.0}))]
    assert found[0] == found[1] != found[2]


def model_of_seed():
    torch.manual_seed(0)
    return model()


@pytest.mark.parametrize("weights", [[1.0, 2.0], np.ones(3), {"a": 1.0}, {0.5: 1.0}, {1: "2"}, {True: 1.0}, {},
                                     {1: None}])
def test_class_weights_of_another_kind_are_refused(weights):
    with pytest.raises(TypeError, match="class_weight: received"):
        model().fit((X, Y), class_weight=weights, **QUIET)


@pytest.mark.parametrize(("train", "val"), [
    (X, Y), (X.numpy(), Y.numpy()), (X.tolist(), Y.tolist()), ([X, X], Y), ((X, X), Y), ({"input": X}, Y)])
@pytest.mark.parametrize("more", [(), (3,), ((X, Y), 3)])
def test_x_and_y_apart_are_told_to_be_one_tuple(train, val, more):
    one = model()
    before = one.net.weight.detach().clone()
    with pytest.raises(TypeError, match=r"one tuple. fit\(\("):
        one.fit(train, val, *more)
    assert torch.equal(one.net.weight, before)


def test_one_array_as_validation_data_is_told_to_bring_labels():
    with pytest.raises(TypeError, match="val_data: received one Tensor of 40 values, which has no labels"):
        model().fit(TensorDataset(X, Y), X, **QUIET)
    with pytest.raises(TypeError, match="one tuple"):
        train_model(nn.Linear(4, 3), None, "cross_entropy", None, X, Y)


def test_control_other_things_in_the_place_of_y_are_validation_data():
    loader = DataLoader(TensorDataset(X, Y), 8)
    for val in (loader, TensorDataset(X, Y), (X, Y), [(X, Y)]):
        assert "val_loss" in model().fit((X, Y), val, **QUIET)

    class Same(StepRunner):
        def forward(self, batch):
            return self.net(batch), batch

    one = KerasModel(nn.Linear(4, 4), "mse")
    one.StepRunner = Same
    assert "val_loss" in one.fit(X, X, **QUIET)  # an autoencoder's step needs no labels


CALLS = {
    "fit": {"validation_data": "'val_data'", "verbose": "'quiet'", "y": r"fit\(\(x, y\)\)", "x": "'train_data'",
            "loss": r"KerasModel\(loss_fn=", "metrics": r"KerasModel\(metrics_dict=", "lr": "belongs to the optimizer",
            "device": "cpu=True", "num_workers": "DataLoader", "max_epochs": "'epochs'",
            "val_dataloaders": "'val_data'",
            "precision": "'mixed_precision'", "gradient_clip_val": "'clip_grad_norm'",
            "accumulate_grad_batches": "'gradient_accumulation_steps'", "epoch": "'epochs'", "callback": "'callbacks'",
            "sample_weight": r"fit\(\(x, y, sample_weight\)\)", "limit_train_batches": "'steps_per_epoch'",
            "patiense": "'patience'", "random_state": "'seed'", "devices": "'num_processes'",
            "qwertz": "one of train_data"},
    "evaluate": {"x": "'val_data'", "verbose": "'quiet'", "y": r"evaluate\(\(x, y\)\)",
                 "validation_steps": "'steps'", "epochs": r"fit\(epochs=", "return_dict": "gives a dict",
                 "loss": r"KerasModel\(loss_fn="},
    "predict": {"x": "'data'", "verbose": "shows nothing", "y": "needs no labels", "num_workers": "DataLoader"},
    "KerasModel": {"loss": "'loss_fn'", "metrics": "'metrics_dict'", "lr": "belongs to the optimizer",
                   "device": "cpu=True", "epochs": r"fit\(epochs=", "scheduler": "'lr_scheduler'",
                   "validation_data": r"fit\(val_data="},
}


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in CALLS.items() for word in words])
def test_a_word_of_another_library_is_told_ours(name, word):
    call = {"fit": lambda **more: model().fit((X, Y), **more),
            "evaluate": lambda **more: model().evaluate((X, Y), **more),
            "predict": lambda **more: model().predict(X, **more),
            "KerasModel": lambda **more: KerasModel(nn.Linear(4, 3), None, **more)}[name]
    with pytest.raises(TypeError, match=rf"^{name}\({word}=...\): received a keyword that is not known; .*"
                                        + CALLS[name][word]):
        call(**{word: 1})


def test_a_call_by_foreign_words_alone_is_told_them():
    with pytest.raises(TypeError, match=r"fit\(\(x, y\)\)"):
        model().fit(x=X, y=Y)
    with pytest.raises(TypeError, match=r"evaluate: received 1 more by position.*evaluate\(\(x, y\)\)"):
        model().evaluate(X, Y)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'train_data'"):
        model().fit()


def test_models_in_keras_words_are_told_keras_words():
    one = Model(nn.Linear(4, 3))
    one.compile(loss="mse")
    with pytest.raises(TypeError, match=r"evaluate\(return_dicts=...\): .*Did you mean 'return_dict'"):
        one.evaluate(X, Y, return_dicts=True)


def test_a_keyword_that_no_step_takes_is_named_when_measuring_too():
    with pytest.raises(TypeError, match=r"KerasModel\(teacher=...\): received a keyword that the StepRunner does not"):
        model(teacher=3).evaluate((X, Y))


@pytest.mark.parametrize("value", [3, None, ["project"]])
def test_wandb_is_a_switch_or_a_project(value):
    with pytest.raises(TypeError, match="wandb: received"):
        model().fit((X, Y), wandb=value, **QUIET)


def test_control_a_step_of_ones_own_may_take_such_words():
    class Teaches(StepRunner):
        def __init__(self, net, loss_fn, accelerator, device=None, teacher=None, loss=None, **parts):
            super().__init__(net, loss_fn, accelerator, **parts)
            assert (device, teacher, loss) == ("here", "mine", 3)

    class Taught(KerasModel):
        StepRunner = Teaches

    taught = Taught(nn.Linear(4, 3), "cross_entropy", device="here", teacher="mine", loss=3)
    assert len(taught.fit((X, Y), **QUIET)) == 1
    later = KerasModel(nn.Linear(4, 3), "cross_entropy", teacher="mine", loss=3)  # loss_fn is given, so loss is another
    later.StepRunner = type("Later", (Teaches,), {"__init__": lambda self, *args, teacher, loss, **parts: (
        Teaches.__init__(self, *args, device="here", teacher=teacher, loss=loss, **parts))})
    assert len(later.fit((X, Y), **QUIET)) == 1


def test_an_error_of_type_inside_a_call_keeps_its_words():
    class Fails:
        def on_step_end(self, model):
            len(3)

    with pytest.raises(TypeError, match=r"object of type 'int' has no len\(\)"):
        model().fit((X, Y), callbacks=[Fails()], **QUIET)


def junk(folder):
    good, tensors = folder / "good.pt", folder / "good.safetensors"
    torch.save(nn.Linear(4, 3).state_dict(), good)
    KerasModel(nn.Linear(4, 3), "mse").save_ckpt(tensors)
    torch_file, safe = good.read_bytes(), tensors.read_bytes()
    return {"empty": b"", "one byte": b"\x80", "random": np.random.default_rng(0).bytes(3000), "text": b"hello\n" * 99,
            "cut short": torch_file[:len(torch_file) // 2], "pickle": pickle.dumps({"a": os.getcwd}), "short": b"abc",
            "a list": pickle.dumps([1]), "page": b"<html>404", "lfs": b"version https://git-lfs.github.com/spec/v1\n",
            "too long a header": b"\xff" * 8 + safe[8:], "a broken header": safe[:8] + b"{{{{" + safe[12:],
            "cut tensors": safe[:-3]}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
@pytest.mark.parametrize("load", [
    lambda path: model().load_ckpt(path), lambda path: load_weights(nn.Linear(4, 3), path),
    lambda path: load_checkpoint(path, net=nn.Linear(4, 3)), lambda path: Model(nn.Linear(4, 3)).load(path)])
def test_a_file_that_is_none_is_named(load, suffix, tmp_path):
    for name, content in junk(tmp_path).items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}{suffix}"):
            load(path)
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ValueError, match=f"the folder .*folder{suffix}"):
        load(tmp_path / f"folder{suffix}")
    with pytest.raises(FileNotFoundError, match=f"missing{suffix}"):
        load(tmp_path / f"missing{suffix}")


@pytest.mark.parametrize("content", [{1: torch.ones(2)}, [torch.ones(2)], torch.ones(2), {"net": {"a": torch.ones(2)}},
                                     nn.Linear(4, 3)])
def test_a_file_of_torchs_that_holds_something_else_is_named(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt"):
        model().load_ckpt(tmp_path / "other.pt")


def test_control_good_files_load(tmp_path):
    one = model()
    for name in ("a.pt", "a.safetensors", "a"):
        one.save_ckpt(tmp_path / name)
        assert len(one.load_ckpt(tmp_path / name).loaded) == 2
    save_checkpoint(tmp_path / "c", net=one.net)
    assert load_checkpoint(tmp_path / "c", net=one.net) == {}


class Two(nn.Module):
    """A net with two outputs."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(4, 3), kind

    def forward(self, x):
        scores = self.layer(x)
        return {"a": scores, "b": -scores} if self.kind is dict else self.kind((scores, -scores))


@pytest.mark.parametrize("loss_fn", ["cross_entropy", nn.functional.cross_entropy, nn.CrossEntropyLoss(),
                                     "sparse_categorical_crossentropy"])
@pytest.mark.parametrize(("kind", "said"), [(dict, r"several outputs \('a', 'b'\).*preds\['a'\]"),
                                            (tuple, r"several outputs \(2 of them\).*preds\[0\]")])
def test_a_loss_of_one_tensor_for_several_outputs_is_answered_with_how_to_write_one(loss_fn, kind, said):
    with pytest.raises(ValueError, match=said):
        KerasModel(Two(kind), loss_fn).fit((X, Y), **QUIET)


@pytest.mark.parametrize("kind", [dict, tuple])
def test_control_a_loss_of_ones_own_gets_all_outputs(kind):
    key = "a" if kind is dict else 0
    KerasModel(Two(kind), lambda preds, labels: nn.functional.cross_entropy(preds[key], labels)).fit((X, Y), **QUIET)
