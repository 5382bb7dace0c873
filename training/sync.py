"""Whether sound and picture of a film of the world belong together: its tone says how high its first shape is."""

from __future__ import annotations

import math

import numpy as np

from ltx2.quality.audio_metrics import WINDOW_S, pitch, semitones
from ltx2.quality.continuity import Continuity
from ltx2.quality.shape_continuity import SAME_COLOUR
from ltx2.quality.shape_tracking import Track
from training.films import Film
from training.world import COLOURS, FPS, SOUNDS, World, pitch_at


def out_of_tune(found: Continuity, film: Film, world: World) -> list[float]:
    """Per segment, how many semitones its sound is from what its picture says, the median over its frames.

    NaN where the first shape of `world` is not to be seen, or its tone not to be heard.
    """
    base, colour = SOUNDS[world.sound], np.array(COLOURS[world.shapes[0].colour], float)
    off = []
    for segment in found.segments:
        tracks = [one for one in segment.tracks if np.linalg.norm(one.colour - colour) < SAME_COLOUR]
        differences = _differences(tracks[0], segment.first_frame, film, base) if tracks and base else []
        off.append(float(np.median(differences)) if differences else math.nan)
    return off


def _differences(shape: Track, first_frame: int, film: Film, base: float) -> list[float]:
    """Semitones between the pitch of the shape's height and the one that is heard, 0 or more, frame by frame."""
    half = WINDOW_S / 2
    differences = []
    for index in np.flatnonzero(shape.whole):
        moment = (first_frame + index) / FPS
        heard = film.sound[:, max(0, round((moment - half) * film.rate)) : round((moment + half) * film.rate)]
        wanted = float(pitch_at(base, shape.centres[index, 1]))
        differences.append(abs(semitones(wanted, pitch(heard, film.rate))))
    return [value for value in differences if not math.isnan(value)]
