from __future__ import annotations

import numpy as np
import pytest

from ltx2.media.crossfade import crossfaded


def test_each_frame_has_more_of_the_next_segment() -> None:
    # Given three black frames, and three that repeat them in white
    tail, head = np.zeros((3, 4, 6, 3), np.uint8), np.full((3, 4, 6, 3), 255, np.uint8)
    # When
    mixed = crossfaded(tail, head)
    # Then
    assert mixed.dtype == np.uint8
    assert mixed.shape == tail.shape
    assert [sorted(set(frame.flat)) for frame in mixed] == [[64], [128], [191]]
    # And frames that are equal stay so
    assert (crossfaded(head, head) == head).all()


def test_frames_of_different_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"frames \(2, 4, 6, 3\) and \(1, 4, 6, 3\) cannot be crossfaded"):
        crossfaded(np.zeros((2, 4, 6, 3), np.uint8), np.zeros((1, 4, 6, 3), np.uint8))
