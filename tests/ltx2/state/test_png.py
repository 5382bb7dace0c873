"""Encoding a frame as PNG, decoding it, and rejecting invalid PNGs; with and without isal."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import zlib
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile

from ltx2.state import png as with_isal
from ltx2.state.png import LARGEST_SIDE, decode_png, encode_png, png_size

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


def import_without_isal() -> ModuleType:
    """Import `ltx2.state.png` as if isal were not installed."""
    spec = importlib.util.spec_from_file_location("png_without_isal", with_isal.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as hidden:
        hidden.setitem(sys.modules, "isal", None)
        spec.loader.exec_module(module)
    assert module.isal_zlib is None
    return module


without_isal = import_without_isal()
BOTH = pytest.mark.parametrize("png", [with_isal, without_isal], ids=["isal", "no isal"])


def by_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


END = chunk(b"IEND", b"")
GOOD = SIGNATURE + header() + pixels() + END


def pillow_png(mode: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(out, format="PNG", **options)
    return out.getvalue()


def pillow_file(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(out, format=form)
    return out.getvalue()


@BOTH
@given(frame=arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 300), st.just(3))))
def test_a_frame_round_trips_exactly(png: ModuleType, frame: np.ndarray) -> None:
    # When
    data = png.encode_png(frame)
    # Then
    assert png_size(data) == (frame.shape[1], frame.shape[0])
    # And our decoder, with and without isal, and Pillow's give the same frame
    for decoded in (with_isal.decode_png(data), without_isal.decode_png(data), by_pillow(data)):
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, frame)


@BOTH
@given(frame=arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(250, 260), st.just(3))), data=st.data())
def test_rows_may_have_any_filter(png: ModuleType, frame: np.ndarray, data: st.DataObject) -> None:
    # Given rows with different filters: kinds 0 and 2 only, or all five
    height, width, _ = frame.shape
    most = data.draw(st.sampled_from([(0, 2), (0, 1, 2, 3, 4)]))
    filters = data.draw(st.lists(st.sampled_from(most), min_size=height, max_size=height))
    rows = b"".join(bytes([kind]) + frame[y].tobytes() for y, kind in enumerate(filters))
    image = SIGNATURE + header(width, height) + pixels(rows) + END
    # When / Then it decodes to the pixels that Pillow decodes
    assert np.array_equal(png.decode_png(image), by_pillow(image))


@given(
    height=st.integers(250, 1030),
    width=st.integers(1, 40),
    levels=st.sampled_from([(0, 1), (255, 256), (0, 256), (254, 256)]),
    seed=st.integers(0, 2**32),
)
def test_a_tall_frame_round_trips_exactly(height: int, width: int, levels: tuple[int, int], seed: int) -> None:
    # Given a frame that is compressed in one or more strips
    frame = np.random.default_rng(seed).integers(*levels, (height, width, 3), np.uint8)
    # When
    data = encode_png(frame)
    # Then it decodes, so the strips' combined checksum is that of the whole stream
    for decoded in (decode_png(data), without_isal.decode_png(data), by_pillow(data)):
        assert np.array_equal(decoded, frame)


def test_encoding_with_and_without_isal_differs_in_bytes_only() -> None:
    frame = noise(40, 300) // 16
    fast, slow = with_isal.encode_png(frame), without_isal.encode_png(frame)
    assert fast != slow
    assert np.array_equal(without_isal.decode_png(fast), with_isal.decode_png(slow))


def test_encoding_a_frame_gives_the_same_bytes_each_time() -> None:
    frame = noise(64, 300) // 16
    assert {encode_png(frame) for _ in range(20)} == {encode_png(frame)}


def test_a_frame_that_is_a_view_round_trips_exactly() -> None:
    frame = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(3, 16, 16).transpose(1, 2, 0)[::2, ::-1]
    assert np.array_equal(decode_png(encode_png(frame)), frame)


@BOTH
@pytest.mark.parametrize("width", [4, 300])
def test_a_decoded_frame_is_writable(png: ModuleType, width: int) -> None:
    frame = png.decode_png(png.encode_png(noise(8, width)))
    frame[0, 0] = 0
    assert frame[0, 0].tolist() == [0, 0, 0]


def test_pixels_may_be_split_into_chunks_and_other_chunks_are_ignored() -> None:
    # Given
    body = zlib.compress(ROW * HEIGHT)
    split = b"".join(chunk(b"IDAT", body[i : i + 3]) for i in range(0, len(body), 3))
    png = SIGNATURE + header() + chunk(b"tEXt", b"Title\0boat") + split + END
    # When / Then
    assert np.array_equal(decode_png(png), decode_png(GOOD))


@BOTH
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (pillow_file("JPEG"), "not a PNG"),
        (pillow_file("GIF"), "not a PNG"),
        (pillow_file("BMP"), "not a PNG"),
        (SIGNATURE, "begin with its header"),
        (SIGNATURE + pixels() + END, "begin with its header"),
        (SIGNATURE + chunk(b"IHDR", b"short") + END, "begin with its header"),
        (GOOD[:20], "truncated"),
        (GOOD[:50], "truncated"),
        (GOOD[:-12], "its end is missing"),
        (GOOD[:-1], "truncated"),
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
        (SIGNATURE + header() + chunk(b"IDAT", zlib.compress(ROW * HEIGHT)[:-1] + b"?") + END, "cannot be inflated"),
        (SIGNATURE + header() + pixels((b"\x09" + ROW[1:]) * HEIGHT) + END, "cannot be decoded"),
        (SIGNATURE + header(300, 8) + pixels((b"\x09" + bytes(900)) * 8) + END, "cannot be decoded"),
        (SIGNATURE + header() + chunk(b"acTL", struct.pack(">II", 2, 0)) + pixels() + END, "animated"),
        (SIGNATURE + header(0, 8) + pixels() + END, "0x8"),
        (SIGNATURE + header(4, 0) + pixels() + END, "4x0"),
        (SIGNATURE + header(2**31 - 1, 2**31 - 1) + pixels() + END, "2147483647x2147483647"),
        (SIGNATURE + header(LARGEST_SIDE + 1, 1) + pixels() + END, "16385x1"),
        (SIGNATURE + header(LARGEST_SIDE, LARGEST_SIDE) + pixels() + END, "at most"),
        (SIGNATURE + header(4096, 4096) + pixels() + END, "more than .* bytes can hold"),
        (SIGNATURE + header(depth=16) + pixels() + END, "do not fill"),
        (SIGNATURE + header(interlace=1) + pixels(ROW * 3) + END, "do not fill"),
        (SIGNATURE + header(interlace=2) + pixels() + END, "no PNG has such a header"),
        (SIGNATURE + header(depth=4) + pixels() + END, "no PNG has such a header"),
    ],
)
def test_a_png_that_is_not_whole_or_not_valid_is_rejected(png: ModuleType, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        png.decode_png(data)


@BOTH
@given(data=st.data())
def test_a_damaged_png_is_rejected(png: ModuleType, data: st.DataObject) -> None:
    # Given a PNG with one changed byte
    at = data.draw(st.integers(0, len(GOOD) - 1))
    damaged = bytearray(GOOD)
    damaged[at] ^= data.draw(st.integers(1, 255))
    # When / Then
    with pytest.raises(ValueError):
        png.decode_png(bytes(damaged))


@BOTH
@given(data=st.data())
def test_a_damaged_stream_with_a_valid_chunk_checksum_is_rejected(png: ModuleType, data: st.DataObject) -> None:
    # Given compressed pixels with one byte changed before the chunk's checksum was computed
    frame = noise(8, 300)
    body = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in frame), 1))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    # When
    try:
        decoded = png.decode_png(SIGNATURE + header(300, 8) + chunk(b"IDAT", bytes(body)) + END)
    except ValueError:
        return
    # Then only bits that do not affect pixels, such as the compression level, have changed
    assert np.array_equal(decoded, frame)


def test_global_settings_of_pillow_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given Pillow set to accept damaged images, and to warn about every image
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    # When / Then a valid PNG is decoded without a warning, and a short one is rejected
    assert decode_png(GOOD).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="do not fill"):
        decode_png(SIGNATURE + header() + pixels(ROW * 3) + END)


@BOTH
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_pngs_of_other_kinds_become_rgb_as_pillow_converts_them(png: ModuleType, mode: str) -> None:
    data = pillow_png(mode)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(png.decode_png(data), np.array(image.convert("RGB")))


@BOTH
@given(depth=st.sampled_from([8, 16]), width=st.integers(1, 20), height=st.integers(1, 20))
def test_interlaced_pngs_are_decoded(png: ModuleType, depth: int, width: int, height: int) -> None:
    # Given the passes of an interlaced PNG of one colour
    layout = (depth, 2, 0, 0, 1)
    size = png._scanline_bytes(width, height, layout)
    rows = []
    for left, top, right, down in png._ADAM7:
        columns = -(-(width - left) // right)
        lines = -(-(height - top) // down)
        rows += [b"\0" + b"\x40" * (columns * 3 * depth // 8)] * lines if columns > 0 and lines > 0 else []
    # When / Then
    assert len(b"".join(rows)) == size
    data = SIGNATURE + header(width, height, depth=depth, interlace=1) + pixels(b"".join(rows)) + END
    assert (png.decode_png(data) == 0x40).all()
