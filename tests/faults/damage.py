"""States that are cut short, flipped or made to do harm: all must be refused, and none may do anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.faults import runs
from torchkeras import CheckpointCorruptError, KerasModel
from torchkeras.checkpoint import state_folder, store
from torchkeras.checkpoint.restore import decode_state


@contextmanager
def two_states() -> Iterator[tuple[Path, store.CheckpointStore]]:
    """A folder with two states of a run in the middle of an epoch."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "best"
        runs.run(path, [runs.StopAt(9)], resume=True, save_every=4)
        yield runs.states(path)[-1], store.CheckpointStore(Path(f"{path}.state"))


def refused(box: store.CheckpointStore, newest: Path) -> bool:
    """Whether the newest state is refused with the right error, and the one before it is used."""
    try:
        state_folder.read_state(newest, 0)
    except CheckpointCorruptError as error:
        text = str(error)
    else:
        return False
    found, notes = box.newest()
    return found is not None and found.number == int(newest.name) - 1 and text in notes[0] and newest.name in text


def truncated(sparse: int = 1) -> dict[str, Any]:
    """Every file of a state cut at every length (under 4 kB each one, then every 37th)."""
    tried = right = 0
    with two_states() as (newest, box):
        for file in sorted(newest.iterdir()):
            content = file.read_bytes()
            file.unlink()
            for length in [*range(0, min(4096, len(content)), sparse), *range(4096, len(content), 37 * sparse)]:
                file.write_bytes(content[:length])
                tried += 1
                right += refused(box, newest) if length % 16 == 0 else refused_quickly(newest)
            file.write_bytes(content)
        sound = box.newest()[0]
    return {"passed": right, "of": tried, "right": right == tried and sound is not None
            and sound.number == int(newest.name)}


def refused_quickly(newest: Path) -> bool:
    """The same without reading the state before."""
    try:
        state_folder.read_state(newest, 0)
    except CheckpointCorruptError as error:
        return newest.name in str(error)
    return False


def flipped(count: int, seed: int = 0) -> dict[str, Any]:
    """Single bits flipped anywhere in a state."""
    dice, right = random.Random(seed), 0
    with two_states() as (newest, box):
        files = sorted(one for one in newest.iterdir() if one.stat().st_size)  # no row of history, in a first epoch
        for _ in range(count):
            file = dice.choice(files)
            right += with_bit(file, dice, lambda: refused(box, newest))
    return {"passed": right, "of": count, "right": right == count}


def with_bit(file: Path, dice: random.Random, check: Callable[[], bool]) -> bool:
    """What a check says while one bit of a file is another."""
    content = file.read_bytes()
    place = dice.randrange(len(content))
    other = bytearray(content)
    other[place] ^= 1 << dice.randrange(8)
    file.unlink()  # best weights are linked into several states
    file.write_bytes(other)
    try:
        return check()
    finally:
        file.write_bytes(content)


def unchecked() -> dict[str, Any]:
    """Control: how many flipped bits torch.load(weights_only=True) lets through; if none, the check above is empty."""
    dice, passed = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "weights.pt"
        torch.save(runs.build().net.state_dict(), file)

        def loads() -> bool:
            try:
                torch.load(file, weights_only=True)
            except Exception:
                return False
            return True

        for _ in range(100):
            passed += with_bit(file, dice, loads)
    return {"passed": passed, "of": 100, "right": passed > 50}


SENTINEL = "did-run"


class Harm:
    """Runs something when it is unpickled."""

    def __init__(self, how: Any, *arguments: Any) -> None:
        self.how, self.arguments = how, arguments

    def __reduce__(self) -> Any:
        return self.how, self.arguments


def payloads(folder: Path) -> dict[str, bytes]:
    """Pickles that would leave a file behind."""
    sign = str(folder / SENTINEL)
    made = {"os.system": Harm(os.system, f"touch {sign}"), "eval": Harm(eval, f"open({sign!r}, 'w')"),
            "exec": Harm(exec, f"open({sign!r}, 'w')"), "open": Harm(open, sign, "w")}
    found = {name: pickle.dumps(one) for name, one in made.items()}
    buffer = io.BytesIO()
    torch.save({"weight": made["os.system"]}, buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../" + SENTINEL, "out")
    return {**found, "torch": buffer.getvalue(), "zip": packed.getvalue()}


def headed(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors(**changes: Any) -> bytes:
    """A safetensors file whose only tensor claims something."""
    return headed({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}, b"\0\0\0\0")


BROKEN_TENSORS: dict[str, bytes] = {
    "10 GB header": struct.pack("<Q", 10 << 30) + b"{}", "200 MB header": struct.pack("<Q", 200 << 20) + b"{}",
    "10 GB shape": tensors(shape=[2500 << 20]), "negative shape": tensors(shape=[-1]),
    "offsets outside": tensors(data_offsets=[0, 1 << 40]), "offsets backwards": tensors(data_offsets=[4, 0]),
    "no such type": tensors(dtype="PICKLE"), "a shape that overflows": tensors(shape=[1 << 62, 1 << 62]),
    "deep header": headed(b"[" * 100_000), "no header": b"", "text": b"hello",
}
BROKEN_FACTS: dict[str, bytes] = {
    "deep lists": b"[" * 200_000 + b"]" * 200_000, "deep dicts": b'{"dict":' * 100_000, "no JSON": b"\xff\xfe",
    "a list": b"[1, 2]", "text": b'"state"', "null": b"null", "a key twice": b'{"state": 1, "state": 2}',
    "huge numbers": b'{"state": {"dict": [["position", 1e400]]}, "weights": 1, "best": 1}',
    "9 MB": b"[" + b"0," * (5 << 20) + b"0]", "unknown tag": b'{"state": {"import": "os"}}',
    "two tags": b'{"state": {"tuple": [], "dict": []}}', "no pairs": b'{"state": {"dict": [1]}}',
    "a missing tensor": b'{"state": {"tensor": "/etc/passwd"}}', "a tensor with no name": b'{"state": {"tensor": {}}}',
    "an unhashable key": b'{"state": {"dict": [[{"dict": []}, 1]]}}', "NaN": b'{"state": NaN}',
    "parts missing": b'{"state": {"dict": []}, "weights": {"dict": []}, "best": []}',
}


def forged(target: Path, changes: dict[str, bytes]) -> None:
    """Change files of a state, and its manifest with them, as one who means harm would."""
    for name, content in changes.items():
        (target / name).unlink()
        (target / name).write_bytes(content)
    digests = {one.name: (hashlib.sha256(one.read_bytes()).hexdigest(), one.stat().st_size)
               for one in target.iterdir() if one.name != state_folder.MANIFEST}
    (target / state_folder.MANIFEST).write_bytes(state_folder.format_manifest(digests))


def attacks(folder: Path, state: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names of attacks, and what each does to a state."""
    for what, content in payloads(folder).items():
        for name in (*state_folder.TENSORS, state_folder.FACTS):
            yield f"{what} in {name}", lambda content=content, name=name: forged(state, {name: content})
    for what, content in BROKEN_TENSORS.items():
        yield what, lambda content=content: forged(state, {"weights.safetensors": content})
    for what, content in BROKEN_FACTS.items():
        yield f"JSON: {what}", lambda content=content: forged(state, {state_folder.FACTS: content})
    yield from manifests(folder, state)
    yield from links(folder, state)
    yield "an extra file", lambda: (state / "extra.pkl").write_bytes(payloads(folder)["os.system"])  # type: ignore
    yield "no tensors at all", lambda: forged(state, dict.fromkeys(state_folder.TENSORS, save({})))


def manifests(folder: Path, state: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Lies in the manifest."""
    def saying(change: Callable[[dict[str, Any]], None], first: str = state_folder.FIRST_LINE) -> None:
        digests: dict[str, Any] = state_folder.read_manifest(state)
        change(digests)
        text = state_folder.format_manifest(digests).decode().replace(state_folder.FIRST_LINE, first)
        body = text[:text.rindex("\n", 0, -1) + 1]
        (state / state_folder.MANIFEST).write_text(body + hashlib.sha256(body.encode()).hexdigest() + "\n")

    outside = folder / "outside"
    outside.write_bytes(payloads(folder)["os.system"])
    digest = (hashlib.sha256(outside.read_bytes()).hexdigest(), outside.stat().st_size)
    yield "a name that climbs", lambda: saying(lambda found: found.update({"../../outside": digest}))
    yield "an absolute name", lambda: saying(lambda found: found.update({str(outside): digest}))
    yield "a name too many", lambda: saying(lambda found: found.update({"state.pkl": digest}))
    yield "a name too few", lambda: saying(lambda found: found.pop(state_folder.FACTS))
    yield "another format", lambda: saying(lambda found: None, "torchkeras-state 4")
    yield "a size of 10 GB", lambda: saying(lambda found: found.update({state_folder.FACTS: (digest[0], 10 << 30)}))
    yield "a pickle as manifest", lambda: (state / state_folder.MANIFEST).write_bytes(  # type: ignore[func-returns-value]
        payloads(folder)["eval"])
    yield "a manifest of 5 MB", lambda: (state / state_folder.MANIFEST).write_bytes(b"\n" * (5 << 20))  # type: ignore


def links(folder: Path, state: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Things in the place of files."""
    def instead(name: str, make: Callable[[Path], Any]) -> None:
        content = (state / name).read_bytes()
        (folder / "moved").write_bytes(content)
        (state / name).unlink()
        make(state / name)

    for name in (state_folder.FACTS, "state.safetensors", state_folder.MANIFEST):
        yield f"a link for {name}", lambda name=name: instead(name, lambda at: at.symlink_to(folder / "moved"))
    yield "a pipe", lambda: instead(state_folder.FACTS, os.mkfifo)
    yield "a folder for a file", lambda: instead("state.safetensors", Path.mkdir)
    yield "a link for the whole state", lambda: (
        shutil.move(state, folder / "elsewhere"), state.symlink_to(folder / "elsewhere"))[1]


def malicious() -> dict[str, Any]:
    """States whose manifests are right and whose contents are not; and weights files with code in them."""
    tried, right, bad = 0, 0, []
    with tempfile.TemporaryDirectory() as name, two_states() as (state, _):
        folder = Path(name)
        spare = folder / "spare"
        shutil.copytree(state, spare)
        target = folder / state.name
        for what, attack in attacks(folder, target):
            clear(target)
            clear(folder / "elsewhere")
            shutil.copytree(spare, target)
            attack()
            tried += 1
            outcome = safe(lambda: decode_state(state_folder.read_state(target, 1)), folder)
            right += outcome == ""
            bad += [f"{what}: {outcome}"] if outcome else []
        for what, content in payloads(folder).items():
            for suffix in (".pt", ".safetensors"):
                file = folder / f"weights{suffix}"
                file.write_bytes(content)
                tried += 1
                outcome = safe(lambda file=file: KerasModel(runs.build().net, "mse").load_ckpt(file), folder, Exception)
                right += outcome == ""
                bad += [f"{what} in weights{suffix}: {outcome}"] if outcome else []
    return {"passed": right, "of": tried, "bad": bad[:5], "right": right == tried and tried >= 40}


def clear(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def safe(read: Callable[[], Any], folder: Path, kind: type[Exception] = CheckpointCorruptError) -> str:
    """What is wrong with how a reader takes something malicious; nothing where it is refused in time and in place."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
        return "it was read"
    except kind:
        pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if (folder / SENTINEL).exists() or (folder.parent / SENTINEL).exists():
        return "it was run"
    if grown > 200:
        return f"{grown:.0f} MB of memory"
    return f"{time.process_time() - began:.1f} s" if time.process_time() - began > 1 else ""
