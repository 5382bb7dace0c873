"""Room for whole jobs: estimates, order, and no two jobs that stall each other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from blobstore import open_blob_store
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.deployment import Deployment
from tasks.errors import RoomError
from tasks.jobs.connection import connect
from tasks.jobs.queues import SEGMENTS
from tasks.maintenance.admission import estimate_bytes, settle_ended
from tasks.maintenance.reconciler import Reconciler
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import Worker
from tests.tasks.conftest import spec


def one(segments: int = 1, **changes: int) -> dict[str, Any]:
    return {"width": 64, "height": 64, "frames": 17, **changes, "segments": [{"prompt": "a"}] * segments}


def needs(segments: int = 1, **changes: int) -> int:
    return estimate_bytes(check_spec(one(segments, **changes)))


ONE = needs()
BUDGET = 2 * ONE + 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 40))
def test_more_of_anything_needs_more_room(width: int, height: int, eights: int, segments: int) -> None:
    size = {"width": 32 * width, "height": 32 * height, "frames": 8 * eights + 9}
    assert needs(segments, **size) < needs(segments, **size | {"width": 32 * width + 32})
    assert needs(segments, **size) < needs(segments, **size | {"frames": 8 * eights + 17})
    assert needs(segments, **size) < needs(segments + 1, **size)


def test_a_job_takes_no_more_than_was_reserved(module_settings: Settings, worker: Worker) -> None:
    job = submit(spec("a", "b", "c"), settings=module_settings).wait()
    assert 0 < open_blob_store(module_settings.blobs).usage(job.id) < job.status().needs_bytes


@pytest.fixture
def small(settings: Settings) -> Settings:
    """A deployment with room for two jobs of one segment."""
    small = settings.model_copy(update={"blob_budget_bytes": BUDGET})
    admit(small)
    return small


def admit(settings: Settings) -> None:
    """What a worker's reconciler does."""
    room = Deployment(settings)
    room.jobs.pulse(silence_s=1, grace_s=1, budget_bytes=settings.blob_budget_bytes)
    reconciler_of(room)._admit()


@lru_cache
def reconciler_of(room: Deployment) -> Reconciler:
    return Reconciler(connect(room.settings.redis_url), room.jobs, room.blobs, room.publisher, room.settings)


def queue(settings: Settings, *specs: dict[str, Any]) -> list[Job]:
    """Jobs of these specs, once a worker has looked at each."""
    jobs = []
    for wanted in specs:
        jobs.append(submit(wanted, settings=settings))
        admit(settings)
    return jobs


def test_jobs_are_admitted_in_the_order_they_came(small: Settings) -> None:
    # Given room for two jobs, and two that wait behind them
    jobs = queue(small, *[one()] * 4)
    admitted = [True, True, False, False]
    assert [job.status().admitted for job in jobs] == admitted
    # When nothing has ended, Then nothing more is admitted or published, however often one looks
    admit(small)
    assert [job.status().admitted for job in jobs] == admitted
    assert [Deployment(small).jobs.survey(job.id) != [] for job in jobs] == admitted
    assert redis.Redis.from_url(small.redis_url).llen(SEGMENTS) == 2
    # When one is forgotten, Then the one that waited longest gets its room
    jobs[0].cancel()
    jobs[0].forget()
    admit(small)
    assert [job.status().admitted for job in jobs[1:]] == [True, True, False]


def test_a_small_job_does_not_overtake_a_large_one(small: Settings) -> None:
    # Given a large job that waits for a small one to end
    first, large = queue(small, one(), one(width=96))
    assert ONE < needs(width=96) <= BUDGET < ONE + needs(width=96)
    # When another one comes that would fit now, Then it waits behind
    (last,) = queue(small, one())
    assert [job.status().admitted for job in (first, large, last)] == [True, False, False]


def test_a_job_that_waits_says_so(small: Settings, longtake: Any) -> None:
    jobs = queue(small, *[one()] * 3)
    assert f"waiting for room for {ONE:,} bytes" in longtake("status", jobs[2].id, settings=small).stdout


def test_a_job_that_can_never_fit_is_refused_with_the_numbers(small: Settings) -> None:
    with pytest.raises(RoomError, match=rf"needs about {needs(40):,} bytes of blobs .* is {BUDGET:,};"):
        submit(one(40), settings=small)
    assert Deployment(small).jobs.active() == []


def test_one_that_was_queued_without_a_budget_fails_with_the_numbers_and_blocks_nobody(small: Settings) -> None:
    # Given a job that a client with another budget has queued, before one that fits
    jobs = Deployment(small).jobs
    assert jobs.create("large", check_spec(one(40)), model="tiny", needs_bytes=needs(40))
    (good,) = queue(small, one())
    # When / Then
    assert jobs.status("large").state == "failed"
    assert f"is {BUDGET:,}" in str(jobs.status("large").reason)
    assert good.status().admitted


def test_a_cancelled_job_gives_up_its_place(small: Settings) -> None:
    jobs = queue(small, *[one()] * 4)
    for job in (jobs[0], jobs[2]):
        job.cancel()
    jobs[0].forget()
    admit(small)
    assert jobs[3].status().admitted


def test_an_ended_job_keeps_only_what_its_blobs_take(small: Settings) -> None:
    # Given two jobs that fill the budget, and one that waits
    room = Deployment(small)
    first, _, third = queue(small, *[one()] * 3)
    assert not third.status().admitted
    # When the first one ends, with ten bytes of blobs
    first.cancel()
    room.blobs.pin([room.blobs.put(b"0123456789")], first.id)
    settle_ended(room.jobs, room.blobs)
    # Then, ten bytes short, the third has to wait until it is forgotten
    assert room.jobs.reserved_bytes() == ONE + 10
    admit(small)
    assert not third.status().admitted
    first.forget()
    admit(small)
    assert third.status().admitted


def test_a_failed_job_gives_its_room_to_others_and_is_tried_first_again(small: Settings) -> None:
    # Given two jobs that fill the budget, of which one fails, and two that wait
    jobs = Deployment(small).jobs
    first, second, third, fourth = queue(small, *[one()] * 4)
    jobs.stop(first.id, "failed", "a bad prompt")
    # When / Then the one that waited longest gets the room
    admit(small)
    assert [job.status().admitted for job in (third, fourth)] == [True, False]
    # When the failed one is tried again, Then it comes before the one that still waits
    first.retry()
    second.cancel()
    admit(small)
    assert [job.status().admitted for job in (first, fourth)] == [True, False]


def test_a_retry_that_does_not_fit_keeps_nobody_else(small: Settings) -> None:
    # Given a job that was tried again, holds a few bytes and needs almost all there is, beside one that runs
    room = Deployment(small)
    large, running = queue(small, one(width=96), one())
    assert not running.status().admitted
    room.blobs.pin([room.blobs.put(b"0123456789", owner=large.id)], large.id)
    room.jobs.stop(large.id, "failed", "a bad prompt")
    admit(small)
    large.retry()
    # When one comes that fits
    (last,) = queue(small, one(width=32))
    # Then
    assert [job.status().admitted for job in (large, running, last)] == [False, True, True]


def test_a_newcomer_that_does_not_fit_beside_a_retry_does_not_keep_it_from_ending(small: Settings) -> None:
    # Given a newcomer that was passed while it was paused, and the job that passed it, which failed
    paused = submit(one(width=96), settings=small)
    paused.pause()
    (large,) = queue(small, one(width=96))
    assert large.status().admitted
    Deployment(small).jobs.stop(large.id, "failed", "a bad prompt")
    paused.resume()
    # When it is tried again
    large.retry()
    admit(small)
    # Then
    assert [job.status().admitted for job in (paused, large)] == [False, True]


def test_a_paused_job_keeps_no_place_in_the_line(small: Settings) -> None:
    first, second, third = queue(small, one(), one(width=96), one())
    second.pause()
    admit(small)
    assert [job.status().admitted for job in (first, second, third)] == [True, False, True]


def test_a_client_without_the_budget_goes_by_that_of_the_workers(settings: Settings, small: Settings) -> None:
    queue(small, one(), one())
    job = submit(one(), settings=settings)
    assert not job.status().admitted
    with pytest.raises(RoomError, match=f"is {BUDGET:,};"):
        submit(one(40), settings=settings)


def test_room_is_given_to_others_only_when_the_bytes_are_gone(small: Settings) -> None:
    # Given a store full of the blobs of a job that is forgotten
    room = Deployment(small)
    first, _, third = queue(small, *[one()] * 3)
    blob_id = room.blobs.put(b"0" * 1000, owner=first.id)
    room.blobs.pin([blob_id], first.id)
    first.cancel()
    first.forget()
    assert blob_id in room.blobs
    # When
    admit(small)
    # Then
    assert third.status().admitted
    assert blob_id not in room.blobs


def test_room_that_was_reserved_and_given_back_between_two_looks_is_freed(small: Settings) -> None:
    # Given a job that is forgotten before anybody waits
    room = Deployment(small)
    (first,) = queue(small, one())
    blob_id = room.blobs.put(b"0" * 1000, owner=first.id)
    first.cancel()
    first.forget()
    # When / Then
    (second,) = queue(small, one())
    assert second.status().admitted
    assert blob_id not in room.blobs
