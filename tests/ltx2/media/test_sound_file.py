"""Sound as FLAC."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ltx2.errors import MediaError
from ltx2.media.sound_file import decode_flac, encode_flac, open_flac

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 96_000])
def test_24_bits_survive_and_the_bytes_are_the_same(rate: int) -> None:
    # Given
    sound = (RNG.integers(-(2**23), 2**23, (10_001, 2)) / 2**23).astype(np.float32)
    # When
    data = encode_flac(np.array_split(sound, 3), rate)
    found, found_rate = decode_flac(data)
    # Then
    assert np.array_equal(found, sound)
    assert found_rate == rate
    assert encode_flac(np.array_split(sound, 3), rate) == data


@pytest.mark.parametrize("rate", [16_000, 48_000, 192_000])
@pytest.mark.parametrize("samples", [48, 14_000, 66_803])
def test_sound_is_read_from_anywhere_on_also_close_to_its_end_and_behind_it(rate: int, samples: int) -> None:
    sound = (RNG.integers(-(2**23), 2**23, (samples, 2)) / 2**23).astype(np.float32)
    data = encode_flac([sound], rate)
    for first in (1, samples // 2, samples - 8095, samples - 1, samples, samples + rate):
        first = max(1, first)
        with open_flac(data, start=Fraction(first, rate)) as (_, blocks):
            found = np.concatenate([sound[:0], *blocks])
        assert np.array_equal(found, sound[first:])


@pytest.mark.parametrize("data", [b"", b"fLaC", b"RIFF0000WAVE"])
def test_another_file_is_a_media_error(data: bytes) -> None:
    with pytest.raises(MediaError):
        decode_flac(data)


def test_limits_are_media_errors() -> None:
    noise = RNG.random((48_000, 2), np.float32)
    with pytest.raises(MediaError, match="more than 1,000 bytes"):
        encode_flac([noise, noise], 48_000, max_bytes=1000)
    with pytest.raises(MediaError, match="no sound"):
        encode_flac([], 48_000)
