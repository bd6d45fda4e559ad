"""Use what torch, accelerate and torchmetrics keep private: all of it is in this file.

A private name may go with any release. Each function here has a test in ``tests/core`` that fails
with a release in which its name is gone or means something else; ``make lowest`` and ``make
newest`` run them. Where there is a public way, it is taken instead.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

OwnTensor = TypeVar("OwnTensor", bound=Tensor)
COMPILED_NET = "_orig_mod"  # the attribute of a compiled net that holds the net
LOAD_OWN, SAVE_OWN = "_load_from_state_dict", "_save_to_state_dict"  # of a module without children
EXTRA_STATE = "_extra_state"  # the name in a state dict of what get_extra_state returns
SCHEDULERS = "_schedulers"  # the attribute, and the key of its state, in a schedule of several
LOADER_ITERATOR = "_iterator"  # of a DataLoader, which holds its persistent workers
MODULE_FRAMES = ("_call_impl", "_wrapped_call_impl")  # the functions through which a module is run


# ---- torch: tensors and modules ----

# How often a tensor was written into: asked of all samples before each batch, so without a frame.
version: Callable[[Tensor], int] = operator.attrgetter("_version")


def storage_address(storage: Any) -> int:
    """Return the address of a storage, the same for all tensors that share it."""
    address: int = storage._cdata
    return address


def untyped(storage: Any) -> Any:
    """Return the untyped storage behind a storage of either kind."""
    return getattr(storage, "_untyped_storage", storage)


def make_subclass(kind: type[OwnTensor], like: Tensor) -> OwnTensor:
    """Return an object of a subclass of Tensor, without memory, shaped like a tensor."""
    return Tensor._make_wrapper_subclass(kind, like.shape, dtype=like.dtype, device=like.device)


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own dict of buffers, in which some may be None."""
    return module._buffers


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return a module's own dict of parameters, in which some may be None."""
    return module._parameters


def children(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return a module's own dict of modules, in which some may be None."""
    return module._modules


def non_persistent(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that are in no state dict."""
    return module._non_persistent_buffers_set


def is_hooked_on_loading(module: nn.Module) -> bool:
    """Tell whether hooks of a module run when a state is loaded into it."""
    return bool(module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks)


def is_hooked_on_saving(module: nn.Module) -> bool:
    """Tell whether hooks of a module run when its state is taken."""
    return bool(module._state_dict_hooks or module._state_dict_pre_hooks)


def module_versions(state: Mapping[str, Any]) -> Any:
    """Return the versions of modules that torch attaches to a state dict; None without any."""
    return getattr(state, "_metadata", None)


def set_module_versions(state: Any, versions: Any) -> None:
    """Attach versions of modules to a state dict."""
    state._metadata = versions


# ---- torch: optimizers and schedules ----

def inner_schedulers(scheduler: object) -> Sequence[Any]:
    """Return the schedulers in SequentialLR or ChainedScheduler; none for any other."""
    return getattr(scheduler, SCHEDULERS, ())


def milestones(scheduler: object) -> Sequence[int]:
    """Return the steps at which SequentialLR goes on to the next; none for any other."""
    return getattr(scheduler, "_milestones", ())


def mark_stepped(optimizer: Any) -> None:
    """Let schedulers take it that an optimizer has stepped: else the first step of one warns."""
    optimizer._opt_called = True


# ---- torch: the rest ----

def end_workers(loader: object) -> None:
    """Let go of the persistent workers of a DataLoader: they end with its iterator."""
    vars(loader)[LOADER_ITERATOR] = None


def compiler_is_loaded() -> bool:
    """Tell whether torch's compiler was imported, which takes a second."""
    return "torch._dynamo" in sys.modules


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module is what ``torch.compile`` returns, without importing the compiler."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def is_transformed() -> bool:
    """Tell whether this runs inside of a function that ``torch.func`` transforms."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def fake_tensor_mode() -> Any:
    """Return the mode in which tensors have shapes and no numbers; other tensors may mix in."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


FAKE_TENSOR_LOGGER = "torch._subclasses.fake_tensor"


def default_store() -> Any:
    """Return the key-value store by which the processes of a job met."""
    from torch import distributed

    return distributed.distributed_c10d._get_default_store()


# ---- accelerate ----

def renew_states(*kinds: Any) -> None:
    """Give the next object of each kind a fresh state; those in use keep theirs."""
    for kind in kinds:
        kind._shared_state = type(kind._shared_state)()


def set_sync_gradients(accelerator: Accelerator, sync: bool) -> None:
    """Set whether the optimizer steps after this microbatch."""
    accelerator.gradient_state._set_sync_gradients(sync)


# ---- torchmetrics ----

def is_torchmetric(module: nn.Module) -> bool:
    """Tell whether a module is a metric of torchmetrics, without importing it."""
    return hasattr(module, "_reductions") and hasattr(module, "sync_on_compute")


def reductions(metric: Any) -> Mapping[str, Callable[..., Any] | None]:
    """Return how each part of a metric's state is reduced over processes, by its name."""
    found: Mapping[str, Callable[..., Any] | None] = metric._reductions
    return found


def defaults(metric: Any) -> Mapping[str, Any]:
    """Return what each part of a metric's state is after a reset, by its name."""
    found: Mapping[str, Any] = metric._defaults
    return found


def num_updates(metric: Any) -> int:
    """Return how often a metric was updated since its reset."""
    count: int = metric._update_count
    return count


def set_num_updates(metric: Any, count: int) -> None:
    """Set how often a metric was updated, and let it compute its value anew."""
    metric._update_count, metric._computed = count, None


def keep_local(metric: Any) -> None:
    """Keep a metric from gathering the states of other processes when it computes."""
    metric._to_sync = metric.sync_on_compute = False
