"""Shapes in simple pictures, followed from frame to frame: one or two flat colours over a flat background.

Any other picture has none. Positions are pixels from the upper left corner, colours RGB 0..255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_SHAPES = 2
_FINE = 128  # lines of a picture, from twice of which on every other pixel will do
_COARSE = 32  # levels of a colour channel that count as one when colours are counted
_APART = 70.0  # in RGB space, from which on two colours are two
_EDGE = 25.0  # in RGB space, up to which a colour is a mixture of two others
_PART = 0.12  # of what is not background, that one shape has at least
_SMALLEST = 60  # pixels; fewer are no shape
_WHOLE = 0.93  # of its usual area, below which something hides some of it
_TOUCH = 2  # pixels between two shapes, up to which one may hide some of the other
_LARGEST = 0.35  # of a picture; more is no shape over a background
_EXPLAINED = 0.6  # of what is not background, that shapes must cover for a picture to count as simple
_FILLS = {"triangle": (0.40, 0.68), "circle": (0.72, 0.86), "square": (0.93, 1.1)}
"""How much of its bounding box each kind fills: 1/2, pi/4 and 1, with room for soft edges."""


@dataclass(frozen=True, slots=True)
class Track:
    """One shape through T frames. NaN where it is not seen.

    centres: `[T, 2]`, x and y. colour: `[3]`, the mean over all frames. areas: `[T]`, pixels. whole: `[T]`, whether all
    of it is seen, away from the other. kind: circle, square or triangle, or empty where its outline is none of them.
    """

    centres: NDArray[np.float64]
    colour: NDArray[np.float64]
    areas: NDArray[np.float64]
    whole: NDArray[np.bool_]
    kind: str


def track(frames: NDArray[np.uint8], known: Sequence[NDArray[np.float64]] = ()) -> list[Track]:
    """The shapes in frames `[T, H, W, 3]` of one scene; none where pictures are not simple.

    known: colours `[3]` of shapes that were there before: these come first, however little is seen of them, then what
    is new, the commonest first.
    """
    coarse = max(1, min(frames.shape[1:3]) // _FINE)
    pixels = frames[:, ::coarse, ::coarse].astype(np.float32)
    background = _commonest(pixels.reshape(-1, 3))
    stands_out = np.linalg.norm(pixels - background, axis=-1) > _APART
    if not 0 < stands_out.mean() < _LARGEST:
        return []
    colours = _colours(pixels[stands_out], background, [np.asarray(colour, np.float32) for colour in known])
    if not colours:
        return []
    nearest = np.stack([np.linalg.norm(pixels - colour, axis=-1) for colour in colours])
    owner = np.where(stands_out & (nearest.min(0) < _APART), nearest.argmin(0), -1)
    if (owner >= 0).sum() < _EXPLAINED * stands_out.sum():
        return []
    owned = [_without_strays(owner == index) for index in range(len(colours))]
    near = _touching(owned)
    return [_followed(mask, near, pixels, coarse) for mask in owned if mask.any()]


def _commonest(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the colours in the fullest coarse bin of colours `[N, 3]`."""
    bins = (colours // _COARSE).astype(np.int64) @ np.array([1, 256, 65536])
    values, counts = np.unique(bins, return_counts=True)
    return np.asarray(np.median(colours[bins == values[counts.argmax()]], axis=0), np.float32)


def _colours(
    colours: NDArray[np.float32], background: NDArray[np.float32], known: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Up to MOST_SHAPES colours, apart from the background and from each other: the known ones, then the commonest."""
    found: list[NDArray[np.float32]] = []
    total = len(colours)
    for colour in known:
        near = np.linalg.norm(colours - colour, axis=-1) < _APART
        if near.sum() >= _SMALLEST and np.linalg.norm(colour - background) > _APART:
            found.append(np.asarray(np.median(colours[near], axis=0), np.float32))
            colours = colours[~near]
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


def _without_strays(owned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`[T, H, W]` without what lies far from the rest, such as another shape's edge; nothing where little is left."""
    rows, columns = np.arange(owned.shape[1])[:, None], np.arange(owned.shape[2])[None]
    kept = np.zeros_like(owned)
    for index in np.flatnonzero(owned.sum((1, 2)) >= _SMALLEST):
        mask = owned[index]
        for _ in range(2):
            if mask.any():
                down, across = np.nonzero(mask)
                away = np.hypot(rows - np.median(down), columns - np.median(across))
                mask = mask & (away < np.sqrt(mask.sum()) + 1)  # the corners of a triangle are 0.88 of this away
        kept[index] = mask & (mask.sum() >= _SMALLEST)
    return kept


def _touching(owned: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """`[T]`: in which frames two shapes touch, or nearly."""
    together = np.zeros(len(owned[0]), bool)
    for index, mask in enumerate(owned[:-1]):
        for axis in (1, 2):
            for _ in range(_TOUCH):
                mask = mask | _shifted(mask, axis)
        together |= (mask & np.logical_or.reduce(owned[index + 1 :])).any((1, 2))
    return together


def _shifted(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """What is one pixel before or behind `mask` along an axis."""
    there, back = np.zeros_like(mask), np.zeros_like(mask)
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    there[tuple(ahead)] = mask[tuple(behind)]
    back[tuple(behind)] = mask[tuple(ahead)]
    return there | back


def _followed(owned: NDArray[np.bool_], touched: NDArray[np.bool_], pixels: NDArray[np.float32], scale: int) -> Track:
    """The shape of these pixels, each of which stands for `scale` squared; where it is touched, it is not whole."""
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
