"""A broker that is killed and comes back, with all that it had accepted or without the end of it.

On this ground a single counted failure ends a job: what a broker does is nobody's failed attempt.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from tasks.errors import JobNotFoundError
from tests.faults.breakage import at_rest_once_redelivered, restart, written
from tests.faults.ground import SEGMENTS, Ground, places

Place = tuple[str, int]
# From the claim on the worker may find that its lease has run out while the broker was away.
IN_HAND = ("segment claimed", "segment hydrated", "segment rendered", "segment stored")


@pytest.fixture(scope="module")
def ground(strict_ground: Ground) -> Ground:
    return strict_ground


def name_of(*some: Place) -> str:
    return " to ".join(f"{point}@{index}" for point, index in some)


def params(found: list[tuple[Place, ...]]) -> list[object]:
    return [pytest.param(*some, id=name_of(*some)) for some in found]


def broker_restarts_at(ground: Ground, film: str, place: Place) -> None:
    held = ground.hold(*place)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart(ground.broker)
    held.release()
    # Then the segment in hand may be rendered again, if the broker was away for longer than its lease
    ground.verify(job, film, denoised_again=int(place[0] in IN_HAND))
    ground.at_rest()


def broker_forgets(ground: Ground, film: str, since: Place, until: Place, *, again: int = 1) -> None:
    """It is killed at `until`, and comes back as it was at `since`; at most so many segments are rendered again."""
    first, second = ground.hold(*since), ground.hold(*until)
    # while a clip stands still, its worker would go on with segment after segment
    beside = [ground.hold("segment hydrated", until[1] + 1)] if until[0].startswith("clip ") else []
    job = ground.submit()
    first.pid()
    kept = written(ground.broker)
    first.release()
    second.pid()
    # When
    ground.breaks()
    restart(ground.broker, keep_bytes=kept)
    for held in (*beside, second):
        held.release()
    # Then at most the segments whose claim or commit was forgotten are rendered again
    ground.verify(job, film, denoised_again=again, commits_lost=1)
    at_rest_once_redelivered(ground)


KILLED_AT: list[tuple[Place, ...]] = [(place,) for place in places()]
KILLED_FIRST = [(("segment hydrated", 1),), (("film claimed", -1),)]
FORGOTTEN: list[tuple[Place, ...]] = list(pairwise(places()))
FORGOTTEN_FIRST: list[tuple[Place, ...]] = [
    (("segment stored", 1), ("segment committed", 1)),
    (("message announced", 2), ("message sent", 2)),
]


@pytest.mark.parametrize("place", params(KILLED_FIRST))
def test_broker_killed_and_back_with_all_it_had(ground: Ground, film: str, place: Place) -> None:
    broker_restarts_at(ground, film, place)


@pytest.mark.faults
@pytest.mark.parametrize("place", params([some for some in KILLED_AT if some not in KILLED_FIRST]))
def test_broker_killed_anywhere_and_back_with_all_it_had(ground: Ground, film: str, place: Place) -> None:
    broker_restarts_at(ground, film, place)


@pytest.mark.parametrize(("since", "until"), params(FORGOTTEN_FIRST))
def test_broker_killed_and_back_without_the_last_it_had(ground: Ground, film: str, since: Place, until: Place) -> None:
    broker_forgets(ground, film, since, until)


@pytest.mark.faults
@pytest.mark.parametrize(("since", "until"), params([some for some in FORGOTTEN if some not in FORGOTTEN_FIRST]))
def test_broker_killed_anywhere_and_back_without_the_last_it_had(
    ground: Ground, film: str, since: Place, until: Place
) -> None:
    broker_forgets(ground, film, since, until)


@pytest.mark.faults
@pytest.mark.parametrize("index", range(SEGMENTS))
def test_broker_killed_and_back_without_a_whole_segment(ground: Ground, film: str, index: int) -> None:
    broker_forgets(ground, film, ("segment claimed", index), ("clip committed", index), again=2)  # and the next one


def test_a_job_whose_submit_was_forgotten_is_not_there(ground: Ground, film: str) -> None:
    # Given a job in the hands of a worker
    kept = written(ground.broker)
    held = ground.hold("segment stored", 0)
    job = ground.submit()
    held.pid()
    # When the broker forgets it
    restart(ground.broker, keep_bytes=kept)
    held.release()
    # Then
    with pytest.raises(JobNotFoundError, match="there is no job"):
        job.status()
    at_rest_once_redelivered(ground)
    ground.verify(ground.submit(), film)
