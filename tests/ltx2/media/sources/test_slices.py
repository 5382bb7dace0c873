"""The part of a film's given sound that belongs to a segment."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2.errors import MediaError
from ltx2.media.sound_file import encode_flac
from ltx2.media.sources.extension import LEAD, SOUND_RATE
from ltx2.media.sources.slices import Blocks, Track, Window, window_of
from ltx2.timeline import SegmentShape, continued_timing, plan

SHAPE = SegmentShape(25, Fraction(24))
TONE = 0.5 * np.sin(2 * np.pi * 330 * np.arange(10 * 44_100) / 44_100)
TRACK = Track(encode_flac(np.array_split(np.stack([TONE, -TONE], axis=1).astype(np.float32), 7), 44_100))


def test_the_windows_of_a_scene_lie_on_one_grid() -> None:
    for timing in plan(SHAPE, [False] * 6 + [True, False]):
        window = window_of(timing)
        scene = Fraction(0) if timing.index < 6 else (25 + 5 * 16) / Fraction(24)
        start = window.start + window.lead * Fraction(1, 25)
        assert ((start - scene) * 25).denominator == 1
        assert window.latents == timing.audio_latents + window.lead
        assert window.lead == min(LEAD, int(start * 25))


def test_a_window_has_the_samples_of_its_time() -> None:
    for start in (Fraction(0), Fraction(1, 3), Fraction(217, 100)):
        found = TRACK.window(Window(start, 10, 0))
        times = float(start) + np.arange(6400) / SOUND_RATE
        expected = 0.5 * np.sin(2 * np.pi * 330 * times)
        assert found.shape == (6400, 2)
        assert np.abs(found[200:, 0] - expected[200:]).max() < 0.002
        assert np.array_equal(found[:, 0], -found[:, 1])


def test_silence_follows_a_track() -> None:
    found = TRACK.window(Window(Fraction(99, 10), 10, 0))
    assert np.abs(found[:1500]).max() > 0.4
    assert not found[1700:].any()
    assert not TRACK.window(Window(Fraction(20), 10, 0)).any()


def test_at_its_own_rate_every_sample_is_the_stored_one() -> None:
    blocks = Blocks(TRACK.at(44_100))
    found = np.concatenate([blocks.take(count) for count in (1, 100_000, 0, 400_000)])
    stored = np.round(TONE.astype(np.float32).astype(np.float64) * 2**23) / 2**23
    assert np.array_equal(found[:441_000, 0], stored.astype(np.float32))
    assert not found[441_000:].any()
    assert np.array_equal(Blocks(TRACK.at(44_100, first=200_010)).take(3), found[200_010:200_013])
    assert not Blocks(TRACK.at(44_100, first=10**9)).take(2).any()
    assert sum(map(len, TRACK.at(48_000))) == pytest.approx(480_000, abs=2)


@pytest.mark.parametrize("rate", [44_100, 24_000, 48_000])
def test_a_track_from_its_middle_on_has_the_samples_of_the_whole(rate: int) -> None:
    whole = np.concatenate(list(TRACK.at(rate)))
    for first in (1, rate // 20, 7 * rate + 11, len(whole) - 5):
        assert np.array_equal(np.concatenate(list(TRACK.at(rate, first=first))), whole[first:])
    assert not sum(map(len, TRACK.at(rate, first=len(whole) + rate)))


def test_sound_before_the_film_cannot_be_given() -> None:
    timing = continued_timing(SHAPE, pinned=26, offset=Fraction(2, 3), index=1, first_frame=0)
    with pytest.raises(MediaError, match="segment 1 begins before the film"):
        window_of(timing)
