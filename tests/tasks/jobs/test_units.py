"""Segments in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tasks.jobs.units import rendered_text, segments_text


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([3], "segment 3"),
        ([0, 1], "segments 0 to 1"),
        ([1, 4], "segments 1 and 4"),
        (range(10, 13), "segments 10 to 12"),
        ([0, 1, 2, 5, 7, 8], "segments 0 to 2, 5 and 7 to 8"),
    ],
)
def test_segments_are_named_by_their_indices(indices: Sequence[int], words: str) -> None:
    assert segments_text(indices) == words


def test_a_message_says_which_segments_are_rendered() -> None:
    assert [rendered_text(found) for found in ([], [0], [0, 1, 4])] == [
        "none is rendered yet",
        "segment 0 is rendered",
        "segments 0 to 1 and 4 are rendered",
    ]
