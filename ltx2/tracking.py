"""Shapes in simple pictures, followed from frame to frame: one or two flat colours over a flat background.

Any other picture has none. Positions are pixels from the upper left corner, colours RGB 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_SHAPES = 2
_COARSE = 32  # levels of a colour channel that count as one when colours are counted
_APART = 70.0  # in RGB space, from which on two colours are two
_EDGE = 25.0  # in RGB space, up to which a colour is a mixture of two others
_PART = 0.12  # of what is not background, that one shape has at least
_SMALLEST = 60  # pixels; fewer are no shape
_WHOLE = 0.93  # of its usual area, below which another shape or a wall hides some of it
_LARGEST = 0.35  # of a picture; more is no shape over a background
_EXPLAINED = 0.6  # of what is not background, that shapes must cover for a picture to count as simple
_FILLS = {"triangle": (0.40, 0.64), "circle": (0.70, 0.87), "square": (0.91, 1.1)}
"""How much of its bounding box each kind fills: 1/2, pi/4 and 1, with room for soft edges."""


@dataclass(frozen=True, slots=True)
class Track:
    """One shape through T frames. NaN where it is not seen.

    centres: `[T, 2]`, x and y. colour: `[3]`, the mean over all frames. areas: `[T]`, pixels. whole: `[T]`, whether all
    of it is seen. kind: circle, square or triangle, or empty where its outline is none of them.
    """

    centres: NDArray[np.float64]
    colour: NDArray[np.float64]
    areas: NDArray[np.float64]
    whole: NDArray[np.bool_]
    kind: str


def track(frames: NDArray[np.uint8]) -> list[Track]:
    """The shapes in frames `[T, H, W, 3]` of one scene, the commonest first; none where pictures are not simple."""
    pixels = frames.astype(np.float32)
    background = _commonest(pixels.reshape(-1, 3))
    stands_out = np.linalg.norm(pixels - background, axis=-1) > _APART
    if not 0 < stands_out.mean() < _LARGEST:
        return []
    colours = _colours(pixels[stands_out], background)
    nearest = np.stack([np.linalg.norm(pixels - colour, axis=-1) for colour in colours]) if colours else None
    if nearest is None:
        return []
    owner = np.where(stands_out & (nearest.min(0) < _APART), nearest.argmin(0), -1)
    if (owner >= 0).sum() < _EXPLAINED * stands_out.sum():
        return []
    return [_followed(owner == index, pixels) for index in range(len(colours))]


def _commonest(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the colours in the fullest coarse bin of colours `[N, 3]`."""
    bins = (colours // _COARSE).astype(np.int64) @ np.array([1, 256, 65536])
    values, counts = np.unique(bins, return_counts=True)
    return np.asarray(np.median(colours[bins == values[counts.argmax()]], axis=0), np.float32)


def _colours(colours: NDArray[np.float32], background: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Up to MOST_SHAPES colours of which there is much, each apart from the background and from the others."""
    found: list[NDArray[np.float32]] = []
    total = len(colours)
    while len(colours) and len(found) < MOST_SHAPES:
        colour = _commonest(colours)
        near = np.linalg.norm(colours - colour, axis=-1) < _APART
        apart = all(np.linalg.norm(colour - other) > _APART for other in (background, *found))
        if near.sum() > _PART * total and apart and not any(_is_between(colour, background, one) for one in found):
            found.append(colour)
        colours = colours[~near]
    return found


def _is_between(colour: NDArray[np.float32], one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether a colour is a mixture of two others, as the soft edge between them is."""
    way = other - one
    part = float(np.clip((colour - one) @ way / (way @ way), 0, 1))
    return bool(np.linalg.norm(one + part * way - colour) < _EDGE)


def _followed(owned: NDArray[np.bool_], pixels: NDArray[np.float32]) -> Track:
    areas = owned.sum((1, 2)).astype(np.float64)
    seen = areas >= _SMALLEST
    centres, fills = np.full((len(owned), 2), np.nan), np.full(len(owned), np.nan)
    for index in np.flatnonzero(seen):
        rows, columns = np.nonzero(owned[index])
        centres[index] = columns.mean() + 0.5, rows.mean() + 0.5
        fills[index] = _fill(rows, columns, owned.shape[1:])
    colour = pixels[owned].mean(0) if owned.any() else np.full(3, np.nan)
    whole = seen & (areas > _WHOLE * np.percentile(areas[seen], 90)) if seen.any() else seen
    kind = _kind(fills[whole])
    return Track(centres, np.asarray(colour, np.float64), np.where(seen, areas, np.nan), whole, kind)


def _fill(rows: NDArray[np.intp], columns: NDArray[np.intp], size: tuple[int, ...]) -> float:
    """The part of its bounding box that a shape fills, without stray pixels; NaN at a wall, which may hide some."""
    top, bottom = np.percentile(rows, (0.5, 99.5))
    left, right = np.percentile(columns, (0.5, 99.5))
    if top < 1 or left < 1 or bottom > size[0] - 2 or right > size[1] - 2:
        return float("nan")
    return float(len(rows) / ((bottom - top + 1) * (right - left + 1)))


def _kind(fills: NDArray[np.float64]) -> str:
    known = fills[~np.isnan(fills)]
    if not len(known):
        return ""
    fill = float(np.median(known))
    return next((kind for kind, (low, high) in _FILLS.items() if low <= fill <= high), "")
