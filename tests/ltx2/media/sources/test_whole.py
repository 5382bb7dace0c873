"""A whole video as the beginning of a film: its frames, its sound, and what is refused."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2.media.clip import encode_clip, read_clip
from ltx2.media.film import join_film
from ltx2.media.live import first_clips_needed, live_piece
from ltx2.media.sources import whole
from ltx2.media.sources.excerpts import Wanted, decode_ending
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import encode_video
from ltx2.media.sources.whole import WantedParts, encode_parts
from ltx2.quality.film_reader import film_pieces, film_sound
from ltx2.timeline import FilmPart, SegmentShape, film_frames, first_timing, source_timings, source_timings_after
from tests.ltx2.media.sources.test_excerpts import MATRIX_IN_TRACK_HEADER, ONE
from tests.ltx2.media.sources.videos import (
    FPS,
    HEIGHT,
    WIDTH,
    cut_in_an_open_group,
    held,
    numbered,
    numbers,
    remuxed,
    sound_in,
    tone,
    video,
)

OVERLAP, PART, FRAMES = 9, 8, 45
WANTED = WantedParts(WIDTH, HEIGHT, Fit.CROP, Fraction(FPS), OVERLAP, WIDTH, HEIGHT)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 8 frames, so that small videos have several."""
    monkeypatch.setattr(whole, "MOST_PART_BYTES", 2 * PART * WIDTH * HEIGHT * 3)


def parts_of(data: bytes, **changes: Any) -> list[bytes]:
    return list(encode_parts(io.BytesIO(data), replace(WANTED, **changes)))


def turned(data: bytes) -> bytes:
    """The same video, as a phone records it that is held upright."""
    at = data.index(b"tkhd") + MATRIX_IN_TRACK_HEADER
    return data[:at] + struct.pack(">9i", 0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30) + data[at + 36 :]


def frames_of(clips: list[bytes]) -> Any:
    return np.concatenate([read_clip(clip).frames for clip in clips])


def played(parts: list[FilmPart], clips: list[bytes]) -> bytes:
    """What live players get of these parts, one piece for each."""
    pieces = [
        live_piece(parts[: i + 1], clips[0], clips[first : i + 1], is_last=i + 1 == len(parts), rate=24_000)
        for i, first in enumerate(first_clips_needed(parts, 24_000))
    ]
    assert sum(piece.duration for piece in pieces) == Fraction(film_frames(parts), FPS)
    return pieces[0].header + b"".join(piece.data for piece in pieces)


def test_the_parts_have_all_frames_before_the_overlap_once() -> None:
    # Given a video of 45 frames
    clips = parts_of(video(numbered(FRAMES), sound=tone(FRAMES / FPS)))
    # When / Then the last of its parts takes what is left
    lengths = [len(read_clip(clip).frames) for clip in clips]
    assert lengths == [8, 8, 8, 12] == [one.new_frames for one in source_timings(FRAMES - OVERLAP, PART, WANTED.fps, 9)]
    assert numbers(frames_of(clips)) == list(range(FRAMES - OVERLAP))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (video(numbered(50), fps=Fraction(50), sound=tone(1.0)), 15),
        (video(numbered(20), times=[0, *np.linspace(0.5, 1.4, 19)], kind="matroska"), 25),
        (video(numbered(FRAMES), sound=tone(2, channels=6), layout="5.1"), 36),
        (video(numbered(FRAMES), sound=tone(2, channels=1, rate=22_050), rate=22_050), 36),
        (video(numbered(10), sound=tone(1.0)), 1),
        (video(numbered(OVERLAP)), 0),
        (turned(video(numbered(20))), 11),
        (held(video(numbered(20))), 22),
        (cut_in_an_open_group(), 19),
    ],
    ids=["50 fps", "variable", "5.1", "mono", "one frame more", "no more than is repeated", "turned", "held", "cut"],
)
def test_its_frames_are_those_that_lead_to_the_end(data: bytes, count: int) -> None:
    # Given the frames that the first segment repeats, and those before them as one long end
    before = parts_of(data)
    assert len(before) == (len(source_timings(count, PART, WANTED.fps, 9)) if count else 0)
    if count:
        wanted = Wanted(WIDTH, HEIGHT, Fit.CROP, WANTED.fps, count + OVERLAP, Fraction(0), 16_000)
        ending = decode_ending(io.BytesIO(data), wanted)
        # When / Then
        assert np.abs(frames_of(before).astype(int) - ending.frames[:count]).mean() < 2
        assert ending.available == count + OVERLAP  # as the job counts them


def test_a_film_begins_with_the_video_and_its_sound(tmp_path: Path) -> None:
    # Given a video with a tone, and a segment that repeats its end, with the same tone at another rate
    seconds, shape = FRAMES / FPS, SegmentShape(17, Fraction(FPS), OVERLAP)
    clips = parts_of(video(numbered(FRAMES), kind="mov", sound=tone(seconds), sound_codec="pcm_s16le"))
    count = FRAMES - OVERLAP
    parts: list[FilmPart] = [*source_timings(count, PART, WANTED.fps, OVERLAP)]
    segment = replace(first_timing(shape), first_frame=count, dissolve=OVERLAP)
    own = tone(count / FPS + 1.0, rate=24_000)[:, round(count / FPS * 24_000) :].T
    frames = np.concatenate([numbered(FRAMES)[count:], numbered(50)[FRAMES : FRAMES + 5], numbered(50)[:3]])
    clips.append(encode_clip(frames, own, fps=shape.fps, audio_rate=24_000, picture_start=Fraction(0)))
    parts.append(segment)
    # When they are joined
    info = join_film(clips, parts, tmp_path / "film.mp4", rate=24_000)
    # Then the film has every frame once, and one tone without a gap
    assert (info.frames, info.audio_sample_rate) == (count + 17, 24_000)
    assert info.audio_samples == round((count + 17) / FPS * 24_000)
    data = (tmp_path / "film.mp4").read_bytes()
    sound, _ = film_sound(data, [segment])
    expected = tone((count + 17) / FPS, rate=24_000)
    start = round(count / FPS * 24_000)
    assert np.abs(sound[:, :12_000] - expected[:, start : start + 12_000]).max() < 0.05
    assert numbers(next(film_pieces(data, [segment]))[:9]) == list(range(count, FRAMES))
    # And live players get the same
    heard, _ = film_sound(played(parts, clips), [replace(segment, first_frame=0)])
    assert np.abs(heard[:, 2_000:12_000] - expected[:, 2_000:12_000]).max() < 0.05


def test_a_film_ends_with_the_video_and_its_sound(tmp_path: Path) -> None:
    # Given a video with a tone, and a segment that leads into it, with half of the tone at another rate
    shape, count = SegmentShape(17, Fraction(FPS), OVERLAP), FRAMES - OVERLAP
    data = video(numbered(FRAMES), kind="mov", sound=tone(FRAMES / FPS), sound_codec="pcm_s16le")
    clips = parts_of(data, after=True)
    parts = source_timings_after(count, PART, WANTED.fps, OVERLAP, first_frame=17)
    assert [len(read_clip(clip).frames) for clip in clips] == [8, 8, 8, 12] == [part.new_frames for part in parts]
    assert numbers(frames_of(clips)) == list(range(OVERLAP, FRAMES))
    segment, before = replace(first_timing(shape), video_after=OVERLAP), round((17 - OVERLAP) / FPS * 24_000)
    own = np.roll(tone(17 / FPS + 0.1, rate=24_000), before, axis=1).T / 2
    frames = np.concatenate([numbered(8), numbered(OVERLAP)])
    clips.insert(0, encode_clip(frames, own, fps=shape.fps, audio_rate=24_000, picture_start=Fraction(0)))
    # When they are joined
    film: list[FilmPart] = [segment, *parts]
    info = join_film(clips, film, tmp_path / "film.mp4", rate=24_000)
    # Then the film has every frame once, and the tone grows over those that both have
    assert (info.frames, info.audio_samples) == (17 + count, round((17 + count) / FPS * 24_000))
    expected = np.pad(tone(FRAMES / FPS, rate=24_000), ((0, 0), (before, 0)))[:, : info.audio_samples]
    expected *= np.interp(np.arange(info.audio_samples), [before, 17_000], [0.5, 1])
    kept = slice(before + 1_000, info.audio_samples - 1_000)  # between the fades of the film
    assert np.abs(sound_in((tmp_path / "film.mp4").read_bytes())[:, kept] - expected[:, kept]).max() < 0.05
    # And live players get the same
    assert np.abs(sound_in(played(film, clips))[:, kept] - expected[:, kept]).max() < 0.05


def test_its_sound_is_in_time_when_it_begins_a_little_later() -> None:
    # Given a video with silence for 15 ms
    def moved(packets: list[Any]) -> list[Any]:
        for packet in packets:
            packet.pts += 15 if packet.stream.type == "audio" else 0  # ms
        return packets

    data = video(numbered(20), kind="matroska", sound=tone(20 / FPS), sound_codec="flac")
    # When
    sound = read_clip(parts_of(remuxed(data, moved, kind="matroska"))[0]).sound
    # Then so has the film
    assert int(np.argmax(np.abs(sound[:, 0]) > 0.1)) == pytest.approx(720, abs=20)


def test_crop_shows_the_middle() -> None:
    [clip] = parts_of(video(numbered(20)), crop_width=32, crop_height=16)
    assert read_clip(clip).frames.shape == (11, 16, 32, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: video(numbered(20), colours={"color_trc": 16}), "HDR"),
        (lambda: video(numbered(3), times=[0, 1, 3602], kind="matroska"), "longer than 60 minutes"),
        (lambda: video(None, sound=tone(1.0)), "no video"),
        (lambda: b"#EXTM3U\n/etc/passwd", "not an MP4"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts_of(make())


def test_a_child_encodes_as_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = video(numbered(20), sound=tone(0.8))
    monkeypatch.undo()
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert encode_video(file, WANTED) == parts_of(data)
