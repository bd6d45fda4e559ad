"""The peers, each as its own documentation would have it, without bars and files; all report once an epoch."""

import math
import os
from typing import Any

import torch

from benchmarks.contenders import Epochs, hits, plain
from benchmarks.workloads import Job

KERAS_EPSILON = 1e-8  # torch's; Keras's own default is ten times that


def accuracy_metric(job: Job) -> Any:
    """An accuracy of torchmetrics for a job; with one class it is to be given probabilities."""
    from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

    return BinaryAccuracy() if job.classes == 1 else MulticlassAccuracy(max(job.classes, 2), average="micro")


def accelerate_alone(job: Job) -> float | None:
    """The plain loop with what accelerate prepares."""
    from accelerate import Accelerator

    job.start()
    accelerator = Accelerator()
    net, optimizer, loader = accelerator.prepare(job.net.train(), job.optimizer(), job.loader())
    for _ in range(job.epochs):
        total, right = torch.zeros((), device=job.device), torch.zeros((), dtype=torch.int64, device=job.device)
        for x, y in loader:
            optimizer.zero_grad()
            preds = net(x)
            loss = job.loss_fn(preds, y)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.detach() * len(x)
            if job.classes:
                right += hits(preds, y, job.classes)
        total.item()
        accuracy = right.item() / len(job.x) if job.classes else None
        job.epoch_ended()
    return accuracy


def torchkeras_4(job: Job) -> float | None:
    """The older torchkeras, its bars off."""
    from torchkeras import KerasModel
    from torchkeras.kerasmodel import EpochRunner
    from torchkeras.metrics import Accuracy

    class Quiet(EpochRunner):  # fit has no argument for it
        def __init__(self, step_runner: Any, quiet: bool = False) -> None:
            super().__init__(step_runner, True)

    job.start()
    metrics = {"accuracy": Accuracy() if job.classes == 1 else accuracy_metric(job)} if job.classes else {}
    model = KerasModel(job.net, job.loss_fn, metrics, job.optimizer())
    model.EpochRunner = Quiet
    history = model.fit(job.loader(), epochs=job.epochs, patience=job.epochs, monitor="train_loss", plot=False,
                        callbacks=[Epochs(job)])
    return float(history["train_accuracy"].iloc[-1]) if job.classes else None


def lightning(job: Job, **options: Any) -> float | None:
    """pytorch-lightning's Trainer with a module that logs."""
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss_fn, self.accuracy = job.net, job.loss_fn, accuracy_metric(job)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.optimizer()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            preds = self.net(x)
            loss = self.loss_fn(preds, y)
            self.log("loss", loss, on_step=False, on_epoch=True)
            if job.classes:
                self.accuracy.update(preds.sigmoid() if job.classes == 1 else preds, y.long())
                self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
            return loss

    class Listener(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            job.epoch_ended()

    job.start()
    trainer = lightning.Trainer(max_epochs=job.epochs, devices=1, logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, callbacks=[Listener()],
                                **options)
    trainer.fit(Module(), job.loader())
    return float(trainer.callback_metrics["accuracy"]) if job.classes else None


class KerasAdam(torch.optim.Adam):
    """Adam in the second form of Kingma and Ba, 2014, with its bias corrections in 32 bits, as Keras computes it."""

    def step(self, closure: Any = None) -> Any:
        """Update with the rate and the epsilon that turn torch's formula into Keras's."""
        self.taken = getattr(self, "taken", 0) + 1
        for group in self.param_groups:
            rate = group.setdefault("keras_rate", group["lr"])
            first, second = (1 - beta ** self.taken for beta in group["betas"])
            first_32, second_32 = (1 - torch.tensor(beta) ** self.taken for beta in group["betas"])
            group["lr"] = (rate * second_32.sqrt() / first_32).item() * first / math.sqrt(second)
            group["eps"] = KERAS_EPSILON / math.sqrt(second)
        return super().step(closure)


def keras_adam(job: Job) -> float | None:
    """The plain loop, with Keras's Adam in place of torch's."""
    if job.optimizer_class is torch.optim.Adam:
        job.optimizer_class = KerasAdam
    return plain(job)


def keras(job: Job) -> float | None:
    """Keras 3 on torch: the same net, wrapped, with Keras's own optimizer, loss and metric."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = keras.layers.TorchModuleWrapper(job.net)

        def call(self, x: Any, training: bool = False) -> Any:
            preds = self.wrapped(x, training=training)
            return preds.transpose(1, 2) if preds.ndim == 3 else preds  # classes come last

    class Listener(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            job.epoch_ended()

    job.start()
    rate = job.learning_rate
    optimizer = (keras.optimizers.SGD(rate) if job.optimizer_class is torch.optim.SGD
                 else keras.optimizers.Adam(rate, epsilon=KERAS_EPSILON))
    loss = {torch.nn.MSELoss: keras.losses.MeanSquaredError(),
            torch.nn.BCEWithLogitsLoss: keras.losses.BinaryCrossentropy(from_logits=True),
            torch.nn.CrossEntropyLoss: keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    metric = (keras.metrics.BinaryAccuracy(threshold=0.0) if job.classes == 1
              else keras.metrics.SparseCategoricalAccuracy())
    metric.name = "accuracy"
    model = Model()
    model.compile(optimizer, loss[type(job.loss_fn)], metrics=[metric] if job.classes else [])
    history = model.fit(job.x.numpy(), job.y.numpy(), batch_size=job.batch_size, epochs=job.epochs,
                        shuffle=job.shuffle, verbose=0, callbacks=[Listener()])
    return float(history.history["accuracy"][-1]) if job.classes else None


def skorch(job: Job) -> float | None:
    """NeuralNet of skorch, with a callback that counts."""
    from skorch import NeuralNet
    from skorch.callbacks import Callback

    class Counter(Callback):
        def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
            self.right = torch.zeros((), dtype=torch.int64, device=job.device)

        def on_batch_end(self, net: Any, batch: Any, training: bool, y_pred: Any, **kwargs: Any) -> None:
            if job.classes:
                self.right += hits(y_pred, batch[1].to(job.device), job.classes)

        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            self.accuracy = self.right.item() / len(job.x) if job.classes else None
            job.epoch_ended()

    job.start()
    counter = Counter()
    net = NeuralNet(job.net, job.loss_fn, optimizer=job.optimizer_class, lr=job.learning_rate, max_epochs=job.epochs,
                    batch_size=job.batch_size, iterator_train__shuffle=job.shuffle, train_split=None, verbose=0,
                    device=job.device.type, callbacks=[("counter", counter)])
    net.fit(job.x.numpy(), job.y.numpy())
    return counter.accuracy


def ignite(job: Job) -> float | None:
    """pytorch-ignite's supervised trainer with its metrics attached."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.metrics import Accuracy, Average

    def scores(output: Any) -> Any:
        preds, y, _ = output
        return ((preds > 0).long() if job.classes == 1 else preds, y.long())

    job.start()
    net = job.net.to(job.device)
    trainer = create_supervised_trainer(net, job.optimizer(), job.loss_fn, job.device,
                                        output_transform=lambda x, y, preds, loss: (preds, y, loss))
    Average(lambda output: output[2].detach()).attach(trainer, "loss")
    if job.classes:
        Accuracy(scores, device=job.device).attach(trainer, "accuracy")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: job.epoch_ended())
    state = trainer.run(job.loader(), max_epochs=job.epochs)
    return state.metrics["accuracy"] if job.classes else None


def poutyne(job: Job) -> float | None:
    """Poutyne's Model with its own accuracy."""
    import poutyne

    class Listener(poutyne.Callback):
        def on_epoch_end(self, epoch_number: int, logs: Any) -> None:
            job.epoch_ended()

    job.start()
    metrics = [poutyne.BinaryAccuracy() if job.classes == 1 else poutyne.Accuracy()] if job.classes else []
    model = poutyne.Model(job.net, job.optimizer(), job.loss_fn, batch_metrics=metrics, device=job.device)
    logs = model.fit_generator(job.loader(), epochs=job.epochs, verbose=False, callbacks=[Listener()])
    return next(value for name, value in logs[-1].items() if "acc" in name) / 100 if job.classes else None


def pytorch_accelerated(job: Job) -> float | None:
    """pytorch-accelerated's Trainer with torchmetrics in a callback, as its documentation has it."""
    from pytorch_accelerated import Trainer
    from pytorch_accelerated.callbacks import MoveModulesToDeviceCallback, TrainerCallback

    class Accuracy(TrainerCallback):
        def __init__(self) -> None:
            self.metric = accuracy_metric(job).to(job.device)

        def on_train_epoch_start(self, trainer: Any, **kwargs: Any) -> None:
            self.metric.reset()

        def on_train_step_end(self, trainer: Any, batch: Any, batch_output: Any, **kwargs: Any) -> None:
            if job.classes:
                preds = batch_output["model_outputs"]
                self.metric.update(preds.sigmoid() if job.classes == 1 else preds, batch[1].long())

        def on_train_epoch_end(self, trainer: Any, **kwargs: Any) -> None:
            if job.classes:
                trainer.run_history.update_metric("accuracy", self.metric.compute().item())
            job.epoch_ended()

    job.start()
    trainer = Trainer(job.net, job.loss_fn, job.optimizer(), callbacks=(MoveModulesToDeviceCallback, Accuracy()))
    trainer.train(torch.utils.data.TensorDataset(job.x, job.y), num_epochs=job.epochs,
                  per_device_batch_size=job.batch_size,
                  train_dataloader_kwargs={"num_workers": 0, "shuffle": job.shuffle})
    return trainer.run_history.get_latest_metric("accuracy") if job.classes else None
