"""Joining clips into a film: every frame once, sound in sync, no partial files."""

from __future__ import annotations

import hashlib
import math
import resource
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.errors import MediaError, TimelineError
from ltx2.media.clip import encode_clip
from ltx2.media.film import FilmInfo, join_film
from ltx2.timeline import (
    PlannedSegment,
    SegmentShape,
    SegmentTiming,
    film_frames,
    film_samples,
    plan,
    plan_segments,
    sound_seconds,
)

RATE = 24000
HERTZ = (440.0, 330.0)  # left, right
AMPLITUDES = (0.5, 0.25)
NTSC = Fraction(24000, 1001)
SHORT = SegmentShape(17, Fraction(24))


def picture(index: int) -> NDArray[np.uint8]:
    """A moving gradient, 96x64; 12 black or white blocks in its upper half encode the film index."""
    columns, rows = np.meshgrid(np.arange(96), np.arange(64))
    frame = np.stack([(columns * 2 + index * 5) % 256, rows * 3, np.full_like(rows, 128)], axis=-1).astype(np.uint8)
    for bit in range(12):
        row, column = divmod(bit, 6)
        frame[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255 * (index >> bit & 1)
    return frame


def index_of(frame: NDArray[np.uint8]) -> int:
    middles = frame[:32, :, 1].reshape(2, 16, 6, 16)[:, 4:12, :, 4:12].mean(axis=(1, 3)).ravel()
    return sum(1 << bit for bit in range(12) if middles[bit] > 128)


def tone(times: NDArray[np.float64], channels: int) -> NDArray[np.float32]:
    tones = [AMPLITUDES[c] * np.sin(2 * math.pi * HERTZ[c] * times) for c in range(channels)]
    return np.stack(tones, axis=1).astype(np.float32)


def clip_of(
    timing: SegmentTiming, film_start: int = 0, *, channels: int = 2, rate: int = RATE, **changes: Any
) -> bytes:
    """The clip of one segment, whose frames show their film index and whose tone runs over film time."""
    first = timing.first_frame - film_start
    local = np.arange(int(sound_seconds(timing.audio_latents) * rate)) / rate
    times = local + float(first / timing.shape.fps - timing.picture_start)
    arguments = {"fps": timing.shape.fps, "audio_rate": rate, "picture_start": timing.picture_start} | changes
    frames = arguments.pop("frames", np.stack([picture(first + j) for j in range(timing.new_frames)]))
    return encode_clip(frames, arguments.pop("sound", tone(times, channels)), **arguments)


def clips_of(timings: list[SegmentTiming], *, channels: int = 2, rate: int = RATE) -> Iterator[bytes]:
    return (clip_of(timing, timings[0].first_frame, channels=channels, rate=rate) for timing in timings)


FIRST, SECOND = plan(SHORT, [False, False])
GOOD = clip_of(FIRST)


def decoded_pictures(film: Path) -> list[int]:
    with av.open(str(film)) as container:
        return [index_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def decoded_sound(film: Path, samples: int) -> NDArray[np.float32]:
    with av.open(str(film)) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(blocks, axis=1).T[:samples]


def only_file(folder: Path) -> Path:
    (film,) = folder.iterdir()
    return film


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(25), NTSC, Fraction(60)])
@pytest.mark.parametrize("segments", [1, 2, 40])
def test_every_frame_is_shown_once_and_both_streams_end_together(tmp_path: Path, fps: Fraction, segments: int) -> None:
    # Given segments whose frames show their film index
    timings = plan(SegmentShape(17, fps), [False] * segments)
    frames, samples = film_frames(timings), film_samples(film_frames(timings), fps, RATE)
    # When their clips are joined
    info = join_film(clips_of(timings), timings, tmp_path / "film.mp4")
    # Then the film shows each index once, in order
    film = only_file(tmp_path)
    assert decoded_pictures(film) == list(range(frames))
    # And both streams start at zero, and have exactly the duration of the frames and of the sound
    with av.open(str(film)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.start_time, audio.start_time) == (0, 0)
        assert (video.frames, video.average_rate) == (frames, fps)
        assert video.duration * video.time_base == frames / fps
        assert (audio.duration, audio.time_base) == (samples, Fraction(1, RATE))
        assert abs(video.duration * video.time_base - audio.duration * audio.time_base) < 1 / fps
        times = [packet.pts * packet.time_base for packet in container.demux(video) if packet.size]
    assert times == [i / fps for i in range(frames)]
    # And the returned report agrees
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    assert info == FilmInfo(96, 64, fps, frames, float(frames / fps), RATE, samples, digest)


@pytest.mark.parametrize(
    ("fps", "channels", "rate"), [(Fraction(24), 2, 48000), (NTSC, 2, 24000), (Fraction(25), 1, 24000)]
)
def test_a_tone_across_40_segments_neither_clicks_nor_drifts(
    tmp_path: Path, fps: Fraction, channels: int, rate: int
) -> None:
    # Given segments of a tone that runs over film time
    timings = plan(SegmentShape(17, fps), [False] * 40)
    # When the film's sound is decoded
    samples = join_film(clips_of(timings, channels=channels, rate=rate), timings, tmp_path / "film.mp4").audio_samples
    heard = decoded_sound(tmp_path / "film.mp4", samples)
    # Then it is that tone without clicks, except in the encoder's first block and in the last 90 ms
    ideal = tone(np.arange(samples) / rate, channels)
    whole = slice(2048, samples - round(0.09 * rate))
    assert heard.shape == ideal.shape
    half_a_sample = 0.5 * 2 * math.pi * max(HERTZ) * 0.5 / rate
    assert np.abs(heard - ideal)[whole].max() < half_a_sample + 0.01
    assert np.abs(np.diff(heard, axis=0))[whole].max() < 0.5 * 2 * math.pi * max(HERTZ) / rate + 0.01
    # And its phase is the same in the first and last second, to half a sample
    for c in range(channels):
        wave = heard[:, c] * np.exp(-2j * math.pi * HERTZ[c] * np.arange(samples) / rate)
        first, last = wave[2400 : 2400 + rate].sum(), wave[whole][-rate:].sum()
        assert abs(np.angle(last / first)) < 2 * math.pi * HERTZ[c] * 0.5 / rate


def test_a_film_may_have_cuts_and_begin_in_the_middle_of_a_job(tmp_path: Path) -> None:
    # Given segments 3..7 of a job, two of them after a cut
    timings = plan(SHORT, [False] * 3 + [False, True, False, True, False])[3:]
    # When they are joined
    info = join_film(clips_of(timings), timings, tmp_path / "film.mp4")
    # Then a segment after a cut shows all its frames, and a continuation only its new ones
    assert info.frames == 8 + 17 + 8 + 17 + 8
    assert decoded_pictures(tmp_path / "film.mp4") == list(range(info.frames))


@pytest.mark.parametrize("fps", [Fraction(24), NTSC])
def test_unequal_segments_and_dissolves_show_each_frame_once_and_keep_the_tone(tmp_path: Path, fps: Fraction) -> None:
    # Given segments of several lengths that repeat 1 to 17 frames, and two scenes that dissolve
    shapes = [(25, 9), (41, 17), (17, 1), (33, 9), (25, 9), (17, 9)]
    dissolves = {3: 8, 4: 12}
    planned = [
        PlannedSegment(SegmentShape(frames, fps, overlap), i in dissolves, dissolves.get(i, 0))
        for i, (frames, overlap) in enumerate(shapes)
    ]
    timings = plan_segments(planned)
    # When their clips are joined
    info = join_film(clips_of(timings), timings, tmp_path / "film.mp4")
    # Then each film frame is shown once, in order; frames that dissolve are taken from the later clip
    assert info.frames == 25 + 24 + 16 + 33 + 25 + 8 - 20
    assert decoded_pictures(tmp_path / "film.mp4") == list(range(info.frames))
    # And the tone of film time goes on through every join, at full level, to the last sample
    assert info.audio_samples == film_samples(info.frames, fps, RATE)
    heard = decoded_sound(tmp_path / "film.mp4", info.audio_samples)
    ideal = tone(np.arange(info.audio_samples) / RATE, 2)
    whole = slice(2048, info.audio_samples - round(0.09 * RATE))
    assert np.abs(heard - ideal)[whole].max() < 0.5 * 2 * math.pi * max(HERTZ) * 0.5 / RATE + 0.01


def test_the_video_is_copied_not_encoded_again(tmp_path: Path) -> None:
    # Given
    timings = plan(SHORT, [False] * 3)
    clips = list(clips_of(timings))
    # When
    join_film(clips, timings, tmp_path / "film.mp4")

    # Then the film has the packets of its clips
    def packets(file: Any) -> list[bytes]:
        with av.open(file) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    parts = []
    for i, clip in enumerate(clips):
        (tmp_path / str(i)).write_bytes(clip)
        parts += packets(str(tmp_path / str(i)))
    assert packets(str(tmp_path / "film.mp4")) == parts


def test_a_film_is_deterministic_and_its_index_precedes_its_data(tmp_path: Path) -> None:
    timings = plan(SHORT, [False, False])
    infos = [join_film(clips_of(timings), timings, tmp_path / name) for name in ("a.mp4", "b.mp4")]
    assert infos[0] == infos[1]
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_film_has_its_title(tmp_path: Path) -> None:
    # When
    join_film(clips_of([FIRST]), [FIRST], tmp_path / "film.mp4", title="harbour at dawn 🌊")
    # Then
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.metadata["title"] == "harbour at dawn 🌊"


def test_a_path_that_looks_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    timings = plan(SHORT, [False])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tcp:1").mkdir()
    # When
    join_film(clips_of(timings), timings, Path("tcp:1/100 %d.mp4"))
    # Then
    assert only_file(tmp_path / "tcp:1").name == "100 %d.mp4"


def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    # Given continuations, each a new copy of one clip of 80 kB
    def peak(segments: int) -> int:
        timings = plan(SHORT, [False] * (segments + 1))[1:]
        clip = clip_of(timings[0], sound=np.random.default_rng(0).uniform(-1, 1, (40_000, 2)).astype(np.float32))
        copies = (bytes(bytearray(clip)) for _ in timings)
        tracemalloc.start()
        try:
            join_film(copies, timings, tmp_path / "film.mp4")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # When the film is twenty times as long, then the peak grows by less than 1 kB per segment
    assert peak(100) < peak(5) + 95 * 1000


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Limit the files of this process to `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("filled", [Fraction(0), Fraction(1, 2), Fraction(99, 100)])
@pytest.mark.parametrize("before", [None, b"the film before"])
def test_a_full_disk_leaves_only_the_previous_file(tmp_path: Path, filled: Fraction, before: bytes | None) -> None:
    # Given a disk that fills up at the first byte, in the middle, or while the index is moved to the front
    film = tmp_path / "film.mp4"
    timings = plan(SHORT, [False] * 6)
    clips = list(clips_of(timings))
    join_film(clips, timings, film)
    limit = int(filled * film.stat().st_size)
    film.unlink()
    if before:
        film.write_bytes(before)
    # When a film is joined, then one clear error is raised
    with files_limited_to(limit), pytest.raises(MediaError, match="cannot write the film: File too large"):
        join_film(clips, timings, film)
    # And only the previous file, if any, is left
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/film.mp4", "No such file"), ("file/film.mp4", "Not a directory"), ("folder", "folder")],
)
def test_an_invalid_film_path_is_rejected(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match=f"cannot write the film: .*{reason}"):
        join_film([GOOD], [FIRST], tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "segment 0: no clip: 2 clips expected, 0 given"),
        ([GOOD], "segment 1: no clip: 2 clips expected, 1 given"),
        ([GOOD, clip_of(SECOND), clip_of(SECOND)], "one clip per segment"),
        ([GOOD, b"not a clip"], "segment 1: not a readable clip"),
        ([GOOD, clip_of(SECOND)[:-2000]], "segment 1: not a readable clip"),
        ([GOOD, GOOD], "segment 1: 17 frames, but its timing has 8"),
        ([clip_of(FIRST, fps=NTSC)], "segment 0: 24000/1001 frames per second, but its timing has 24"),
        ([GOOD, clip_of(SECOND, fps=NTSC)], "segment 1: differs from the first segment in codec parameters"),
        ([GOOD, clip_of(SECOND, frames=np.zeros((8, 32, 96, 3), np.uint8))], r"segment 1: .* in height \(32, not 64\)"),
        ([GOOD, clip_of(SECOND, rate=16000)], r"segment 1: differs .* in sample rate \(16000, not 24000\)"),
        ([GOOD, clip_of(SECOND, channels=1)], r"segment 1: differs .* in channels \(1, not 2\)"),
        ([GOOD, clip_of(SECOND, sound=np.zeros((99, 2), np.float32))], "segment 1: 99 samples of sound, expected"),
    ],
)
def test_clips_that_do_not_match_are_named_and_nothing_is_written(
    tmp_path: Path, clips: list[bytes], message: str
) -> None:
    with pytest.raises(MediaError, match=message):
        join_film(clips, [FIRST, SECOND], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_with_reordered_frames_is_rejected(tmp_path: Path) -> None:
    # Given a clip with B-frames, which are stored after frames that are shown later
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, width=96, height=64, options={"bf": "2", "b_strategy": "0"})
        audio = container.add_stream("flac", rate=RATE, format="s32", layout="stereo")
        for _ in range(17):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * RATE), np.int32), format="s32", layout="stereo")
        silence.sample_rate, silence.pts = RATE, 0
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    # When / Then
    with pytest.raises(MediaError, match=r"segment 0: a picture at .* s follows one at 0.0 s"):
        join_film([path.read_bytes()], [FIRST], tmp_path / "film.mp4")


def test_a_film_without_segments_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="at least one segment"):
        join_film([], [], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_timings_with_a_gap_are_rejected(tmp_path: Path) -> None:
    timings = plan(SHORT, [False] * 3)
    with pytest.raises(TimelineError, match="segment 2 does not follow segment 0"):
        join_film(clips_of(timings[::2]), timings[::2], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_fetching_clips_passes_through(tmp_path: Path) -> None:
    # Given clips, the second of which cannot be fetched
    def clips() -> Iterable[bytes]:
        yield GOOD
        raise KeyError("sha256:gone")

    # When / Then the caller gets that error, and no file is left
    with pytest.raises(KeyError, match="sha256:gone"):
        join_film(clips(), [FIRST, SECOND], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []
