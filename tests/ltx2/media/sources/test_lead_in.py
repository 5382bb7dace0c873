"""The beginning of a video as the end of a segment: frames, and sound on the segment's grid."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction

import numpy as np
import pytest

from ltx2.media.sources.excerpts import Wanted, decode_beginning
from ltx2.media.sources.extension import LEAD
from ltx2.media.sources.lead_in import lead_in, wanted_beginning
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import read_beginning
from ltx2.timeline import SegmentShape, first_timing, next_timing, shared_frames
from tests.ltx2.media.sources.videos import FPS, HEIGHT, WIDTH, numbered, numbers, tone, video

WANTED = Wanted(WIDTH, HEIGHT, Fit.CROP, Fraction(FPS), 9, Fraction(0), 16_000)


def test_the_first_frames_and_their_sound_are_read_whatever_comes_later() -> None:
    # Given a video whose end is cut off, in a format that has no index
    data = video(numbered(40), kind="matroska", sound=tone(40 / FPS), sound_codec="flac")
    for given in (data, data[: len(data) * 4 // 5]):
        # When
        beginning = decode_beginning(io.BytesIO(given), WANTED)
        # Then
        assert numbers(beginning.frames) == list(range(9))
        expected = tone(1.0, rate=16_000).T[: len(beginning.sound)]
        assert len(beginning.sound) > 9 / FPS * 16_000
        assert np.abs(beginning.sound - expected)[100:-100].max() < 0.02
    # And a child process reads the same
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        child, own = read_beginning(file, WANTED), decode_beginning(io.BytesIO(data), WANTED)
    assert np.array_equal(child.frames, own.frames)
    assert np.array_equal(child.sound, own.sound)
    assert (child.available, child.before) == (own.available, own.before) == (40, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (video(numbered(40), fps=Fraction(48)), [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        (video(numbered(5), times=[0, 0.1, 0.2, 0.3, 0.4], kind="matroska"), [0, 0, 1, 1, 1, 2, 2, 3, 3]),
        (video(numbered(9)), list(range(9))),
    ],
    ids=["twice the rate", "a lower rate", "no more than is shared"],
)
def test_frames_are_the_nearest_counted_from_the_first(data: bytes, expected: list[int]) -> None:
    assert numbers(decode_beginning(io.BytesIO(data), WANTED).frames) == expected


def test_a_video_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="it is too short: 8 frames at 24 per second, at least 9"):
        decode_beginning(io.BytesIO(video(numbered(8))), WANTED)


@pytest.mark.parametrize("fps", [24, 25, 30, Fraction(24000, 1001), 60, 120])
@pytest.mark.parametrize("overlap", [1, 9, 17])
def test_the_sound_lies_on_the_grid_of_the_segment(fps: Fraction, overlap: int) -> None:
    # Given sound whose samples are their number, of a video into which any of some segments leads
    shape = SegmentShape(49, Fraction(fps), overlap)
    frames = shared_frames(overlap)
    assert frames == wanted_beginning(shape, WIDTH, HEIGHT, Fit.PAD).frames == max(9, overlap)
    samples = np.arange(16_000, dtype=np.float32)[:, None].repeat(2, axis=1)
    timing = first_timing(shape)
    for _ in range(5):
        # When
        found = lead_in(timing, samples, frames)
        # Then only latents that begin with the video or later are pinned, and all of these
        begin = timing.offset + (shape.frames - frames) / shape.fps
        first = timing.audio_latents - found.latents
        assert Fraction(first - 1, 25) < begin <= Fraction(first, 25)
        assert len(found.sound) == (found.lead + found.latents) * 640
        # And each is heard where it is, to the sample, after the video's sound in reverse
        at = (Fraction(first, 25) - begin) * 16_000
        assert abs(found.sound[LEAD * 640, 0] - at) <= Fraction(1, 2)
        assert found.sound[LEAD * 640 - 1 - round(at), 0] == 0
        timing = next_timing(timing)


def test_something_is_left_to_render() -> None:
    # Given a segment as short as what it has in common with the video
    timing = first_timing(SegmentShape(17, Fraction(24)))
    short = first_timing(SegmentShape(9, Fraction(24), 1))
    samples = np.ones((8_000, 2), np.float32)
    # When / Then
    assert lead_in(timing, samples, 9).latents == 9
    assert lead_in(short, samples, 9).latents == short.audio_latents - 1
    # And where the video's sound ends, silence follows
    assert not lead_in(timing, samples[:100], 9).sound[-640:].any()
