"""Check the methods of callbacks: one with an unknown name would never be called."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence

from torchkeras.core.errors import bad_type, did_you_mean

MOMENTS = ("on_fit_start", "on_epoch_start", "on_step_end", "on_train_epoch_end",
           "on_validation_epoch_end", "on_fit_end", "on_exception")
EPOCH_ENDS = ("on_train_epoch_end (the training pass is over) or "
              "on_validation_epoch_end (the epoch is over)")
ELSEWHERE = {  # names in Keras, Lightning, transformers and older versions: the name here
    "on_train_begin on_train_start on_fit_begin on_begin on_start setup "
    "on_sanity_check_start": "on_fit_start",
    "on_train_end on_fit_finish on_end on_finish teardown on_train_finish": "on_fit_end",
    "on_epoch_begin on_train_epoch_start on_train_epoch_begin on_epoch_started": "on_epoch_start",
    "on_epoch_end on_epoch_finish on_epoch_finished on_epoch_completed on_epoch_done "
    "on_epoch_stop": EPOCH_ENDS,
    "on_train_epoch_finish on_validation_epoch_start on_validation_start on_test_begin "
    "on_val_start on_val_begin on_validation_begin on_evaluate_begin": "on_train_epoch_end",
    "on_validation_end on_val_end on_val_epoch_end on_test_end on_evaluate on_evaluate_end "
    "on_test_epoch_end on_validation_finish on_valid_end": "on_validation_epoch_end",
    "on_batch_end on_train_batch_end on_validation_batch_end on_test_batch_end on_step "
    "on_iteration_end on_train_step_end on_validation_step_end on_val_step_end on_optimizer_step "
    "on_substep_end on_after_backward on_before_optimizer_step on_before_zero_grad "
    "on_batch_finish on_log on_valid_step_end": "on_step_end",
    "on_error on_interrupt on_keyboard_interrupt on_failure": "on_exception",
}
WITHOUT_MOMENT = {  # names for which there is no moment here: what to do instead
    "on_batch_begin on_batch_start on_train_batch_begin on_train_batch_start on_test_batch_begin "
    "on_step_begin on_step_start on_validation_batch_start on_before_backward":
        "Nothing is told before a batch: override StepRunner.__call__ or .forward.",
    "on_save_checkpoint on_load_checkpoint on_save":
        "Override save_ckpt and load_ckpt of the model.",
    "on_predict_begin on_predict_end on_predict_start on_predict_batch_begin on_predict_batch_end":
        "predict tells no callbacks.",
}


def check_moments(listener: object, more: Iterable[str] = ()) -> None:
    """Raise if an object has no moment, an unknown one, or one that cannot be called.

    Args:
        listener: the callback.
        more: names of further moments, those of another library.
    """
    known = (*more, *MOMENTS)
    names = public_hooks(listener, known)
    for name in names:
        if name not in known:
            raise bad_type("callbacks", received=f"{type(listener).__name__}.{name}, which would "
                           "never be called", expected="methods named " + ", ".join(known),
                           fix=suggest(name, known))
    # hasattr, since some objects make their hooks in __getattr__
    if not any(hasattr(listener, name) for name in known):
        raise bad_type("callbacks", received=f"an object of type {type(listener).__name__}",
                       expected="objects with at least one of the methods " + ", ".join(known))
    for name in names:
        if name in MOMENTS:
            check_hook(listener, name)


def public_hooks(listener: object, known: Sequence[str]) -> list[str]:
    """Return the names of an object's methods that look like moments (``on_...``).

    A function in an instance attribute counts only if no method of the class is a hook: it may
    serve another purpose.
    """
    kind = type(listener)
    names = [name for name in dir(kind)
             if name.startswith("on_") and callable(getattr(kind, name, None))]
    if any(name in names for name in known):
        return names + [name for name in known
                        if name in getattr(listener, "__dict__", {}) and name not in names]
    own = [name for name in dir(listener)
           if name.startswith("on_") and callable(getattr(listener, name, None))]
    return [*names, *(name for name in own if name not in names)]


def check_hook(listener: object, name: str) -> None:
    """Raise if a hook cannot be called with the model alone, or is async or a generator."""
    hook = getattr(listener, name)
    where = f"{type(listener).__name__}.{name}"
    if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook):
        raise bad_type("callbacks",
                       received=f"{where}, which is async or yields: calling it runs nothing",
                       expected="an ordinary method")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # compiled code can hide its signature
        return
    try:
        signature.bind(None)
    except TypeError:
        raise bad_type("callbacks", received=f"{where}{signature}",
                       expected="a method of one argument, the model",
                       fix=f"def {name}(self, model), and what happens is in model.run and "
                       "model.history.") from None


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint which moment a name may have meant."""
    for words, ours in ELSEWHERE.items():
        if name in words.split():
            return f"Did you mean {ours}?" if " " in ours else f"Did you mean {ours!r}?"
    for words, why in WITHOUT_MOMENT.items():
        if name in words.split():
            return why
    return did_you_mean(name, known) or "A method of your own: begin its name with an underscore."


def call_all(calls: Iterable[Callable[[], object]], moment: str) -> None:
    """Make every call; then raise the first error, with the others as notes.

    KeyboardInterrupt and others that are no ``Exception`` are raised at once.
    """
    errors = list(itertools.chain.from_iterable(map(failures, calls)))
    try:
        if errors:
            raise merge_errors(errors, moment)
    finally:
        errors.clear()  # a traceback that contains itself would keep the net in memory


def merge_errors(errors: Sequence[Exception], moment: str) -> Exception:
    """Return the first error, with the others as notes."""
    for other in errors[1:]:
        add_failure(errors[0], other, moment)
    return errors[0]


def failures(call: Callable[[], object]) -> list[Exception]:
    """Return the error of a call in a list, which is empty if there is none."""
    try:
        call()
    except Exception as error:
        return [error]
    return []


def add_failure(error: BaseException, other: BaseException, moment: str) -> None:
    """Add another error to an error, as notes."""
    for note in (f"A callback failed in {moment} too: {other!r}", *getattr(other, "__notes__", ())):
        error.add_note(note)
