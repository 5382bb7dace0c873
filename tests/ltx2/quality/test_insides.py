"""A leap inside a segment is found, though its joins are within bounds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ltx2.quality.continuity import broken
from ltx2.quality.insides import insides, leaps
from ltx2.quality.plots import contact_sheet, samples_of
from tests.ltx2.quality.test_continuity import JOIN, ONE, TWO, Film, film, measured, timings
from training.world import World


def leaping(world: World, later: float) -> Film:
    """A film whose segment JOIN shows another time of the world for all but its last frames, as with a pinned end."""
    frames, sound = film(world)
    first = timings()[JOIN].first_frame
    frames[first : first + 8] = film(world, later)[0][first : first + 8]
    return frames, sound


@pytest.mark.parametrize("world", [ONE, TWO], ids=["one shape", "two shapes"])
def test_a_continuous_film_has_no_leaps(world: World) -> None:
    # When
    found = insides(measured(film(world, 4.4)))
    # Then
    assert leaps(found) == []
    assert [len(one.shapes) for one in found] == [len(world.shapes)] * len(timings())
    assert all(0 < one.usual_change < 3 for one in found)


def test_a_leap_inside_a_segment_is_reported_with_its_frame() -> None:
    # When
    found = measured(leaping(ONE, 0.4))
    # Then the film's figures do not show it at that frame, but those of the segment do
    frame = timings()[JOIN].first_frame + 8
    assert [text.partition(" by ")[0] for text in leaps(insides(found))] == [
        f"segment {JOIN}: the picture leaps at frame {frame},",
        f"segment {JOIN}: shape 1 leaps 22.3 pixels at frame {frame}, elsewhere it moves 2.6",
    ]
    assert not any(seam.segment == JOIN + 1 for seam in found.seams if broken([seam]))


def test_fast_motion_is_no_leap() -> None:
    # Given a segment in whose middle all pixels change for a while
    frames, sound = film(ONE)
    random = np.random.default_rng(1)
    first = timings()[JOIN].first_frame
    frames[first + 3 : first + 12] = random.integers(0, 256, frames[:9].shape, np.uint8)
    # When
    found = insides(measured((frames, sound)))
    # Then
    assert found[JOIN].largest_change > 50
    assert leaps(found) == []


def test_takes_are_drawn_below_each_other_with_their_names() -> None:
    # Given
    frames = film(ONE)[0][:25]
    # When
    rows = [samples_of(frames), samples_of(255 - frames)]
    with Image.open(io.BytesIO(contact_sheet(rows, labels=["1, take 0", "1, shown"]))) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    # Then each picture of the second row is the inverse of that above it
    height = 107 + 4
    left = pixels.shape[1] - 6 * 164
    assert pixels.shape[0] == 2 * height
    assert left > 60
    above, below = pixels[:107, left : left + 160], pixels[height : height + 107, left : left + 160]
    assert np.abs(above - (255 - below)).max() <= 2
    # And rows without names are numbered
    with Image.open(io.BytesIO(contact_sheet([[frames[0]], [frames[1]]]))) as sheet:
        assert sheet.width == 35 + 164
