"""The end of a user's video: formats, times, sizes, sound, and everything that is refused."""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ltx2.media.sources import reader
from ltx2.media.sources.excerpts import Excerpt, Wanted, decode_beginning, decode_ending, decode_first_frame
from ltx2.media.sources.opening import opened
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import read_ending, read_first_frame
from tests.ltx2.media.sources.videos import (
    FPS,
    HEIGHT,
    WIDTH,
    cut_in_an_open_group,
    held,
    numbered,
    numbers,
    tone,
    video,
)

SOUND_RATE = 16_000
WANTED = Wanted(WIDTH, HEIGHT, Fit.CROP, Fraction(FPS), 9, Fraction(2), SOUND_RATE)
FRAMES = 40
LAST_NINE = list(range(FRAMES - 9, FRAMES))
MATRIX_IN_TRACK_HEADER = 44
ONE = 1 << 16


def ending(data: bytes, **changes: Any) -> Excerpt:
    return decode_ending(io.BytesIO(data), replace(WANTED, **changes))


@contextmanager
def on_disk(data: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file


SMALL = video(numbered(12), sound=tone(0.5))


@pytest.mark.parametrize(
    ("kind", "codec", "pixels", "sound_codec"),
    [
        ("mp4", "libx264", "yuv420p", "aac"),
        ("mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
        ("webm", "libvpx-vp9", "yuv420p", "libopus"),
        ("matroska", "ffv1", "gray", "flac"),
        ("matroska", "ffv1", "bgra", "libmp3lame"),
        ("mp4", "libx264", "yuv444p10le", "aac"),
    ],
)
def test_the_last_frames_of_any_listed_format_are_read(kind: str, codec: str, pixels: str, sound_codec: str) -> None:
    # Given a video with sound on the left side only
    settings = {"b": "2M"} if codec == "libvpx-vp9" else {}
    sound = tone(FRAMES / FPS)
    data = video(
        numbered(FRAMES), kind=kind, codec=codec, pixels=pixels, sound=sound, sound_codec=sound_codec, settings=settings
    )
    # When / Then: the last one is the video's last, and the sound belongs to them
    found = ending(data)
    assert numbers(found.frames) == LAST_NINE
    assert (found.available, found.before) == (FRAMES, int((FRAMES - 9) / FPS * SOUND_RATE))
    left, right = np.abs(found.sound[2000:20_000]).max(axis=0)
    assert left == pytest.approx(0.5, abs=0.03)
    assert right < 0.01


def test_frames_are_the_nearest_ones_by_time() -> None:
    # Given 30 frames per second, and a variable rate: two frames per second, then the usual
    times = [number / 2 for number in range(5)] + [2 + number / FPS for number in range(1, 5)]
    # When / Then
    assert numbers(ending(video(numbered(30), fps=Fraction(30))).frames) == [19, 20, 21, 23, 24, 25, 26, 28, 29]
    assert numbers(ending(video(numbered(9), times=times)).frames) == [3, 3, 3, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_a_picture_that_is_shown_for_long_stays_to_its_end(kind: str) -> None:
    # Given a recording of a screen on which nothing changes in the last half of a second
    data = held(video(numbered(12), sound=tone(1)), kind=kind)
    # When
    found = ending(data, frames=17)
    # Then the video ends half a second after its last picture begins
    assert (found.available, numbers(found.frames)) == (23, [*range(6, 12), *[11] * 11])
    assert np.abs(found.sound[found.before : found.before + SOUND_RATE // 2]).max() == pytest.approx(0.5, abs=0.03)


def test_pictures_that_need_those_before_a_cut_are_not_the_beginning() -> None:
    # Given a video that was cut at a keyframe which pictures refer to that are shown before it
    data = cut_in_an_open_group()
    with av.open(io.BytesIO(data)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert min(times) < times[0]
    # When / Then it begins with the first picture that can be decoded
    assert numbers(decode_beginning(io.BytesIO(data), WANTED).frames) == list(range(12, 21))
    assert ending(data).available == 28


def test_the_sound_is_that_of_the_frames() -> None:
    # Given
    data = video(numbered(FRAMES), kind="mov", sound=tone(2), sound_codec="pcm_s16le", rate=48_000)
    # When
    found = ending(data)
    # Then it is in time to a tenth of a sample
    start = (FRAMES - 9) / FPS - found.before / SOUND_RATE
    times = start + np.arange(24_000) / SOUND_RATE
    error = found.sound[:24_000, 0] - 0.5 * np.sin(2 * np.pi * 440 * times)
    assert np.abs(error[100:]).max() < 0.002


@pytest.mark.parametrize("channels", [0, 1, 6])
def test_sound_becomes_stereo(channels: int) -> None:
    # Given no sound, mono, or 5.1 with the same tone in front, in the centre and behind, on the left
    sound = tone(FRAMES / FPS, channels=channels) if channels else None
    # When
    found = ending(video(numbered(FRAMES), kind="matroska", sound=sound, sound_codec="flac")).sound[2000:20_000]
    # Then silence, both sides, or a mix that does not clip
    left, right = np.abs(found).max(axis=0)
    if channels == 0:
        assert not found.any()
    elif channels == 1:
        assert np.array_equal(found[:, 0], found[:, 1])
        assert left == pytest.approx(0.5, abs=0.01)
    else:
        assert 0.4 < left <= 0.51
        assert 0 < right < left / 2


def test_a_short_video_has_fewer_frames_and_less_sound() -> None:
    found = ending(video(numbered(12), sound=tone(0.5)))
    assert (found.available, found.before) == (12, int(3 / FPS * SOUND_RATE))
    assert numbers(found.frames) == list(range(3, 12))
    with pytest.raises(ValueError, match="too short: 5 frames at 24 per second, at least 9 are needed"):
        ending(video(numbered(5)))


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((ONE, 0, 0, ONE), (0, 0)),
        ((0, ONE, -ONE, 0), (0, 1)),  # a quarter clockwise, as a phone that is held upright
        ((-ONE, 0, 0, -ONE), (1, 1)),
        ((0, -ONE, ONE, 0), (1, 0)),
        ((-ONE, 0, 0, ONE), (0, 1)),  # a mirror, as some front cameras
    ],
)
def test_rotated_videos_are_turned_upright(matrix: tuple[int, int, int, int], corner: tuple[int, int]) -> None:
    # Given a video whose upper left is bright, with a display matrix
    data = bytearray(video(numbered(12)))
    at = data.index(b"tkhd") + MATRIX_IN_TRACK_HEADER
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    # When
    sideways = a == 0
    frame = ending(bytes(data), width=32 if sideways else 64, height=64 if sideways else 32).frames[0][..., 0]
    # Then
    height, width = frame.shape
    quarters = frame[height // 4 :: height // 2, width // 4 :: width // 2]
    assert np.unravel_index(quarters.argmax(), quarters.shape) == corner


@pytest.mark.parametrize(("size", "black"), [((128, 128), 0.5), ((96, 32), 1 / 3), ((32, 64), 0.75)])
def test_other_shapes_are_cropped_or_padded(size: tuple[int, int], black: float) -> None:
    frames = {fit: ending(SMALL, width=size[0], height=size[1], fit=fit).frames[0] for fit in Fit}
    assert not (frames[Fit.CROP] < 4).any()
    assert (frames[Fit.PAD] < 4).all(axis=2).mean() == pytest.approx(black, abs=0.02)


def test_pixels_that_are_not_square_are_shown_with_their_aspect() -> None:
    wide = ending(video(numbered(12), aspect=Fraction(2)), width=128, height=32, fit=Fit.PAD).frames[0]
    assert not (wide < 4).any()


def with_cover(sound: NDArray[np.float32]) -> bytes:
    """A music file with a cover picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        picture: Any = container.add_stream("mjpeg", rate=1)
        picture.height, picture.width, picture.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        audio: Any = container.add_stream("aac", rate=48_000, layout="stereo")
        image = av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")
        for packet in (*picture.encode(image.reformat(format="yuvj420p")), *picture.encode(None)):
            container.mux(packet)
        samples = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
        samples.sample_rate = 48_000
        for packet in (*audio.encode(samples), *audio.encode(None)):
            container.mux(packet)
    return file.getvalue()


def interrupted() -> bytes:
    """An MP4 whose index comes first and names more than there is."""
    data = video(numbered(12))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as target, av.open(io.BytesIO(data)) as source:
        with av.open(target.name, "w", options={"movflags": "faststart"}) as copy:
            stream = copy.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
        return target.read()[:-40]


def hdr_by_its_container() -> bytes:
    """A ProRes video whose pictures do not say that they are HDR."""
    colours = {"color_primaries": 9, "color_trc": 16, "colorspace": 9}
    return video(
        numbered(12),
        kind="mov",
        codec="prores_ks",
        pixels="yuv422p10le",
        colours=colours,
        container_settings={"movflags": "write_colr"},
    )


TRANSFERS = {"PQ": 16, "HLG": 18}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "not an MP4, MOV, WebM or MKV file"),
        (lambda: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not an MP4, MOV, WebM or MKV file"),
        (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "not an MP4"),
        (lambda: video(None, kind="wav", sound=tone(1), sound_codec="pcm_s16le"), "not an MP4"),
        (lambda: b"\0\0\0\x18ftypheic" + bytes(64), "not an MP4"),
        (lambda: video(None, sound=tone(1)), "it has no video"),
        (lambda: with_cover(tone(1)), "it has no video, only a cover picture"),
        (lambda: SMALL[: len(SMALL) // 2], "cannot be decoded"),
        (lambda: SMALL[:40], "cannot be decoded"),
        (interrupted, "damaged: the file ends too early"),
        *(
            (lambda value=value: video(numbered(12), colours={"color_trc": value}), rf"HDR \({name}\); convert it")
            for name, value in TRANSFERS.items()
        ),
        (hdr_by_its_container, r"HDR \(PQ\); convert it"),
    ],
)
def test_what_is_not_a_usable_video_is_refused_by_name(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ending(make())


def test_a_recording_that_broke_off_ends_where_it_broke_off() -> None:
    # Given an MKV without its end
    data = video(numbered(FRAMES), kind="matroska", sound=tone(2), sound_codec="flac", settings={"g": "8"})
    # When / Then the frames before that are its last ones
    found = numbers(ending(data[: len(data) // 2]).frames)
    assert found == list(range(found[0], found[0] + 9))
    assert found[-1] < FRAMES - 1


def test_only_the_end_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a video with a keyframe every 16 frames, whose first half is damaged in every picture
    data = bytearray(video(numbered(50), settings={"g": "16", "keyint_min": "16", "bf": "0"}))
    with av.open(io.BytesIO(data)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[:32]:
        data[position + 4 : position + size] = bytes(size - 4)
    # When / Then
    assert numbers(ending(bytes(data)).frames) == list(range(41, 50))


def test_references_to_other_files_are_not_followed(tmp_path: Any) -> None:
    """A MOV may name other files that have its pictures."""
    with opened(io.BytesIO(SMALL)) as container:
        assert container.options["enable_drefs"] == "0"


def test_a_child_reads_as_this_process_does() -> None:
    with on_disk(SMALL) as file:
        found = read_ending(file, WANTED)
        here = ending(SMALL)
        assert np.array_equal(found.frames, here.frames)
        assert np.array_equal(found.sound, here.sound)
        assert (found.available, found.before) == (here.available, here.before)
        first = read_first_frame(file, 32, 32)
        assert np.array_equal(first, decode_first_frame(io.BytesIO(SMALL), 32, 32))
        assert first.shape == (32, 32, 3)
        file.truncate(os.fstat(file.fileno()).st_size // 2)
        with pytest.raises(ValueError, match="cannot be decoded"):
            read_ending(file, WANTED)


def repeated(data: bytes, count: int) -> bytes:
    """An MKV that has its second picture `count` times; only the first one is a keyframe."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="matroska") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        pictures = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        for number in range(count):
            packet = av.Packet(pictures[min(number, 1)])
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            packet.pts = packet.dts = number
            packet.is_keyframe = not number
            copy.mux(packet)
    return file.getvalue()


def test_a_video_that_takes_too_long_or_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a long video with one keyframe
    noise = np.random.default_rng(0).integers(0, 256, (2, 720, 1280, 3), dtype=np.uint8)
    data = repeated(video(noise, kind="matroska", codec="mpeg4", settings={"qmin": "8"}), 1000)
    with on_disk(data) as file:
        # When / Then
        monkeypatch.setattr(reader, "VIDEO_SECONDS", 0.0)
        monkeypatch.setattr(reader, "BYTES_PER_SECOND", 2**40)
        with pytest.raises(ValueError, match="more than 1 s of processor time"):
            read_ending(file, WANTED)
        monkeypatch.setattr(reader, "VIDEO_SECONDS", 60.0)
        monkeypatch.setattr(reader, "VIDEO_MEMORY_BYTES", 2**20)
        with pytest.raises(ValueError, match="memory"):
            read_ending(file, WANTED)


@hypothesis_settings(max_examples=40)
@given(st.data())
def test_a_damaged_video_is_read_or_a_value_error(data: st.DataObject) -> None:
    # Given
    file = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    # When / Then
    try:
        found = ending(bytes(file))
    except ValueError:
        return
    assert found.frames.shape == (9, HEIGHT, WIDTH, 3)
