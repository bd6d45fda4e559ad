"""Folders of images from somebody else: each odd file costs little, and is named."""

import io
import os
import socket
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image, PngImagePlugin

from torchkeras.data import ImageFolder
from torchkeras.data.images import images_in, read_image


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks, pixels=b"\0"):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), *chunks, chunk(
        b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def of_pixels(width, height):
    return png(width, height, pixels=bytes(height * (3 * width + 1)))


def saved(form, count=1, **options):
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (number % 256, 0, 0)) for number in range(count)]
    frames[0].save(file, form, save_all=count > 1, **({"append_images": frames[1:]} if count > 1 else {}), **options)
    return file.getvalue()


def with_exif(content):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (255, 0, 0)).save(file, "JPEG", exif=content)
    return file.getvalue()


TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20)))
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80 << 20)))
GIF = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
LARGE_FRAME = GIF + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0x80) + bytes(6) + b"\x02\x02\x4c\x01\x00;"


pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow's, which says a word and goes on


@pytest.mark.parametrize(("content", "words"), [
    (png(20_000, 20_000), "exceeds limit"), (png(12_000, 12_000), "has 12000 x 12000 pixels, and 89,478,485"),
    (png(2**31 - 1, 2**31 - 1), "exceeds limit"), (png(0, 5), "cannot be read|no pixels"),
    (of_pixels(64, 64)[:60], "cannot be read"), (png(64, 64, TEXT), "cannot be read"),
    (png(64, 64, PROFILE), "cannot be read"), (LARGE_FRAME, "cannot be read|pixels"),
    (b"", "none of BMP, GIF"), (b"\x89PNG\r\n\x1a\n", "cannot be read"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of BMP"),
    (b"P6\n99999 99999\n255\n", "exceeds limit"), (b"P6\n1 1\n", "cannot be read"),
    (b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**30, -2**30, 1, 24, 0, 0, 0, 0, 0, 0), "cannot be read"),
    (b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 4, 1, 2**31 - 1), "cannot be read"),
    (b"RIFF\xff\xff\xff\x7fWEBPVP8 ", "cannot be read"), (b"\xff\xd8\xff\xe0", "cannot be read")],
    ids=range(17))
def test_a_file_that_would_cost_much_or_is_none_is_refused_with_its_name_and_costs_little(content, words, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"x.png', which .*({words}).*Remove the file"):
            read_image(tmp_path / "x.png", "RGB")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [
    of_pixels(8, 8), saved("GIF", 2000), saved("TIFF", 300), saved("WEBP", 100, lossless=True), saved("PNG", 50),
    with_exif(b"Exif\0\0garbage"), with_exif(b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    with_exif(b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 3, 1, 77)),
    with_exif(b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 2, 2**30, 8))],
    ids=["plain", "GIF of 2000", "TIFF of 300", "WebP of 100", "PNG of 50", "EXIF of nothing", "EXIF far away",
         "turned by 77", "turned by a text"])
def test_control_what_is_an_image_in_spite_of_all_is_read(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    assert read_image(tmp_path / "x.png", "RGB").size in ((8, 8), (6, 4))


def test_the_limit_is_pillows_own_and_can_be_raised(monkeypatch, tmp_path):
    (tmp_path / "x.png").write_bytes(of_pixels(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)
    with pytest.raises(ValueError, match="40 x 30 pixels, and 1,199 are allowed"):
        read_image(tmp_path / "x.png", "L")
    for most in (1200, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert read_image(tmp_path / "x.png", "L").size == (40, 30)


def test_what_is_no_ordinary_file_is_left_aside_and_links_go_in_no_circle(tmp_path):
    folder = tmp_path / "cat"
    folder.mkdir()
    (folder / "1.png").write_bytes(of_pixels(2, 2))
    (folder / "2.png").symlink_to("1.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "broken.png").symlink_to("nowhere")
    (folder / "up").symlink_to(tmp_path)
    before = os.getcwd()
    os.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s.png")
    os.chdir(before)
    assert [path.name for path in images_in(folder)] == ["1.png", "2.png"]


def test_names_with_control_characters_are_spelled_out_in_errors(tmp_path):
    name = "\x1b[2J\nall is well.png"
    (tmp_path / "cat\n").mkdir()
    (tmp_path / "cat\n" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="which it is|cannot be read") as caught:
        ImageFolder(tmp_path)[0]
    os.unlink(tmp_path / "cat\n" / name)
    with pytest.raises(ValueError, match="without images") as empty:
        ImageFolder(tmp_path)
    for one in (caught, empty):
        assert "\x1b" not in str(one.value)
        assert "\n" not in str(one.value)


def test_a_text_that_many_images_carry_is_no_reason_to_refuse_them(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("prompt", "x" * 100_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=about)
    assert read_image(tmp_path / "x.png", "RGB").size == (8, 8)
