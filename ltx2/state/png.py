"""One RGB frame to PNG and back.

isal compresses and inflates, numpy filters by row; both let go of the GIL. A frame is compressed in strips, for more
cores than there are frames. Where isal is not installed, Pillow and zlib do the same, slower. Pillow also undoes the
row filters that other programs use. A PNG that comes in is taken apart here before Pillow sees it: Pillow fills what a
short stream leaves out with black, follows animations and colour profiles, and obeys switches that are global to the
process.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

try:
    from isal import isal_zlib
except ImportError:  # there are no wheels for this platform
    isal_zlib = None  # type: ignore[assignment]

Frame = npt.NDArray[np.uint8]
Strip = tuple[bytes, int, int]
"""Some rows of a frame: raw deflate, the Adler-32 of the filtered rows, and how many bytes those are."""

LARGEST_SIDE = 16_384
MOST_PIXELS = 2**25  # 8K UHD fits

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_U32 = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bit depth, colour type, compression, filter, interlace
_RGB8 = (8, 2, 0, 0, 0)
_DEFLATE_RATIO = 1032  # deflate cannot shrink anything further
_NO_FILTER, _UP = 0, 2  # how a row is stored: as it is, or less the row above
_WINDOW_BITS = 9  # in what a row differs from the one above, matches from further back cost time and save no bytes
_STRIP_ROWS = 256
_ZLIB_HEADER = b"\x18\x57"  # of a stream with that window
_ADLER = 65521
_WIDE = 256  # pixels; a picture less wide may have too many rows to go through them in Python

_flate: Any = isal_zlib or zlib  # one interface


def encode_png(frame: Frame) -> bytes:
    """A uint8 `(H, W, 3)` RGB frame as a PNG. It must pass `check_size`."""
    return png_of(frame, [deflated(frame, top) for top in strip_tops(frame)])


def strip_tops(frame: Frame) -> range:
    """The first rows of the strips that are compressed by themselves; where they lie decides the PNG's bytes."""
    return range(0, frame.shape[0], frame.shape[0] if isal_zlib is None else _STRIP_ROWS)


def deflated(frame: Frame, top: int) -> Strip:
    """The rows of the strip that begins at row `top`, compressed; strips of a frame may be made beside one another.

    Without isal there is one strip, and Pillow makes the whole PNG of it.
    """
    height, width, _ = frame.shape
    if isal_zlib is None:
        out = io.BytesIO()
        # level 1: the default takes as long as the model does, for files hardly smaller
        Image.fromarray(np.ascontiguousarray(frame)).save(out, format="PNG", compress_level=1)
        return out.getvalue(), 0, 0
    pixels = np.ascontiguousarray(frame[top : top + _STRIP_ROWS]).reshape(-1, 3 * width)
    scanlines = np.empty((len(pixels), 1 + 3 * width), np.uint8)
    scanlines[:, 0] = _UP
    scanlines[0, 1:] = pixels[0] - (frame[top - 1].ravel() if top else 0)
    np.subtract(pixels[1:], pixels[:-1], out=scanlines[1:, 1:])
    deflater = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -_WINDOW_BITS)
    flush = isal_zlib.Z_FINISH if top + _STRIP_ROWS >= height else isal_zlib.Z_FULL_FLUSH
    return deflater.compress(scanlines) + deflater.flush(flush), isal_zlib.adler32(scanlines), scanlines.size


def png_of(frame: Frame, strips: Sequence[Strip]) -> bytes:
    """The PNG of a frame from all its strips, in order."""
    if isal_zlib is None:
        return strips[0][0]
    checksum = 1
    for _, adler, size in strips:
        checksum = _adler32_of_both(checksum, adler, size)
    body = [_ZLIB_HEADER, *(data for data, _, _ in strips), _U32.pack(checksum)]
    return _png(_HEADER.pack(frame.shape[1], frame.shape[0], *_RGB8), body)


def _adler32_of_both(first: int, second: int, size: int) -> int:
    """Of two pieces, from the Adler-32 of each and the bytes of the second (RFC 1950: a is 1 + their sum, b the sum of
    all a on the way, both modulo 65521)."""
    low, high = first & 0xFFFF, first >> 16
    a = (low + (second & 0xFFFF) - 1) % _ADLER
    b = (high + (second >> 16) + size * (low - 1)) % _ADLER
    return b << 16 | a


def check_size(width: int, height: int) -> None:
    """ValueError: a side that is not in 1..16,384, or more pixels than 8K UHD has."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE and width * height <= MOST_PIXELS):
        raise ValueError(f"{width}x{height} pixels: sides are 1..{LARGEST_SIDE}, together at most {MOST_PIXELS} pixels")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header alone. ValueError: no 8-bit RGB PNG, or one too large to be true."""
    kind, header = next(_chunks(data), (b"", memoryview(b"")))
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
    rows = np.frombuffer(scanlines, np.uint8).reshape(height, 1 + 3 * width)
    if width >= _WIDE and np.isin(rows[:, 0], (_NO_FILTER, _UP)).all():
        return _unfiltered(rows).reshape(height, width, 3)
    # stored instead of compressed, so that Pillow does not inflate a second time
    plain = _png(bytes(chunks[0][1]), [zlib.compress(scanlines, 0)])
    try:
        with PngImageFile(io.BytesIO(plain)) as image:
            return np.array(image)
    except (OSError, SyntaxError) as error:  # an undefined scanline filter is all that is left to go wrong
        raise ValueError(f"the PNG's pixels cannot be decoded ({error})") from None


def _unfiltered(rows: Frame) -> Frame:
    """The pixels of scanlines that each have the filter None or Up."""
    pixels = rows[:, 1:].copy()
    for y in (np.flatnonzero(rows[1:, 0] == _UP) + 1).tolist():  # above the first row is nothing to add
        np.add(pixels[y], pixels[y - 1], out=pixels[y])
    return pixels


def _scanline_bytes(width: int, height: int) -> int:
    return height * (1 + 3 * width)


def _inflate(body: bytes, size: int) -> bytes:
    inflater = _flate.decompressobj()
    try:
        scanlines: bytes = inflater.decompress(body, size + 1)  # one more, to notice that there is more
    except _flate.error as error:
        raise ValueError(f"the PNG's pixels cannot be inflated ({error})") from None
    if len(scanlines) != size or not inflater.eof:
        raise ValueError(f"the PNG's pixels do not fill its size exactly: {size} bytes are needed")
    return scanlines


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and body of each chunk up to IEND. ValueError: no PNG, a damaged chunk, one past the end, trailing bytes."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    view, at, kind = memoryview(data), len(_SIGNATURE), b""
    while at < len(data) and kind != b"IEND":
        if len(data) - at < 12:
            raise ValueError(f"the PNG is cut short at byte {at}")
        (length,) = _U32.unpack_from(data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"the PNG is cut short at byte {at}: {kind!r} says it has {length} bytes")
        if _U32.unpack_from(data, end) != (_flate.crc32(view[at + 4 : end]),):
            raise ValueError(f"the PNG is damaged: {kind!r} at byte {at} fails its checksum")
        yield kind, view[at + 8 : end]
        at = end + 4
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the PNG's end")


def _png(header: bytes, body: Sequence[bytes]) -> bytes:
    """The PNG of a header and a zlib stream in pieces."""
    parts = [_SIGNATURE]
    for kind, content in ((b"IHDR", header), *((b"IDAT", piece) for piece in body), (b"IEND", b"")):
        parts += (_U32.pack(len(content)), kind, content, _U32.pack(_flate.crc32(content, _flate.crc32(kind))))
    return b"".join(parts)
