"""The shipped model edits films: a retake leads into what follows it, and pictures follow a given sound.

`benchmarks/takes.py` measures many of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltx2.engine import Engine
from ltx2.quality.continuity import broken
from training import takes
from training.takes import Rendered
from training.world import Shape, World

SCENE = World((Shape("circle", "red", "up and right", "", 0, 0, 0, 0),), "blue", "low hum")
HIGH = takes.with_other_tone(SCENE).prompt
INDEX = 1


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("shapes", device="cpu")


@pytest.fixture(scope="module")
def film(engine: Engine) -> Rendered:
    return takes.rendered(engine, takes.requests_of(SCENE.prompt, 3, seed=5))


def test_a_retake_with_another_sound_joins_on_both_sides(engine: Engine, film: Rendered) -> None:
    # When a segment between two that stay is rendered again, with the other tone
    new = takes.retaken(engine, film, INDEX, prompt=HIGH, seed=9)
    # Then it sounds otherwise, leads into the next one, and leaps nowhere
    found = new.film.continuity()
    judged = takes.judged(found, INDEX)
    assert judged.joins == ([], [])
    assert judged.leaps == []
    assert judged.semitones < 1
    rendered, old = new.outputs[INDEX], film.outputs[INDEX]
    free = slice(int(1.15 * old.audio_rate), int(1.3 * old.audio_rate))  # between the pinned latents
    assert np.abs(rendered.sound - old.sound)[free].max() > 0.2
    # And without a pinned end its sound does not lead into the next
    control = takes.retaken(engine, film, INDEX, prompt=HIGH, seed=9, pinned=False)
    after = [seam for seam in control.film.continuity().seams if seam.segment == INDEX + 1]
    assert any("pitch" in text for text in broken(after))


def test_the_picture_follows_a_given_sound_from_the_first_segment_on(engine: Engine) -> None:
    # Given the sound of a world, whose height the noise of a first segment would decide otherwise
    scene = takes.tonal_world(100)
    (request,) = takes.requests_of(scene.prompt, 1, seed=5)
    (sound,) = takes.track_latents(engine, scene, [request.timing])
    # When
    (with_sound,) = takes.to_track(takes.rendered(engine, [replace(request, sound=sound)]).film, scene)
    (without,) = takes.to_track(takes.rendered(engine, [request]).film, scene)
    # Then
    assert with_sound < 0.5
    assert without > 0.5
