"""Cache folders that were damaged, or made by somebody else: found before any sample is used."""

import errno
import json
import os
import socket
import time

import pytest
import torch
from torch.utils.data import Dataset

from torchkeras.data import blocks, cache


class Numbers(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, number):
        return torch.full((64,), float(number)), number


@pytest.fixture
def folder(tmp_path):
    cache(Numbers(), tmp_path / "cache")
    return tmp_path / "cache"


def with_bytes(name, at, content):
    def spoil(folder):
        with (folder / name).open("r+b") as file:
            file.seek(at)
            file.write(content)

    return spoil


def cut(folder):
    os.truncate(folder / "0.bin", 100)


def longer(folder):
    os.truncate(folder / "1.bin", 200 * 8 + 1)


def linked(folder):
    os.rename(folder / "0.bin", folder / "elsewhere")
    (folder / "0.bin").symlink_to("elsewhere")


def piped(folder):
    os.unlink(folder / "0.bin")
    os.mkfifo(folder / "0.bin")


def a_folder(folder):
    os.unlink(folder / "0.bin")
    (folder / "0.bin").mkdir()


def a_socket(folder):
    os.unlink(folder / "0.bin")
    before = os.getcwd()
    os.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("0.bin")
    os.chdir(before)


@pytest.mark.parametrize(("spoil", "words"), [
    (with_bytes("0.bin", 500 * 64, b"\xff" * 400), "0.bin is damaged between bytes 0 and"),
    (with_bytes("1.bin", 1599, b"\x01"), "1.bin is damaged"), (cut, "0.bin has 100 bytes in place of 51200"),
    (longer, "1.bin has 1601 bytes in place of 1600"), (linked, "0.bin: is a link"),
    (a_folder, "0.bin: is no ordinary file"), (piped, "0.bin: is no ordinary file"), (a_socket, "0.bin: "),
    (lambda folder: os.unlink(folder / "1.bin"), "1.bin: No such file")])
def test_a_damaged_file_is_named_with_what_to_do(spoil, words, folder):
    spoil(folder)
    with pytest.raises(ValueError, match=f"{folder}.*{words}.*Delete the folder"):
        cache(Numbers(), folder)


def test_control_a_sound_cache_is_opened_and_other_files_beside_do_not_matter(folder):
    (folder / "notes.txt").write_text("mine")
    assert cache(Numbers(), folder)[199][1] == 199


@pytest.mark.parametrize("crc", [
    None, {}, [], [[]], [[1], ["1"]], [[1], [True]], [[1, 2], [3]], [[10**400], [1]], [[0], [0]]],
                         ids=lambda one: str(one)[:12])
def test_checksums_that_are_none_are_refused(crc, folder):
    about = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**about, "crc32": crc}))
    with pytest.raises(ValueError, match="damaged"):
        cache(Numbers(), folder)


def test_a_cache_of_an_earlier_version_is_opened_with_a_word(folder):
    about = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({"of": about["of"]}))
    with pytest.warns(UserWarning, match="without checksums"):
        assert cache(Numbers(), folder)[3][1] == 3
    cut(folder)
    with pytest.warns(UserWarning, match="without checksums"), pytest.raises(ValueError, match="100 bytes"):
        cache(Numbers(), folder)


@pytest.mark.parametrize("content", [
    b"", b"[" * 4_000_000, b'{"of": ' * 500_000, b'{"of": ' + b"9" * 5000 + b"}", b'{"of": ' + b"9" * 3_000_000 + b"}",
    b"[1e999]", b"null", b'{"of": null}', b'{"of": ["../../etc/passwd"]}', b'{"of": "' + b"x" * 3_000_000 + b'"}',
    b"\xff\xfe", b"[" + b"[]," * 1_000_000 + b"[]]"], ids=range(12))
def test_a_hostile_word_of_what_a_cache_holds_is_refused_within_a_second(content, folder):
    (folder / "cache.json").write_bytes(content)
    began = time.process_time()
    with pytest.raises(ValueError, match="a cache of") as caught:
        cache(Numbers(), folder)
    assert time.process_time() - began < 1
    assert len(str(caught.value)) < 1000


def test_a_word_of_a_gigabyte_is_not_read(folder):
    os.truncate(folder / "cache.json", 1 << 30)
    began = time.process_time()
    with pytest.raises(ValueError, match="a cache of something else"):
        cache(Numbers(), folder)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("0.bin"), lambda path: path.mkdir()],
                         ids=["pipe", "link", "folder"])
def test_what_stands_in_place_of_the_word_is_not_opened(make, folder):
    os.unlink(folder / "cache.json")
    make(folder / "cache.json")
    with pytest.raises(ValueError, match="a cache of something else"):
        cache(Numbers(), folder)


@pytest.mark.parametrize("make", [lambda path: path.write_text("thesis"), os.mkfifo,
                                  lambda path: path.symlink_to("nowhere")], ids=["file", "pipe", "broken link"])
def test_what_stands_in_place_of_the_folder_is_left_as_it_is(make, tmp_path):
    make(tmp_path / "cache")
    before = os.lstat(tmp_path / "cache")
    with pytest.raises(ValueError, match="a cache of something else"):
        cache(Numbers(), tmp_path / "cache")
    assert os.lstat(tmp_path / "cache") == before
    assert os.listdir(tmp_path) == ["cache"]


def test_a_disk_without_room_is_an_error_that_names_the_folder_and_leaves_nothing(monkeypatch, tmp_path):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device: .*cache'"):
        cache(Numbers(), tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def test_where_room_cannot_be_reserved_the_free_space_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate")
    cache(Numbers(), tmp_path / "one")
    monkeypatch.setattr(blocks.shutil, "disk_usage", lambda path: os.statvfs_result([0] * 10) and type(
        "Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="No space left on device: .*two'"):
        cache(Numbers(), tmp_path / "two")


def test_a_place_that_refuses_the_folder_is_named(monkeypatch, tmp_path):
    def refuse(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output error: .*cache'"):
        cache(Numbers(), tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def test_of_much_more_data_than_can_be_read_in_a_moment_blocks_at_even_distances_are_looked_at(
        monkeypatch, tmp_path):
    monkeypatch.setattr(blocks, "BLOCK", 10)
    monkeypatch.setattr(blocks, "MOST", 10)
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1000))
    known = [blocks.checksums(path)]
    assert len(known[0]) == 100
    assert blocks.damage([path], [1000], known) == ""
    found = []
    for at in range(0, 1000, 10):
        content = bytearray(1000)
        content[at] = 1
        path.write_bytes(content)
        found.append(bool(blocks.damage([path], [1000], known)))
    assert sum(found) == 10
    monkeypatch.setattr(blocks, "MOST", 100)
    assert blocks.damage([path], [1000], known) != ""


def test_parts_without_numbers_are_cached_too(tmp_path):
    class Empty(Numbers):
        def __getitem__(self, number):
            return torch.zeros(0, 3), number

    for _ in range(2):
        found = cache(Empty(), tmp_path / "cache")
        assert found[5][0].shape == (0, 3)
        assert found[5][1] == 5
