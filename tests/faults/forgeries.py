"""What somebody else may put around the states of a run, and into files of weights: it costs an error, no more."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.faults import runs
from tests.faults.damage import clear, forged, headed, two_states
from torchkeras import CheckpointCorruptError, load_checkpoint, load_weights
from torchkeras.checkpoint import state_folder
from torchkeras.checkpoint.restore import decode_state
from torchkeras.checkpoint.serialization import TensorJSONEncoder

MEMORY, SECONDS, PATIENCE = 200.0, 1.0, 60  # MB beside the file, of the processor, and of the clock


def around(every: int = 1) -> dict[str, Any]:
    """Odd files in the folder of the states: a run goes on or is refused, and no other file changes."""
    bad, tried = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        victim, inside = folder / "victim", folder / "home" / "kept"
        inside.parent.mkdir()
        runs.run(folder / "made", [runs.StopAt(7)], resume=True, save_every=4)
        for what, place in list(odd_things(victim, inside))[::every]:
            path, states = folder / "best", folder / "best.state"
            clear(states)
            shutil.copytree(folder / "made.state", states)
            for one in (victim, inside):
                one.write_text("mine")
            place(states)
            tried += 1
            before = sorted(os.listdir(folder / "home")), victim.stat().st_ino
            outcome = gone_on(path)
            after = sorted(os.listdir(folder / "home")), victim.stat().st_ino
            if before != after or any(one.read_text() != "mine" for one in (victim, inside)):
                outcome = "a file outside was changed"
            bad += [f"{what}: {outcome}"] if outcome else []
    return {"passed": tried - len(bad), "of": tried, "bad": bad[:5], "right": not bad and tried > 12}


def odd_things(victim: Path, inside: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Yield what may lie in a folder of states, and what puts it there."""
    kinds: dict[str, Callable[[Path], Any]] = {
        "a link to a file": lambda at: at.symlink_to(victim),
        "a link to a folder": lambda at: at.symlink_to(inside.parent),
        "a link to nothing": lambda at: at.symlink_to(victim.with_name("new")), "a pipe": os.mkfifo, "a folder": full,
        "a second name of a file": lambda at: os.link(victim, at), "a socket": bound, "a large file": large}
    for name in (".owner", ".lock", ".tmp-x", ".tmp-old-1-ab", "00000007", "99999998", "\u0660" * 8):
        for what, make in kinds.items():
            yield f"{what} as {name}", lambda states, name=name, make=make: instead(states / name, make)
    for text in ("986 vm", f"{10**30} {socket.gethostname()}", f"-1 {socket.gethostname()}", "\0", "1", "\u0661 x"):
        yield f".owner with {text!r}", lambda states, text=text: (states / ".owner").write_text(text)
    yield "the last number", lambda states: (states / "99999999").mkdir()


def instead(at: Path, make: Callable[[Path], Any]) -> None:
    """Make a thing, in the place of what is there."""
    clear(at)
    make(at)


def full(at: Path) -> None:
    """Make a folder that is not empty."""
    at.mkdir()
    (at / "file").write_text("x")


def large(at: Path) -> None:
    """Make a file of 100 GB that takes no room."""
    with at.open("wb") as file:
        file.truncate(100 << 30)


def bound(at: Path) -> None:
    """Make a socket; its name is too long for one where the folder is deep."""
    here = os.getcwd()
    os.chdir(at.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(at.name)
    finally:
        os.chdir(here)


def gone_on(path: Path) -> str:
    """Return what is wrong with how a run goes on; nothing where it does, or is refused in words."""
    try:
        with in_time():
            runs.run(path, [runs.StopAt(9)], resume=True, save_every=4)
    except ValueError as error:
        return "" if getattr(error, "user_mistake", False) else f"{type(error).__name__}: {error}"[:200]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


@contextmanager
def in_time() -> Iterator[None]:
    """End what hangs."""
    def late(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def net() -> nn.Module:
    """Return a net that files are loaded into."""
    return nn.Linear(3, 2)


READERS: dict[str, Callable[[Path], Any]] = {
    "load_weights": lambda path: load_weights(net(), path, strict=False),
    "load_checkpoint": lambda path: load_checkpoint(path, net=net()),
}


def too_much(every: int = 1) -> dict[str, Any]:
    """Files that claim more than they are, or make Python hold far more: refused in a second, and in bounded memory."""
    bad, tried = [], 0
    with tempfile.TemporaryDirectory() as name:
        for what, make in list({**safetensors_bombs(), **torch_bombs()}.items())[::every]:
            path = Path(name) / what.replace(" ", "-")
            make(path)
            for reader, read in READERS.items():
                if path.suffix == ".safetensors" or reader == "load_weights":
                    tried += 1
                    outcome = costs(lambda read=read, path=path: read(path), path.stat().st_blocks * 512)
                    bad += [f"{what}, {reader}: {outcome}"] if outcome else []
            path.unlink()
    with two_states() as (state, _), tempfile.TemporaryDirectory() as name:
        target = Path(name) / state.name
        for what, forge in list(state_bombs())[::every]:
            clear(target)
            shutil.copytree(state, target)
            forge(target)
            tried += 1
            size = sum(one.stat().st_blocks * 512 for one in target.iterdir())
            outcome = costs(lambda: decode_state(state_folder.read_state(target, 1)), size)
            bad += [f"{what}: {outcome}"] if outcome else []
    return {"passed": tried - len(bad), "of": tried, "bad": bad[:5], "right": not bad and tried > 15}


def costs(read: Callable[[], Any], size: int) -> str:
    """Return what is wrong with how a file is refused: not at all, in other words, too late, with too much memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is that of now
    memory, began = in_status("VmHWM"), time.process_time()
    try:
        with in_time():
            read()
        return "it was read"
    except (ValueError, CheckpointCorruptError) as error:
        if not getattr(error, "user_mistake", False):
            return f"{type(error).__name__}: {error}"[:200]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    seconds, grown = time.process_time() - began, in_status("VmHWM") - memory - size / 2**20
    if grown > MEMORY:
        return f"{grown:.0f} MB beside the file"
    return f"{seconds:.1f} s" if seconds > SECONDS else ""


def in_status(name: str) -> float:
    """Return what Linux says of this process, in MB."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return float(line.split()[1]) / 1024


def header(names: int, length: int = 0) -> bytes:
    """Return the header of a safetensors file with many empty tensors."""
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(f'"{one:0{length}d}":{entry}' for one in range(names)) + "}").encode()


def safetensors_bombs() -> dict[str, Callable[[Path], Any]]:
    """Return files of safetensors that hold too much, and one of each that is damaged."""
    return {
        "many names.safetensors": lambda path: path.write_bytes(headed(header(400_000))),
        "a few too many names.safetensors": lambda path: path.write_bytes(headed(header(30_000))),
        "as many as are read.safetensors": lambda path: path.write_bytes(headed(header(9_999, 60))),
        "long names.safetensors": lambda path: path.write_bytes(headed(header(10_000, 2_000))),
        "long shapes.safetensors": lambda path: path.write_bytes(headed(json.dumps(
            {"x": {"dtype": "F32", "shape": [1] * (2 << 20), "data_offsets": [0, 4]}}).encode(), b"1234")),
        "much about.safetensors": lambda path: path.write_bytes(headed(json.dumps(
            {"__metadata__": {str(one): "x" for one in range(300_000)}}).encode())),
        "parts of lists.safetensors": lambda path: path.write_bytes(headed(json.dumps({"__metadata__": {
            "format": "torchkeras-checkpoint 1", "parts": "[" + "[]," * 2_600_000 + "0]"}}).encode())),
        "versions of lists.safetensors": lambda path: path.write_bytes(headed(json.dumps({"__metadata__": {
            "torchkeras.versions": "[" + "[]," * 2_600_000 + "0]"}}).encode())),
        "hollow.safetensors": lambda path: hollow(path, headed(json.dumps({
            "__metadata__": {"format": "torchkeras-checkpoint 1", "parts": "{}", "sha256": "0"},
            "weight": {"dtype": "U8", "shape": [100 << 30], "data_offsets": [0, 100 << 30]}}).encode())),
    }


def hollow(path: Path, begin: bytes) -> None:
    """Write the beginning of a file that says it has 100 GB."""
    path.write_bytes(begin)
    os.truncate(path, len(begin) + (100 << 30))


def torch_bombs() -> dict[str, Callable[[Path], Any]]:
    """Return files of torch's formats that hold too much."""
    class Claim:
        def __init__(self, make: Any, *arguments: Any) -> None:
            self.make, self.arguments = make, arguments

        def __reduce__(self) -> Any:
            return self.make, self.arguments

    claim = pickle.dumps({"weight": Claim(bytearray, 2 << 30)}, protocol=2)
    expanded = io.BytesIO()
    torch.save({"weight": torch.zeros(1).expand(1 << 30)}, expanded)
    sets = b"\x80\x02(" + b"\x8f" * 4_000_000 + b"t."
    dicts = b"\x80\x02(ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * 1_500_000 + b"t."
    return {
        **pickle_bombs(), **archive_bombs(),
        "compressed.pt": lambda path: archive(path, {"data/0": bytes(400 << 20)}, zipfile.ZIP_DEFLATED),
        "a claim.pt": lambda path: archive(path, {"data.pkl": claim}),
        "a claim, older.pt": lambda path: path.write_bytes(b"\x80\x02N." * 3 + claim + b"\x80\x02N."),
        "sets.pt": lambda path: archive(path, {"data.pkl": sets}),
        "sets, older.pt": lambda path: path.write_bytes(b"\x80\x02N." * 3 + sets + b"\x80\x02N."),
        "sets, a pickle.pt": lambda path: path.write_bytes(sets),
        "dicts.pt": lambda path: archive(path, {"data.pkl": dicts}),
        "lists.pt": lambda path: archive(path, {"data.pkl": b"\x80\x02(" + b"]" * (60 << 20) + b"t."}),
        "expanded.pt": lambda path: path.write_bytes(expanded.getvalue()),
        "many members.pt": lambda path: archive(path, {f"data/{one}": b"" for one in range(80_000)}),
        "one member many times.pt": overlapping,
    }


def pickle_bombs() -> dict[str, Callable[[Path], Any]]:
    """Return files of torch's formats with pickles of a few bytes that make gigabytes, or take hours."""
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def call(name: str, arguments: bytes) -> bytes:
        return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"

    def claims(count: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", count) + b"\x85"

    doubled = b")" + b"".join(b"q%ch%c\x86" % (one, one) for one in range(40))
    rare = "".join(chr(0x4E00 + one * 7919 % 20_000) for one in range(20_000))
    numbers = call("torch Tensor", claims(3_000_000)) + b"\x85"
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"%btQ"
    shape = b"K\0" + claims(1 << 32)
    view = call("torch._utils _rebuild_tensor_v2", b"(" + storage % claims(6)[:-1] + shape + claims(0) + b"\x89" + call(
        "collections OrderedDict", b")") + b"t")
    meta = call("torch._utils _rebuild_meta_tensor_no_storage", b"(ctorch\nfloat32\n" + claims(10**10) + claims(1)
                + b"\x89t")
    pickles = {
        "a deep key": b"}" + b")" + b"\x85" * 700_000 + b"Ns", "a deep tuple": b")" + b"\x85" * 700_000,
        "a deep size": call("torch Size", b")" + b"\x85" * 700_000 + b"\x85"),
        "a key of 2 to the 40": b"}" + doubled + b"Ns",
        "an item of 2 to the 40": call("builtins set", b"]" + doubled + b"a\x85"),
        "punycode": call("_codecs encode", text(rare) + text("punycode") + b"\x86"),
        "a text as bytes, often": b"(" + text("x" * 700_000) + b"q\0" + call(
            "_codecs encode", b"h\0" + text("latin1") + b"\x86") * 4_000 + b"t",
        "a list as sets": b"(](" + b"".join(b"M" + struct.pack("<H", one) for one in range(50_000)) + b"eq\0" + call(
            "builtins set", b"h\0\x85") * 1_000 + b"t",
        "a storage as a size": call("torch Size", call("torch.storage UntypedStorage", claims(10**7)) + b"\x85"),
        **{f"a tensor as a {one}": call(f"{module} {one}", numbers) for module, one in (
            ("collections", "Counter"), ("builtins", "set"), ("__builtin__", "set"), ("collections", "OrderedDict"))},
        "a tensor of nothing": call("torch Tensor", claims(10**11)),
        "marks": b"(" * 4_000_000, "storages": b"(" + text("a") + b"q\0" + b"h\0Q" * 300_000 + b"t",
        "a large storage": b"}" + text("weight") + storage % claims(10**11)[:-1] + b"s",
        "a large view": b"}" + text("weight") + view + b"s", "no numbers": b"}" + text("weight") + meta + b"s",
        "a method hidden": call("collections OrderedDict", b")") + b"}" + text("items") + b"K\3sb",
    }
    older = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    made: dict[str, Callable[[Path], Any]] = {}
    for what, code in pickles.items():
        content = b"\x80\x02" + code + b"."
        made[f"{what}.pt"] = lambda path, content=content: archive(path, {"data.pkl": content})
        made[f"{what}, older.pt"] = lambda path, content=content: path.write_bytes(older + content + b"\x80\x02].")
    return made


def archive_bombs() -> dict[str, Callable[[Path], Any]]:
    """Return archives that two readers read in two ways."""
    def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        return lambda path: archive(path, {}) or path.write_bytes(change(path.read_bytes()))

    def listed_elsewhere(content: bytes) -> bytes:
        size, begin = struct.unpack("<2I", content[-10:-2])
        return content[:begin] + content[begin:begin + size] * 2 + content[-22:]

    def twice(name: str) -> Callable[[Path], Any]:
        return lambda path: archive(path, {name: b"\x80\x02}."})

    return {"something before.pt": changed(lambda content: b"PK\3\4" + content),
            "something after.pt": changed(lambda content: content + b"x"),
            "two directories.pt": changed(listed_elsewhere), "a name in capitals.pt": twice("DATA.PKL"),
            "a name of another system.pt": twice("data\\..\\data.pkl")}


def archive(path: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive as torch does, with some of its members changed."""
    sound = io.BytesIO()
    torch.save({"weight": torch.zeros(2, 3)}, sound)
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(path, "w", compression) as target:
        root = source.namelist()[0].split("/")[0]
        members = {one: source.read(one) for one in source.namelist()} | {
            f"{root}/{name}": content for name, content in changes.items()}
        for name, content in members.items():
            target.writestr(name, content)


def overlapping(path: Path) -> None:
    """Write an archive of which a thousand members are the same 1 MB."""
    archive(path, {"data/0": bytes(1 << 20)})
    with zipfile.ZipFile(path, "a") as target:
        one = next(each for each in target.infolist() if each.filename.endswith("data/0"))
        for number in range(1000):
            again = zipfile.ZipInfo(f"{one.filename}{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type", "external_attr"):
                setattr(again, name, getattr(one, name))
            target.filelist.append(again)
        target._didModify = True  # type: ignore[attr-defined]


def state_bombs() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Yield states with valid checksums that hold too much."""
    def facts(text: bytes) -> Callable[[Path], None]:
        return lambda target: forged(target, {state_folder.FACTS: text})

    room = (8 << 20) - 100
    rows = {"lists": b"[],", "tuples": b'{"tuple":[]},', "texts": b'"ab",', "numbers": b"0.5,", "dicts": b"{},"}
    for what, one in rows.items():
        for share, words in ((1, "at the limit"), (20, "of a twentieth")):
            yield f"JSON: {what} {words}", facts(b'{"state":[' + one * (room // len(one) // share) + b"0]}")
    yield "JSON: one more byte", facts(b'"' + b"x" * (8 << 20) + b'"')
    many, few = headed(header(150_000)), headed(header(9_900, 150))
    yield "three headers", lambda target: forged(target, dict.fromkeys(state_folder.TENSORS, many))
    yield "three headers and JSON at the limits", lambda target: forged(target, {
        **dict.fromkeys(state_folder.TENSORS, few), state_folder.FACTS: b"[" + b'{"tuple":[]},' * 95_000 + b"0]"})
    yield "a state of 100 GB", lambda target: hollow(
        replaced(target / "state.safetensors"), (target / "state.safetensors").read_bytes()) or listed_again(target)
    packed = json.dumps({"state": TensorJSONEncoder().pack({"position": 1}, ""), "weights": 1, "best": 1, "history": ["x"] * 7})
    yield "a history of other columns", lambda target: forged(target, {state_folder.FACTS: packed.encode()})


def replaced(path: Path) -> Path:
    """Give a file a memory of its own, since it may be linked to."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def listed_again(target: Path) -> None:
    """Write the size of a file into the manifest, with a checksum that nobody comes to."""
    digests = state_folder.read_manifest(target)
    digests["state.safetensors"] = (digests["state.safetensors"][0], (target / "state.safetensors").stat().st_size)
    (target / state_folder.MANIFEST).write_bytes(state_folder.format_manifest(digests))


