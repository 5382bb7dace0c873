"""In the world of the small model the first shape is as high as the tone: its pictures follow a given sound."""

from __future__ import annotations

import numpy as np

from benchmarks.given_sound import film_of, track_of
from ltx2.engine import Engine
from training.sync import out_of_tune
from training.world import Shape, World

LOW, HIGH = (
    World((Shape("circle", "red", way, "slowly", 22.0, 30.0, 60.0, y),), "blue", "low hum")
    for way, y in (("left", 100.0), ("left", 30.0))
)
MOST_SEMITONES = 1.5  # of 12 from wall to wall; the two worlds are 6.6 apart


def test_pictures_follow_a_given_sound() -> None:
    # Given one prompt and seed, and the sound of a low circle or of a high one
    assert LOW.prompt == HIGH.prompt
    engine = Engine.load("shapes", device="cpu")
    for world in (LOW, HIGH):
        # When
        film = film_of(engine, world, 0, track_of(world, 3.0), segments=2)
        # Then the circle is as high as the track says, and the film has the track
        assert np.nanmedian(out_of_tune(film.continuity(), film, world)) < MOST_SEMITONES
