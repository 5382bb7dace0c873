"""Pieces of a film for live players: the film's pictures and sound, without gap, from any process."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import open_clip
from ltx2.media.film import join_film
from ltx2.media.live import LivePiece, first_clips_needed, live_piece
from ltx2.media.sound_file import encode_flac
from ltx2.media.sources.slices import Track
from ltx2.timeline import (
    PlannedSegment,
    SegmentShape,
    SegmentTiming,
    film_frames,
    film_samples,
    plan,
    plan_segments,
)
from tests.ltx2.media.test_film import NTSC, clips_of, decoded_sound, index_of

CUTS = [False, False, True, False]
UNEQUAL = plan_segments(
    [
        PlannedSegment(SegmentShape(49, Fraction(24))),
        PlannedSegment(SegmentShape(25, Fraction(24), 17)),
        PlannedSegment(SegmentShape(33, Fraction(24)), cut=True, dissolve=4),
        PlannedSegment(SegmentShape(41, Fraction(24)), cut=True, dissolve=12),
        PlannedSegment(SegmentShape(17, Fraction(24), 1)),
    ]
)


def pieces_of(timings: list[SegmentTiming], clips: list[bytes], track: Track | None = None) -> Iterator[LivePiece]:
    """The pieces of a film in order, each made only from the clips it needs."""
    with open_clip(clips[0]) as clip:
        rate = clip.audio.sample_rate
    for index, first in enumerate(first_clips_needed(timings, rate)):
        until, is_last = timings[: index + 1], index + 1 == len(timings)
        yield live_piece(until, clips[0], clips[first : index + 1], is_last=is_last, track=track)


def boxes(data: bytes, *path: bytes) -> Iterator[bytes]:
    """The contents of all boxes with this path, such as moof, traf, tfdt."""
    at = 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        if name == path[0]:
            content = data[at + 8 : at + size]
            yield from boxes(content, *path[1:]) if path[1:] else [content]
        at += size


def decode_times(piece: LivePiece) -> list[int]:
    """tfdt of the piece's tracks, in units of the track."""
    return [int.from_bytes(content[4:]) for content in boxes(piece.data, b"moof", b"traf", b"tfdt")]


def placed_sound(data: bytes, samples: int, channels: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The decoded sound, placed by its time stamps, and which samples there are."""
    sound, there = np.zeros((samples + 4096, channels), np.float32), np.zeros(samples + 4096, bool)
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            assert frame.pts is not None
            assert frame.time_base == Fraction(1, frame.sample_rate)
            place = slice(frame.pts, frame.pts + frame.samples)
            assert not there[place].any()
            sound[place], there[place] = frame.to_ndarray().T, True
    return sound[:samples], there[:samples]


@pytest.mark.parametrize(
    ("timings", "channels", "rate"),
    [
        (plan(SegmentShape(49, Fraction(24)), CUTS), 2, 48000),
        (plan(SegmentShape(25, NTSC), CUTS), 1, 24000),
        (plan(SegmentShape(9, Fraction(24), overlap=1), CUTS), 2, 48000),
        (plan(SegmentShape(9, Fraction(120), overlap=1), CUTS), 2, 24000),
        (UNEQUAL, 2, 48000),
    ],
    ids=["usual", "ntsc", "segments shorter than the lead", "pieces of few packets", "unequal, with dissolves"],
)
def test_pieces_play_as_the_film_does(tmp_path: Path, timings: list[SegmentTiming], channels: int, rate: int) -> None:
    # Given the clips of a film with a cut, whose frames show their film index
    shape = timings[0].shape
    clips = list(clips_of(timings, channels=channels, rate=rate))
    join_film(clips, timings, tmp_path / "film.mp4")
    # When each piece is made
    pieces = list(pieces_of(timings, clips))
    # Then all have the same header, and what follows it decodes to the film's pictures, at the film's times
    assert len({piece.header for piece in pieces}) == 1
    data = pieces[0].header + b"".join(piece.data for piece in pieces)
    with av.open(io.BytesIO(data)) as container:
        shown = [(frame.pts * frame.time_base, frame) for frame in container.decode(video=0)]
    frames, samples = film_frames(timings), film_samples(film_frames(timings), shape.fps, rate)
    assert [time for time, _ in shown] == [i / shape.fps for i in range(frames)]
    assert [index_of(frame.to_ndarray(format="rgb24")) for _, frame in shown] == list(range(frames))
    assert sum(piece.duration for piece in pieces) == frames / shape.fps
    # And to its sound, without gap or lag; only the first block, whose start is missing, differs. With a lead of 16
    # packets by 0.0003, with 8 by 0.0008, with 2 by 0.38
    sound, there = placed_sound(data, samples, channels)
    assert there.all()
    film = decoded_sound(tmp_path / "film.mp4", samples)
    assert np.abs(sound - film)[1024:].max() < 0.0005


def test_pieces_of_a_film_with_given_sound_have_that_sound(tmp_path: Path) -> None:
    # Given a film whose sound is a track at another rate, which ends before it
    timings = plan(SegmentShape(25, Fraction(24)), CUTS)
    clips = list(clips_of(timings, channels=2, rate=48000))
    frames = film_frames(timings)
    samples = film_samples(frames, Fraction(24), 48000)
    tone = 0.5 * np.sin(2 * np.pi * 330 * np.arange(round(44100 * (frames / 24 - 0.5))) / 44100)
    track = Track(encode_flac([np.stack([tone, -tone], axis=1).astype(np.float32)], 44100))
    join_film(clips, timings, tmp_path / "film.mp4", track=track)
    # When
    pieces = list(pieces_of(timings, clips, track))
    # Then they have the film's sound, and not that of the clips
    sound, there = placed_sound(pieces[0].header + b"".join(piece.data for piece in pieces), samples, 2)
    assert there.all()
    film = decoded_sound(tmp_path / "film.mp4", samples)
    assert np.abs(film).max() > 0.4
    assert np.abs(sound - film)[1024:].max() < 0.02


def test_a_piece_says_its_film_time_and_is_the_same_from_anywhere() -> None:
    # Given a film
    timings = plan(SegmentShape(49, Fraction(24)), CUTS)
    clips = list(clips_of(timings, rate=48000))
    # When its pieces are made twice
    pieces, again = list(pieces_of(timings, clips)), list(pieces_of(timings, clips))
    # Then they are the same bytes
    assert pieces == again
    # And each begins at its first picture's film time; its sound on the grid of 1,024 samples
    for piece, timing in zip(pieces, timings, strict=True):
        picture, sound = decode_times(piece)
        assert Fraction(picture, 12288) == timing.first_frame / timing.shape.fps
        assert sound % 1024 == 0
        assert 0 <= Fraction(picture, 12288) - Fraction(sound, 48000) < 0.2
    # And needs one clip before its own
    assert first_clips_needed(timings, 48000) == [0, 0, 1, 2]


def test_clips_that_do_not_fit_are_refused() -> None:
    # Given clips of two films
    timings = plan(SegmentShape(17, Fraction(24)), [False, False])
    mono, stereo = (list(clips_of(timings, channels=channels)) for channels in (1, 2))
    # Then a piece of both, and one of a damaged clip, are refused
    with pytest.raises(MediaError, match="differs from the first segment in channels"):
        live_piece(timings, mono[0], stereo, is_last=True)
    with pytest.raises(MediaError, match="not a readable clip"):
        live_piece(timings, mono[0], [mono[0], b"no clip"], is_last=True)
    with pytest.raises(MediaError, match="8 frames, but its timing has 17"):
        live_piece(timings[:1], mono[0], [mono[1]], is_last=False)
