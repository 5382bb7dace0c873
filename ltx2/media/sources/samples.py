"""Decoded sound as stereo float32 samples: layouts, absolute times, sample rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from av import AudioFrame, AudioResampler
from numpy.typing import NDArray

Sound = NDArray[np.float32]
"""`[samples, 2]`, -1 .. 1 as far as the source is so."""
RESYNC_S = 0.02  # times of packets are rounded, to 1 ms in WebM; only a larger difference is a gap


class Stereo:
    """Turns decoded frames of any layout to stereo: mono on both sides, more channels mixed down.

    rate: Hz of what it gives; default: that of the first frame. The form of frames may change, as in joined files.
    """

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self._form: tuple[str, str, int] | None = None
        self._mixer: AudioResampler | None = None
        self._scale = 1.0

    def __call__(self, frame: AudioFrame) -> Sound:
        """The samples of one frame."""
        form = frame.layout.name, frame.format.name, frame.sample_rate
        if self._mixer is None or form != self._form:
            self._form, self.rate = form, self.rate or frame.sample_rate
            channels = frame.layout.nb_channels
            # only with whole numbers does FFmpeg scale a mix so that it cannot clip
            self._scale, samples = (1.0, "fltp") if channels <= 2 else (2.0**-31, "s32p")
            layout = "mono" if channels == 1 else "stereo"
            self._mixer = AudioResampler(format=samples, layout=layout, rate=self.rate)
        parts = [part.to_ndarray().astype(np.float64) * self._scale for part in self._mixer.resample(frame)]
        planes = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
        return np.ascontiguousarray(np.broadcast_to(planes, (2, planes.shape[1])).T, dtype=np.float32)


def placed(frames: Iterable[AudioFrame], start: Fraction, end: Fraction) -> tuple[Sound, int] | None:
    """The samples from `start` to `end`, in seconds, with silence where there are none, and their rate.

    Frames follow each other without a gap unless their times say otherwise. None: there is no frame.
    """
    stereo, sound, rate, position = Stereo(), None, 0, 0
    for frame in frames:
        if frame.pts is None or frame.time_base is None:
            raise ValueError("its sound has no times")
        samples = stereo(frame)
        rate = stereo.rate
        time = frame.pts * frame.time_base
        if sound is None:
            sound = np.zeros((max(0, round((end - start) * rate)), 2), np.float32)
            position = round((time - start) * rate)
        elif abs((time - start) * rate - position) > RESYNC_S * rate:
            position = round((time - start) * rate)
        first, last = max(0, position), min(len(sound), position + len(samples))
        if first < last:
            sound[first:last] = samples[first - position : last - position]
        position += len(samples)
        if time > end:
            break
    return None if sound is None else (sound, rate)


def resampled(blocks: Iterable[Sound], rate: int, wanted: int) -> Iterator[Sound]:
    """The same sound with `wanted` samples per second; unchanged if it has them."""
    if rate == wanted:
        yield from blocks
        return
    resampler = AudioResampler(format="fltp", layout="stereo", rate=wanted)
    position = 0
    for block in blocks:
        if not len(block):
            continue
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block.T), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
        position += len(block)
        yield from (_samples(part) for part in resampler.resample(frame))
    if position:
        yield from (_samples(part) for part in resampler.resample(None))


def _samples(frame: AudioFrame) -> Sound:
    return np.ascontiguousarray(frame.to_ndarray().T, dtype=np.float32)
