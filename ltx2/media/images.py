"""A picture from somebody's disk as the first frame of a segment: read with care, scaled to cover it, its edges cut."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ltx2.state.png import Frame, check_size

LARGEST_FILE_BYTES = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP")

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_still(data: bytes, width: int, height: int) -> Frame:
    """The uint8 `(height, width, 3)` RGB frame that a PNG, JPEG or WebP gives: its middle, where the shapes differ.

    Turned as its EXIF data says; what is transparent lies on black; colour profiles are not looked at. ValueError:
    another format, cut short or unreadable, animated, more than 8 bits per channel, too large a file or a picture.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"{len(data)} bytes; {LARGEST_FILE_BYTES} are the most that is read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _fitted(_checked(image), width, height)
    except UnidentifiedImageError:
        raise ValueError(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"too large a picture ({error})") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen kinds for damaged files
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from None


def _checked(image: Image.Image) -> Image.Image:
    """The same image; its pixels are not decoded yet."""
    check_size(*image.size)
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{getattr(image, 'n_frames', 1)} frames; one picture is needed")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"its pixels are {image.mode}; 8 bits per channel are needed")
    return image


def _fitted(image: Image.Image, width: int, height: int) -> Frame:
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.new("RGBA", layer.size, "black")
        upright.alpha_composite(layer)
    fitted = ImageOps.fit(upright.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.array(fitted)
