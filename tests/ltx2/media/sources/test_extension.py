"""The numbers and the sound with which a job continues a video."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2.media.sources.excerpts import Excerpt
from ltx2.media.sources.extension import LEAD, SAMPLES_PER_LATENT, SOUND_RATE, extension_of, lead_of, wanted_of
from ltx2.media.sources.pictures import Fit
from ltx2.timeline import SegmentShape, continued_timing, first_timing, next_timing

SHAPES = [SegmentShape(25, Fraction(24)), SegmentShape(121, Fraction(24)), SegmentShape(97, Fraction(30000, 1001), 17)]


def ending(shape: SegmentShape, available: int) -> Excerpt:
    """The end of a video of so many frames. A sample of its sound is its time after the first wanted frame."""
    wanted = wanted_of(shape, 64, 32, Fit.CROP)
    before = int(min(wanted.before_s, (available - shape.overlap) / shape.fps) * SOUND_RATE)
    times = (np.arange(before + round(shape.overlap / shape.fps * SOUND_RATE) + 1600) - before) / SOUND_RATE
    frames = np.zeros((shape.overlap, 32, 64, 3), np.uint8)
    return Excerpt(
        frames, np.repeat(times[:, None], 2, axis=1).astype(np.float32), min(available, shape.frames), before
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_long_video_ends_as_a_first_segment_does(shape: SegmentShape) -> None:
    found = extension_of(ending(shape, 1000), shape)
    following = next_timing(first_timing(shape))
    assert found.state.audio_conditioning_num_frames == following.pinned
    assert found.state.video_position_offset_sec == float(following.offset)
    assert lead_of(found.sound, following.pinned) == LEAD
    assert found.sound[LEAD * SAMPLES_PER_LATENT, 0] == pytest.approx(-float(following.offset), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_short_video_has_the_sound_that_is_there(shape: SegmentShape) -> None:
    for available in range(shape.overlap, shape.frames + 12):
        # When
        found = extension_of(ending(shape, available), shape)
        # Then a segment can continue it, and the sound before its frames begins no earlier than the video
        state = found.state
        pinned, offset = state.audio_conditioning_num_frames, state.video_position_offset_sec
        timing = continued_timing(shape, pinned=pinned, offset=Fraction(offset), index=1, first_frame=0)
        assert abs(offset + float(shape.overlap / shape.fps) - pinned / 25) <= 0.0201
        assert next_timing(timing).pinned > 0
        lead = lead_of(found.sound, pinned)
        assert 0 <= lead <= LEAD
        assert offset + 0.04 * lead <= (available - shape.overlap) / float(shape.fps) + 1e-9
        second = found.sound[lead * SAMPLES_PER_LATENT + 1, 0]  # the first sample may lie before the video
        assert second == pytest.approx(-offset, abs=2e-4)


def test_what_the_sound_lacks_is_silence() -> None:
    # Given a video without sound at its end
    shape = SHAPES[0]
    short = ending(shape, 1000)
    cut = Excerpt(short.frames, short.sound[: short.before], short.available, short.before)
    # When / Then
    found = extension_of(cut, shape)
    assert len(found.sound) % SAMPLES_PER_LATENT == 0
    assert not found.sound[(LEAD + 20) * SAMPLES_PER_LATENT :].any()
