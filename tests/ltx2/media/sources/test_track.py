"""The sound of a user's file, as it is stored."""

from __future__ import annotations

import io
import tempfile
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.media.sound_file import decode_flac
from ltx2.media.sources.reader import read_track
from ltx2.media.sources.track import decode_track
from tests.ltx2.media.sources.videos import numbered, remuxed, tone, video


def begin_of(sound: NDArray[np.float32]) -> int:
    """The first sample of a tone after silence, about."""
    return int(np.argmax(np.abs(sound[:, 0]) > 0.1))


def test_lossless_sound_keeps_its_rate_and_every_sample() -> None:
    # Given a WAV of 16 bits at 44.1 kHz
    sound = (np.round(tone(0.5, rate=44_100) * 2**15) / 2**15).astype(np.float32)
    data = video(None, kind="wav", sound=sound, sound_codec="pcm_s16le", rate=44_100)
    # When, in a child process
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        found, rate = decode_flac(read_track(file))
    # Then
    assert rate == 44_100
    assert np.array_equal(found, sound.T)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("ogg", "libopus"),
        ("adts", "aac"),
        ("aiff", "pcm_s16be"),
        ("wav", "adpcm_ms"),
        ("flac", "flac"),
        ("mp4", "aac"),
        ("matroska", "libopus"),
    ],
)
def test_any_listed_format_is_read(kind: str, codec: str) -> None:
    data = video(None, kind=kind, sound=tone(0.5), sound_codec=codec)
    found, rate = decode_flac(decode_track(io.BytesIO(data)))
    assert rate == 48_000
    assert len(found) / rate == pytest.approx(0.5, abs=0.06)
    assert np.abs(found[5000:15_000, 0]).max() == pytest.approx(0.5, abs=0.05)
    # and it begins with the first sample; an ADTS file does not say that its first 1024 come before that
    assert begin_of(found) == pytest.approx(1024 if kind == "adts" else 0, abs=100)


@pytest.mark.parametrize("late", [0, 0.25])
def test_the_sound_of_a_video_begins_with_its_first_picture(late: float) -> None:
    # Given a video whose clock begins at 5 s, and whose sound begins later than its pictures, or not
    def moved(packets: list[Any]) -> list[Any]:
        for packet in packets:
            seconds = 5 + (late if packet.stream.type == "audio" else 0)
            packet.pts += round(seconds / packet.time_base)
            packet.dts += round(seconds / packet.time_base)
        return packets

    data = video(numbered(12), kind="matroska", sound=tone(0.5), sound_codec="flac")
    found, _ = decode_flac(decode_track(io.BytesIO(remuxed(data, moved, kind="matroska"))))
    assert len(found) == pytest.approx((0.5 + late) * 48_000, abs=100)
    assert begin_of(found) == pytest.approx(late * 48_000, abs=100)


def test_sound_whose_form_changes_on_the_way_has_one_rate() -> None:
    # Given two recordings in one file, of which the second one is mono at another rate
    bare = {"write_xing": "0", "id3v2_version": "0"}
    first, second = (
        video(
            None,
            kind="mp3",
            sound=tone(1, rate=rate, channels=channels),
            sound_codec="libmp3lame",
            rate=rate,
            container_settings=bare,
        )
        for rate, channels in ((48_000, 2), (44_100, 1))
    )
    # When
    found, rate = decode_flac(decode_track(io.BytesIO(first + second)))
    # Then
    assert len(found) / rate == pytest.approx(2, abs=0.15)
    for start, side in ((0.25, 0), (1.25, 1)):  # 440 Hz, and mono on both sides
        wave = found[round(start * rate) : round((start + 0.5) * rate), side]
        assert (np.diff(np.sign(wave)) > 0).sum() == pytest.approx(220, abs=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a WAV, AIFF, FLAC, MP3, AAC, Ogg or a video file"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a WAV"),
        (b"RIFF\0\0\0\0WAVE", "cannot be decoded"),
        (b"fLaC" + bytes(50), "cannot be decoded|no sound"),
        (video(numbered(3)), "it has no sound"),
    ],
)
def test_what_has_no_sound_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_track(io.BytesIO(data))
