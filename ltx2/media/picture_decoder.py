"""Decodes a user's picture. Run as a program, it is a child process with limits: see `ltx2.media.images`.

One rule for every kind of picture: the first picture of a file, turned upright, scaled to cover the frame and cropped
around its centre, in sRGB, on black where it is transparent. Of 16 bits, the upper 8 count. Everything else in a file
(text, previews, further pictures of a camera) is skipped; a damaged EXIF or colour profile is ignored.
"""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ltx2.media.limited_child import run_limited
from ltx2.state.png import Frame, check_size

FORMATS = ("PNG", "JPEG", "WEBP")
CAMERA_FORMAT = "MPO"  # a JPEG with further pictures, such as previews or a second eye
MOST_PROFILE_BYTES = 4 * 2**20

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_GREY_16 = ("I;16", "I;16B", "I;16L")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_picture(data: bytes, width: int, height: int) -> Frame:
    """Decode a PNG, JPEG or WebP to a uint8 `(height, width, 3)` RGB frame.

    Raises:
        ValueError: another format, or a truncated, unreadable, animated or too large picture.
    """
    try:
        pixels, profile = _png_pixels(data) if data.startswith(_PNG) else (data, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
                _check(image)
                return _fitted(image, profile or image.info.get("icc_profile"), width, height)
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"the image is too large ({error})") from None
    except MemoryError:
        raise ValueError("decoding it needs too much memory") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds of errors for damaged files
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from None


def _check(image: Image.Image) -> None:
    """Check the header of a picture, before its pixels are decoded."""
    check_size(*image.size)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != CAMERA_FORMAT:
        raise ValueError(f"the image has {frames} frames; it must have one")
    if image.mode not in (*_EIGHT_BIT_MODES, *_GREY_16):
        raise ValueError(f"its pixels are {image.mode}; it must have 8 or 16 bits per channel")


def _fitted(image: Image.Image, profile: bytes | None, width: int, height: int) -> Frame:
    turn = _UPRIGHT.get(_orientation(image))
    sideways = turn is not None and turn not in (_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4])
    size = (height, width) if sideways else (width, height)
    small = ImageOps.fit(_continuous(image), size, Image.Resampling.LANCZOS)
    if turn is not None:
        small = small.transpose(turn)
    alpha = small.getchannel("A") if small.mode in ("LA", "RGBA") else None
    if alpha is not None:
        small = small.convert(small.mode[:-1])
    colours = _srgb(small, profile)
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", colours.size), alpha)
    return np.array(colours)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # EXIF that is damaged in any way
        return 1


def _continuous(image: Image.Image) -> Image.Image:
    """The same picture in a mode that can be scaled: L, LA, RGB, RGBA or CMYK."""
    if image.mode in _GREY_16:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and len(profile) <= MOST_PROFILE_BYTES:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # damaged, or for other channels than the picture has
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def _png_pixels(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG with only those chunks that say how it looks, and its colour profile."""
    kept, profile = [_PNG], None
    for kind, chunk in _chunks(data):
        if kind in _PNG_KEPT:
            kept.append(chunk)
        elif kind == b"iCCP" and profile is None:
            profile = _inflated(chunk[8:-4].partition(b"\0")[2][1:])
    return b"".join(kept), profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of every chunk of a PNG; the last one may be truncated."""
    at = len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at : at + 12 + length]
        at += 12 + length


def _inflated(body: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(body, MOST_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _decode(arguments: Sequence[str]) -> bytes:
    """The pixels of the picture on standard input, of the width and height in `arguments`."""
    width, height = map(int, arguments)
    return decode_picture(sys.stdin.buffer.read(), width, height).tobytes()


if __name__ == "__main__":
    sys.exit(run_limited(_decode))
