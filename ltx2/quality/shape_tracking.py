"""Tracking of shapes in simple pictures: one or two flat colours over a flat background.

Any other picture is not simple. Positions are pixels from the upper left corner, colours RGB 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_SHAPES = 2
_FINE = 128  # a picture whose shorter side is k times as long is subsampled by k
_COARSE = 32  # levels of a colour channel that are counted as one
_APART = 70.0  # smallest distance in RGB space of two different colours
_EDGE = 25.0  # largest distance in RGB space of a colour from the mixtures of two others
_PART = 0.12  # smallest part of the foreground that is a shape
_SMALLEST = 60  # pixels of the smallest shape
_WHOLE = 0.93  # part of its usual area below which a shape is partly hidden
_TOUCH = 2  # largest distance in pixels at which one shape may hide part of another
_LARGEST = 0.35  # largest part of a picture that is foreground
_EXPLAINED = 0.6  # smallest part of the foreground that shapes cover in a simple picture, and of a colour in one place
_EVEN = 35.0  # largest distance in RGB space of most pixels of a flat colour from it
_EVEN_BACKGROUND, _EVEN_SHAPE = (
    0.9,
    0.5,
)  # parts of background and shapes that are that close; small shapes have soft edges
_FILLS = {"triangle": (0.40, 0.68), "circle": (0.72, 0.86), "square": (0.93, 1.1)}
"""How much of its bounding box each kind fills: 1/2, pi/4 and 1, with a tolerance for soft edges."""


@dataclass(frozen=True, slots=True)
class Track:
    """One shape in T frames. Values are NaN in frames in which it is not visible.

    centres: `[T, 2]`, x and y. colour: `[3]`, the mean over all frames. areas: `[T]`, pixels. whole: `[T]`, whether all
    of it is visible and it touches no other shape. kind: circle, square or triangle, empty if unknown.
    """

    centres: NDArray[np.float64]
    colour: NDArray[np.float64]
    areas: NDArray[np.float64]
    whole: NDArray[np.bool_]
    kind: str


def track(frames: NDArray[np.uint8], known: Sequence[NDArray[np.float64]] = ()) -> list[Track] | None:
    """The shapes in frames `[T, H, W, 3]` of one scene; None if the pictures are not simple.

    known: colours `[3]` of earlier shapes. They come first in the result, even if only a small part is visible, then
    new shapes by frequency of their colour.
    """
    coarse = max(1, min(frames.shape[1:3]) // _FINE)
    pixels = frames[:, ::coarse, ::coarse].astype(np.float32)
    background = _most_common(pixels.reshape(-1, 3))
    distance = np.linalg.norm(pixels - background, axis=-1)
    foreground = distance > _APART
    if foreground.mean() >= _LARGEST or (distance[~foreground] < _EVEN).mean() < _EVEN_BACKGROUND:
        return None
    if not foreground.any():
        return []
    colours = _colours(pixels[foreground], background, [np.asarray(colour, np.float32) for colour in known])
    if not colours:
        return None
    distances = np.stack([np.linalg.norm(pixels - colour, axis=-1) for colour in colours])
    nearest = distances.min(0)
    owner = np.where(foreground & (nearest < _APART), distances.argmin(0), -1)
    shapes = owner >= 0
    if shapes.sum() < _EXPLAINED * foreground.sum() or (nearest[shapes] < _EVEN).mean() < _EVEN_SHAPE:
        return None
    owned = [_without_strays(owner == index) for index in range(len(colours))]
    if sum(mask.sum() for mask in owned) < _EXPLAINED * shapes.sum():
        return None
    near = _touching(owned)
    return [_track(mask, near, pixels, coarse) for mask in owned if mask.any()]


def _most_common(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median of the colours `[N, 3]` in the coarse bin with the most of them."""
    bins = (colours // _COARSE).astype(np.int64) @ np.array([1, 256, 65536])
    values, counts = np.unique(bins, return_counts=True)
    return np.asarray(np.median(colours[bins == values[counts.argmax()]], axis=0), np.float32)


def _colours(
    colours: NDArray[np.float32], background: NDArray[np.float32], known: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Up to MOST_SHAPES colours that differ from the background and each other: known ones, then the most common."""
    found: list[NDArray[np.float32]] = []
    total = len(colours)
    for colour in known:
        near = np.linalg.norm(colours - colour, axis=-1) < _APART
        if near.sum() >= _SMALLEST and np.linalg.norm(colour - background) > _APART:
            found.append(np.asarray(np.median(colours[near], axis=0), np.float32))
            colours = colours[~near]
    while len(colours) and len(found) < MOST_SHAPES:
        colour = _most_common(colours)
        near = np.linalg.norm(colours - colour, axis=-1) < _APART
        apart = all(np.linalg.norm(colour - other) > _APART for other in (background, *found))
        if near.sum() > _PART * total and apart and not any(_is_between(colour, background, one) for one in found):
            found.append(colour)
        colours = colours[~near]
    return found


def _is_between(colour: NDArray[np.float32], one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether a colour is a mixture of two others, such as a soft edge between them."""
    difference = other - one
    part = float(np.clip((colour - one) @ difference / (difference @ difference), 0, 1))
    return bool(np.linalg.norm(one + part * difference - colour) < _EDGE)


def _without_strays(owned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`[T, H, W]` without pixels far from the rest, such as another shape's edge; empty if few pixels remain."""
    rows, columns = np.arange(owned.shape[1])[:, None], np.arange(owned.shape[2])[None]
    kept = np.zeros_like(owned)
    for index in np.flatnonzero(owned.sum((1, 2)) >= _SMALLEST):
        mask = owned[index]
        for _ in range(2):
            if mask.any():
                down, across = np.nonzero(mask)
                away = np.hypot(rows - np.median(down), columns - np.median(across))
                mask = mask & (away < np.sqrt(mask.sum()) + 1)  # the corners of a triangle are at 0.88 of it
        kept[index] = mask & (mask.sum() >= _SMALLEST)
    return kept


def _touching(owned: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """`[T]`: the frames in which two shapes touch, or nearly touch."""
    together = np.zeros(len(owned[0]), bool)
    for index, mask in enumerate(owned[:-1]):
        for axis in (1, 2):
            for _ in range(_TOUCH):
                mask = mask | _shifted(mask, axis)
        together |= (mask & np.logical_or.reduce(owned[index + 1 :])).any((1, 2))
    return together


def _shifted(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """`mask` shifted by one pixel along an axis, in both directions."""
    there, back = np.zeros_like(mask), np.zeros_like(mask)
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    there[tuple(ahead)] = mask[tuple(behind)]
    back[tuple(behind)] = mask[tuple(ahead)]
    return there | back


def _track(owned: NDArray[np.bool_], touched: NDArray[np.bool_], pixels: NDArray[np.float32], scale: int) -> Track:
    """The track of one shape's pixels, subsampled by `scale`. In frames in which it is touched, it is not whole."""
    areas = owned.sum((1, 2)).astype(np.float64)
    seen = areas > 0
    centres, fills = np.full((len(owned), 2), np.nan), np.full(len(owned), np.nan)
    for index in np.flatnonzero(seen):
        rows, columns = np.nonzero(owned[index])
        centres[index] = scale * (columns.mean() + 0.5), scale * (rows.mean() + 0.5)
        fills[index] = _fill(rows, columns, owned.shape[1:])
    alone = seen & ~touched
    whole = alone & (areas > _WHOLE * np.percentile(areas[alone], 90)) if alone.any() else alone
    colour = np.asarray(pixels[owned].mean(0), np.float64)
    return Track(centres, colour, np.where(seen, scale**2 * areas, np.nan), whole, _kind(fills[whole]))


def _fill(rows: NDArray[np.intp], columns: NDArray[np.intp], size: tuple[int, ...]) -> float:
    """The part of its bounding box that a shape fills, without stray pixels; NaN at a wall, which may hide a part."""
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
