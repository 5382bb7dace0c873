"""Encodes a whole video but its end, or its beginning, as clips of a film.

Run as a program, it is a child process with limits: see `reader`. Frames are those of `excerpts`: the nearest ones by
time, counted back from the video's last, or from its first. One part is in memory at a time, and the video's sound as
FLAC.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.clip import encode_clip
from ltx2.media.limited_child import run_limited
from ltx2.media.sources.excerpts import beginning_times, decoded_pictures, frames_at, nearest, span_of
from ltx2.media.sources.opening import opened, video_of
from ltx2.media.sources.pictures import Fit, Fitter
from ltx2.media.sources.samples import Sound
from ltx2.media.sources.slices import Blocks, Track
from ltx2.media.sources.track import decode_sound
from ltx2.timeline import SourceTiming, film_samples, source_part_frames, source_timings, source_timings_after

RATE = 48_000
LONGEST_S = 3600
LARGEST_BYTES = 512 * 2**20
MOST_PART_BYTES = 256 * 2**20
"""Pixels of a part, of which there are three copies while it is encoded."""


@dataclass(frozen=True, slots=True)
class WantedParts:
    """What a film shows of a video: all but its last `overlap` frames at `fps`, `width` x `height`.

    crop_width, crop_height: the middle of these pictures that the film shows. after: the video comes after the film's
    segments, so that it is all but its first `overlap` frames.
    """

    width: int
    height: int
    fit: Fit
    fps: Fraction
    overlap: int
    crop_width: int
    crop_height: int
    after: bool = False

    @property
    def part_frames(self) -> int:
        """How many frames each part has but the last."""
        return source_part_frames(self.fps, 3 * self.width * self.height, MOST_PART_BYTES)


def encode_parts(file: IO[bytes], wanted: WantedParts) -> Iterator[bytes]:
    """The parts of a video as clips with sound of 48 kHz; none if it has no frames besides the overlap.

    Raises:
        ValueError: not a video, a damaged one, HDR, or too long.
    """
    with opened(file) as container:
        video = video_of(container)
        span = span_of(container, video)
        first, last = span.first, span.last_frame(wanted.fps)
        if last - first > LONGEST_S:
            raise ValueError(f"it is longer than {LONGEST_S // 60} minutes, so a film cannot have all of it")
        count = frames_at(wanted.fps, first, last)
        if count <= wanted.overlap:
            return
    shown, overlap = count - wanted.overlap, wanted.overlap
    if wanted.after:
        start, timings = first, source_timings_after(shown, wanted.part_frames, wanted.fps, overlap, overlap)
        times = beginning_times(wanted.fps, count, first, last)[overlap:]
    else:
        start = last - (count - 1) / wanted.fps
        timings = source_timings(shown, wanted.part_frames, wanted.fps, overlap)
        times = [start + Fraction(number) / wanted.fps for number in range(shown)]
    sound = _Sound(decode_sound(file, start))
    with opened(file) as container:
        video = video_of(container)
        container.seek(video.start_time or 0, stream=video)
        fitted = Fitter(wanted.width, wanted.height, wanted.fit, video.codec_context.sample_aspect_ratio)
        pictures = nearest(decoded_pictures(container, video), iter(times), span, wanted.fps, fitted)
        for timing in timings:
            frames = [_cropped(picture, wanted) for picture in islice(pictures, timing.new_frames)]
            if len(frames) < timing.new_frames:
                end = float((timing.first_frame + len(frames)) / wanted.fps)
                raise ValueError(f"damaged: its pictures end after {end:.2f} s")
            yield _encoded(np.stack(frames), sound.of(timing), timing)


def _encoded(frames: NDArray[np.uint8], sound: Sound, timing: SourceTiming) -> bytes:
    try:
        return encode_clip(frames, sound, fps=timing.fps, audio_rate=RATE, picture_start=timing.picture_start)
    except MediaError as error:
        raise ValueError(str(error)) from None


def _cropped(frame: NDArray[np.uint8], wanted: WantedParts) -> NDArray[np.uint8]:
    top, left = (wanted.height - wanted.crop_height) // 2, (wanted.width - wanted.crop_width) // 2
    return frame[top : top + wanted.crop_height, left : left + wanted.crop_width]


class _Sound:
    """The sound of parts, in their order: each goes on under the next one."""

    def __init__(self, flac: bytes | None) -> None:
        """flac: from the first picture on; None: silence."""
        self._blocks = Blocks(Track(flac).at(RATE) if flac is not None else iter(()))
        self._ahead: Sound = np.zeros((0, 2), np.float32)
        self._position = 0  # of what is ahead, from the first picture on

    def of(self, timing: SourceTiming) -> Sound:
        """The samples of a part, a few more than it needs."""
        begin = film_samples(timing.first_frame - timing.skipped_frames, timing.fps, RATE)
        self._ahead = self._ahead[begin - self._position :]
        self._position = begin
        count = int(timing.sound_seconds * RATE) + RATE // 100
        if count > len(self._ahead):
            self._ahead = np.concatenate([self._ahead, self._blocks.take(count - len(self._ahead))])
        return self._ahead[:count]


def _encode(arguments: Sequence[str]) -> bytes:
    width, height, fit, fps, overlap, crop_width, crop_height, after = arguments
    crop = int(crop_width), int(crop_height)
    wanted = WantedParts(int(width), int(height), Fit(fit), Fraction(fps), int(overlap), *crop, after == "True")
    parts, size = [], 0
    for clip in encode_parts(sys.stdin.buffer, wanted):
        parts += [struct.pack(">I", len(clip)), clip]
        size += len(clip)
        if size > LARGEST_BYTES:
            raise ValueError(f"in the film it has more than {LARGEST_BYTES:,} bytes, so a film cannot have all of it")
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(run_limited(_encode))
