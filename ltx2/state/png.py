"""PNG encoding and decoding of one RGB frame.

isal compresses and decompresses, numpy filters rows; both release the GIL. A frame is compressed in independent strips,
so that several cores can work on one frame. Without isal, Pillow and zlib do the same more slowly. Pillow also undoes
the row filters that only other programs use. A PNG is checked here before Pillow decodes it: Pillow fills missing
pixels with black, reads animations and colour profiles, and depends on process-wide switches.
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
except ImportError:  # no wheels for this platform
    isal_zlib = None  # type: ignore[assignment]

Frame = npt.NDArray[np.uint8]
Strip = tuple[bytes, int, int]
"""Some rows of a frame: raw deflate data, then Adler-32 and number of bytes of the filtered rows."""

LARGEST_SIDE = 16_384
MOST_PIXELS = 2**25  # enough for 8K UHD

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_U32 = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bit depth, colour type, compression, filter, interlace
_RGB8 = (8, 2, 0, 0, 0)
_PALETTE = 3
_CHANNELS = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey and alpha, RGBA
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), _PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# of each pass of an interlaced PNG: left, top, and the distances to the next pixel to the right and down
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_DEFLATE_RATIO = 1032  # the largest compression ratio of deflate
_NO_FILTER, _UP = 0, 2  # row filters: the row itself, or its difference from the row above
_WINDOW_BITS = 9  # in rows filtered with Up, a larger window costs time and saves no bytes
_STRIP_ROWS = 256
_ZLIB_HEADER = b"\x18\x57"  # of a zlib stream with this window
_ADLER = 65521
_WIDE = 256  # pixels; a narrower picture can have too many rows for a loop in Python

_flate: Any = isal_zlib or zlib  # both have the same interface


def encode_png(frame: Frame) -> bytes:
    """Encode a uint8 `(H, W, 3)` RGB frame, which must pass `check_size`, as a PNG."""
    return join_strips(frame, [deflate_strip(frame, top) for top in strip_tops(frame)])


def strip_tops(frame: Frame) -> range:
    """The first row of each strip that is compressed independently. The PNG's bytes depend on these rows."""
    return range(0, frame.shape[0], frame.shape[0] if isal_zlib is None else _STRIP_ROWS)


def deflate_strip(frame: Frame, top: int) -> Strip:
    """Compress the strip that begins at row `top`. Strips of one frame may be compressed in parallel.

    Without isal there is one strip, and its data is the whole PNG, written by Pillow.
    """
    height, width, _ = frame.shape
    if isal_zlib is None:
        out = io.BytesIO()
        # level 1: the default level takes as long as the model does and saves few bytes
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


def join_strips(frame: Frame, strips: Sequence[Strip]) -> bytes:
    """Join all strips of a frame, in order, to a PNG."""
    if isal_zlib is None:
        return strips[0][0]
    checksum = 1
    for _, adler, size in strips:
        checksum = _combine_adler32(checksum, adler, size)
    body = [_ZLIB_HEADER, *(data for data, _, _ in strips), _U32.pack(checksum)]
    return _png(_HEADER.pack(frame.shape[1], frame.shape[0], *_RGB8), body)


def _combine_adler32(first: int, second: int, size: int) -> int:
    """The Adler-32 of two joined pieces, from that of each and the number of bytes of the second.

    RFC 1950: a is 1 plus the sum of all bytes, b the sum of a after each byte, both modulo 65521.
    """
    low, high = first & 0xFFFF, first >> 16
    a = (low + (second & 0xFFFF) - 1) % _ADLER
    b = (high + (second >> 16) + size * (low - 1)) % _ADLER
    return b << 16 | a


def check_size(width: int, height: int) -> None:
    """Check the size of a picture.

    Raises:
        ValueError: a side is not in 1..16,384, or there are more than MOST_PIXELS pixels.
    """
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE and width * height <= MOST_PIXELS):
        raise ValueError(f"{width}x{height} pixels: sides must be in 1..{LARGEST_SIDE}, pixels at most {MOST_PIXELS}")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header alone.

    Raises:
        ValueError: not a PNG, too large, or more pixels than its bytes can encode.
    """
    kind, header = next(_chunks(data), (b"", memoryview(b"")))
    if kind != b"IHDR" or len(header) != _HEADER.size:
        raise ValueError("the PNG must begin with its header")
    width, height, *layout = _HEADER.unpack(header)
    depth, colour, compression, filtering, interlace = layout
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace not in (0, 1):
        raise ValueError(f"no PNG has such a header: depth, type, ... = {layout}")
    check_size(width, height)
    if _scanline_bytes(width, height, layout) > _DEFLATE_RATIO * len(data):
        raise ValueError(f"the PNG declares {width}x{height} pixels, more than {len(data)} bytes can hold")
    return width, height


def decode_png(data: bytes) -> Frame:
    """Decode a PNG to a uint8 `(H, W, 3)` RGB frame; of any other kind, the bytes that Pillow's `convert("RGB")` gives.

    Raises:
        ValueError: the PNG is damaged, truncated, animated, or rejected by `png_size`.
    """
    width, height = png_size(data)
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if kinds[-1] != b"IEND":
        raise ValueError("the PNG is truncated: its end is missing")
    if b"acTL" in kinds:
        raise ValueError("the PNG is animated; it must be a single image")
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    header = bytes(chunks[0][1])
    layout = _HEADER.unpack(header)[2:]
    scanlines = _inflate(body, _scanline_bytes(width, height, layout))
    if layout != _RGB8:
        palette = [(kind, part) for kind, part in chunks if kind == b"PLTE"]
        if layout[1] == _PALETTE and len(palette) != 1:
            raise ValueError("the PNG has no palette")
        return _by_pillow(_png(header, [zlib.compress(scanlines, 0)], palette))
    rows = np.frombuffer(scanlines, np.uint8).reshape(height, 1 + 3 * width)
    if width >= _WIDE and np.isin(rows[:, 0], (_NO_FILTER, _UP)).all():
        return _unfiltered(rows).reshape(height, width, 3)
    # level 0, so that Pillow does not decompress a second time
    return _by_pillow(_png(header, [zlib.compress(scanlines, 0)]))


def _by_pillow(png: bytes) -> Frame:
    try:
        with PngImageFile(io.BytesIO(png)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # an undefined scanline filter, or a damaged palette
        raise ValueError(f"the PNG's pixels cannot be decoded ({error})") from None


def _unfiltered(rows: Frame) -> Frame:
    """The pixels of scanlines with the filters None and Up."""
    pixels = rows[:, 1:].copy()
    for y in (np.flatnonzero(rows[1:, 0] == _UP) + 1).tolist():  # the first row has no row above
        np.add(pixels[y], pixels[y - 1], out=pixels[y])
    return pixels


def _scanline_bytes(width: int, height: int, layout: Sequence[int]) -> int:
    """Bytes of all scanlines, each with its filter; an interlaced PNG has seven passes."""
    depth, colour, *_, interlace = layout
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8))
    return total


def _inflate(body: bytes, size: int) -> bytes:
    inflater = _flate.decompressobj()
    try:
        scanlines: bytes = inflater.decompress(body, size + 1)  # one more, to detect extra data
    except _flate.error as error:
        raise ValueError(f"the PNG's pixels cannot be inflated ({error})") from None
    if len(scanlines) != size or not inflater.eof:
        raise ValueError(f"the PNG's pixels do not fill its size exactly: expected {size} bytes")
    return scanlines


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and body of each chunk up to IEND. ValueError: not a PNG, a damaged or truncated chunk, trailing bytes."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    view, at, kind = memoryview(data), len(_SIGNATURE), b""
    while at < len(data) and kind != b"IEND":
        if len(data) - at < 12:
            raise ValueError(f"the PNG is truncated at byte {at}")
        (length,) = _U32.unpack_from(data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"the PNG is truncated at byte {at}: {kind!r} declares {length} bytes")
        if _U32.unpack_from(data, end) != (_flate.crc32(view[at + 4 : end]),):
            raise ValueError(f"the PNG is damaged: {kind!r} at byte {at} fails its checksum")
        yield kind, view[at + 8 : end]
        at = end + 4
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the PNG's end")


def _png(header: bytes, body: Sequence[bytes], extra: Sequence[tuple[bytes, memoryview]] = ()) -> bytes:
    """Build a PNG from a header, the pieces of a zlib stream, and chunks between them."""
    chunks: list[tuple[bytes, bytes | memoryview]] = [(b"IHDR", header), *extra]
    chunks += [*((b"IDAT", piece) for piece in body), (b"IEND", b"")]
    parts: list[bytes | memoryview] = [_SIGNATURE]
    for kind, content in chunks:
        parts += [_U32.pack(len(content)), kind, content, _U32.pack(_flate.crc32(content, _flate.crc32(kind)))]
    return b"".join(parts)
