"""Model: compile, fit, evaluate, predict as in Keras, or as in this library's first versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.core.screen import Plain
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Data, LossLike, MetricsLike, OptimizerLike, SchedulerLike
from torchkeras.display.epochlines import StepLines, numbers
from torchkeras.keras import compiled, older, running
from torchkeras.keras.base import BaseModel, compiled_of, net_of, share_files
from torchkeras.keras.data import combined, features_only, held_out_share, sized, validation_of
from torchkeras.keras.epochs import FitHistory, keras_names
from torchkeras.keras.run_api import RunMethods


class Model(RunMethods):
    """Train any net with the calls that Keras users know; numbers are as in :class:`KerasModel`.

    Wrap a net (``Model(net)``), subclass and write ``forward``, or draw (``Model(inputs=...,
    outputs=...)``). Afterwards the net has the weights of the last epoch, as in Keras; ``fit(...,
    patience=5, monitor="val_loss")`` or ``ckpt_path=...`` brings the best ones back.

    Args:
        net: the module to train. A subclass with a ``forward`` of its own needs none.
        outputs: what was drawn from ``inputs``, see :class:`torchkeras.Input`; ``Model(inputs,
            outputs)`` works too.
        inputs: what ``Input`` gave: one, or a list or dict.
        names: names for layers of a drawn net, as a dict of name to layer.

    Attributes:
        history: what the last ``fit`` in Keras's words returned.
        stop_training: set to True by a callback, it ends the epoch and the run.

    Raises:
        TypeError: there is no net, or it is not an ``nn.Module``.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 3)
        >>> model = Model(nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()))
        >>> model.compile(optimizer="nadam", loss="binary_crossentropy",
        ...               metrics=["accuracy", "AUC"])
        >>> past = model.fit(x, x[:, 0] > 0, batch_size=10, epochs=2, validation_split=0.2,
        ...                  verbose=0)
        >>> list(past.history)
        ['loss', 'accuracy', 'AUC', 'val_loss', 'val_accuracy', 'val_AUC']
    """

    @short_traceback
    def __init__(self, net: Any = None, outputs: Any = None, *, inputs: Any = None,
                 names: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        if outputs is not None or inputs is not None:
            from torchkeras.functional import build

            net = build(net if inputs is None else inputs, outputs, names)
        if net is not None and not isinstance(net, nn.Module):
            raise bad_type("net", received=f"the class {net.__name__}" if isinstance(net, type)
                           else f"a {type(net).__name__}",
                           expected="an nn.Module, or inputs=... and outputs=...")
        if net is None and type(self).forward is BaseModel.forward:
            raise bad_type("net", received="none",
                           expected="an nn.Module, inputs=... and outputs=..., or a subclass "
                           "with a forward of its own")
        if net is not None:
            self.net = net
        self.history: FitHistory | None = None
        self.stop_training = False

    @short_traceback
    def compile(self, optimizer: OptimizerLike = None,
                loss: LossLike | Sequence[LossLike] | Mapping[str, LossLike] = None,
                metrics: MetricsLike = None,
                loss_weights: Sequence[float] | Mapping[str, float] | None = None, *,
                loss_func: LossLike = None, metrics_dict: MetricsLike = None,
                from_logits: bool = False, lr_scheduler: SchedulerLike = None,
                device: str | torch.device | None = None, **torch_options: Any) -> None:
        """Set optimizer, loss and metrics; without any of them, this is ``nn.Module.compile``.

        As in Keras: ``compile(optimizer="nadam", loss="binary_crossentropy", metrics=["accuracy",
        "AUC"])``. As in older versions: ``compile(loss_func=..., optimizer=...,
        metrics_dict={"mae": fn})``. Functions are called with ``(preds, labels)``; those whose
        arguments are named ``(y_true, y_pred)``, as scikit-learn's are, in that order.

        Args:
            optimizer: a torch optimizer; or a name of Keras, with Keras's numbers and defaults (see
                :mod:`torchkeras.keras.optimizers`); or another name of torch, with torch's.
                Default: torch's Adam, lr 3e-4.
            loss: a name in Keras or in torch, a function or a loss object; for several outputs a
                list by place or a dict by name, or one loss for all of them. None for a net whose
                output brings its ``loss``.
            metrics: a list of names, functions and metric objects, or a dict of them by column; for
                several outputs a dict of such by output, or a list of lists.
            loss_weights: for several outputs: the weight of each loss, as a list or dict. Default:
                1 each.
            loss_func: the loss, as in older versions.
            metrics_dict: metrics by column, as in older versions.
            from_logits: True when losses and metrics given by Keras's names take logits.
            lr_scheduler: a torch scheduler on the optimizer.
            device: as in older versions: where the net is moved to. "cpu" keeps ``fit``,
                ``evaluate`` and ``predict`` there; they take the best accelerator otherwise.
            **torch_options: options of torch's compiler, such as ``mode="max-autotune"`` or
                ``dynamic=True``.

        Raises:
            TypeError: an argument is of the wrong type or unknown.
            ValueError: a name is unknown.

        Example:
            >>> model = Model(nn.Linear(3, 1))
            >>> model.compile(loss_func=nn.MSELoss(), optimizer="adam",
            ...               metrics_dict={"mae": nn.L1Loss()})
            >>> model.metrics_names
            ['loss', 'mae']
        """
        parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        legacy, keras = (loss_func, metrics_dict), (loss, metrics, loss_weights)
        given = (*legacy, *keras, *parts.values(), device)
        if all(one is None for one in given) and not from_logits:
            nn.Module.compile(net_of(self), **torch_options)
            return
        compiled.check_compile(torch_options)
        is_legacy, is_keras = (any(one is not None for one in given) for given in (legacy, keras))
        if is_legacy and is_keras:
            raise bad_value("compile", received="loss_func or metrics_dict beside loss, metrics or "
                                                "loss_weights",
                            expected="only one of the two ways",
                            fix="Use loss=... and metrics=[...].")
        net = net_of(self)
        self.compilation = (
            compiled.compile_legacy(net, loss_func, metrics_dict, **parts) if is_legacy else
            compiled.compile_keras(net, loss, metrics, loss_weights, from_logits, **parts))
        self.compilation.cpu = older.placed(net, device)
        share_files(self, self.compilation.engine)

    @short_traceback
    def fit(self, x: Data = None, y: Data = None, batch_size: int | None = None,
            epochs: int | None = None, verbose: int | str = "auto",
            callbacks: Sequence[object] | None = None, validation_split: float | None = None,
            validation_data: Data = None, shuffle: bool | None = None,
            class_weight: Mapping[int, float] | None = None, sample_weight: Data = None,
            initial_epoch: int = 0, steps_per_epoch: int | None = None,
            validation_steps: int | None = None, validation_batch_size: int | None = None,
            validation_freq: int | Sequence[int] = 1, *, dl_train: Data = None,
            dl_val: Data = None, log_step_freq: int | None = None, **options: Any) -> Any:
        """Train; a second call continues from the current weights and optimizer.

        Called as in older versions, ``fit(200, dl_train, dl_val, log_step_freq=20)``, it
        prints a line every ``log_step_freq`` steps and a boxed table each epoch.

        Args:
            x: features: an array or frame, a list or dict of several inputs; or a Dataset,
                DataLoader or iterable that brings labels along. As in older versions, the number of
                epochs.
            y: labels; for several outputs a list or dict.
            batch_size: samples in a batch, for arrays and Datasets. Default 32.
            epochs: the number of the last epoch. Default 1.
            verbose: 0 shows nothing, 1 ("auto") the live view of :class:`KerasModel`, 2 one line an
                epoch.
            callbacks: objects with Keras's methods, such as ``on_epoch_end(epoch, logs)`` or
                ``on_train_batch_end(batch, logs)``, which find the model at ``self.model``; and
                callbacks of this library, which get :attr:`engine`. Logs of a batch are computed on
                first access, which waits for the device.
            validation_split: the share of the samples, from the end, to validate on.
            validation_data: ``(x, y)``, ``(x, y, sample_weight)``, a Dataset or a DataLoader.
            shuffle: a new order each epoch. Default: for arrays and Datasets.
            class_weight: ``{class: weight}`` for the training loss.
            sample_weight: one weight for each sample; for several outputs a list or dict.
            initial_epoch: how many epochs were done before.
            steps_per_epoch: batches in an epoch; the next epoch goes on with those after them, and
                begins the data anew at its end. Arrays without a ``batch_size`` are divided into
                so many, as in Keras.
            validation_steps: the same for ``validation_data``, which begins anew each time.
            validation_batch_size: samples in a batch of the validation. Default: ``batch_size``.
            validation_freq: validate every ``validation_freq`` epochs and after the last, or after
                the epochs in a list, which count from 1.
            dl_train: training data, as in older versions.
            dl_val: validation data, as in older versions.
            log_step_freq: steps from one printed line to the next, as in older versions. Default 1.
                Metrics that go through all predictions so far are computed anew in these lines
                when the epoch has grown by a tenth; in the table they are exact.
            **options: all others of :meth:`KerasModel.fit`, such as ``ckpt_path``, ``patience``,
                ``monitor``, ``resume`` and ``save_every`` (any of these five brings the best
                weights back unless ``restore_best=False``), ``seed``, ``mixed_precision``,
                ``clip_grad_norm``, ``num_processes`` or ``report``.

        Returns:
            A :class:`FitHistory` with ``.history`` and ``.epoch``; called as in older versions, a
            DataFrame with the columns ``epoch, loss, <metric>, val_loss, val_<metric>``.

        Raises:
            RuntimeError: the model was not compiled.
            TypeError: an argument is of the wrong type or unknown.
            ValueError: an argument is invalid, or the first batch does not fit the net and the
                loss.

        Example:
            >>> import torch
            >>> x = torch.randn(64, 3)
            >>> model = Model(nn.Linear(3, 1))
            >>> model.compile(optimizer="adam", loss="mse", metrics=["mae"])
            >>> model.fit(x, x[:, :1], batch_size=16, epochs=3, verbose=0)
            FitHistory(3 epochs: loss, mae)
            >>> list(model.fit(2, dl_train=[(x, x[:, :1])], verbose=0).columns)
            ['epoch', 'loss', 'mae']
        """
        running.check_options(Model.fit, options)
        x, y, batch_size, epochs, dl_train, dl_val, log_step_freq = older.OlderFit(
            x, y, batch_size, epochs, dl_train, dl_val, log_step_freq).by_name()
        arguments = {"batch_size": batch_size, "shuffle": shuffle, "class_weight": class_weight,
                     "validation_split": held_out_share(validation_split),
                     "initial_epoch": initial_epoch,
                     "steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps,
                     "validation_batch_size": validation_batch_size,
                     "validation_freq": validation_freq}
        level, shown = running.verbosity(verbose), []
        legacy = dl_train is not None or isinstance(x, int)
        other_style = {"y": y, "validation_data": validation_data,
                       "sample_weight": sample_weight} if legacy else {
            "dl_val": dl_val, "log_step_freq": log_step_freq}
        check_style(legacy, other_style, dl_train, x, epochs)
        if legacy:
            whole_number("log_step_freq", log_step_freq, least=1, optional=True)
            level, shown = 0, [StepLines(log_step_freq or 1)] if level else []
            epochs = x if epochs is None else epochs
        found = compiled_of(self)
        loss_fn = found.engine.loss_fn
        data = dl_train if legacy else combined(x, y, sample_weight, loss_fn)
        history = running.train(self, found, data, dl_val if legacy else validation_of(
                                    validation_data, loss_fn), verbose=level,
                                 epochs=1 if epochs is None else epochs, callbacks=callbacks,
                                 shown=shown, options=options, **arguments)
        return history.to_frame() if legacy else history

    @short_traceback
    def evaluate(self, x: Data = None, y: Data = None, batch_size: int | None = None,
                 verbose: int | str = 0, sample_weight: Data = None, steps: int | None = None,
                 return_dict: bool = False, *, mixed_precision: str | None = None,
                 cpu: bool = False, num_processes: int = 1) -> Any:
        """Measure loss and metrics on data.

        Args:
            x: what :meth:`fit` takes.
            y: labels.
            batch_size: samples in a batch; it does not change the result.
            verbose: 1 or 2 prints the numbers.
            sample_weight: one weight for each sample.
            steps: the number of batches to take. Default: all. Arrays without a ``batch_size`` are
                divided into so many, as in Keras.
            return_dict: return a dict instead of a list.
            mixed_precision: "no", "bf16" or "fp16", as in :meth:`fit`.
            cpu: use the CPU.
            num_processes: start this many processes to measure with.

        Returns:
            The loss and the metrics in the order of ``metrics_names``, or the loss alone if there
            are no metrics; after ``compile(loss_func=...)`` a dict of ``val_loss`` and
            ``val_<metric>``.

        Raises:
            RuntimeError: the model was not compiled.
            ValueError: the data is empty, or has no labels.

        Example:
            >>> import torch
            >>> model = Model(nn.Identity())
            >>> model.compile(loss="mse", metrics=["mae"])
            >>> model.evaluate(torch.zeros(10, 1), torch.full((10, 1), 2.0))
            [4.0, 2.0]
        """
        found = compiled_of(self)
        data = combined(x, y, sample_weight, found.engine.loss_fn)
        batch_size, steps = sized(data, batch_size, steps)
        row = found.engine.evaluate(data, batch_size=batch_size, steps=steps,
                                    mixed_precision=mixed_precision, cpu=cpu or found.cpu,
                                    num_processes=num_processes)
        named = keras_names(row, "val")
        if running.verbosity(verbose):
            Plain().line(numbers(named))
        if found.legacy and not return_dict:
            return row
        return compiled.in_keras_order(named, return_dict)

    @short_traceback
    def predict(self, x: Data, batch_size: int | None = None, verbose: int | str = 0,
                steps: int | None = None, *, output: str = "raw", with_labels: bool = False,
                stream: bool = False, mixed_precision: str | None = None,
                cpu: bool = False) -> Any:
        """Run the net over data in evaluation mode: each sample once, in order.

        Args:
            x: features: arrays, of which none is taken for labels; or a Dataset or DataLoader,
                whose labels are left out.
            batch_size: samples in a batch. Default 32.
            verbose: accepted as in Keras; nothing is shown.
            steps: the number of batches to take. Default: all. Arrays without a ``batch_size`` are
                divided into so many, as in Keras.
            output: "raw", or "probabilities" or "classes" as the loss defines them.
            with_labels: return ``(outputs, labels)``; arrays are then ``(x, y)``.
            stream: return a generator, one item for each batch.
            mixed_precision: "no", "bf16" or "fp16", as in :meth:`fit`.
            cpu: use the CPU.

        Returns:
            numpy arrays, in the tuples and dicts that the net returns; after
            ``compile(loss_func=...)`` tensors.

        Raises:
            TypeError: the data is of an unknown type.
            ValueError: the data is empty.

        Example:
            >>> import torch
            >>> Model(nn.Linear(4, 3)).predict(torch.zeros(10, 4)).shape
            (10, 3)
        """
        running.verbosity(verbose)
        found = self.compilation
        data = x if with_labels else features_only(x)
        batch_size, steps = sized(data, batch_size, steps)
        return self.engine.predict(data, batch_size=batch_size, steps=steps, output=output,
                                   with_labels=with_labels, stream=stream,
                                   as_numpy=found is None or not found.legacy,
                                   mixed_precision=mixed_precision,
                                   cpu=cpu or (found is not None and found.cpu))


def check_style(legacy: bool, other_style: Mapping[str, object], dl_train: Data, x: Data,
                epochs: int | None) -> None:
    """Raise for a call of ``fit`` that mixes Keras's arguments with the older ones."""
    found = [name for name, value in other_style.items() if value is not None]
    if legacy and dl_train is None:
        found.append("epochs without dl_train")
    if legacy and x is not None and (epochs is not None or not isinstance(x, int)):
        found.append("x")
    if found:
        expected = "fit(x, y, epochs=..., validation_data=..., ...)"
        if legacy:
            expected = "fit(epochs, dl_train=..., dl_val=..., log_step_freq=...)"
        raise bad_type("fit", received=", ".join(found), expected=expected)
