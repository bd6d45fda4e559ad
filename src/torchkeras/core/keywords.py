"""Explain calls whose arguments do not fit: keywords of other libraries, and too many values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torchkeras.core.errors import did_you_mean, message, mistake

# our argument: its names in Keras, Lightning, scikit-learn, transformers, fastai and older versions
OURS = {
    "train_data": "x X data dataset dl_train train_loader trainloader train_dl train_dataloader "
                  "train_dataloaders train_dataset train_ds training_data trn_data train",
    "val_data": "validation_data valid_data dl_val dl_valid val_loader valloader val_dl valid_dl "
                "val_dataloader val_dataloaders valid_loader val_dataset valid_dataset val_ds "
                "eval_dataset eval_set eval_data test_data test_loader dl_test validation val x X "
                "data dataset",
    "data": "x X val_data validation_data test_data test_loader dl_test dataset dataloader "
            "dataloaders loader inputs features train_data",
    "epochs": "max_epochs num_epochs n_epochs nb_epoch nb_epochs num_train_epochs epoch",
    "quiet": "verbose progress_bar enable_progress_bar progressbar silent disable_tqdm "
             "show_progress",
    "patience": "early_stopping early_stop early_stopping_patience n_iter_no_change",
    "min_delta": "early_stopping_threshold early_stopping_delta threshold tol delta "
                 "min_improvement",
    "restore_best": "restore_best_weights load_best_model_at_end load_best restore_best_model "
                    "save_best_only save_last load_best_weights",
    "monitor": "monitor_metric metric_for_best_model",
    "mode": "monitor_mode greater_is_better",
    "ckpt_path": "checkpoint checkpoint_path checkpoint_dir ckpt save_path save_dir model_path "
                 "output_dir filepath default_root_dir path",
    "callbacks": "callback cbs logger loggers",
    "mixed_precision": "precision amp use_amp fp16 bf16 half",
    "gradient_accumulation_steps": "accumulate_grad_batches accumulation_steps grad_accum "
                                   "accum_iter grad_accumulation_steps",
    "batch_size": "bs batchsize per_device_train_batch_size validation_batch_size val_batch_size",
    "validation_split": "val_split valid_split validation_fraction",
    "validation_freq": "check_val_every_n_epoch val_every eval_every val_freq",
    "steps_per_epoch": "limit_train_batches samples_per_epoch steps train_steps",
    "validation_steps": "limit_val_batches val_steps eval_steps",
    "steps": "validation_steps steps_per_epoch limit_test_batches limit_predict_batches "
             "max_queue_size",
    "clip_grad_norm": "gradient_clip_val clipnorm max_grad_norm grad_clip clip_norm grad_clip_norm "
                      "gradient_clip",
    "clip_grad_value": "clipvalue clip_value",
    "seed": "random_state random_seed manual_seed",
    "resume": "resume_from_checkpoint resume_from",
    "save_every": "save_steps every_n_train_steps",
    "keep": "save_total_limit save_top_k max_to_keep",
    "num_processes": "devices gpus num_gpus num_devices world_size nprocs n_gpu strategy "
                     "distributed",
    "cpu": "device accelerator use_cpu no_cuda cuda use_gpu use_cuda",
    "shuffle": "randomize",
    "class_weight": "class_weights weights",
    "lr_interval": "scheduler_interval",
    "speed": "compile use_compile jit_compile fast",
    "report": "html",
    "wandb": "use_wandb project",
    "output": "output_type method return_proba",
    "as_numpy": "numpy to_numpy return_numpy",
    "stream": "generator lazy",
    "with_labels": "return_labels return_targets labels",
    "loss_fn": "loss criterion loss_func objective loss_function",
    "metrics_dict": "metrics metric metrics_fn",
    "optimizer": "opt optim optimiser optimizers lr learning_rate",
    "lr_scheduler": "scheduler lr_schedule schedulers sched",
    "net": "model module network",
}
ALWAYS = {  # keywords that need an explanation, not only our name for them
    "lr learning_rate":
        "The rate belongs to the optimizer: "
        "KerasModel(net, ..., optimizer=torch.optim.Adam(net.parameters(), lr=...)).",
    "weight_decay momentum":
        "It belongs to the optimizer: "
        "KerasModel(net, ..., optimizer=torch.optim.SGD(net.parameters(), ...)).",
    "device accelerator use_cuda use_gpu cuda":
        "The best accelerator there is is taken; fit(..., cpu=True) stays on the CPU, "
        "fit_ddp takes several.",
    "num_workers workers use_multiprocessing pin_memory drop_last collate_fn sampler "
    "prefetch_factor persistent_workers": "Give a DataLoader that was made with it.",
}
ADVICE = {  # keywords that no argument stands for
    "y Y labels label target targets": "Features and labels are one tuple: {name}((x, y)).",
    "sample_weight sample_weights":
        "Weights are the third of the tuple: {name}((x, y, sample_weight)).",
    "verbose quiet progress_bar enable_progress_bar": "{name} shows nothing: leave it out.",
    "return_dict": "{name} gives a dict: leave it out.",
}
LABELS = ("y", "Y", "label", "labels", "target", "targets")
BUILT_WITH = ("net", "loss_fn", "metrics_dict", "optimizer", "lr_scheduler")
RUN_WITH = ("train_data", "val_data", "epochs", "patience", "min_delta", "restore_best", "monitor",
            "mode", "ckpt_path", "callbacks", "mixed_precision", "cpu",
            "gradient_accumulation_steps", "batch_size", "shuffle", "validation_split",
            "validation_freq", "class_weight", "steps_per_epoch", "validation_steps",
            "clip_grad_norm", "clip_grad_value", "seed", "resume", "num_processes", "quiet", "plot",
            "wandb")


def our_names(word: str) -> list[str]:
    """Return our arguments that a keyword may stand for, the likeliest first."""
    return [ours for ours, words in OURS.items() if word == ours or word in words.split()]


def advice(name: str, word: str, known: Iterable[str]) -> str:
    """Return what to write in place of an unknown keyword, or nothing.

    Args:
        name: the name of the function, such as "fit".
        word: the keyword that it does not know.
        known: those that it does.
    """
    taken = list(known)
    ours = our_names(word)
    if name == "predict" and word in LABELS and "with_labels" not in ours:
        return ("predict needs no labels: predict(x), or with_labels=True to get those of the data "
                "back.")
    texts = ALWAYS if name == "KerasModel" else {**ALWAYS, **ADVICE}
    for words, text in texts.items():
        meant_here = any(one in taken for one in ours)
        if word in words.split() and (words in ALWAYS or not meant_here):
            return text.format(name=name)
    if here := next((one for one in ours if one in taken), None):
        return f"Did you mean {here!r}?"
    return given_elsewhere(name, ours) or did_you_mean(word, taken)


def given_elsewhere(name: str, ours: Iterable[str]) -> str:
    """Return which other function takes an argument; nothing where none does."""
    if name != "KerasModel" and (part := next((one for one in ours if one in BUILT_WITH), None)):
        return f"It is given to KerasModel({part}=...)."
    if name != "fit" and (option := next((one for one in ours if one in RUN_WITH), None)):
        return f"It is given to fit({option}=...)."
    return ""


def unknown_keyword(name: str, word: str, known: Iterable[str]) -> str:
    """Return the message for a keyword that a function does not know."""
    taken = list(known)
    fix = advice(name, word, taken)
    expected = f"an argument of {name}" if fix else "one of " + ", ".join(taken)
    return message(f"{name}({word}=...)", "a keyword that is not known", expected, fix)


def explain(error: TypeError, function: Callable[..., Any], args: tuple[Any, ...],
            kwargs: Mapping[str, Any]) -> None:
    """Rewrite the TypeError of a call that did not fit the signature: say what was meant."""
    trace = error.__traceback__
    if trace is None or trace.tb_next is not None:
        return  # the error comes from inside the function
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
        return
    except TypeError:
        mistake(error)
    *owner, name = function.__qualname__.split(".")
    name = owner[-1] if name == "__init__" else name
    known = [one for one in signature.parameters
             if one not in ("self", "args", "kwargs", "options")]
    for word in kwargs:
        if word not in signature.parameters:
            if owner[-1:] in (["Model"], ["BatchMethods"], ["BaseModel"]):  # with Keras' words
                error.args = (message(f"{name}({word}=...)", "a keyword that is not known",
                                      "one of " + ", ".join(known), did_you_mean(word, known)),)
                return
            labels = next((one for one in LABELS if one in kwargs and word in ("x", "X")), word)
            error.args = (unknown_keyword(name, labels, known),)
            return
    places = [one for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(args) > len(places):
        first, more = known[0], len(args) - len(places)
        fix = "" if first not in ("val_data", "data") else (
            "Features and labels are one tuple: evaluate((x, y))." if name == "evaluate" else
            "Several inputs are one dict or ((x1, x2),); labels are not needed.")
        called = f"{name}({first}, name=value, ...)"
        error.args = (message(name, f"{more} more by position than it takes", called, fix),)
