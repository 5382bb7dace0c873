"""One RGB frame to PNG and back. Pillow does the work; a faster encoder would replace `encode_png` alone.

A PNG that comes in is taken apart here before Pillow sees it: Pillow fills what a short stream leaves out with black,
follows animations and colour profiles, and obeys switches that are global to the process.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

Frame = npt.NDArray[np.uint8]

LARGEST_SIDE = 16_384
MOST_PIXELS = 2**25  # 8K UHD fits

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bit depth, colour type, compression, filter, interlace
_RGB8 = (8, 2, 0, 0, 0)
_DEFLATE_RATIO = 1032  # deflate cannot shrink anything further


def encode_png(frame: Frame) -> bytes:
    """A uint8 `(H, W, 3)` RGB frame as a PNG. It must pass `check_size`."""
    out = io.BytesIO()
    # level 1: the default takes as long as the model does, for files hardly smaller
    Image.fromarray(np.ascontiguousarray(frame)).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def check_size(width: int, height: int) -> None:
    """ValueError: a side that is not in 1..16,384, or more pixels than 8K UHD has."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE and width * height <= MOST_PIXELS):
        raise ValueError(f"{width}x{height} pixels: sides are 1..{LARGEST_SIDE}, together at most {MOST_PIXELS} pixels")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header alone. ValueError: no 8-bit RGB PNG, or one too large to be true."""
    kind, header = next(_chunks(data), (b"", b""))
    if kind != b"IHDR" or len(header) != _HEADER.size:
        raise ValueError("a PNG must begin with its header")
    width, height, *layout = _HEADER.unpack(header)
    if tuple(layout) != _RGB8:
        raise ValueError(f"a PNG of 8-bit RGB, not interlaced, is needed; this one says depth, type, ... = {layout}")
    check_size(width, height)
    if _scanline_bytes(width, height) > _DEFLATE_RATIO * len(data):
        raise ValueError(f"declares {width}x{height} pixels, more than {len(data)} bytes can hold")
    return width, height


def decode_png(data: bytes) -> Frame:
    """The uint8 `(H, W, 3)` RGB frame in a PNG. ValueError: damaged, cut short, animated, or refused by `png_size`."""
    width, height = png_size(data)
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if kinds[-1] != b"IEND":
        raise ValueError("the PNG is cut short: its end is missing")
    if b"acTL" in kinds:
        raise ValueError("an animated PNG: one image is needed")
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    scanlines = _inflate(body, _scanline_bytes(width, height))
    # stored instead of compressed, so that Pillow does not inflate a second time
    plain = _chunk(b"IHDR", chunks[0][1]) + _chunk(b"IDAT", zlib.compress(scanlines, 0)) + _chunk(b"IEND", b"")
    try:
        with PngImageFile(io.BytesIO(_SIGNATURE + plain)) as image:
            return np.array(image)
    except (OSError, SyntaxError) as error:  # an undefined scanline filter is all that is left to go wrong
        raise ValueError(f"the PNG's pixels cannot be decoded ({error})") from None


def _scanline_bytes(width: int, height: int) -> int:
    return height * (1 + 3 * width)


def _inflate(body: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        scanlines = inflater.decompress(body, size + 1)  # one more, to notice that there is more
    except zlib.error as error:
        raise ValueError(f"the PNG's pixels cannot be inflated ({error})") from None
    if len(scanlines) != size or not inflater.eof:
        raise ValueError(f"the PNG's pixels do not fill its size exactly: {size} bytes are needed")
    return scanlines


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each chunk up to IEND. ValueError: no PNG, a damaged chunk, one past the end, trailing bytes."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    at, kind = len(_SIGNATURE), b""
    while at < len(data) and kind != b"IEND":
        if len(data) - at < 12:
            raise ValueError(f"the PNG is cut short at byte {at}")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"the PNG is cut short at byte {at}: {kind!r} says it has {length} bytes")
        body = data[at + 8 : end]
        if data[at : end + 4] != _chunk(kind, body):
            raise ValueError(f"the PNG is damaged: {kind!r} at byte {at} fails its checksum")
        yield kind, body
        at = end + 4
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the PNG's end")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
