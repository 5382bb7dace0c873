"""One frame to PNG and back, and PNGs that are not what they say."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile

from ltx2.png import LARGEST_SIDE, decode_png, encode_png, png_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 4, 8
ROW = b"\0" + b"\x11\x22\x33" * WIDTH
FRAME = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int = WIDTH, height: int = HEIGHT, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def pixels(rows: bytes = ROW * HEIGHT) -> bytes:
    return chunk(b"IDAT", zlib.compress(rows))


END = chunk(b"IEND", b"")
GOOD = SIGNATURE + header() + pixels() + END


def saved(mode: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(out, format="PNG", **options)
    return out.getvalue()


def saved_as(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(out, format=form)
    return out.getvalue()


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_a_frame_comes_back_exactly(frame: np.ndarray) -> None:
    png = encode_png(frame)
    assert png_size(png) == (frame.shape[1], frame.shape[0])
    decoded = decode_png(png)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, frame)


def test_a_frame_that_is_a_view_comes_back_exactly() -> None:
    frame = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(3, 16, 16).transpose(1, 2, 0)[::2, ::-1]
    assert np.array_equal(decode_png(encode_png(frame)), frame)


def test_a_decoded_frame_can_be_written_to() -> None:
    frame = decode_png(encode_png(FRAME))
    frame[0, 0] = 0
    assert frame[0, 0].tolist() == [0, 0, 0]


def test_pixels_may_come_in_many_chunks_and_beside_others() -> None:
    body = zlib.compress(ROW * HEIGHT)
    split = b"".join(chunk(b"IDAT", body[i : i + 3]) for i in range(0, len(body), 3))
    png = SIGNATURE + header() + chunk(b"tEXt", b"Title\0boat") + split + END
    assert np.array_equal(decode_png(png), decode_png(GOOD))


@pytest.mark.parametrize(
    ("png", "complaint"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (saved_as("JPEG"), "not a PNG"),
        (saved_as("GIF"), "not a PNG"),
        (saved_as("BMP"), "not a PNG"),
        (SIGNATURE, "begin with its header"),
        (SIGNATURE + pixels() + END, "begin with its header"),
        (SIGNATURE + chunk(b"IHDR", b"short") + END, "begin with its header"),
        (GOOD[:20], "cut short"),
        (GOOD[:50], "cut short"),
        (GOOD[:-12], "its end is missing"),
        (GOOD[:-1], "cut short"),
        (GOOD + b"more", "4 bytes after"),
        (SIGNATURE + header() + struct.pack(">I", 2**31) + b"IDAT" + bytes(40), "2147483648 bytes"),
        (GOOD.replace(b"IDAT", b"IDAU"), "checksum"),
        (SIGNATURE + header() + END, "cannot be|do not fill"),
        (SIGNATURE + header() + pixels(ROW * 3) + END, "do not fill"),
        (SIGNATURE + header() + pixels(ROW * HEIGHT + b"\0") + END, "do not fill"),
        (SIGNATURE + header() + pixels(b"") + END, "do not fill"),
        (SIGNATURE + header() + chunk(b"IDAT", zlib.compress(ROW * HEIGHT)[:-5]) + END, "do not fill"),
        (SIGNATURE + header() + chunk(b"IDAT", zlib.compress(ROW * HEIGHT)[:-4]) + END, "do not fill"),
        (SIGNATURE + header() + chunk(b"IDAT", b"no zlib stream") + END, "cannot be inflated"),
        (SIGNATURE + header() + pixels((b"\x09" + ROW[1:]) * HEIGHT) + END, "cannot be decoded"),
        (SIGNATURE + header() + chunk(b"acTL", struct.pack(">II", 2, 0)) + pixels() + END, "animated"),
        (SIGNATURE + header(0, 8) + pixels() + END, "0x8"),
        (SIGNATURE + header(4, 0) + pixels() + END, "4x0"),
        (SIGNATURE + header(2**31 - 1, 2**31 - 1) + pixels() + END, "2147483647x2147483647"),
        (SIGNATURE + header(LARGEST_SIDE + 1, 1) + pixels() + END, "16385x1"),
        (SIGNATURE + header(LARGEST_SIDE, LARGEST_SIDE) + pixels() + END, "at most"),
        (SIGNATURE + header(4096, 4096) + pixels() + END, "more than .* bytes can hold"),
        (saved("L"), "8-bit RGB"),
        (saved("1"), "8-bit RGB"),
        (saved("P"), "8-bit RGB"),
        (saved("LA"), "8-bit RGB"),
        (saved("RGBA"), "8-bit RGB"),
        (saved("I;16"), "8-bit RGB"),
        (SIGNATURE + header(depth=16) + pixels() + END, "8-bit RGB"),
        (SIGNATURE + header(interlace=1) + pixels() + END, "not interlaced"),
    ],
)
def test_what_is_no_plain_rgb_png_is_refused(png: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode_png(png)


@given(st.data())
def test_a_damaged_png_is_refused(data: st.DataObject) -> None:
    # Given a PNG of which one byte changed: every byte is under a checksum, or is one
    at = data.draw(st.integers(0, len(GOOD) - 1))
    damaged = bytearray(GOOD)
    damaged[at] ^= data.draw(st.integers(1, 255))
    # Then it is no frame
    with pytest.raises(ValueError):
        decode_png(bytes(damaged))


def test_switches_of_the_whole_process_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a Pillow told to tolerate damage, and to warn of any image at all
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    # Then a good PNG is read without a word, and a short one refused
    assert decode_png(GOOD).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="do not fill"):
        decode_png(SIGNATURE + header() + pixels(ROW * 3) + END)
