"""The sound of a user's file, as it is stored."""

from __future__ import annotations

import io
import tempfile

import numpy as np
import pytest

from ltx2.media.sound_file import decode_flac
from ltx2.media.sources.reader import read_track
from ltx2.media.sources.track import decode_track
from tests.ltx2.media.sources.videos import numbered, tone, video


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


def test_the_sound_of_a_video_is_a_track() -> None:
    found, _ = decode_flac(decode_track(io.BytesIO(video(numbered(12), sound=tone(0.5)))))
    assert np.abs(found[5000:15_000, 0]).max() == pytest.approx(0.5, abs=0.05)


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
