"""Write weights to a file and read them back: complete or not at all, and without running code."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.main_memory import in_main_memory
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits
from torchkeras.core import files, internals, leftover
from torchkeras.core.errors import bad_value, mistake
from torchkeras.core.files import flush_to_disk
from torchkeras.core.types import Value
from torchkeras.state.module_state import (
    accepts_extra_state,
    bare_state_dict,
    metadata_of,
)
from torchkeras.state.wrappers import unwrap_module

CHUNK_BYTES = 1 << 22  # that are written at once
VERSIONS = "torchkeras.versions"  # key in a safetensors header: the versions of the net's modules
DEFAULT_LIMITS = Limits()
OTHER_WAYS = ("ckpt_path=None keeps the best weights in memory; a save_ckpt and load_ckpt of the "
              "model's own may write others.")
TRUSTED = "If you trust the file, read it yourself, and give load_weights its names and tensors."
Chunk: TypeAlias = bytes | memoryview  # a piece of a file
FilePath: TypeAlias = str | os.PathLike[str]


def save_weights(net: nn.Module, path: FilePath) -> None:
    """Write a net's weights to a file that ``torch.load`` or, by its suffix, safetensors reads."""
    write_checked(check_loadable(net, path), path)


def write_weights(weights: Mapping[str, Any], path: FilePath) -> None:
    """Write the state dict of a net to a weights file; refuse what such a file cannot hold."""
    check_state(weights, Path(path))
    write_checked(weights, path)


def write_checked(weights: Mapping[str, Any], path: FilePath) -> None:
    """Write a checked state dict; remove the ``.learning`` file of the weights it replaces."""
    target = Path(path).expanduser()
    if target.suffix == ".safetensors":
        aliases, unique = split_shared(weights)
        about = aliases
        if metadata_of(weights):
            about = {**aliases, VERSIONS: json.dumps(metadata_of(weights))}
        write_atomically(target, lambda temporary: write_chunks(
            temporary, safetensors_chunks(unique, about)))
    else:
        write_atomically(target, lambda temporary: write_torch(temporary, weights))
    files.remove(learning_file(target))


def write_torch(path: Path, content: object) -> None:
    """Write a file with ``torch.save``, through a Python file, which reports the disk's own error.

    Raises:
        OSError: the disk did not take it.
    """
    try:
        with path.open("wb") as file:
            torch.save(in_main_memory(content), file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def learning_file(path: Path) -> Path:
    """Return the name of the file beside a weights file that holds its trainable weights."""
    return path.with_name(f"{path.name}.learning")


def check_loadable(net: nn.Module, path: FilePath) -> OrderedDict[str, Any]:
    """Return the state dict of a net; refuse one that a file cannot hold or give back."""
    bare, weights = unwrap_module(net), bare_state_dict(net)
    extras = [name for name in bare.state_dict() if name.endswith(internals.EXTRA_STATE)] if any(
        name.endswith(internals.EXTRA_STATE) for name in weights) else []
    for name in extras:
        if not accepts_extra_state(bare, name):
            raise bad_value(
                "ckpt_path", received=f"{str(path)!r} for a net whose {name} could be written and "
                "not be loaded: its module has get_extra_state without set_extra_state",
                expected="both of them", fix=f"Write set_extra_state. {OTHER_WAYS}")
    check_state(weights, Path(path))
    return weights


def check_state(weights: Mapping[str, Value], path: Path) -> None:
    """Refuse values that the file cannot hold, or that cannot be loaded without running code."""
    safe = path.suffix == ".safetensors"
    for name, value in [*weights.items(), ("_metadata", dict(metadata_of(weights)))]:
        if fits_safetensors(name, value) if safe else fits_torch(value):
            continue
        kind = type(value).__name__
        what = (f"a tensor of {value.dtype}, {value.layout}" if type(value) is Tensor
                else f"a {kind}")
        fix = OTHER_WAYS
        if safe and loads_weights_only(value):
            fix = f"Name the file {path.stem}.pt. Or: {OTHER_WAYS}"
        raise bad_value(
            "ckpt_path", received=f"{str(path)!r} for a net whose {name} is {what}",
            expected="tensors, which are all that safetensors holds" if safe else
            "what torch.load(..., weights_only=True) reads, so that loading runs no code", fix=fix)


def fits_torch(value: Value) -> bool:
    """Return whether a file of torch's gives a value back without running code."""
    return is_plain_tensor(value) or is_plain_data(value) or loads_weights_only(value)


def fits_safetensors(name: str, value: Value) -> bool:
    """Return whether a safetensors file holds a value; versions of modules go in its header."""
    if name == "_metadata":
        return survives_json(value)
    return is_plain_tensor(value) and safetensors_dtype(value.dtype) is not None


def is_plain_tensor(value: Value) -> bool:
    """Return whether a value is a dense tensor or parameter, neither quantized nor meta."""
    return type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not (
        value.is_quantized or value.is_meta)


def is_plain_data(value: object) -> bool:
    """Return whether a value is a number, a text or None, or a dict of these with text keys."""
    if type(value) is dict:
        return all(type(name) is str and is_plain_data(one) for name, one in value.items())
    return value is None or type(value) in (bool, int, float, str)


def survives_json(value: object) -> bool:
    """Return whether JSON gives a value back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def loads_weights_only(value: object) -> bool:
    """Return whether torch can read a value back with ``weights_only=True``."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(value, buffer)
            DEFAULT_LIMITS.check_archive(buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
    except Exception:  # a value's own pickling may fail in any way
        return False
    return True


def safetensors_chunks(tensors: Mapping[str, Tensor],
                       about: Mapping[str, str] | None = None) -> Iterator[Chunk]:
    """Yield the bytes of a safetensors file piece by piece.

    ``safetensors.torch.save_file`` would copy everything twice. Use each piece before asking for
    the next, which overwrites it in memory.

    Format: https://huggingface.co/docs/safetensors. As there, wider types come first, so that all
    are aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(about)} if about else {}
    place = 0
    for name in names:
        one = tensors[name]
        end = place + one.numel() * one.element_size()
        header[name] = {"dtype": safetensors_dtype(one.dtype), "shape": list(one.shape),
                        "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    room = torch.empty(min(place, CHUNK_BYTES), dtype=torch.uint8)
    for name in names:
        flat = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(flat), CHUNK_BYTES):
            piece = flat[start:start + CHUNK_BYTES]
            # a copy: torch never again changes the size of a tensor that numpy has looked into
            yield room[:len(piece)].copy_(piece).numpy().data


@functools.cache
def safetensors_dtype(dtype: torch.dtype) -> str | None:
    """Return the name of a dtype in safetensors; None if it does not support the dtype."""
    from safetensors.torch import save

    try:
        written = save({"x": torch.empty(0, dtype=dtype)})
    except (KeyError, ValueError, RuntimeError):
        return None
    return str(json.loads(written[8:8 + int.from_bytes(written[:8], "little")])["x"]["dtype"])


def write_chunks(path: Path, chunks: Iterable[Chunk]) -> None:
    """Write a file piece by piece."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


def split_shared(weights: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return aliases of tied weights, by name, and each tensor once: safetensors has no aliases."""
    aliases: dict[str, str] = {}
    unique: dict[str, Tensor] = {}
    owners: dict[tuple[object, ...], str] = {}
    for name, value in weights.items():
        place = value.data_ptr(), value.shape, value.stride(), value.dtype
        owner = owners.setdefault(place, name)
        if owner == name or not value.numel():
            unique[name] = value
        else:
            aliases[name] = owner
    return aliases, unique


def read_weights(path: FilePath, limits: Limits = DEFAULT_LIMITS,
                 mapped: bool = False) -> dict[str, Any]:
    """Read a weights file, torch's or safetensors', so that loading cannot run code.

    Args:
        path: the file.
        limits: what it may hold; more is refused before it is parsed.
        mapped: memory-map the tensors of torch's format, so that they are read when used.
    """
    source = existing_file(path, "ckpt_path", "a weights file")
    try:
        limits.check(source)
        weights = (read_safetensors(source, limits) if source.suffix == ".safetensors"
                   else read_torch(source, mapped))
    except OSError:
        raise  # the disk, not the file: Python names both
    except LimitExceeded as error:
        raise bad_value("ckpt_path", received=f"{str(path)!r}, which {error}",
                        expected="a file of weights for this net",
                        fix=TRUSTED) from None
    except Exception as error:  # readers fail on foreign files in many ways
        raise bad_value(
            "ckpt_path", received=f"{str(path)!r}, which cannot be read ({short_error(error)})",
            expected="a file of weights, as save_ckpt or torch.save(net.state_dict(), path) "
            "writes it", fix=guess_content(source)) from None  # the long error is in __context__
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        kind = f"a {type(weights).__name__}"
        kind += " whose keys are not names" if isinstance(weights, dict) else ""
        raise bad_value("ckpt_path", received=f"{str(path)!r}, a file that holds {kind}",
                        expected="a state dict: names and tensors")
    check_versions(weights, path)
    return weights


def check_versions(weights: Mapping[str, Value], path: FilePath) -> None:
    """Refuse module versions that torch's modules could not compare with their own."""
    versions = internals.module_versions(weights, {})
    if not isinstance(versions, Mapping) or not all(
            type(name) is str and isinstance(one, Mapping) and is_version(one.get("version"))
            for name, one in versions.items()):
        raise bad_value(
            "ckpt_path", received=f"{str(path)!r}, whose versions of modules are malformed",
            expected="a number for each module, as torch writes them, or no versions at all",
            fix=TRUSTED)


def is_version(value: object) -> bool:
    """Return whether a value is the version of a module: mostly a number, rarely a text."""
    return value is None or type(value) in (int, float, str)


def read_safetensors(source: Path, limits: Limits) -> dict[str, Any]:
    """Read a safetensors file, with tied weights under all of their names."""
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        weights = OrderedDict((name, file.get_tensor(name)) for name in limits.names_in(file))
        about = file.metadata() or {}
    weights |= {name: weights[owner] for name, owner in about.items() if owner in weights}
    internals.set_module_versions(weights, json.loads(about.get(VERSIONS, "{}")))
    return weights


def read_torch(source: Path, mapped: bool = False) -> Value:
    """Read a checked file of torch's; suppress its warnings about files that it did not write."""
    invariants: Any = torch.sparse.check_sparse_tensor_invariants  # torch has no types for it
    with warnings.catch_warnings(), invariants():
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)


def existing_file(path: FilePath, argument: str, expected: str) -> Path:
    """Return the path of an existing file; refuse a folder, and a path without a file."""
    source = Path(path).expanduser()
    if source.is_dir():
        raise bad_value(argument, received=f"the folder {str(path)!r}",
                        expected=f"{expected} in it", fix=list_folder(source / "file"))
    if not source.is_file():
        raise mistake(FileNotFoundError(
            f"{argument}: received {str(path)!r}; expected {expected}. {list_folder(source)}"))
    return source


def short_error(error: Exception) -> str:
    """Return the type of an error, and its message if that is one short line."""
    text = str(error).strip()
    short = text and len(text) <= 120 and "\n" not in text
    return type(error).__name__ + (f": {text}" if short else "")


def guess_content(source: Path) -> str:
    """Return what a file that cannot be read may be, judging by its size and first bytes."""
    with source.open("rb") as file:
        start = file.read(512)
    if not start:
        return "The file is empty: was it cut short while it was written or copied?"
    if start.startswith(b"PK") and source.suffix == ".safetensors":
        return "It begins like one of torch's: name it .pt to read it."
    if start.startswith(b"PK"):
        return ("It is a torch or zip file that was cut short or damaged, or holds objects other "
                "than weights: only names and tensors are read, so that no code can run.")
    if start.startswith(b"version https://git-lfs"):
        return "It is a pointer of Git LFS: fetch the file itself with git lfs pull."
    if start.lstrip()[:1] == b"<":
        return "It is a web page: the download gave an error page in place of the file."
    if source.suffix != ".safetensors" and start[8:9] == b"{":
        return "It begins like one of safetensors: name it .safetensors to read it."
    if start.startswith(b"\x80"):
        return "It is a pickle: only names and tensors are read, so that no code can run."
    return "It is damaged, or of another kind."


def list_folder(missing: Path) -> str:
    """Return a sentence that lists the folder where a file was expected."""
    if not missing.parent.is_dir():
        return f"The folder {str(missing.parent)!r} does not exist."
    names = sorted(child.name for child in missing.parent.iterdir())[:8]
    return f"The folder holds: {', '.join(names) or 'nothing'}."


def shape_of(value: object) -> tuple[int, ...] | str:
    """Return a tensor's shape; "missing" for None."""
    return "missing" if value is None else tuple(getattr(value, "shape", ()))


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all: under a temporary name, flushed, then renamed.

    Raises:
        OSError: the disk did not take it, or another program holds it; names the file.
    """
    files.check_ordinary(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    leftover.remove_abandoned(target.parent, f".{target.name}.", ".tmp", aged=True)
    temporary = target.with_name(f".{target.name}.{leftover.owner_tag()}.tmp")
    try:
        with files.name_in_errors(target):
            write(temporary)
            flush_to_disk(temporary)
            files.replace(temporary, target)
            flush_to_disk(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts; the next writer cleans up
            temporary.unlink()
        raise
