"""What is given of training windows, and what their noise decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training import world
from training.latents import STILLS, Kind, draw_kind, draw_scenes
from training.patterns import PARTS, PARTS_WITH_STILLS, Part, Pattern, draw_parts, draw_pattern
from training.world import Shape, World

SHAPES = tuple(Shape("circle", colour, "up", "", 20, 40, 60, 60) for colour in ("red", "green"))


def pattern(picture: list[int], sound: list[int], stills: list[int] | None = None) -> Pattern:
    return Pattern(np.array(picture, np.float32), np.array(sound, np.float32), np.array(stills or [], np.int64))


@pytest.mark.parametrize("stills", [0, 1])
@pytest.mark.parametrize("overlap", [0, 1, 9, 17])
def test_a_pattern_gives_the_beginning_and_its_parts(overlap: int, stills: int) -> None:
    rng, lead, pinned = np.random.default_rng(0), {0: 0, 1: 1, 9: 2, 17: 3}[overlap], 20 if overlap else 0
    for parts in PARTS:
        # When
        one = draw_pattern(rng, parts, overlap=overlap, latents=40, pinned=pinned, stills=stills)
        # Then the beginning is given, and more of the stream that has a part; what is rendered is in one or two pieces
        for mask, part, given in ((one.picture, parts[0], lead), (one.sound, parts[1], pinned)):
            assert (mask[:given] == 0).all()
            assert {0.0, 1.0} >= set(mask)
            if part == Part.NOTHING:
                assert (mask[given:] == 1).all()
            elif part == Part.ALL:
                assert (mask == 0).all()
            else:
                assert mask.any()
        assert 4 <= (one.sound[pinned:] == 0).sum() <= 12 or parts[1] != Part.END
        assert len(one.stills) == stills
        assert ((one.stills >= max(1, overlap)) & (one.stills < world.FRAMES)).all()


def test_parts_and_kinds_are_as_frequent_as_stated() -> None:
    rng, count = np.random.default_rng(0), 4000
    for stills, expected in ((0, PARTS), (1, PARTS_WITH_STILLS)):
        found = Counter(draw_parts(rng, stills) for _ in range(count))
        assert all(found[parts] / count == pytest.approx(share, abs=0.03) for parts, share in expected.items())
        assert sum(expected.values()) == pytest.approx(1)
    kinds = Counter(draw_kind(rng) for _ in range(count))
    for overlap, share in STILLS.items():
        all_of_it, with_stills = (sum(kinds[Kind(overlap, n)] for n in counts) for counts in ((0, 1, 2), (1, 2)))
        assert with_stills / all_of_it == pytest.approx(share, abs=0.04)
    assert kinds.keys() == {Kind(o, s) for o in (None, 9) for s in (0, 1, 2)} | {Kind(1), Kind(17)}


def test_the_noise_decides_what_nothing_given_shows() -> None:
    scene, silent = World(SHAPES, "blue", "low hum"), World(SHAPES, "blue", "silence")
    everything, speeds = [True] * 8, [False, True, False, False, False, True, False, False]
    with_sound = [True, False, False, False, True, True, True, True]
    for one, where, tied in (
        (pattern([1, 1, 1, 1], [1, 1]), scene, everything),
        (pattern([0, 1, 1, 1], [1, 1]), scene, speeds),
        (pattern([1, 1, 1, 1], [1, 1], [12]), scene, speeds),
        (pattern([1, 1, 1, 1], [1, 1], [12, 20]), scene, [False] * 8),
        (pattern([1, 1, 1, 0], [1, 0]), scene, [False] * 8),
        (pattern([1, 1, 1, 1], [0, 0]), scene, with_sound),
        (pattern([1, 1, 1, 1], [0, 0]), silent, everything),
        (pattern([0, 1, 1, 1], [0, 0]), scene, [False, False, False, False, False, True, False, False]),
    ):
        assert one.tied(where).tolist() == tied


def test_a_segment_before_a_film_ends_with_the_first_latents_of_the_film() -> None:
    # Given first segments of which the end is given
    scenes = draw_scenes(np.random.default_rng(0), 12, Kind(None), (Part.END, Part.END))
    before = scenes.offset > 0
    assert 0 < before.sum() < 12
    # Then such a segment has its frame 16 at its audio latent 17, which is latent 0 of the film
    assert np.allclose(scenes.offset[before] + 16 / 24, 17 * 0.04)
