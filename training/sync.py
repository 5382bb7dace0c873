"""Sync of sound and picture in a film of the world: the tone's pitch follows the first shape's height."""

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
    """Per segment, the median difference in semitones between its sound and the pitch that its picture implies.

    NaN if the first shape of `world` is not visible or there is no tone.
    """
    base, colour = SOUNDS[world.sound], np.array(COLOURS[world.shapes[0].colour], float)
    medians = []
    for segment in found.segments:
        tracks = [one for one in segment.tracks if np.linalg.norm(one.colour - colour) < SAME_COLOUR]
        differences = _differences(tracks[0], segment.first_frame, film, base) if tracks and base else []
        medians.append(float(np.median(differences)) if differences else math.nan)
    return medians


def _differences(shape: Track, first_frame: int, film: Film, base: float) -> list[float]:
    """Per frame, how many semitones the sound's pitch differs from the pitch for the shape's height, 0 or more."""
    half = WINDOW_S / 2
    differences = []
    for index in np.flatnonzero(shape.whole):
        moment = (first_frame + index) / FPS
        sound = film.sound[:, max(0, round((moment - half) * film.rate)) : round((moment + half) * film.rate)]
        expected = float(pitch_at(base, shape.centres[index, 1]))
        differences.append(abs(semitones(expected, pitch(sound, film.rate))))
    return [value for value in differences if not math.isnan(value)]
