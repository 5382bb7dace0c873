"""Comparing what engines give."""

from __future__ import annotations

import numpy as np

from ltx2.request import SegmentOutput


def same(one: SegmentOutput, other: SegmentOutput) -> bool:
    """Whether two segments have the same pictures and the same sound."""
    return np.array_equal(one.frames, other.frames) and np.array_equal(one.sound, other.sound)
