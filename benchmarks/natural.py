"""Generated frames similar to natural ones: brightness ramps, textures of all sizes, noise, a slow pan.

The textures' amplitudes fall with frequency to the power 1.45. At 1280x704, Pillow's default encodes a frame to 1.3 MB
and takes as long per megabyte as for photographs enlarged to that size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ltx2.state.png import Frame

FALL = 1.45  # exponent with which amplitude falls with frequency
CONTRAST, RAMP, NOISE = 40.0, 40.0, 0.8  # standard deviations and half a range, of 255
Plane = npt.NDArray[np.float64]


def natural_frames(width: int, height: int, count: int) -> list[Frame]:
    """`count` frames `(height, width, 3)` of a slow pan; the same on every call."""
    random = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf

    def texture() -> Plane:
        waves = random.standard_normal((2, *frequency.shape)) / frequency**FALL
        plane = np.fft.irfft2(waves[0] + 1j * waves[1], (height, width))
        return np.asarray(plane / plane.std())

    ramp = RAMP * np.linspace(-1, 1, height)[:, None] + RAMP / 2 * np.linspace(-1, 1, width)
    light = 128 + ramp + CONTRAST * texture()
    scene = np.stack([light + CONTRAST / 4 * texture() for _ in range(3)], axis=-1)
    frames = []
    for i in range(count):
        seen = np.roll(scene, (i, 2 * i), axis=(0, 1)) + NOISE * random.standard_normal(scene.shape)
        frames.append(np.clip(np.rint(seen), 0, 255).astype(np.uint8))
    return frames


@lru_cache(maxsize=1)
def natural_film(width: int, height: int, count: int) -> npt.NDArray[np.uint8]:
    """The same frames as one cached array `(count, height, width, 3)`, which must not be changed."""
    return np.stack(natural_frames(width, height, count))
