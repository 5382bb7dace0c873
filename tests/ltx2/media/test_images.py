"""Decoding a user's image into a frame."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ltx2.media import images
from ltx2.media.images import decode_still, recompressed
from ltx2.media.picture_decoder import decode_picture
from ltx2.processes import python_path

WIDTH, HEIGHT = 64, 32


def picture(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A gradient: red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 // width, rows * 255 // height, 0 * rows], axis=-1).astype(np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "settings"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_png_webp_and_jpeg_are_decoded(kind: str, settings: dict[str, Any]) -> None:
    frame = decode_picture(file_of(Image.fromarray(picture()), kind, **settings), WIDTH, HEIGHT)
    assert (frame.shape, frame.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    error = np.abs(frame.astype(int) - picture())
    assert error.mean() < 4 if kind == "JPEG" else not error.any()


@pytest.mark.parametrize("size", [(128, 64), (256, 64), (128, 256), (33, 61)])
def test_the_largest_centred_part_that_fills_the_frame_is_shown(size: tuple[int, int]) -> None:
    # When an image of another size or aspect ratio is decoded
    frame = decode_picture(file_of(Image.fromarray(picture(*size))), WIDTH, HEIGHT).astype(float)

    # Then the frame shows its centre, and the share of each side that fills the frame
    scale = min(size[0] / WIDTH, size[1] / HEIGHT)
    for channel, axis, (side, whole) in ((0, 1, (WIDTH, size[0])), (1, 0, (HEIGHT, size[1]))):
        line = frame[:, :, channel].mean(axis=1 - axis)
        seen = side * scale / whole
        assert line.mean() == pytest.approx(127, abs=5)
        assert line[-1] - line[0] == pytest.approx(255 * seen, abs=12)


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    data = file_of(Image.fromarray(np.rot90(picture()).copy()), exif=exif)
    assert np.array_equal(decode_picture(data, WIDTH, HEIGHT), picture())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_pixel_mode_becomes_rgb_and_transparency_becomes_black(mode: str) -> None:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (255, 255, 255, 255)).convert(mode)
    assert (decode_picture(file_of(image), WIDTH, HEIGHT) == 255).all()
    if "A" in mode:
        image.putalpha(0)
        assert not decode_picture(file_of(image), WIDTH, HEIGHT).any()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def declared(width: int, height: int) -> bytes:
    """A small PNG file whose header declares this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = file_of(Image.fromarray(picture()))
TWO_FRAMES = file_of(
    Image.fromarray(picture()), "WEBP", save_all=True, append_images=[Image.fromarray(255 - picture())], lossless=True
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG, JPEG or WEBP"),
        (b"%PDF-1.7", "not a PNG, JPEG or WEBP"),
        (file_of(Image.fromarray(picture()), "GIF"), "not a PNG, JPEG or WEBP"),
        (file_of(Image.fromarray(picture()), "TIFF"), "not a PNG, JPEG or WEBP"),
        (GOOD[: len(GOOD) // 2], "cannot be decoded|truncated"),
        (declared(16_385, 1), "16385x1 pixels: sides must be in 1..16384"),
        (declared(8192, 8192), "8192x8192 pixels"),
        (declared(2**31 - 1, 2**31 - 1), "the image is too large"),
        (declared(64, 32), "cannot be decoded|truncated"),
        (TWO_FRAMES, "2 frames; it must have one"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{len(value)} bytes",
)
def test_an_invalid_image_is_a_value_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_picture(data, WIDTH, HEIGHT)


def test_a_file_above_the_size_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_FILE_BYTES", len(GOOD) - 1)
    with pytest.raises(ValueError, match=f"{len(GOOD)} bytes, the limit is {len(GOOD) - 1}"):
        decode_still(GOOD, WIDTH, HEIGHT)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """`png` with chunks after its header."""
    return png[:33] + b"".join(chunks) + png[33:]


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_of_16_bits_the_upper_8_count(mode: str) -> None:
    # Given a PNG of 16 bits per channel, in which the lower 8 are noise
    channels = len(mode)
    high = np.zeros((HEIGHT, WIDTH, channels), np.uint8)
    high[:] = 255
    high[..., 0] = picture()[..., 0]
    values = np.stack([high, 255 - high], axis=-1).reshape(HEIGHT, -1)
    kind = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[mode]
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, kind, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    # When / Then
    frame = decode_picture(png, WIDTH, HEIGHT)
    assert np.array_equal(frame[..., 0], high[..., 0])
    assert np.array_equal(frame[..., 2], high[..., 0] if channels < 3 else high[..., 2])


def test_the_first_picture_of_a_cameras_file_is_taken() -> None:
    # Given a JPEG with a second picture
    first, second = Image.fromarray(picture()), Image.new("RGB", (WIDTH, HEIGHT), "white")
    data = file_of(first, "MPO", save_all=True, append_images=[second], quality=95)
    # When / Then
    assert np.abs(decode_picture(data, WIDTH, HEIGHT).astype(int) - picture()).mean() < 4


def test_text_in_a_png_is_skipped() -> None:
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(8 * 2**20)))
    assert np.array_equal(decode_picture(with_chunks(GOOD, *[text] * 9), WIDTH, HEIGHT), picture())


def test_a_colour_profile_is_converted_to_srgb() -> None:
    # Given pictures whose profile is sRGB, another one, or damaged
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(picture())
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        same = decode_picture(file_of(image, kind, icc_profile=srgb, **options), WIDTH, HEIGHT)
        assert np.abs(same.astype(int) - picture()).max() <= 1
        # Then a profile for other channels than the picture's, and a damaged one, are ignored
        for profile in (lab, b"damaged"):
            frame = decode_picture(file_of(image, kind, icc_profile=profile, **options), WIDTH, HEIGHT)
            assert np.array_equal(frame, picture())
    # And a profile with a steeper curve makes the middle darker
    steep = bytearray(srgb)
    for tag in (b"rTRC", b"gTRC", b"bTRC"):
        at = steep.index(tag)
        start = struct.unpack_from(">I", steep, at + 4)[0]
        steep[start : start + 14] = b"curv" + struct.pack(">IIH", 0, 1, 4 * 256)
    dark = decode_picture(file_of(image, "PNG", icc_profile=bytes(steep)), WIDTH, HEIGHT)
    assert 0 < dark[0, WIDTH // 2, 0] < picture()[0, WIDTH // 2, 0] - 50


def test_a_damaged_exif_is_ignored() -> None:
    assert np.array_equal(decode_picture(with_chunks(GOOD, chunk(b"eXIf", b"MM\0*damaged")), WIDTH, HEIGHT), picture())


HEAVY = {
    # 34 bytes that declare 33 million pixels, all of one colour
    "WebP": bytes.fromhex("524946461a000000574542505650384c0d0000002ffeffff11071011118888fe0700"),
    "EXIF that names the same bytes again and again": file_of(Image.fromarray(picture()))[:-12]
    + chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + struct.pack(">HHII", 0x9286, 7, 900_000, 8) * 65_535 + bytes(10**6))
    + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("kind", HEAVY)
def test_decoding_has_limits_whatever_a_file_asks_for(kind: str, tmp_path: Path) -> None:
    # When a small file asks for much memory or time, of a process that has no other children
    (tmp_path / "picture").write_bytes(HEAVY[kind])
    code = f"""
import resource
import numpy
from ltx2.media.images import decode_still
try:
    with open("picture", "rb") as file:
        numpy.save("frame.npy", decode_still(file.read(), {WIDTH}, {HEIGHT}))
except ValueError as error:
    assert "needs too much memory" in str(error) or "processor time" in str(error), error
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime)
"""
    environ = os.environ | {"PYTHONPATH": python_path()}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, check=True)
    # Then it is refused, or what is heavy was skipped
    kib, seconds = map(float, done.stdout.split())
    assert kib < 500 * 1024
    assert seconds < 3
    frame = tmp_path / "frame.npy"
    assert not frame.exists() or np.array_equal(np.load(frame), picture())


def test_a_picture_with_ever_more_scans_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a JPEG of 8 million pixels whose last scan is repeated a thousand times
    jpeg = file_of(Image.new("RGB", (4096, 2048), "red"), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    # When / Then
    monkeypatch.setattr(images, "SECONDS", 0.0)
    with pytest.raises(ValueError, match="more than 1 s of processor time"):
        decode_still(jpeg[:-2] + scan * 1000 + b"\xff\xd9", WIDTH, HEIGHT)


def test_a_child_decodes_as_this_process_does() -> None:
    data = file_of(Image.fromarray(picture(33, 61)), "JPEG")
    assert np.array_equal(decode_still(data, WIDTH, HEIGHT), decode_picture(data, WIDTH, HEIGHT))
    with pytest.raises(ValueError, match="not a PNG, JPEG or WEBP file"):
        decode_still(b"%PDF-1.7", WIDTH, HEIGHT)


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_a_damaged_image_is_decoded_or_a_value_error(kind: str, data: st.DataObject) -> None:
    # Given
    file = bytearray(file_of(Image.fromarray(picture()), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    # When / Then
    try:
        frame = decode_picture(bytes(file), WIDTH, HEIGHT)
    except ValueError:
        return
    assert frame.shape == (HEIGHT, WIDTH, 3)


def test_a_start_image_is_compressed_like_a_frame_of_a_film() -> None:
    # Given a picture with fine detail
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    # When / Then less quality removes more of it, 0 leaves it alone, and the result is always the same
    differences = [np.abs(recompressed(noise, crf).astype(int) - noise).mean() for crf in (0, 18, 33, 51)]
    assert differences[0] == 0
    assert differences == sorted(differences)
    assert 1 < differences[1] < differences[2]
    assert np.array_equal(recompressed(noise, 33), recompressed(noise, 33))
    assert recompressed(noise, 33).shape == noise.shape
