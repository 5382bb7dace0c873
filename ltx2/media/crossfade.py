"""Crossfade of the frames that two segments have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def crossfaded(tail: NDArray[np.uint8], head: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames that lead from one segment's to the next one's.

    tail: the last v frames of a segment, uint8 `[v, H, W, 3]`. head: the first v frames of its continuation, which
    repeat them. Frame j is (j + 1) / (v + 1) of `head` and the rest of `tail`, so the last is closest to `head`.

    Raises:
        ValueError: the two have different shapes.
    """
    if tail.shape != head.shape:
        raise ValueError(f"frames {tail.shape} and {head.shape} cannot be crossfaded: their shapes must be equal")
    count = len(tail)
    weights = (np.arange(count, dtype=np.float32) + 1).reshape(-1, 1, 1, 1) / (count + 1)
    start = tail.astype(np.float32)
    mixed: NDArray[np.uint8] = np.rint(start + weights * (head - start)).astype(np.uint8)
    return mixed


def crossfaded_into(frames: NDArray[np.uint8], head: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A segment's frames, uint8 `[n, H, W, 3]`, of which the last ones lead into `head`, `[v, H, W, 3]`."""
    count = len(head)
    return np.concatenate([frames[:-count], crossfaded(frames[-count:], head)])
