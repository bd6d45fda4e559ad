"""The callbacks for other libraries' trainers: with what these hand over, and with the libraries where they are."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchkeras import VLog
from torchkeras.tools import catboost, lightgbm, ultralytics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
LIGHTNING = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated", "The '.*_dataloader' does not have many workers",
    "The number of training batches", "You defined a `validation_step`")]


@pytest.fixture
def lines(monkeypatch):
    """What the display writes."""
    written = []
    original = VLog.__init__

    def silent(self, *args, **options):
        original(self, *args, **options)
        self.write = written.append

    monkeypatch.setattr(VLog, "__init__", silent)
    return written


# --- LightGBM ---


def test_lightgbm_hands_over_a_list_of_results(lines):
    shown = lightgbm.VLogCallback(2, monitor_metric="val_auc", monitor_mode="max")
    assert (shown.order, shown.before_iteration) == (20, False)
    shown.vlog.log_start()
    for auc in (0.7, 0.6):
        shown(SimpleNamespace(iteration=0, evaluation_result_list=[
            ("val", "auc", auc, True), ("train", "auc", auc + 0.1, True)]))
    shown.vlog.log_end()
    assert dict(shown.vlog.history) == {"epoch": [1, 2], "val_auc": [0.7, 0.6],
                                        "train_auc": pytest.approx([0.8, 0.7])}
    assert shown.vlog.best_epoch == 1
    assert lines


def test_lightgbm_hands_over_means_of_cross_validation(lines):
    shown = lightgbm.VLogCallback(1, monitor_metric="valid_auc", monitor_mode="max")
    shown(SimpleNamespace(evaluation_result_list=[("cv_agg", "valid auc", 0.7, True, 0.01)]))
    assert shown.vlog.history["valid_auc"] == [0.7]
    with pytest.raises(ValueError, match="monitor_metric: received 'val_loss'"):  # control
        lightgbm.VLogCallback(1)(SimpleNamespace(evaluation_result_list=[("val", "auc", 0.7, True)]))


def test_lightgbm_itself(lines):
    lgb = pytest.importorskip("lightgbm")
    train = lgb.Dataset(X[:150], Y[:150])
    val = lgb.Dataset(X[150:], Y[150:], reference=train)
    options = {"objective": "binary", "metric": ["auc"], "verbose": -1, "num_threads": 1}
    shown, record = lightgbm.VLogCallback(5, "val_auc", "max"), {}
    shown.vlog.log_start()
    lgb.train(options, train, num_boost_round=5, valid_sets=[val, train], valid_names=["val", "train"],
              callbacks=[lgb.record_evaluation(record), shown])
    shown.vlog.log_end()
    assert shown.vlog.history["val_auc"] == record["val"]["auc"]
    assert shown.vlog.history["train_auc"] == record["train"]["auc"]
    folds = lightgbm.VLogCallback(3, "valid_auc", "max")
    found = lgb.cv(options, lgb.Dataset(X, Y), num_boost_round=3, nfold=2, callbacks=[folds])
    assert folds.vlog.history["valid_auc"] == found["valid auc-mean"]


# --- CatBoost ---


def test_catboost_hands_over_all_numbers_so_far(lines):
    shown = catboost.VLogCallback("val_Accuracy", "max", iterations=2)
    learn, validation = {"Logloss": []}, {"Logloss": [], "Accuracy": []}
    for logloss, accuracy in ((0.6, 0.8), (0.5, 0.7)):
        learn["Logloss"].append(logloss)
        validation["Logloss"].append(logloss + 0.1)
        validation["Accuracy"].append(accuracy)
        assert shown.after_iteration(SimpleNamespace(metrics={"learn": learn, "validation": validation})) is True
    assert shown.vlog.history["val_Accuracy"] == [0.8, 0.7]
    assert shown.vlog.history["train_Logloss"] == [0.6, 0.5]
    assert shown.vlog.best_epoch == 1


def test_catboost_itself(lines, tmp_path):
    cb = pytest.importorskip("catboost")
    shown = catboost.VLogCallback("val_Accuracy", "max", iterations=5)
    model = cb.CatBoostClassifier(iterations=5, eval_metric="Accuracy", logging_level="Silent", thread_count=1,
                                  train_dir=str(tmp_path))
    model.fit(cb.Pool(X[:150], Y[:150]), eval_set=cb.Pool(X[150:], Y[150:]), callbacks=[shown])
    shown.vlog.log_end()
    assert shown.vlog.history["val_Accuracy"] == model.get_evals_result()["validation"]["Accuracy"]
    assert len(shown.vlog.history["train_Logloss"]) == 5


# --- pytorch-lightning ---


@pytest.mark.parametrize("every", [1, 2])
def test_lightning_itself(lines, every):
    pl = pytest.importorskip("pytorch_lightning")
    from torchkeras import LightModel
    from torchkeras.tools.lightning import VLogCallback

    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50)
    model = LightModel(torch.nn.Linear(4, 2), "cross_entropy", {"acc": "accuracy"}, "adam", quiet=True)
    shown = VLogCallback("val_acc", "max")
    trainer = pl.Trainer(max_epochs=4, callbacks=[shown], logger=False, enable_checkpointing=False, accelerator="cpu",
                         enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=every)
    trainer.fit(model, data, data)
    expected = model.get_history().dropna()
    assert len(expected) == 4 // every
    for name in ("train_loss", "train_acc", "val_loss", "val_acc"):
        assert shown.vlog.history[name] == pytest.approx(expected[name].tolist())
    assert shown.vlog.run.global_step == 16


test_lightning_itself.pytestmark += LIGHTNING


# --- transformers ---


def test_transformers_itself(lines, tmp_path):
    transformers = pytest.importorskip("transformers")
    from torchkeras.tools.transformers import VLogCallback

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x, labels):
            logits = self.layer(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": torch.tensor(x, dtype=torch.float32), "labels": int(y)} for x, y in zip(X, Y, strict=True)]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=3, per_device_train_batch_size=50, eval_strategy="epoch",
        logging_strategy="epoch", save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        metric_for_best_model="accuracy", greater_is_better=True, learning_rate=0.1)
    shown = VLogCallback(figsize=(4, 3), save_path=tmp_path / "history.png")
    trainer = transformers.Trainer(
        Net(), args, train_dataset=rows, eval_dataset=rows, callbacks=[shown],
        compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())})
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    logged = [one for one in trainer.state.log_history if "eval_loss" in one]
    assert shown.vlog.history["eval_accuracy"] == [one["eval_accuracy"] for one in logged]
    assert shown.vlog.history["train_loss"] == [one["loss"] for one in trainer.state.log_history if "loss" in one]
    assert shown.vlog.run.config.epochs == len(logged) == 3
    assert (tmp_path / "history.png").stat().st_size > 1000


def test_transformers_hands_over_arguments_state_and_numbers(lines, monkeypatch):
    """Its protocol, with a stand-in for the package."""
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(TrainerCallback=object))
    monkeypatch.delitem(sys.modules, "torchkeras.tools.transformers", raising=False)
    from torchkeras.tools.transformers import VLogCallback

    args = SimpleNamespace(metric_for_best_model=None, greater_is_better=None, eval_strategy="steps", eval_steps=10,
                           logging_steps=5, num_train_epochs=3)
    state, shown = SimpleNamespace(max_steps=25), VLogCallback()
    shown.on_train_begin(args, state, None)
    assert shown.vlog.run.config.epochs == 3
    for loss in (0.9, 0.5):
        shown.on_log(args, state, None, logs={"loss": loss, "grad_norm": 1.0})
        shown.on_evaluate(args, state, None, metrics={"eval_loss": loss + 0.1, "eval_runtime": 3.0, "epoch": 1.0})
    shown.on_train_end(args, state, None)
    assert dict(shown.vlog.history) == {"epoch": [1, 2], "train_loss": [0.9, 0.5], "eval_loss": [1.0, 0.6]}
    assert shown.vlog.best_epoch == 2
    monkeypatch.delitem(sys.modules, "torchkeras.tools.transformers", raising=False)


# --- ultralytics: it needs torchvision, so only its callback protocol ---


def test_ultralytics_hands_over_its_trainer(lines):
    shown = ultralytics.VLogCallback(epochs=2, monitor_metric="accuracy_top1", monitor_mode="max")
    trainer = SimpleNamespace(
        epoch=0, tloss=torch.tensor(0.25), metrics={},
        label_loss_items=lambda loss, prefix: {f"{prefix}/loss": round(float(loss), 5)})
    shown.vlog.log_start()
    for epoch, accuracy in enumerate((0.5, 0.75)):
        trainer.epoch = epoch
        shown.on_train_batch_end(trainer)
        trainer.metrics = {"metrics/accuracy_top1": accuracy, "val/loss": 1 - accuracy, "lr/pg0": 0.1}
        shown.on_fit_epoch_end(trainer)
    shown.on_fit_epoch_end(trainer)  # the best weights, measured once more
    shown.vlog.log_end()
    assert dict(shown.vlog.history) == {"epoch": [1, 2], "accuracy_top1": [0.5, 0.75], "val_loss": [0.5, 0.25],
                                        "lr_pg0": [0.1, 0.1]}
    assert shown.vlog.run.global_step == 2
    assert shown.vlog.best_epoch == 2


# --- names ---


def test_a_missing_package_is_told_of_with_the_way_to_install_it():
    code = """
import sys
sys.modules["pytorch_lightning"] = sys.modules["transformers"] = None
for name in ("lightning", "transformers"):
    try:
        __import__(f"torchkeras.tools.{name}")
    except ImportError as error:
        print(error)
import torchkeras.tools.lightgbm, torchkeras.tools.catboost, torchkeras.tools.ultralytics
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Install it: pip install pytorch-lightning" in done.stdout, done.stderr
    assert "Install it: pip install transformers" in done.stdout
    assert done.returncode == 0
