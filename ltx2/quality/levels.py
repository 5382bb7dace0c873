"""Brightness, colour and contrast of pictures: steps at a join, drift over many joins, and pictures of one colour.

A channel's level is its mean over a picture, its spread the standard deviation, both 0..255.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Levels = NDArray[np.float64]

_WINDOW = 3  # frames on each side of a step; their median does not see a flash of one frame
_FLAT = 2.0  # largest spread of a picture of one colour; encoders add less


@dataclass(frozen=True, slots=True)
class LevelStep:
    """How levels, or spreads, change at a join: red, green and blue, 0..255.

    step: from the 3 frames before to the 3 frames after. usual: the largest such step, up or down, inside the two
    segments. excess: the step without the trend around it, such as that of a fade.
    """

    step: tuple[float, float, float]
    usual: tuple[float, float, float]
    excess: tuple[float, float, float]


def levels_of(frames: NDArray[np.uint8]) -> tuple[Levels, Levels]:
    """Levels and spreads of frames `[T, H, W, 3]`, `[T, 3]` each."""
    values = np.arange(256)
    counts = np.array([[np.bincount(channel.ravel(), minlength=256) for channel in _channels(one)] for one in frames])
    shares = counts.reshape(-1, 3, 256) / max(1, frames[..., 0].size // max(1, len(frames)))
    levels = shares @ values
    return levels, np.sqrt((shares * (values - levels[..., None]) ** 2).sum(-1))


def step_between(before: Levels, after: Levels) -> LevelStep:
    """The step from `before` to `after`, the levels or the spreads `[T, 3]` of two segments."""
    inside = [_steps(before), _steps(after)]
    largest = np.abs(np.concatenate(inside)).max(0, initial=0.0)
    step = np.median(after[:_WINDOW], 0) - np.median(before[-_WINDOW:], 0)
    trend = np.mean([one[index] if len(one) else np.zeros(3) for one, index in zip(inside, (-1, 0), strict=True)], 0)
    return LevelStep(_rgb(step), _rgb(largest), _rgb(step - trend))


def is_flat(spreads: Levels) -> bool:
    """Whether each of the pictures with these spreads `[T, 3]` has one colour."""
    return bool((spreads < _FLAT).all())


def shows_one_colour(frames: Iterable[NDArray[np.uint8]]) -> bool:
    """Whether each of these frames `[H, W, 3]` has one colour; looks at no more than it must."""
    return all(is_flat(levels_of(frame[None])[1]) for frame in frames)


def _channels(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.moveaxis(frame, -1, 0)


def _steps(levels: Levels) -> Levels:
    """The step at every frame that has enough frames before and after it, `[n, 3]`."""
    if len(levels) < 2 * _WINDOW:
        return np.zeros((0, 3))
    medians = np.median(sliding_window_view(levels, _WINDOW, axis=0), -1)
    return np.asarray(medians[_WINDOW:] - medians[:-_WINDOW], np.float64)


def _rgb(values: Levels) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
