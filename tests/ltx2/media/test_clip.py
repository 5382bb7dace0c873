"""Encoding and reading clips: in sync, deterministic, and anything else is rejected."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.clip import encode_clip, read_clip

RATE = 24000
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50), (30, 180, 90)]


def plain_frames(colours: list[tuple[int, int, int]] = COLOURS) -> NDArray[np.uint8]:
    return np.stack([np.full((64, 96, 3), colour, np.uint8) for colour in colours])


def noise(samples: int, channels: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).uniform(-0.99, 0.99, (samples, channels)).astype(np.float32)


def encode(**changes: Any) -> bytes:
    given = {"frames": plain_frames(), "sound": noise(7000, 2), "fps": Fraction(24), "audio_rate": RATE}
    arguments = given | {"picture_start": Fraction(0)} | changes
    return encode_clip(arguments.pop("frames"), arguments.pop("sound"), **arguments)


CLIP = encode(sound=noise(2000, 1), frames=plain_frames()[:3])


@contextmanager
def on_one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(25), Fraction(24000, 1001), Fraction(23999999, 1000000)])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_clip_round_trips(fps: Fraction, channels: int) -> None:
    # Given frames of one colour each, and noise
    frames, sound = plain_frames(), noise(24010, channels)
    # When they are encoded and decoded
    clip = read_clip(encode_clip(frames, sound, fps=fps, audio_rate=RATE, picture_start=Fraction(49, 24)))
    # Then colours are within 3 levels, sound is within half a 24-bit step, and times are exact
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).max() <= 3
    assert clip.sound.shape == sound.shape
    assert clip.sound.dtype == np.float32
    assert np.abs(clip.sound - sound).max() <= 2**-24
    assert (clip.fps, clip.audio_rate) == (fps, RATE)
    assert abs(clip.picture_start - Fraction(49, 24)) <= Fraction(1, 180_000)


def test_sound_beyond_full_scale_is_clipped() -> None:
    sound = np.array([[1.5], [-1.5], [0.25], [-1.0]], np.float32).repeat(1000, 0)
    assert read_clip(encode(sound=sound)).sound == pytest.approx(sound.clip(-1, 1), abs=2**-23)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_sound_read_from_a_clip_is_encoded_exactly(levels: list[float]) -> None:
    # Given sound read from a clip
    once = read_clip(encode(sound=np.array(levels, np.float32)[:, None], frames=plain_frames()[:1])).sound
    # When it is encoded again, then it is unchanged
    assert (read_clip(encode(sound=once, frames=plain_frames()[:1])).sound == once).all()


def test_the_video_is_tagged_as_bt709_limited_range() -> None:
    with av.open(io.BytesIO(encode())) as container:
        picture = container.streams.video[0].codec_context
        tags = (picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc)
    assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range


def test_timestamps_keep_video_and_sound_in_sync() -> None:
    # Given a continuation whose video starts 49/24 s after its sound
    ramp = np.add.outer(np.arange(64), np.arange(96))[..., None].repeat(3, -1)
    frames = np.stack([(2 * (ramp + 3 * i) % 256).astype(np.uint8) for i in range(12)])
    data = encode(frames=frames, picture_start=Fraction(49, 24))
    # When its packets are read
    with av.open(io.BytesIO(data)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        packets = [packet for packet in container.demux(video) if packet.size]
        assert audio.start_time == 0
    # Then each frame has its exact time, and the first is a key frame
    assert [p.pts * p.time_base for p in packets] == [Fraction(49, 24) + Fraction(i, 24) for i in range(12)]
    assert [p.dts for p in packets] == [p.pts for p in packets]
    assert packets[0].is_keyframe
    # And decoding gives the frames in order
    with av.open(io.BytesIO(data)) as container:
        assert [frame.pts for frame in container.decode(video=0)] == [p.pts for p in packets]


def test_clips_of_one_size_share_their_codec_header() -> None:
    # Given a plain frame, and noisy frames of the same size
    noisy = np.random.default_rng(1).integers(0, 256, (40, 64, 96, 3), dtype=np.uint8)
    headers = []
    for frames in (plain_frames()[:1], noisy):
        with av.open(io.BytesIO(encode(frames=frames))) as container:
            headers.append(container.streams.video[0].codec_context.extradata)
    # Then both clips have the same header
    assert headers[0]
    assert headers[0] == headers[1]


def test_the_same_input_gives_the_same_bytes_on_any_number_of_cores() -> None:
    # Given frames large enough to be encoded in parallel
    rng = np.random.default_rng(2)
    wide = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    frames = np.stack([np.roll(wide, 5 * i, axis=1) for i in range(6)])
    # When they are encoded twice with all cores and once with one
    first, second = encode(frames=frames), encode(frames=frames)
    with on_one_core():
        third = encode(frames=frames)
    # Then the bytes are the same
    assert first == second == third


def test_the_same_input_gives_the_same_bytes_with_a_fragmented_heap() -> None:
    # Given moving frames
    ramp = np.add.outer(np.arange(64), 2 * np.arange(96))[..., None].repeat(3, -1)
    frames = np.stack([(ramp + 5 * i).astype(np.uint8) for i in range(17)])
    frames[:, 16:32, 16:32] = 255
    rng = np.random.default_rng(4)
    clips = set()
    # When they are encoded repeatedly, each time with different gaps in free memory
    for _ in range(150):
        pieces = [np.full(size, size % 251, np.uint8) for size in rng.integers(1, 200_000, rng.integers(0, 30))]
        del pieces[::2]
        clips.add(encode(frames=frames))
    # Then the bytes are always the same
    assert len(clips) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": plain_frames()[:0]}, "not 0 of 96x64"),
        ({"frames": plain_frames()[:, :63]}, "even size"),
        ({"frames": plain_frames().astype(np.float32)}, "uint8.*not float32"),
        ({"frames": plain_frames()[0]}, r"not uint8 \[64, 96, 3\]"),
        ({"frames": [1, 2]}, "not list"),
        ({"sound": noise(0, 2)}, "at least one sample"),
        ({"sound": noise(10, 3)}, r"not float32 \[10, 3\]"),
        ({"sound": np.zeros((10, 2), np.int16)}, "not int16"),
        ({"sound": np.full((10, 2), np.nan, np.float32)}, "finite"),
        ({"audio_rate": 0}, "audio_rate: 0"),
        ({"audio_rate": 2**31 - 1}, "cannot encode the clip"),
        ({"fps": Fraction(0)}, "fps 0"),
        ({"picture_start": Fraction(-1, 24)}, "picture_start -1/24"),
    ],
)
def test_invalid_input_is_not_encoded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        encode(**changes)


def mp4_of(codec: str, sound: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream(codec, rate=24, width=96, height=64, pix_fmt="yuv420p")
        audio = container.add_stream(sound, rate=RATE, layout="mono", format="s16" if sound == "flac" else "fltp")
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(plain_frames()[i], format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        silence = np.zeros((1, 4096), np.int16 if sound == "flac" else np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format=audio.format.name, layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable clip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a readable clip"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a readable clip"),
        (bytes(100_000), "not a readable clip"),
        (encode()[:-3000], "not a readable clip"),
        (mp4_of("mpeg4", "flac"), r"not \[\('audio', 'flac'\), \('video', 'mpeg4'\)\]"),
        (mp4_of("libx264", "aac"), r"not \[\('audio', 'aac'\), \('video', 'h264'\)\]"),
        (mp4_of("libx264", "flac"), "24 bit, mono or stereo, not s16"),
    ],
)
def test_anything_but_a_clip_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_clip(data)


def test_a_clip_larger_than_the_limit_is_rejected() -> None:
    data = encode()
    size = 7 * 64 * 96 * 3 + 7000 * 2 * 4
    assert len(read_clip(data, max_bytes=size).frames) == 7
    with pytest.raises(MediaError, match="more than"):
        read_clip(data, max_bytes=size - 1)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_damaged_clip_is_read_or_rejected(data: st.DataObject) -> None:
    # Given a clip in which some bytes were overwritten
    clip = bytearray(CLIP)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(clip) - 1))
        clip[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    # When / Then it is read within the size limit, or rejected with MediaError
    try:
        read = read_clip(bytes(clip), max_bytes=2**24)
    except MediaError:
        return
    assert read.frames.nbytes + read.sound.nbytes <= 2**24
