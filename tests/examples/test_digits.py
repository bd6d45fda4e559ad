"""The digits of the examples: what is at hand, idx files as they come, and honest words when there are none."""

import gzip
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import digits  # noqa: E402 (the examples are scripts in a folder, not a package)

NOWHERE = ("http://127.0.0.1:9/",)
MNIST = Path(os.environ.get("TORCHKERAS_MNIST", ROOT.parent / "shared" / "data" / "mnist"))


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_an_idx_file_is_read_with_its_shape(pack, tmp_path):
    (tmp_path / "images").write_bytes(pack(idx(IMAGES)))
    found = digits.read_idx(tmp_path / "images")
    assert (found.dtype, found.flags.writeable) == (np.uint8, True)
    assert np.array_equal(found, IMAGES)
    assert not np.array_equal(found, IMAGES.transpose(0, 2, 1).reshape(3, 4, 5))  # the order of the values counts


@pytest.mark.parametrize(("content", "complaint"), [
    (b"", "begins with nothing"),
    (b"<html>", "begins with 3c 68 74 6d"),
    (b"\0\0\x0d" + idx(IMAGES)[3:], "begins with 00 00 0d 03"),  # floats, not bytes
    (idx(IMAGES)[:-1], "received 75 bytes; expected 76"),
    (idx(IMAGES) + b"x", "received 77 bytes; expected 76"),
    (idx(IMAGES)[:7], "received 7 bytes"),
    (gzip.compress(idx(IMAGES))[:-9], "ends early"),
    (gzip.compress(idx(IMAGES))[:10] + b"\xff" * 20, "damaged"),
], ids=["empty", "a web page", "another type", "cut short", "too long", "half a header", "gzip cut", "gzip damaged"])
def test_a_file_that_is_no_whole_idx_file_is_refused_by_name(content, complaint, tmp_path):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as error:
        digits.read_idx(tmp_path / "images")
    assert str(tmp_path / "images") in str(error.value)


def test_a_file_with_another_checksum_is_refused_and_left_where_it_is(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(10)))
    with pytest.raises(ValueError, match="SHA-256 .* delete it and fetch it again"):
        digits.find(path.name, tmp_path, NOWHERE)
    assert path.is_file()


def test_offline_it_says_which_file_from_where_and_what_to_do(tmp_path):
    with pytest.raises(ConnectionError) as error:
        digits.load_digits(tmp_path / "new", NOWHERE)
    for part in ("train-images-idx3-ubyte.gz", "http://127.0.0.1:9/", str(tmp_path), "without --data"):
        assert part in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []


def mirror(folder: Path, content: bytes) -> str:
    folder.mkdir()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
    return folder.as_uri() + "/"


def test_a_missing_file_comes_from_the_first_mirror_that_has_the_right_one(tmp_path, monkeypatch):
    right = gzip.compress(idx(np.arange(10)))
    monkeypatch.setitem(digits.SHA256, "train-labels-idx1-ubyte", hashlib.sha256(gzip.decompress(right)).hexdigest())
    mirrors = (*NOWHERE, mirror(tmp_path / "wrong", gzip.compress(b"other")), mirror(tmp_path / "right", right))
    path = digits.find("train-labels-idx1-ubyte", tmp_path / "here", mirrors)
    assert np.array_equal(digits.read_idx(path), np.arange(10))
    assert list((tmp_path / "here").iterdir()) == [path]  # nothing half-written stays
    with pytest.raises(ConnectionError, match="SHA-256"):
        digits.find("train-labels-idx1-ubyte", tmp_path / "there", mirrors[:2])
    assert list((tmp_path / "there").iterdir()) == []


def test_the_digits_at_hand_are_balanced_and_split_the_same_each_time():
    found, again = digits.load_digits(), digits.load_digits()
    assert found.train_images.shape == (4000, 28, 28)
    assert found.test_images.shape == (1000, 28, 28)
    assert found.train_images.dtype == np.uint8
    assert np.bincount(found.train_labels).tolist() == [400] * 10
    assert np.bincount(found.test_labels).tolist() == [100] * 10
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    assert np.bincount(found.train_labels[-400:]).min() > 20  # in no order of classes: the last tenth has them all
    assert not {image.tobytes() for image in found.train_images} & {image.tobytes() for image in found.test_images}


@pytest.mark.skipif(not MNIST.is_dir(), reason="the full MNIST is not here; TORCHKERAS_MNIST names its folder")
def test_the_full_mnist_is_read_and_checked():
    found = digits.load_digits(MNIST, NOWHERE)
    assert [array.shape for array in found] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert found.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert found.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
