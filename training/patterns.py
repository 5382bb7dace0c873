"""What of a training window is given: its beginning, and in some windows its end, a middle, a stream, or stills.

Given latents are clean and have noise level 0. Films are made of windows that are given nothing, or their beginning.
Editing a film needs the others: a segment is rendered again between two that stay, or before a film, or pictures are
rendered for a sound, or sound for pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from ltx2.timeline import latent_frames
from training import world

IMAGE = 0.15
"""The probability that a first segment is given its first frame, as a start image."""
LONGEST_END = 12  # audio latents
_SPEEDS, _OF_SOUND = [1, 5], [1, 2, 3]  # of LOTS: speeds of both shapes; speed and place of the first


class Part(Enum):
    """What of a stream is given besides its beginning."""

    NOTHING = auto()
    END = auto()
    MIDDLE = auto()
    ALL = auto()


PARTS = {
    (Part.NOTHING, Part.NOTHING): 0.6,
    (Part.END, Part.END): 0.17,
    (Part.NOTHING, Part.ALL): 0.12,
    (Part.MIDDLE, Part.NOTHING): 0.04,
    (Part.ALL, Part.NOTHING): 0.04,
    (Part.END, Part.ALL): 0.03,
}
"""Parts of picture and sound that are given, with their probabilities."""
PARTS_WITH_STILLS = {(Part.NOTHING, Part.NOTHING): 0.8, (Part.NOTHING, Part.ALL): 0.2}


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is given of one window.

    picture `[F]`, sound `[T]`: per latent, 0 if it is given, 1 if it is rendered. stills: the frames that are appended
    as keyframes.
    """

    picture: NDArray[np.float32]
    sound: NDArray[np.float32]
    stills: NDArray[np.int64]

    def tied(self, scene: world.World) -> NDArray[np.bool_]:
        """Which of the LOTS numbers nothing shows that is given, so that in a first segment the noise decides them."""
        if self._shows_motion or len(self._singles) > 1:
            return np.zeros(world.LOTS, bool)
        tied = np.ones(world.LOTS, bool)
        if self._singles:
            tied[:] = False
            tied[_SPEEDS] = True
        tied[self.heard(scene)] = False
        return tied

    def heard(self, scene: world.World) -> list[int]:
        """Which of the LOTS numbers the given sound tells."""
        return _OF_SOUND if world.SOUNDS[scene.sound] and bool((self.sound == 0).any()) else []

    @property
    def only_still(self) -> int | None:
        """The frame that is given, if it is all that is given of the picture."""
        return self._singles[0] if len(self._singles) == 1 and not self._shows_motion else None

    @property
    def _shows_motion(self) -> bool:
        return bool((self.picture[1:] == 0).any())

    @property
    def _singles(self) -> list[int]:
        """Single frames that are given."""
        return [*([0] if self.picture[0] == 0 else []), *map(int, self.stills)]


def draw_parts(rng: np.random.Generator, stills: int) -> tuple[Part, Part]:
    """Random parts of picture and sound, with the probabilities in PARTS, or PARTS_WITH_STILLS."""
    parts = PARTS_WITH_STILLS if stills else PARTS
    return list(parts)[rng.choice(len(parts), p=list(parts.values()))]


def draw_pattern(
    rng: np.random.Generator, parts: tuple[Part, Part], *, overlap: int, latents: int, pinned: int, stills: int
) -> Pattern:
    """A random pattern with these parts of picture and sound.

    overlap: given leading frames, 0 for none. latents: of the sound, of which the first `pinned` are given. stills:
    number of frames to append.
    """
    count = latent_frames(world.FRAMES)
    lead = latent_frames(overlap) if overlap else 0
    picture, sound = np.ones(count, np.float32), np.ones(latents, np.float32)
    picture[:lead], sound[:pinned] = 0, 0
    if parts[0] == Part.END and lead < count - 1:
        picture[-int(rng.integers(1, min(2, count - 1 - lead) + 1)) :] = 0
    if parts[0] == Part.MIDDLE and lead < count - 1:
        picture[rng.integers(lead, count - 1)] = 0
    if parts[1] == Part.END:
        sound[-int(rng.integers(4, LONGEST_END + 1)) :] = 0
    for mask, part in ((picture, parts[0]), (sound, parts[1])):
        mask[:] = 0 if part == Part.ALL else mask
    places = rng.choice(np.arange(max(1, overlap), world.FRAMES), size=stills, replace=False)
    return Pattern(picture, sound, np.sort(places))
