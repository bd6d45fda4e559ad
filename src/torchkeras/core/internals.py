"""Use what torch, accelerate and torchmetrics keep private: all of it is in this file.

A private name may go with any release. Each function here has a test in ``tests/core`` that fails
with a release in which its name is gone or means something else; ``make lowest`` and ``make
newest`` run them. Where there is a public way, it is taken instead.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
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


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is divided over processes, without waiting."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


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


def module_versions(state: Mapping[str, Any], absent: Any = None) -> Any:
    """Return the versions of modules that torch attaches to a state dict; ``absent`` without."""
    return getattr(state, "_metadata", absent)


def set_module_versions(state: Any, versions: Any) -> None:
    """Attach versions of modules to a state dict."""
    state._metadata = versions


def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module with its hooks, but not by what it was compiled to."""
    own: Any = module  # which has no types
    return own._call_impl(*args, **kwargs)


def set_compiled_call(module: nn.Module, function: Callable[..., Any] | None) -> None:
    """Let a module be called by a compiled function; by its own code with None."""
    if function is None:
        vars(module).pop("_compiled_call_impl", None)
    else:
        module._compiled_call_impl = function


def has_compiled_call(module: nn.Module) -> bool:
    """Tell whether a module was compiled in place, by ``module.compile()``."""
    return getattr(module, "_compiled_call_impl", None) is not None


def module_hooks(parts: Iterable[nn.Module]) -> list[Sized]:
    """Return the dicts that hold the hooks of some modules, and torch's global module hooks."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    everywhere = vars(sys.modules["torch.nn.modules.module"])
    return [*(everywhere[f"_global_{kind}"] for kind in kinds),
            *(vars(part)[f"_{kind}"] for part in parts for kind in kinds)]


def has_gradient_hooks(weight: Tensor) -> bool:
    """Return whether a weight has hooks that are called with its gradient."""
    return bool(weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None))


def num_uses(storage: Any) -> int | None:
    """Return how many tensors and storage objects share a memory; None where torch tells not."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return None if count is None else int(count(storage._cdata))


# ---- torch: optimizers and schedules ----

def optimizer_hooks(optimizer: torch.optim.Optimizer) -> list[Sized]:
    """Return the dicts that hold the hooks of an optimizer, and torch's global optimizer hooks."""
    everywhere = vars(sys.modules["torch.optim.optimizer"])
    return [*(everywhere[f"_global_optimizer_{kind}_hooks"] for kind in ("pre", "post")),
            *(vars(optimizer)[f"_optimizer_step_{kind}_hooks"] for kind in ("pre", "post"))]


def collect_group(optimizer: Any, group: dict[str, Any], lists: int) -> list[list[Any]]:
    """Return weights with a gradient, their gradients, and lists of their state tensors."""
    found: list[list[Any]] = [[] for _ in range(lists + 2)]
    optimizer._init_group(group, *found)
    return found


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


@contextmanager
def no_recompilation(error: type[Exception]) -> Iterator[None]:
    """Raise an error in place of compiling a function anew; nothing has been run then."""
    config = torch._dynamo.config
    before, config.error_on_recompile = config.error_on_recompile, True
    try:
        yield
    except torch._dynamo.exc.RecompileError as found:
        raise error from found
    finally:
        config.error_on_recompile = before


def inductor() -> Callable[..., Any]:
    """Return the function of torch's compiler that makes machine code of a graph."""
    backend: Callable[..., Any] = torch._dynamo.lookup_backend("inductor")
    return backend


@contextmanager
def decomposed(parts: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Let torch's compiler take operations apart by these functions within.

    A function that returns NotImplemented leaves the call to what the compiler does else. Graphs
    with a table of their own, as ``compile_fx`` takes it, are not kept for the next program.
    """
    from torch._inductor.decomposition import decompositions as table

    before = {operation: table.get(operation) for operation in parts}

    def either(operation: Any) -> Callable[..., Any]:
        usual = before[operation]

        def first(*arguments: Any, **options: Any) -> Any:
            found = parts[operation](*arguments, **options)
            if found is not NotImplemented or usual is None:
                return found
            return usual(*arguments, **options)

        return first

    table.update({operation: either(operation) for operation in parts})
    try:
        yield
    finally:
        for operation, usual in before.items():
            if usual is None:
                del table[operation]
            else:
                table[operation] = usual


def inductor_settings(**wanted: Any) -> Any:
    """Return a context with settings of torch's compiler, __ for a dot, where it has them."""
    from torch._inductor import config

    known = config.get_config_copy()
    named = {name.replace("__", "."): value for name, value in wanted.items()}
    return config.patch({name: value for name, value in named.items() if name in known})


def default_compile_folder() -> str:
    """Return the folder in which torch's compiler keeps files if nobody says otherwise."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder: str = default_cache_dir()
    return folder


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
