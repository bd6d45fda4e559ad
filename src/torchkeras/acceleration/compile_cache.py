"""Keep compiled graphs between runs, and which of them were worth it.

torch's compiler keeps what it made in one folder, by the content of the graph, but in the system's
folder for temporary files, where it is gone tomorrow and where others may write. Here the compiler
works in a folder of the user's own caches, one for each set of versions. The graph itself is traced
anew in each run, so what a net's code has become is always seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torchkeras.acceleration.candidates import shapes_of
from torchkeras.acceleration.private_folder import Untrusted, contents, open_private
from torchkeras.acceleration.small_products import SMALL
from torchkeras.core import files, internals
from torchkeras.core.types import Batch

if TYPE_CHECKING:
    from torchkeras.engine.step import StepRunner

SWITCH = "TORCHKERAS_COMPILE_CACHE"  # 0 switches the cache off
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch's compiler keeps what it made
LARGEST = 1 << 29  # bytes of all that is kept, of all versions
RECENT = 600.0  # seconds for which a file is left alone: another process may be about to read it
VERDICTS = "verdicts"
LONGEST = 1 << 14  # bytes of a file of verdicts
# all threads have the same environment; torch's compiler serves one of them at a time anyway
ONE_AT_A_TIME = threading.RLock()


class CompileCache:
    """The compiled graphs of earlier runs, and how long a step of this net took with each.

    Args:
        step: a step that has run.
        batch: a batch of the usual shape.

    Attributes:
        folder: where the compiler keeps what it made; None where that is left to torch.
        note: why there is no folder, where it could not be used.
    """

    def __init__(self, step: StepRunner, batch: Batch) -> None:
        self.folder: Path | None = None
        self.note = ""
        with ONE_AT_A_TIME:  # while another thread compiles, the variable is not the user's
            if os.environ.get(SWITCH) == "0" or chosen_by_user():
                return
        try:
            self.folder = open_private("torchkeras", "compiled", name_of_versions(step))
            self.file = self.folder / VERDICTS / f"{key_of(step, batch)}.json"
        except (Untrusted, OSError, RuntimeError) as error:
            self.folder, self.note = None, f"fast: compiled graphs are not kept: {error}"

    def verdicts(self) -> dict[str, float]:
        """Return what earlier runs found: by candidate, its time over that of the best before."""
        if self.folder is None:
            return {}
        try:
            found = json.loads(files.read_small(self.file, LONGEST))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: float(ratio) for name, ratio in found.items()
                if type(ratio) in (int, float) and 0 < ratio < 1e6}

    def remember(self, found: dict[str, float]) -> None:
        """Write down how candidates did, beside what is known of others; then remove old files."""
        if self.folder is None or not found:
            return
        draft = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            draft.write_text(json.dumps(self.verdicts() | found))
            files.replace(draft, self.file)
            remove_old(self.folder.parent)
        with contextlib.suppress(OSError):
            draft.unlink()  # which is still there where it could not be written

    def distrust(self) -> None:
        """Remove the Python code that earlier programs left: it may be damaged.

        torch runs such a file as it is, and writes it anew from its own record where it is missing.
        """
        if self.folder is None:
            return
        recent = time.time() - RECENT
        with contextlib.suppress(OSError):
            for path, state in contents(self.folder):
                if path.suffix == ".py" and state.st_mtime < recent:
                    path.unlink()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let torch's compiler work in the folder."""
        if self.folder is None:
            yield
            return
        with ONE_AT_A_TIME, ExitStack() as stack:
            stack.enter_context(variables_restored(VARIABLE, "TRITON_CACHE_DIR"))
            os.environ[VARIABLE] = str(self.folder)
            stack.enter_context(compiler_settings())
            yield


@contextmanager
def variables_restored(*names: str) -> Iterator[None]:
    """Give environment variables back the values that they had."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def compiler_settings() -> Any:
    """Return a context in which nothing is read from the system's folder for temporary files.

    Precompiled headers lie there, 150 MB each. Whether the compiler knows the processor's vector
    instructions is tried out in processes of their own, each time; without them no graph is built.
    """
    return internals.inductor_settings(cpp_cache_precompile_headers=False, cpp__vec_isa_ok=True)


def chosen_by_user() -> bool:
    """Return whether the user chose a folder for torch's compiler, which sets its own otherwise."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return False
    return os.path.abspath(folder) != os.path.abspath(internals.default_compile_folder())


def name_of_versions(step: StepRunner) -> str:
    """Return a name for everything besides the graph that compiled code depends on."""
    device = step.accelerator.device
    name_of = (lambda _: torch.backends.cpu.get_cpu_capability()) if device.type == "cpu" else (
        getattr(torch.get_device_module(device), "get_device_name", str))
    parts = [torch.__version__, str(torch.version.git_version), platform.python_version(),
             platform.machine(), device.type, str(name_of(device)),
             str(SMALL)]  # products up to this size are compiled in another way than torch's
    return f"torch-{torch.__version__}-{digest(*parts)[:12]}"


def key_of(step: StepRunner, batch: Batch) -> str:
    """Return a name for a net, its loss and optimizer, the metrics, and a batch's shapes.

    Only times are looked up by it: two nets of one name would cost time, not right numbers.
    """
    parts: list[Any] = [step.net, step.loss_fn, sorted(step.metrics_dict), step.optimizer,
                        shapes_of(batch), torch.get_num_threads(), step.config.mixed_precision]
    codes = [code_of(one) for one in (step.net, step.loss_fn) if one is not None]
    return digest(*map(text_of, parts), *codes)


def text_of(one: object) -> str:
    """Return an object as text without the addresses of memory."""
    if isinstance(one, (nn.Module, list, str, int)):
        return str(one)
    return f"{type(one).__module__}.{type(one).__qualname__}"


def code_of(one: object) -> str:
    """Return a digest of the code of a function, or of what the modules of a net do in forward."""
    kinds = {type(part) for part in one.modules()} if isinstance(one, nn.Module) else set()
    own = [kind.forward for kind in kinds if not kind.__module__.startswith("torch.")]
    codes = [getattr(function, "__code__", None) for function in (*own, one)]
    return digest(*sorted(text_of_code(code) for code in codes if code is not None))


def text_of_code(code: CodeType) -> str:
    """Return what a function does as text, which is the same in each process."""
    inner = [text_of_code(one) if isinstance(one, CodeType) else repr(one)
             for one in code.co_consts if not isinstance(one, frozenset)]  # these have no order
    return digest(code.co_code.hex(), *code.co_names, *inner)


def digest(*parts: str) -> str:
    """Return a hash of some texts."""
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()


def remove_old(folder: Path) -> None:
    """Remove the files that were written longest ago, while all together are too large."""
    found = [(state.st_mtime, state.st_size, path) for path, state in contents(folder)
             if not path.is_dir()]
    total, recent = sum(size for _, size, _ in found), time.time() - RECENT
    for written, size, path in sorted(found):
        if total <= LARGEST or written > recent:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
