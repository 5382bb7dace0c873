"""Admission of whole jobs: estimates, order, and no deadlock between jobs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blobstore import open_blob_store
from ltx2 import LTX2ContinuationState
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.deployment import Deployment
from tasks.errors import JobStateError, RoomError
from tasks.jobs.connection import connect
from tasks.jobs.keys import RESERVED, job_keys
from tasks.jobs.queues import SEGMENTS
from tasks.maintenance.admission import (
    SOUND_BYTES_PER_S,
    VIDEO_BITS_PER_PIXEL,
    choice_bytes,
    estimate_bytes,
    settle_ended,
)
from tasks.maintenance.reconciler import Reconciler
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import Worker
from tests.ltx2.media.sources.videos import numbered, video
from tests.tasks.conftest import spec


def job_spec(segments: int = 1, **changes: int) -> dict[str, Any]:
    return {"width": 64, "height": 64, "frames": 17, **changes, "segments": [{"prompt": "a"}] * segments}


def needs(segments: int = 1, **changes: int) -> int:
    return estimate_bytes(check_spec(job_spec(segments, **changes)))


ONE = needs()
BUDGET = 2 * ONE + 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 40))
def test_larger_and_longer_jobs_need_more_space(width: int, height: int, eights: int, segments: int) -> None:
    size = {"width": 32 * width, "height": 32 * height, "frames": 8 * eights + 9}
    assert needs(segments, **size) < needs(segments, **size | {"width": 32 * width + 32})
    assert needs(segments, **size) < needs(segments, **size | {"frames": 8 * eights + 17})
    assert needs(segments, **size) < needs(segments + 1, **size)


@pytest.mark.parametrize("best_of", [1, 4])
def test_a_job_uses_less_than_its_estimate(module_settings: Settings, worker: Worker, best_of: int) -> None:
    job = submit(spec("a", "b", "c", best_of=best_of), settings=module_settings).wait()
    assert 0 < open_blob_store(module_settings.blobs).usage(job.id) < job.status().needs_bytes


def test_a_video_with_which_a_film_begins_is_counted(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given a job, and one whose film begins with the video that it extends
    path = tmp_path / "a.mp4"
    path.write_bytes(video(numbered(50)))
    jobs = [
        submit(spec("a", extend=str(path), include_video=whole), settings=module_settings).wait()
        for whole in (False, True)
    ]
    # Then the second one needs room for the clips of the video and for the film, and uses less
    alone, whole = (job.status().needs_bytes for job in jobs)
    one = VIDEO_BITS_PER_PIXEL / 8 * 64 * 32 + SOUND_BYTES_PER_S / 24
    assert whole - alone == pytest.approx(2 * 50 * one, rel=0.01)
    assert 0 < open_blob_store(module_settings.blobs).usage(jobs[1].id) < whole
    # And so does a choice of a take, which joins the film anew
    parsed = check_spec(spec("a"))
    more = choice_bytes(parsed.head, parsed.segments, 50) - choice_bytes(parsed.head, parsed.segments)
    assert more == pytest.approx(50 * one, rel=0.01)


def test_renderings_that_are_not_chosen_need_space_too() -> None:
    segment = needs(2) - needs(1)
    assert 2 * segment < needs(2, best_of=3) - needs(2) < 4 * segment
    assert needs(2, retry_joins=2) == needs(2, best_of=3)


@pytest.fixture
def small(settings: Settings) -> Settings:
    """A deployment with space for two jobs of one segment."""
    small = settings.model_copy(update={"blob_budget_bytes": BUDGET})
    admit(small)
    return small


def admit(settings: Settings) -> None:
    """Admit waiting jobs as the reconciler of a worker does."""
    deployment = Deployment(settings)
    deployment.jobs.pulse(silence_s=1, grace_s=1, budget_bytes=settings.blob_budget_bytes)
    reconciler_of(deployment)._admit()


@lru_cache
def reconciler_of(deployment: Deployment) -> Reconciler:
    client = connect(deployment.settings.redis_url)
    return Reconciler(client, deployment.jobs, deployment.blobs, deployment.publisher, deployment.settings)


def queue(settings: Settings, *specs: dict[str, Any]) -> list[Job]:
    """Submit these specs, with one step of admission after each."""
    jobs = []
    for given_spec in specs:
        jobs.append(submit(given_spec, settings=settings))
        admit(settings)
    return jobs


@pytest.mark.parametrize("damage", ["many", "nan", None, "no hash"])
def test_a_damaged_record_of_a_job_that_waits_does_not_keep_others_waiting(small: Settings, damage: str | None) -> None:
    # Given two jobs that wait, the first one with a damaged record
    damaged, whole = (submit(job_spec(), settings=small) for _ in range(2))
    client, (record,) = connect(small.redis_url), job_keys(damaged.id, "record")
    if damage == "no hash":
        client.delete(record)
        client.set(record, damage)
    elif damage is None:
        client.hdel(record, "needs_bytes")
    else:
        client.hset(record, "needs_bytes", damage)
    # When / Then
    admit(small)
    assert whole.status().admitted
    assert damage == "no hash" or client.hget(record, "state") == b"failed"


def test_jobs_are_admitted_in_order_of_submission(small: Settings) -> None:
    # Given two jobs that fill the budget, and two that wait
    jobs = queue(small, *[job_spec()] * 4)
    admitted = [True, True, False, False]
    assert [job.status().admitted for job in jobs] == admitted
    # When no job has ended, Then no other job is admitted or published
    admit(small)
    assert [job.status().admitted for job in jobs] == admitted
    assert [Deployment(small).jobs.survey(job.id) != [] for job in jobs] == admitted
    assert redis.Redis.from_url(small.redis_url).llen(SEGMENTS) == 2
    # When one is deleted, Then the job that has waited longest is admitted
    jobs[0].cancel()
    jobs[0].forget()
    admit(small)
    assert [job.status().admitted for job in jobs[1:]] == [True, True, False]


def test_a_small_job_does_not_pass_a_large_one(small: Settings) -> None:
    # Given a large job that waits for a small one
    first, large = queue(small, job_spec(), job_spec(width=96))
    assert ONE < needs(width=96) <= BUDGET < ONE + needs(width=96)
    # When another small job that would fit is submitted, Then it waits
    (last,) = queue(small, job_spec())
    assert [job.status().admitted for job in (first, large, last)] == [True, False, False]


def test_status_shows_that_a_job_waits_for_space(small: Settings, longtake: Any) -> None:
    jobs = queue(small, *[job_spec()] * 3)
    assert f"waiting for room for {ONE:,} bytes" in longtake("status", jobs[2].id, settings=small).stdout


def test_a_job_larger_than_the_budget_is_rejected_with_both_sizes(small: Settings) -> None:
    with pytest.raises(RoomError, match=rf"needs about {needs(40):,} bytes of blobs .* is {BUDGET:,};"):
        submit(job_spec(40), settings=small)
    assert Deployment(small).jobs.active() == []


def test_a_queued_job_larger_than_the_budget_fails_and_blocks_no_other_job(small: Settings) -> None:
    # Given a job queued by a client without a budget, and then one that fits
    jobs = Deployment(small).jobs
    jobs.create("large", check_spec(job_spec(40)), model="tiny", needs_bytes=needs(40))
    (good,) = queue(small, job_spec())
    # When / Then
    assert jobs.status("large").state == "failed"
    assert f"is {BUDGET:,}" in str(jobs.status("large").reason)
    assert good.status().admitted


def test_a_cancelled_job_is_skipped(small: Settings) -> None:
    jobs = queue(small, *[job_spec()] * 4)
    for job in (jobs[0], jobs[2]):
        job.cancel()
    jobs[0].forget()
    admit(small)
    assert jobs[3].status().admitted


def test_an_ended_job_reserves_only_the_size_of_its_blobs(small: Settings) -> None:
    # Given two jobs that fill the budget, and one that waits
    deployment = Deployment(small)
    first, _, third = queue(small, *[job_spec()] * 3)
    assert not third.status().admitted
    # When the first one ends, with ten bytes of blobs
    first.cancel()
    deployment.blobs.pin([deployment.blobs.put(b"0123456789")], first.id)
    settle_ended(deployment.jobs, deployment.blobs, set())
    # Then the third does not fit until the first is deleted
    assert deployment.jobs.reserved_bytes() == ONE + 10
    admit(small)
    assert not third.status().admitted
    first.forget()
    admit(small)
    assert third.status().admitted


def test_a_failed_job_releases_its_space_and_keeps_its_place(small: Settings) -> None:
    # Given two jobs that fill the budget, one of which failed, and two that wait
    jobs = Deployment(small).jobs
    first, second, third, fourth = queue(small, *[job_spec()] * 4)
    jobs.stop(first.id, "failed", "a bad prompt")
    # When / Then the job that has waited longest is admitted
    admit(small)
    assert [job.status().admitted for job in (third, fourth)] == [True, False]
    # When the failed job is retried, Then it is admitted before the job that still waits
    first.retry()
    second.cancel()
    admit(small)
    assert [job.status().admitted for job in (first, fourth)] == [True, False]


def test_a_retried_job_that_does_not_fit_blocks_no_other_job(small: Settings) -> None:
    # Given a retried job that stores a few bytes and needs almost the whole budget, and a running job
    deployment = Deployment(small)
    large, running = queue(small, job_spec(width=96), job_spec())
    assert not running.status().admitted
    deployment.blobs.pin([deployment.blobs.put(b"0123456789", owner=large.id)], large.id)
    deployment.jobs.stop(large.id, "failed", "a bad prompt")
    admit(small)
    large.retry()
    # When a job that fits is submitted
    (last,) = queue(small, job_spec(width=32))
    # Then
    assert [job.status().admitted for job in (large, running, last)] == [False, True, True]


def test_a_new_job_that_does_not_fit_does_not_block_a_retried_one(small: Settings) -> None:
    # Given a job that was not admitted while it was paused, and a later one that was admitted and failed
    paused = submit(job_spec(width=96), settings=small)
    paused.pause()
    (large,) = queue(small, job_spec(width=96))
    assert large.status().admitted
    Deployment(small).jobs.stop(large.id, "failed", "a bad prompt")
    paused.resume()
    # When the failed job is retried
    large.retry()
    admit(small)
    # Then
    assert [job.status().admitted for job in (paused, large)] == [False, True]


def test_a_paused_job_is_skipped(small: Settings) -> None:
    first, second, third = queue(small, job_spec(), job_spec(width=96), job_spec())
    second.pause()
    admit(small)
    assert [job.status().admitted for job in (first, second, third)] == [True, False, True]


def test_a_client_without_a_budget_uses_that_of_the_workers(settings: Settings, small: Settings) -> None:
    queue(small, job_spec(), job_spec())
    job = submit(job_spec(), settings=settings)
    assert not job.status().admitted
    with pytest.raises(RoomError, match=f"is {BUDGET:,};"):
        submit(job_spec(40), settings=settings)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """An image of noise for jobs of 64x64."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return str(tmp_path / "noise.png")


def state(metadata_bytes: int) -> dict[str, Any]:
    """A state with nine frames of 64x64, and so many bytes of metadata."""
    made = LTX2ContinuationState(
        video_frames=[np.zeros((64, 64, 3), np.uint8)] * 9, metadata={"notes": "x" * metadata_bytes}
    ).to_continuation_state()
    return {"kind": made.kind, "payload": made.payload}


def stored(settings: Settings) -> set[bytes]:
    """All keys of blobs and pins."""
    client = redis.Redis.from_url(settings.blobs)
    return {key for pattern in ("*blob:*", "*pins:*", "*owner:*", "*staging:*") for key in client.scan_iter(pattern)}


def test_the_metadata_of_a_state_is_counted(small: Settings) -> None:
    # Given a job that fits twice into the budget without its state
    with pytest.raises(RoomError, match=rf"needs about \d\S+ bytes of blobs .* is {BUDGET:,};"):
        submit(job_spec(), from_state=state(BUDGET // 2), settings=small)
    # Then nothing is stored, and the same job with a small state is admitted with all its bytes
    assert stored(small) == set()
    job = submit(job_spec(), from_state=state(1_000_000), settings=small)
    assert job.status().needs_bytes > needs() + 1_000_000
    admit(small)
    assert job.status().admitted


def test_what_waiting_jobs_start_from_is_counted_when_they_are_submitted(small: Settings, picture: str) -> None:
    # Given an admitted job, and a blob budget with room for a few more images
    size = {"width": 256, "height": 256, "overlap": 1}
    budget = needs(**size) + 1_000_000
    small = small.model_copy(update={"blob_budget_bytes": budget})
    with_image = job_spec(**size) | {"image": picture}
    running = submit(job_spec(**size), settings=small)
    admit(small)
    # When jobs with images are submitted until one is refused
    waiting: list[Job] = []

    def submit_many() -> None:
        while len(waiting) < 100:
            waiting.append(submit(with_image, settings=small))

    with pytest.raises(RoomError, match="no room now for the image"):
        submit_many()
    # Then the images of those that wait are reserved, and the refused one left nothing
    image_bytes = open_blob_store(small.blobs).usage(waiting[0].id)
    reserved = {name: int(size) for name, size in redis.Redis.from_url(small.redis_url).hgetall(RESERVED).items()}
    assert image_bytes > 64 * 64 * 3
    assert len(waiting) > 2
    assert all(reserved[job.id.encode()] == image_bytes for job in waiting)
    assert sum(reserved.values()) <= budget
    assert sorted(open_blob_store(small.blobs).owners()) == sorted(job.id for job in waiting)
    # And none keeps another one from ever being admitted
    for job in [running, *waiting]:
        admit(small)
        assert job.status().admitted
        job.cancel()
        job.forget()


def test_a_refused_submission_leaves_nothing(small: Settings, picture: str) -> None:
    # Given another client's job, and one with an idempotency key
    theirs = submit(job_spec(), settings=small)
    submit(job_spec(), settings=small, idempotency_key="mine")
    before = stored(small)
    # When jobs with images and states are submitted with its id, or with the key
    starts = (job_spec() | {"image": picture}, None), (job_spec(), state(5000))
    for wanted, start in starts:
        with pytest.raises(JobStateError, match="already exists"):
            submit(wanted, from_state=start, settings=small, job_id=theirs.id)
        with pytest.raises(JobStateError, match="was submitted with another spec"):
            submit(wanted, from_state=start, settings=small, idempotency_key="mine")
    # Then
    assert stored(small) == before
    assert open_blob_store(small.blobs).pins(theirs.id) == set()


def test_blobs_of_a_deleted_job_are_freed_before_another_is_admitted(small: Settings) -> None:
    # Given a deleted job whose blobs are still stored, and a job that waits for their space
    deployment = Deployment(small)
    first, _, third = queue(small, *[job_spec()] * 3)
    blob_id = deployment.blobs.put(b"0" * 1000, owner=first.id)
    deployment.blobs.pin([blob_id], first.id)
    first.cancel()
    first.forget()
    assert blob_id in deployment.blobs
    # When
    admit(small)
    # Then
    assert third.status().admitted
    assert blob_id not in deployment.blobs


def test_blobs_of_a_job_deleted_between_two_admissions_are_freed(small: Settings) -> None:
    # Given a job that is deleted while no other job waits
    deployment = Deployment(small)
    (first,) = queue(small, job_spec())
    blob_id = deployment.blobs.put(b"0" * 1000, owner=first.id)
    first.cancel()
    first.forget()
    # When / Then
    (second,) = queue(small, job_spec())
    assert second.status().admitted
    assert blob_id not in deployment.blobs
