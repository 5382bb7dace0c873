"""A child killed at each failpoint."""

from __future__ import annotations

import pytest

from tasks.jobs.failpoints import FAILPOINTS
from tasks.jobs.units import START_INDEX
from tests.faults.harness import SEGMENTS, TAKE_FAILPOINTS, Failpoint, Harness, failpoints, segments_lost_at


def params(cases: list[Failpoint]) -> list[object]:
    return [pytest.param(*case, id="{}@{}".format(*case)) for case in cases]


# One place between any two steps after which a successor finds something else.
SOME = [
    ("segment hydrated", 1),
    ("state stored", 1),
    ("segment committed", 1),
    ("message announced", 2),
    ("message sent", 2),
    ("clip encoded", 1),
    ("clip stored", 1),
    ("film claimed", START_INDEX),
    ("film stored", START_INDEX),
]
OTHERS = [failpoint for failpoint in failpoints() if failpoint not in SOME]


def test_the_list_of_failpoints_is_complete(harness: Harness) -> None:
    # When
    job = harness.submit(SEGMENTS).wait()
    # Then each is reached once, and in order within each thread
    reached = [(event.point, event.index) for event in harness.events(job)]
    assert sorted(reached) == sorted(failpoints())
    for background in (True, False):
        expected = [failpoint for failpoint in failpoints() if is_background(*failpoint) == background]
        assert [failpoint for failpoint in reached if failpoint in expected] == expected
    assert {point for point, _ in failpoints()} | set(TAKE_FAILPOINTS) == set(FAILPOINTS)
    assert set(SOME) <= set(failpoints())


def is_background(point: str, index: int) -> bool:
    """Whether the background thread reaches it: it encodes clips and publishes the film's message."""
    return point.startswith("clip") or (point.startswith("message") and index < 0)


def kill_the_child_at(harness: Harness, film: str, point: str, index: int) -> None:
    # Given / When
    job = harness.kill_at(point, index)
    # Then at most the segment in progress is rendered again
    harness.verify(job, film, denoised_again=segments_lost_at(point))
    harness.wait_idle()


@pytest.mark.parametrize(("point", "index"), params(SOME))
def test_a_child_killed_at(harness: Harness, film: str, point: str, index: int) -> None:
    kill_the_child_at(harness, film, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), params(OTHERS))
def test_a_child_killed_anywhere(harness: Harness, film: str, point: str, index: int) -> None:
    kill_the_child_at(harness, film, point, index)
