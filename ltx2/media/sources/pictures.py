"""Pictures of a user's video as RGB frames of a job's size."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from typing import cast

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideData, Type
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from ltx2.media.sources.opening import check_sdr

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_HD_LINES = 720  # pictures without a colour matrix: BT.709 from this height on, as players assume
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_WIDEST_PIXEL = 16


class Fit(StrEnum):
    """How a picture of another shape fills a frame: cut around its centre, or with black around it."""

    CROP = "crop"
    PAD = "pad"


class Fitter:
    """Turns decoded pictures upright and scales them to uint8 RGB `(height, width, 3)`; alpha is ignored.

    pixel_aspect: the width of a pixel by its height, from the container; None: square.
    """

    def __init__(self, width: int, height: int, fit: Fit, pixel_aspect: Fraction | None) -> None:
        self._size, self._fit = (width, height), fit
        self._aspect = pixel_aspect
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """One picture. ValueError: it is HDR."""
        check_sdr(frame.color_trc)
        matrix = _matrix(frame)
        sideways = matrix is not None and abs(matrix[0]) < abs(matrix[1])
        width, height = (self._size[1], self._size[0]) if sideways else self._size  # of the frame before it is turned
        across, down = self._scaled(frame, width, height)
        unspecified = frame.colorspace == _UNSPECIFIED and frame.height >= _HD_LINES
        rgb = self._reformatter.reformat(
            frame,
            width=across,
            height=down,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if unspecified else None,
            interpolation=_EXACT,
            threads=1,
        )
        pixels = _centred(cast("NDArray[np.uint8]", rgb.to_ndarray()), width, height)
        return np.ascontiguousarray(pixels if matrix is None else _turned(pixels, matrix))

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> tuple[int, int]:
        """The size to which a picture is scaled, so that it covers the frame or fits into it."""
        aspect = self._aspect or Fraction(1)
        if not Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL:
            aspect = Fraction(1)
        scales = Fraction(width) / (frame.width * aspect), Fraction(height) / frame.height
        scale = max(scales) if self._fit == Fit.CROP else min(scales)
        across, down = max(1, round(frame.width * aspect * scale)), max(1, round(frame.height * scale))
        if self._fit == Fit.PAD:
            return across, down
        # no more than what is shown, or a picture of one line would be scaled to millions of pixels
        if across > 4 * width or down > 4 * height:
            raise ValueError(f"its pictures of {frame.width}x{frame.height} are too long to be cropped; use `fit: pad`")
        return across, down


def _centred(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """`pixels`, cropped or with black around it, at the centre of `height` x `width`."""
    for axis, wanted in ((0, height), (1, width)):
        surplus = pixels.shape[axis] - wanted
        if surplus > 0:
            pixels = pixels.take(range(surplus // 2, surplus // 2 + wanted), axis)
        elif surplus < 0:
            before = -surplus // 2
            around = [(0, 0)] * 3
            around[axis] = (before, -surplus - before)
            pixels = np.pad(pixels, around)
    return pixels


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """The display matrix (a, b, c, d): a point (x, y) is shown at (a x + c y, b x + d y). None: upright."""
    # typed as a mapping, but it iterates over what it holds
    data = [one for one in cast("Iterable[SideData]", frame.side_data) if one.type == Type.DISPLAYMATRIX]
    if not data:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", memoryview(data[0]))
    return None if not (a or b) or not (c or d) else (a, b, c, d)


def _turned(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """`pixels` by the nearest turn of a quarter circle, and mirrored where the matrix does so."""
    a, b, c, d = matrix
    if abs(a) < abs(b):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
