"""A user's image as the first frame of a segment: checked, scaled to cover the frame, and cropped."""

from __future__ import annotations

import io
import warnings

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ltx2.state.png import Frame, check_size

LARGEST_FILE_BYTES = 64 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP")

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_still(data: bytes, width: int, height: int) -> Frame:
    """Decode a PNG, JPEG or WebP to a uint8 `(height, width, 3)` RGB frame, cropped around its centre.

    EXIF orientation is applied, transparent pixels are blended with black, colour profiles are ignored.

    Raises:
        ValueError: another format, a truncated, unreadable or animated file, more than 8 bits per channel, or too many
            bytes or pixels.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"{len(data)} bytes, the limit is {LARGEST_FILE_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _fitted(_checked(image), width, height)
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"the image is too large ({error})") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds of errors for damaged files
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from None


def recompressed(frame: Frame, crf: int) -> Frame:
    """`frame` as H.264 with quality `crf` shows it, as in the model's training; 0 leaves it as it is.

    A picture without any loss looks to the model like one that never moves.
    """
    if not crf:
        return frame
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1  # the same bytes on every machine
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")), *stream.encode(None)):
            container.mux(packet)
    file.seek(0)
    with av.open(file, "r") as container:
        shown: Frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return shown


def _checked(image: Image.Image) -> Image.Image:
    """The same image, checked before its pixels are decoded."""
    check_size(*image.size)
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"the image has {getattr(image, 'n_frames', 1)} frames; it must have one")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"its pixels are {image.mode}; it must have 8 bits per channel")
    return image


def _fitted(image: Image.Image, width: int, height: int) -> Frame:
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.new("RGBA", layer.size, "black")
        upright.alpha_composite(layer)
    fitted = ImageOps.fit(upright.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.array(fitted)
