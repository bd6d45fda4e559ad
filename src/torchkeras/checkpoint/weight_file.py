"""Weights to a file and from it, whole or not at all; what such a file cannot hold is refused."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.tensor_file import Limits, TooMuch
from torchkeras.core import files, leftover
from torchkeras.core.errors import bad_value, mistake
from torchkeras.core.files import flush_to_disk
from torchkeras.state.module_state import EXTRA, metadata_of, takes_extra, weights_in
from torchkeras.state.wrappers import plain

PIECE = 1 << 22  # bytes that are written at once
VERSIONS = "torchkeras.versions"  # in the header of a safetensors file: of the net's modules, as torch keeps them
ANY = Limits()
WAYS = "ckpt_path=None keeps the best weights in memory; a save_ckpt and load_ckpt of the model's own may write others."


def save_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a net's weights to one file that plain torch can load; safetensors when the name ends so."""
    write_checked(check_loadable(net, path), path)


def write_weights(weights: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the state of a net to such a file."""
    check_state(weights, Path(path))
    write_checked(weights, path)


def write_checked(weights: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a state that a file can hold; a file beside it that was of the file before is of none now."""
    target = Path(path).expanduser()
    if target.suffix == ".safetensors":
        aliases, unique = split_shared(weights)
        about = {**aliases, VERSIONS: json.dumps(metadata_of(weights))} if metadata_of(weights) else aliases
        write_whole(target, lambda temporary: write_chunks(temporary, safetensors_chunks(unique, about)))
    else:
        write_whole(target, lambda temporary: write_torch(temporary, weights))
    files.remove(learning_beside(target))


def write_torch(path: Path, content: Any) -> None:
    """Write a file of torch's; through Python's file, so that the disk's own error is known.

    Raises:
        OSError: the disk did not take it; torch says that in words of its own.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def learning_beside(path: Path) -> Path:
    """Return the name of the file that holds what learns, where the file itself is not written again with each best."""
    return path.with_name(f"{path.name}.learning")


def check_loadable(net: nn.Module, path: str | os.PathLike[str]) -> OrderedDict[str, Any]:
    """Return the state of a net; refuse one whose file could not be loaded, and what such a file cannot hold."""
    bare, weights = plain(net), weights_in(net)
    extras = [name for name in bare.state_dict() if name.endswith(EXTRA)] if any(
        name.endswith(EXTRA) for name in weights) else []
    for name in extras:
        if not takes_extra(bare, name):
            raise bad_value("ckpt_path", received=f"{str(path)!r} for a net whose {name} could be written and not be "
                            "loaded: its module has get_extra_state without set_extra_state",
                            expected="both of them", fix=f"Write set_extra_state. {WAYS}")
    check_state(weights, Path(path))
    return weights


def check_state(weights: Mapping[str, Any], path: Path) -> None:
    """Refuse a state of which something cannot be kept in a file, or could not be loaded again without running code."""
    safe = path.suffix == ".safetensors"
    for name, value in [*weights.items(), ("_metadata", dict(metadata_of(weights)))]:
        if held_by_safetensors(name, value) if safe else ordinary(value) or is_text(value) or loads(value):
            continue
        kind = type(value).__name__
        what = f"a tensor of {value.dtype}, {value.layout}" if type(value) is Tensor else f"a {kind}"
        raise bad_value("ckpt_path", received=f"{str(path)!r} for a net whose {name} is {what}",
                        expected="tensors, which are all that safetensors holds" if safe else
                        "what torch.load(..., weights_only=True) reads, so that loading runs no code",
                        fix=f"Name the file {path.stem}.pt. Or: {WAYS}" if safe and loads(value) else WAYS)


def held_by_safetensors(name: str, value: Any) -> bool:
    """Return whether a file of safetensors holds a value; versions of modules are in its header."""
    return as_json(value) if name == "_metadata" else ordinary(value) and code_of(value.dtype) is not None


def ordinary(value: Any) -> bool:
    """Return whether a value is a tensor that any file of weights holds."""
    return type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not (
        value.is_quantized or value.is_meta)


def is_text(value: Any) -> bool:
    """Return whether a value is made of numbers, texts and dicts of these, as the versions of modules are."""
    if type(value) is dict:
        return all(type(name) is str and is_text(one) for name, one in value.items())
    return value is None or type(value) in (bool, int, float, str)


def as_json(value: Any) -> bool:
    """Return whether JSON gives a value back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def loads(value: Any) -> bool:
    """Return whether torch reads a value back with ``weights_only=True``."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(value, buffer)
            ANY.check_archive(buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
    except Exception:  # a value's own pickling may fail in any way
        return False
    return True


def safetensors_chunks(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Yield the bytes of a safetensors file, piece by piece: safetensors itself makes two copies of everything.

    Each piece is to be used before the next is asked for, which takes its place in memory.

    Format: https://huggingface.co/docs/safetensors. As there, wider types come first, so that all lie aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    place = 0
    for name in names:
        end = place + tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": code_of(tensors[name].dtype), "shape": list(tensors[name].shape),
                        "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    room = torch.empty(min(place, PIECE), dtype=torch.uint8)
    for name in names:
        flat = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8)
        for piece in flat.split(PIECE):
            # a copy: torch never again changes the size of a tensor that numpy has looked into
            yield room[:len(piece)].copy_(piece).numpy().data


@functools.cache
def code_of(dtype: torch.dtype) -> str | None:
    """Return what safetensors calls a type; None for one that it does not hold."""
    from safetensors.torch import save

    try:
        written = save({"x": torch.empty(0, dtype=dtype)})
    except (KeyError, ValueError, RuntimeError):
        return None
    return str(json.loads(written[8:8 + int.from_bytes(written[:8], "little")])["x"]["dtype"])


def write_chunks(path: Path, chunks: Iterator[Any]) -> None:
    """Write a file piece by piece."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


def split_shared(weights: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Tied weights once, and which name stands for which: safetensors refuses two names for one memory."""
    aliases: dict[str, str] = {}
    unique: dict[str, Tensor] = {}
    owners: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        owner = owners.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), name)
        if owner == name or not value.numel():
            unique[name] = value
        else:
            aliases[name] = owner
    return aliases, unique


def read_weights(path: str | os.PathLike[str], limits: Limits = ANY, mapped: bool = False) -> dict[str, Any]:
    """Read a weights file, torch's or safetensors', so that loading cannot run code.

    Args:
        path: the file.
        limits: what it may hold; more is refused before it is parsed.
        mapped: leave the numbers of torch's format on the disk until they are looked at.
    """
    source = existing_file(path, "ckpt_path", "a weights file")
    try:
        limits.check(source)
        weights = read_safetensors(source, limits) if source.suffix == ".safetensors" else read_torch(source, mapped)
    except OSError:
        raise  # the disk, not the file: Python names both
    except TooMuch as error:
        raise bad_value("ckpt_path", received=f"{str(path)!r}, which {error}", expected="a file of weights for this "
                        "net", fix="If you trust it, read it yourself, and give load_weights its names and tensors.") \
            from None
    except Exception as error:  # readers meet a file that is none of theirs in many ways
        raise bad_value("ckpt_path", received=f"{str(path)!r}, which cannot be read ({in_short(error)})",
                        expected="a file of weights, as save_ckpt or torch.save(net.state_dict(), path) writes it",
                        fix=guess(source)) from None  # what the reader said fills a screen; it is in __context__
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        kind = f"a {type(weights).__name__}" + (" whose keys are no names" if isinstance(weights, dict) else "")
        raise bad_value("ckpt_path", received=f"{str(path)!r}, a file that holds {kind}",
                        expected="a state dict: names and tensors")
    check_versions(weights, path)
    return weights


def check_versions(weights: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse versions of modules that torch's modules could not compare with their own."""
    versions = getattr(weights, "_metadata", {})
    if not isinstance(versions, Mapping) or not all(
            type(name) is str and isinstance(one, Mapping) and is_version(one.get("version"))
            for name, one in versions.items()):
        raise bad_value("ckpt_path", received=f"{str(path)!r}, whose versions of modules are none",
                        expected="a number for each module, as torch writes them, or no versions at all",
                        fix="If you trust the file, read it yourself, and give load_weights its names and tensors.")


def is_version(value: Any) -> bool:
    """Return whether a value is the version of a module: a number as a rule, a text where a module has its own way."""
    return value is None or type(value) in (int, float, str)


def read_safetensors(source: Path, limits: Limits) -> dict[str, Any]:
    """Read a file of safetensors; tied weights are in it once."""
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        weights = OrderedDict((name, file.get_tensor(name)) for name in limits.names_in(file))
        about = file.metadata() or {}
    weights |= {name: weights[owner] for name, owner in about.items() if owner in weights}
    weights._metadata = json.loads(about.get(VERSIONS, "{}"))  # type: ignore[attr-defined]
    return weights


def read_torch(source: Path, mapped: bool = False) -> Any:
    """Read a file of torch's that was checked; what torch warns of in a file that is none does not matter."""
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)


def existing_file(path: Any, argument: str, expected: str) -> Path:
    """Return the path of a file that is there; refuse a folder, and a name without a file."""
    source = Path(path).expanduser()
    if source.is_dir():
        raise bad_value(argument, received=f"the folder {str(path)!r}", expected=f"{expected} in it",
                        fix=beside(source / "file"))
    if not source.is_file():
        raise mistake(FileNotFoundError(
            f"{argument}: received {str(path)!r}; expected {expected}. {beside(source)}"))
    return source


def in_short(error: Exception) -> str:
    """Return the kind of an error, and what it says where that is one line."""
    text = str(error).strip()
    return type(error).__name__ + (f": {text}" if text and len(text) <= 120 and "\n" not in text else "")


def guess(source: Path) -> str:
    """Return what a file that cannot be read may be, judged by its size and its first bytes."""
    with source.open("rb") as file:
        start = file.read(512)
    if not start:
        return "The file is empty: was it cut short while it was written or copied?"
    if start.startswith(b"PK") and source.suffix == ".safetensors":
        return "It begins like one of torch's: name it .pt to read it."
    if start.startswith(b"PK"):
        return "It is a torch or zip file that was cut short or damaged, or holds objects other than weights: only " \
               "names and tensors are read, so that no code can run."
    if start.startswith(b"version https://git-lfs"):
        return "It is a pointer of Git LFS: fetch the file itself with git lfs pull."
    if start.lstrip()[:1] == b"<":
        return "It is a web page: the download gave an error page in place of the file."
    if source.suffix != ".safetensors" and start[8:9] == b"{":
        return "It begins like one of safetensors: name it .safetensors to read it."
    if start.startswith(b"\x80"):
        return "It is a pickle: only names and tensors are read, so that no code can run."
    return "It is damaged, or of another kind."


def beside(missing: Path) -> str:
    """What is in the folder where a file was expected."""
    if not missing.parent.is_dir():
        return f"The folder {str(missing.parent)!r} does not exist."
    names = sorted(child.name for child in missing.parent.iterdir())[:8]
    return f"The folder holds: {', '.join(names) or 'nothing'}."


def shape_of(value: Any) -> Any:
    """A tensor's shape; "missing" for a name that is not there."""
    return "missing" if value is None else tuple(getattr(value, "shape", ()))


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is there whole or not at all: beside it, flushed to disk, then renamed.

    Raises:
        OSError: the disk did not take it, or another program holds it; names the file.
    """
    files.check_ordinary(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    leftover.clear(target.parent, f".{target.name}.", ".tmp", aged=True)
    temporary = target.with_name(f".{target.name}.{leftover.owned()}.tmp")
    try:
        with files.naming(target):
            write(temporary)
            flush_to_disk(temporary)
            files.replace(temporary, target)
            flush_to_disk(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the error is what counts; the next writer clears away what stays
            temporary.unlink()
        raise
