"""A process that ends between any two lines of the life of a segment."""

from __future__ import annotations

import pytest

from tasks.failpoints import POINTS
from tests.faults.ground import SEGMENTS, Ground, lost_with, places

PLACES = [pytest.param(*place, id="{}@{}".format(*place)) for place in places()]
IN_THE_MIDDLE = [pytest.param(*place, id="{}@{}".format(*place)) for place in places() if place[1] in (1, -1)]


def test_the_places_are_all_that_there_are(ground: Ground) -> None:
    # When
    job = ground.submit(SEGMENTS).wait()
    # Then each is passed once, the clips in order beside the rest
    passed = [(event.point, event.index) for event in ground.events(job)]
    assert sorted(passed) == sorted(places())
    for beside in (True, False):
        mine = [place for place in places() if is_beside(*place) == beside]
        assert [place for place in passed if place in mine] == mine
    assert {point for point, _ in places()} == set(POINTS)


def is_beside(point: str, index: int) -> bool:
    """Whether the clips' thread passes it, which also calls for the film."""
    return point.startswith("clip") or (point.startswith("message") and index < 0)


def kill_the_child_at(ground: Ground, film: str, point: str, index: int) -> None:
    # Given / When
    job = ground.kill_at(point, index)
    # Then
    ground.verify(job, film, denoised_again=lost_with(point))
    ground.at_rest()


@pytest.mark.parametrize(("point", "index"), IN_THE_MIDDLE)
def test_a_child_killed_at(ground: Ground, film: str, point: str, index: int) -> None:
    kill_the_child_at(ground, film, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), [place for place in PLACES if place not in IN_THE_MIDDLE])
def test_a_child_killed_at_the_ends(ground: Ground, film: str, point: str, index: int) -> None:
    kill_the_child_at(ground, film, point, index)
