"""What must be true where the older library had a defect; numbers are those of its list of defects.

Tested elsewhere: D1, D36 (engine/test_stopping.py); D2, D16, D25 (engine/test_numbers.py); D5, D24 (in
engine/test_records.py); D10 (engine/test_exact.py, test_numbers.py, compat); D14 (engine/test_checkpoint.py); D13, D17,
D21, D23, D27, D28 (test_bad_inputs.py); D15, D37 (engine/test_stopping.py); D19, D29, D33 (test_kerasmodel.py);
D41 to D44, D49 (display); D52 to D60 (metrics); D61 to D70 (test_summary.py). D3, D4, D11, D12, D30 need several
processes.
"""

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchkeras import KerasModel
from torchkeras.data import ArrayDataset
from torchkeras.metrics import AUC

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
QUIET = {"ckpt_path": None, "quiet": True}


def model(net=None, **parts):
    torch.manual_seed(0)
    return KerasModel(net or nn.Linear(3, 1), "mse", **({"optimizer": "sgd"} | parts))


def test_d6_a_fit_after_load_ckpt_measures_no_epoch_0_and_moves_no_statistics(tmp_path):
    face = model(nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1)))
    face.save_ckpt(tmp_path / "w")
    face.load_ckpt(tmp_path / "w")
    calls = []
    face.net.register_forward_hook(lambda *args: calls.append(1))
    history = face.fit((X, Y), epochs=1, batch_size=10, **QUIET)
    assert history["epoch"].tolist() == [1]
    assert len(calls) == 4


def test_d7_a_second_fit_starts_a_history_of_its_own_and_the_first_stays_with_its_owner():
    face = model()
    first = face.fit((X, Y), epochs=2, **QUIET)
    face.fit((X, Y), epochs=1, **QUIET)
    assert first["epoch"].tolist() == [1, 2]
    assert face.history["epoch"] == [1]


def test_d8_training_goes_on_from_the_restored_best_weights():
    face = model(metrics_dict={"said": lambda preds, labels: -face.run.epoch})
    face.fit((X, Y), epochs=3, monitor="train_said", mode="max", **QUIET)
    assert face.run.monitor.best_epoch == 1
    after_one, after_three = model(), model()
    after_one.fit((X, Y), epochs=1, **QUIET)
    after_three.fit((X, Y), epochs=3, patience=None, **QUIET)
    assert torch.equal(face.net.weight, after_one.net.weight)
    assert not torch.equal(face.net.weight, after_three.net.weight)
    loss = face.evaluate((X, Y))["val_loss"]
    face.fit((X, Y), epochs=3, **QUIET)
    assert face.evaluate((X, Y))["val_loss"] < loss


def test_d9_nothing_is_clipped_unless_asked():
    def moved(**options):
        face = model(optimizer=torch.optim.SGD((net := nn.Linear(3, 1)).parameters(), lr=1.0), net=net)
        before = net.weight.detach().clone()
        face.fit((X, Y * 1000), epochs=1, batch_size=40, **QUIET, **options)
        return (net.weight - before).norm().item()

    assert moved() > 100
    assert moved(clip_grad_norm=1.0) <= 1.0 + 1e-6
    assert moved(clip_grad_value=0.01) <= 0.01 * 3**0.5 + 1e-6


class Declared(IterableDataset):
    """Says that it has more than it gives."""

    def __init__(self, says, gives):
        self.says, self.gives = says, gives

    def __len__(self):
        return self.says

    def __iter__(self):
        return iter([(X[index], Y[index]) for index in range(self.gives)])


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_d20_a_loader_that_is_shorter_than_it_says_ends_the_epoch_with_what_there_was():
    history = model().fit(DataLoader(Declared(40, 20), 10), epochs=2, **QUIET)
    assert len(history) == 2
    with pytest.raises(ValueError, match="train_data.*at least one batch"):
        model().fit(DataLoader(Declared(40, 0), 10), **QUIET)
    with pytest.raises(ValueError, match=r"train_data.*drop_last=True.*Pass drop_last=False or a smaller batch_size"):
        model().fit(DataLoader(TensorDataset(X, Y), 50, drop_last=True), **QUIET)


def test_d18_a_fit_covers_no_method_of_the_module_and_holds_on_to_no_data():
    face, loader = model(), DataLoader(TensorDataset(X, Y), 10)
    held = weakref.ref(loader)
    before = set(vars(face))
    face.fit(loader, epochs=1, cpu=True, **QUIET)
    assert set(vars(face)) == before
    assert face.cpu() is face
    del loader
    gc.collect()
    assert held() is None


def test_d22_one_process_can_train_in_several_precisions():
    found = []
    for precision in ("no", "bf16", "no"):
        face = model()
        face.net.register_forward_hook(lambda net, inputs, output: found.append(output.dtype))
        face.fit((X, Y), epochs=1, batch_size=40, mixed_precision=precision, **QUIET)
    assert found == [torch.float32, torch.bfloat16, torch.float32]


def test_d26_loss_and_metrics_are_moved_and_never_wrapped():
    face = model(metrics_dict={"auc": AUC()})
    loss_fn, metric = face.loss_fn, face.metrics_dict["auc"]
    face.fit((X, (Y > 0).float()), epochs=1, **QUIET)
    assert face.loss_fn is loss_fn
    assert face.metrics_dict["auc"] is metric


def test_d31_evaluating_again_and_again_holds_on_to_nothing():
    face = model()
    face.fit((X, Y), epochs=1, **QUIET)

    def held():
        gc.collect()
        return sum(type(one) in (DataLoader, ArrayDataset) for one in gc.get_objects())

    face.evaluate((X, Y))
    before = held()
    for _ in range(5):
        face.evaluate((X, Y))
    assert held() == before
    assert face.accelerator._dataloaders == []


def test_d32_a_size_set_on_a_loader_is_the_number_of_batches_exactly():
    face, loader = model(), DataLoader(TensorDataset(X, Y), 10)
    loader.size = 3
    face.fit(loader, epochs=2, **QUIET)
    assert face.run.global_step == 6
    del loader.size
    face.fit(loader, epochs=2, **QUIET)
    assert face.run.global_step == 8


def test_d34_a_step_reads_no_metric_and_builds_no_state_dict(monkeypatch):
    class Meta(nn.Module):
        """A metric whose number cannot be read before the epoch ends."""

        def __init__(self):
            super().__init__()
            self.updates, self.computes = 0, 0

        def update(self, preds, labels):
            self.updates += 1

        def compute(self):
            self.computes += 1
            return 1.0

        def reset(self): ...

        def __deepcopy__(self, memo):
            return Meta()

    face = model(metrics_dict={"m": (metric := Meta())})
    monkeypatch.setattr(face.optimizer, "state_dict", lambda: pytest.fail("a step built the optimizer's state dict"))
    face.fit((X, Y), epochs=2, batch_size=1, **QUIET)
    assert (metric.updates, metric.computes) == (80, 2)


def test_d35_the_list_of_callbacks_is_left_as_it_was():
    callbacks = []
    model().fit((X, Y), epochs=1, callbacks=callbacks, ckpt_path=None, plot=False)
    assert callbacks == []


def test_d38_metrics_add_no_parameters_and_no_state_to_the_model():
    face = model(metrics_dict={"auc": AUC(), "mae": "mae"})
    face.fit((X, (Y > 0).float()), epochs=1, **QUIET)
    assert sum(weight.numel() for weight in face.parameters()) == 4
    assert list(face.state_dict()) == ["net.weight", "net.bias"]


def test_d39_importing_needs_what_is_declared_and_no_notebook():
    code = "import sys; sys.modules['IPython'] = None; import torchkeras; torchkeras.KerasModel"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_d40_d47_nan_from_the_first_epoch_with_everything_at_its_default_is_no_error_and_draws_no_file(
        tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    face = model(metrics_dict={"nothing": lambda preds, labels: float("nan")})
    history = face.fit((X, Y), epochs=2, monitor="train_nothing", mode="max")
    assert history["train_nothing"].isna().all()
    assert os.listdir(tmp_path) == []  # no number was ever better, so no weights either
    model().fit((X, Y), (X, Y), epochs=2)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_d46_the_figures_of_the_user_stay_open(capsys, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure()
    model().fit((X, Y), epochs=2, ckpt_path=tmp_path / "w")
    found = pyplot.get_fignums()
    pyplot.close(figure)
    assert found == [figure.number]


def test_d45_a_display_stays_with_its_model_and_fit(capsys):
    shown, silent = model(), model()
    shown.fit((X, Y), epochs=1, ckpt_path=None)
    assert "reach best train_loss" in capsys.readouterr().out
    silent.fit((X, Y), epochs=1, **QUIET)
    silent.evaluate((X, Y))
    assert capsys.readouterr().out == ""


def test_d48_metric_names_are_kept_whole():
    metrics = {"val_interval_acc": lambda preds, labels: 1.0, "constrain_loss": lambda preds, labels: 2.0}
    face = model(metrics_dict=metrics)
    history = face.fit((X, Y), (X, Y), epochs=1, **QUIET)
    assert {"train_val_interval_acc", "val_val_interval_acc", "train_constrain_loss"} <= set(history.columns)


def test_d51_listeners_hear_every_batch_and_know_which_pass_it_belongs_to():
    heard = []

    class Listener:
        def on_step_end(self, model):
            heard.append(model.run.stage)

    model().fit((X, Y), (X, Y), epochs=1, batch_size=20, callbacks=[Listener()], **QUIET)
    assert heard == ["train", "train", "val", "val"]
