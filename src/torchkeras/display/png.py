"""Encode samples as small PNG pictures for a page, without an imaging library."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor

LARGEST = 96  # pixels of a side
LEAST = 8  # rows and columns from which numbers are taken for a picture


def picture(sample: object) -> str | None:
    """Return a sample of shape ([1, 3 or 4,] height, width) as a ``data:`` URL; None for others."""
    if not isinstance(sample, Tensor) or sample.is_complex() or not sample.numel():
        return None
    pixels = sample.unsqueeze(0) if sample.dim() == 2 else sample
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3, 4) or min(pixels.shape[1:]) < LEAST:
        return None
    apart = -(-max(pixels.shape[1:]) // LARGEST)
    shades = to_bytes(pixels[:3, ::apart, ::apart])
    return "data:image/png;base64," + base64.b64encode(encode(shades)).decode()


def to_bytes(pixels: Tensor) -> Tensor:
    """Scale numbers to 0..255, from the least to the largest; uint8 stays as it is."""
    if pixels.dtype == torch.uint8:
        return pixels
    finite = torch.nan_to_num(pixels.detach().float(), posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return ((finite - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)


def encode(pixels: Tensor) -> bytes:
    """Encode bytes of shape (1 or 3, height, width) as PNG (https://www.w3.org/TR/png/)."""
    channels, height, width = pixels.shape
    rows = pixels.cpu().permute(1, 2, 0).reshape(height, width * channels).contiguous().numpy()
    colour = 0 if channels == 1 else 2
    body = b"".join(b"\0" + row.tobytes() for row in rows)  # 0: the row is not filtered
    return b"\x89PNG\r\n\x1a\n" + b"".join([
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")])


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    length, checksum = len(content), zlib.crc32(kind + content)
    return struct.pack(">I", length) + kind + content + struct.pack(">I", checksum)
