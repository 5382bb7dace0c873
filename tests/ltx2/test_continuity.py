"""A model that has learned a world goes on where it was: 8 segments join within bounds, and a broken chain does not.

`CONTINUITY_MODEL=FOLDER python -m pytest -m trained` asks a model in a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ltx2.engine import Engine
from ltx2.seams import Continuity, Seam, broken, not_kept
from tests.ltx2.controls import CONTROLS, Job, good
from training.films import Film
from training.sync import out_of_tune
from training.world import COLOURS, Shape, World

pytestmark = pytest.mark.trained

MODEL = os.environ.get("CONTINUITY_MODEL", "shapes")
SEGMENTS = 8
MOST_TURNS = 0.1  # of all joins: a shape may be where nobody can tell a wall's turn from another
MOST_SEMITONES = 1.0  # between sound and picture


def shape(text: str) -> Shape:
    """What a prompt says of a shape: "red circle, quickly up and left"; where it sets out is the model's own choice."""
    colour, kind, way = re.fullmatch(r"(\w+) (\w+), (.+)", text).groups()  # type: ignore[union-attr]
    pace = way.split()[0] if way.split()[0] in ("slowly", "quickly") else ""
    return Shape(kind, colour, way.removeprefix(pace).strip(), pace, 0, 0, 0, 0)


def world(background: str, sound: str, *shapes: str) -> World:
    return World(tuple(map(shape, shapes)), background, sound)


WORLDS = {
    "one circle": world("blue", "low hum", "red circle, up and right"),
    "one square": world("black", "high hum", "yellow square, quickly down"),
    "one triangle": world("white", "silence", "purple triangle, slowly left"),
    "two shapes": world("green", "high hum", "white square, down and left", "black circle, slowly right"),
}
SEEDS = dict(zip(WORLDS, (5, 6, 7, 8), strict=True))
HARMED, OTHER = "one circle", "two shapes"
"""The film that is rendered with each control, and the one whose states it is given."""


@dataclass(frozen=True)
class Looked:
    """A film, and what is measured of it."""

    film: Film
    found: Continuity

    @property
    def seams(self) -> list[Seam]:
        """Its joins, cuts judged like all others."""
        return [replace(seam, cut=False) for seam in self.found.seams]


def job(name: str) -> Job:
    return Job([WORLDS[name].prompt] * SEGMENTS, SEEDS[name])


def looked(film: Film) -> Looked:
    return Looked(film, film.continuity())


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def films(engine: Engine) -> Mapping[str, Looked]:
    """The films in which nothing is wrong, by the names of their worlds."""
    return {name: looked(good(engine, job(name), job(name))) for name in WORLDS}


@pytest.fixture(scope="module", params=CONTROLS)
def harmed(request: pytest.FixtureRequest, engine: Engine) -> tuple[str, Looked]:
    """The name of a control, and the film that was rendered with it."""
    return request.param, looked(CONTROLS[request.param](engine, job(HARMED), job(OTHER)))


@pytest.mark.parametrize("name", WORLDS)
def test_what_the_prompt_says_is_there_from_the_first_segment_to_the_last(
    films: Mapping[str, Looked], name: str
) -> None:
    wanted = {one.colour: one.kind for one in WORLDS[name].shapes}
    for segment in films[name].found.segments:
        found = {nearest(one.colour): one.kind for one in segment.tracks}
        assert found.keys() == wanted.keys(), f"segment {segment.segment}"
        assert all(kind in ("", wanted[colour]) for colour, kind in found.items()), (
            f"segment {segment.segment}: {found}"
        )


def nearest(colour: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - np.array(COLOURS[name]))))


@pytest.mark.parametrize("name", WORLDS)
def test_segments_join_within_bounds(films: Mapping[str, Looked], name: str) -> None:
    found = films[name].found
    assert [text for text in broken(found.seams) if not is_turn(text)] == []
    assert not_kept(found) == []


def is_turn(text: str) -> bool:
    return text.endswith("turns or stops")


def test_shapes_keep_their_direction_in_nine_of_ten_joins(films: Mapping[str, Looked]) -> None:
    crossings = [one for film in films.values() for seam in film.seams for one in seam.shapes]
    judged = [one for one in crossings if not np.isnan(one.ways).any()]
    assert len(judged) > len(crossings) / 2  # else nothing was seen
    assert sum(one.turned for one in judged) <= MOST_TURNS * len(judged)


@pytest.mark.parametrize("name", WORLDS)
def test_the_sound_belongs_to_the_picture(films: Mapping[str, Looked], name: str) -> None:
    film = films[name]
    off = out_of_tune(film.found, film.film, WORLDS[name])
    told = [value for value in off if not np.isnan(value)]
    assert len(told) == (0 if WORLDS[name].sound == "silence" else SEGMENTS)
    assert not told or np.median(told) < MOST_SEMITONES


CAUGHT_BY = {
    "transition: cut": "jumps|is gone|turns|picture changes",
    "frames reversed": "jumps|turns",
    "mask of the sound inverted": "pitch|tone|loudness|clicks",
    "mask of the picture inverted": "jumps|is gone|picture changes",
    "offset off by half a second": "pitch|jumps|turns|out of tune",
    "another job's state": "is gone|picture changes|changes its colour",
}


def test_a_chain_that_is_broken_on_purpose_is_found_at_its_joins(harmed: tuple[str, Looked]) -> None:
    # Given
    name, film = harmed
    # When
    said = broken(film.seams) + not_kept(film.found) + untuned(film)
    # Then what is wrong is said at most joins, and by the figure that this control spoils
    at = {text.partition(":")[0] for text in said}
    assert len(at) > SEGMENTS / 2, said
    assert any(re.search(CAUGHT_BY[name], text) for text in said), said


def untuned(film: Looked) -> list[str]:
    off = out_of_tune(film.found, film.film, WORLDS[HARMED])
    return [f"segment {index}: out of tune by {value:.1f}" for index, value in enumerate(off) if value > MOST_SEMITONES]
