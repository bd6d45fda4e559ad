"""Run ``Model.fit``: turn its arguments into a call of ``KerasModel.fit``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_type, bad_value, did_you_mean, whole_number
from torchkeras.core.types import Data, Value
from torchkeras.data.arrays import wide_dtype
from torchkeras.data.kinds import loader_of
from torchkeras.data.sizes import length_of
from torchkeras.display.epochlines import EpochLines
from torchkeras.display.keraswords import KerasProgress
from torchkeras.display.progress import Progress
from torchkeras.engine.callback import CheckedCallbacks
from torchkeras.keras.backup import check_backup, delete, is_over
from torchkeras.keras.callback_checks import check_known
from torchkeras.keras.callbacks.files import BackupAndRestore
from torchkeras.keras.data import keras_share, sized
from torchkeras.keras.epochs import FitHistory
from torchkeras.keras.moments import KerasMoments, split_callbacks
from torchkeras.keras.onward import Onward
from torchkeras.keras.rate import sync_rate
from torchkeras.kerasmodel import KerasModel
from torchkeras.training.arguments import is_shufflable, is_unbatched, with_validation

if TYPE_CHECKING:
    from torchkeras.keras.compiled import Compiled
    from torchkeras.keras.model import Model

BY_ANOTHER_NAME = ("self", "train_data", "val_data", "quiet")  # x and y, validation_data, verbose
KEEPS = ("ckpt_path", "patience", "monitor", "resume", "save_every")  # any brings the best back


def options_of_fit(fit: Callable[..., Any]) -> tuple[str, ...]:
    """Return the options of ``KerasModel.fit`` that ``Model.fit`` passes on as they are."""
    own = inspect.signature(fit).parameters
    return tuple(name for name in inspect.signature(KerasModel.fit).parameters
                 if name not in own and name not in BY_ANOTHER_NAME)


def check_options(fit: Callable[..., Any], options: Mapping[str, object]) -> None:
    """Raise for keyword arguments that ``fit`` does not have."""
    if not options:
        return
    own = [name for name, one in inspect.signature(fit).parameters.items()
           if name != "self" and one.kind is not one.VAR_KEYWORD]
    known = (*own, *options_of_fit(fit))
    for name in options:
        if name not in known:
            raise bad_type(f"fit({name}=...)", received="an unknown argument", expected="one of "
                           + ", ".join(known), fix=did_you_mean(name, known))


def verbosity(verbose: int | str) -> int:
    """Return 0, 1 or 2; "auto" is 1."""
    if verbose == "auto" or verbose is True or verbose is False:
        return 0 if verbose is False else 1
    if verbose not in (0, 1, 2):
        raise bad_value("verbose", received=repr(verbose),
                        expected="0 (nothing), 1 (the live view), 2 (a line an "
                        "epoch) or 'auto'")
    return int(verbose)


def train(model: Model, compiled: Compiled, data: Data, val_data: Data, *, epochs: int,
          verbose: int, callbacks: Sequence[object] | None, shown: list[Any],
          options: dict[str, Any], **arguments: Value) -> FitHistory:
    """Run ``KerasModel.fit`` with Keras's callbacks; by default the last weights stay."""
    engine: KerasModel = compiled.engine
    check_several(compiled, arguments)
    own, keras = split_callbacks(callbacks)
    check_whole_weights(keras, options)
    backup = backup_among(keras, options)
    options = options | ({} if backup is None else backup.options())
    keras += [EpochLines()] if verbose == 2 else shown
    sync_rate(engine.optimizer)
    data, val_data, arguments = prepared(engine, data, val_data, options, arguments)
    validates = val_data is not None or arguments.get("validation_split") is not None
    history = new_history(engine, epochs, verbose, validates)
    check_known(keras, history.columns, engine)
    moments = KerasMoments(model, keras, history)
    best = any(options.get(name) not in (None, False) for name in KEEPS)
    chosen = {"ckpt_path": None, "patience": None, "restore_best": best,
              "cpu": compiled.cpu} | column_names(options)
    if verbose == 1 and not any(isinstance(one, Progress) for one in own):
        own.append(KerasProgress(chosen.get("plot", True), chosen["restore_best"]))
    model.history = history
    try:
        engine.fit(data, val_data, epochs=epochs, quiet=True,
                   callbacks=CheckedCallbacks([*own, moments]), **chosen, **arguments)
    finally:
        engine.__dict__.pop("EpochRunner", None)
        engine_is(model, engine)
    bring_back(keras, moments.callbacks)
    model.history = moments.history
    if backup is not None and backup.delete_checkpoint and is_over(engine.run):
        delete(backup.path)
    return moments.history


def new_history(engine: KerasModel, epochs: int, verbose: int, validates: bool) -> FitHistory:
    """Return the history of a run that begins; how many steps an epoch has is added later."""
    history = FitHistory({"epochs": epochs, "steps": None, "verbose": verbose})
    history.columns = [name.removeprefix("train_") for name in engine.columns(validates)
                       if name != "lr"]
    return history


def engine_is(model: Model, engine: KerasModel) -> None:
    """Let a model have its engine again, whatever a run in other processes brought back."""
    if model.compilation is not None:
        model.compilation.engine = engine


def bring_back(given: list[Any], returned: list[Any]) -> None:
    """Give callbacks the attributes that their copies had at the end, in another process."""
    for mine, theirs in zip(given, returned, strict=True):
        if mine is not theirs:
            vars(mine).update({name: value for name, value in theirs.items()
                               if name not in ("model", "_model")})


def check_several(compiled: Compiled, arguments: Mapping[str, Value]) -> None:
    """Refuse class weights for a net with several outputs."""
    if compiled.multi_output and arguments.get("class_weight") is not None:
        raise bad_value("class_weight", received="one for a net with several outputs",
                        expected="None there",
                        fix="Give sample_weight, or a loss with class weights for that output.")


def check_whole_weights(callbacks: list[Any], options: Mapping[str, Any]) -> None:
    """Refuse callbacks that keep all weights in a run in which no process has them all."""
    keeps = [one for one in callbacks if getattr(one, "restore_best_weights", False)]
    if keeps and options.get("fsdp"):
        raise bad_value("callbacks", received=f"{type(keeps[0]).__name__}(restore_best_weights="
                        "True) with fsdp=True", expected="none that keeps all weights there",
                        fix="fit(..., patience=..., monitor=...) brings the best weights back.")


def backup_among(callbacks: list[Any], options: Mapping[str, Any]) -> BackupAndRestore | None:
    """Return the callback that asks for backups, after checking that nothing else does."""
    found = [one for one in callbacks if isinstance(one, BackupAndRestore)]
    if not found:
        return None
    beside = [name for name in found[0].options() if name in options]
    if beside or len(found) > 1:
        raise bad_value("callbacks", received="BackupAndRestore beside "
                        + (", ".join(beside) or "another one"),
                        expected="one of the two", fix="Both say how the run is saved.")
    check_backup(found[0].path)
    return found[0]


def prepared(engine: KerasModel, data: Data, val_data: Data, options: Mapping[str, Any],
             arguments: dict[str, Any]) -> tuple[Data, Data, dict[str, Any]]:
    """Return data as ``KerasModel.fit`` takes it, where Keras's arguments have another meaning."""
    size, steps = arguments.pop("validation_batch_size"), arguments["steps_per_epoch"]
    whole_number("validation_batch_size", size, least=1, optional=True)
    whole_number("steps_per_epoch", steps, least=1, optional=True)
    split = keras_share(data, arguments["validation_split"])
    arguments = arguments | {"validation_split": split}
    if size is None and steps is None and arguments["validation_steps"] is None:
        return data, val_data, arguments
    dtype = wide_dtype(engine.net)
    data, val_data = with_validation(data, val_data, split, dtype)
    size, arguments = sizes(data, val_data, size, arguments | {"validation_split": None})
    steps = arguments["steps_per_epoch"]
    if size is not None and val_data is not None:
        if not is_unbatched(val_data):
            raise bad_value("validation_batch_size", received=f"{size} for validation data that "
                            "yields ready batches", expected="None there")
        val_data = loader_of(val_data, name="val_data", batch_size=size, shuffle=False,
                             dtype=dtype, draws=False)
    return (data, val_data, arguments) if steps is None else (
        going_on(data, steps, dtype, options, arguments), val_data,
        arguments | {"batch_size": None, "shuffle": None} if loads(data) else arguments)


def sizes(data: Data, val_data: Data, size: int | None,
          arguments: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Return the batch size of the validation, and arguments, where steps decide batch sizes."""
    given, steps = arguments["batch_size"], arguments["validation_steps"]
    if val_data is not None and size is None and given is None:
        size, steps = sized(val_data, None, steps, "validation_steps")
    found, of_epoch = sized(data, given, arguments["steps_per_epoch"], "steps_per_epoch")
    if found != given and size is None and is_unbatched(val_data):
        size = 32
    return size, arguments | {"batch_size": found, "steps_per_epoch": of_epoch,
                              "validation_steps": steps}


def loads(data: Data) -> bool:
    """Return whether a pass over data can begin anew, so that it has an end to go on to."""
    return not hasattr(data, "__next__")


def going_on(data: Data, steps: int, dtype: Any, options: Mapping[str, Any],
             arguments: Mapping[str, Any]) -> Data:
    """Return data whose passes go on where the one before ended."""
    if not loads(data):
        return data
    shuffle = is_shufflable(data) if arguments["shuffle"] is None else arguments["shuffle"]
    loader = loader_of(data, name="train_data", batch_size=arguments["batch_size"],
                       shuffle=shuffle, dtype=dtype)
    length = length_of(loader)
    if length is not None and steps >= length:
        return loader
    asked = [name for name in ("resume", "save_every") if options.get(name)]
    asked += ["num_processes"] if options.get("num_processes", 1) > 1 else []
    if asked:
        raise bad_value(
            "steps_per_epoch", received=f"{steps} of {length or 'an unknown number of'} batches, "
            f"with {', '.join(asked)}",
            expected="None there: where the data goes on from epoch to epoch, a run cannot be "
            "resumed or shared", fix="KerasModel.fit(steps_per_epoch=...) begins it anew in each "
            "epoch, and can.")
    return Onward(loader, steps, length)


def column_names(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the engine's column names: "loss" becomes "train_loss"."""
    monitor = options.get("monitor")
    if isinstance(monitor, str) and not monitor.startswith(("val_", "train_")):
        return options | {"monitor": f"train_{monitor}"}
    return {name: one for name, one in options.items() if name != "monitor" or one is not None}
