"""What becomes of jobs when something breaks under real workers. The engine is a stand-in."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from blobstore import open_blob_store
from tasks import handoff as states
from tasks.broker import FILMS, SEGMENTS
from tasks.client import submit
from tasks.config import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.conftest import film_of, job_store, spec

Start = Callable[..., Worker]


def test_sigquit_lays_the_segment_down_and_another_worker_takes_it_up(
    there: Settings, undisturbed: str, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.2")
    # Given a lease much longer than the test
    patient = there.model_copy(update={"lease_s": 600.0})
    first = start_worker(patient).ready()
    job = submit(spec("a", "b", "c", "d"), settings=patient)
    wait_until(lambda: job.status().committed == 1 and job.status().progress)
    # When
    first.stop(signal.SIGQUIT)
    start_worker(patient).ready()
    # Then
    assert film_of(job) == undisturbed


def test_a_lost_message_is_published_again(there: Settings, own_server: RedisProcess, start_worker: Start) -> None:
    # Given a job whose message a broker lost
    job = submit(spec("a"), settings=there)
    assert redis.Redis(port=own_server.port).delete(SEGMENTS) == 1
    # When
    start_worker(there)
    # Then
    job.wait()


def test_a_lost_state_is_rendered_again(there: Settings, undisturbed: str, start_worker: Start) -> None:
    # Given a job that waits at segment 2, and the state before it damaged
    first = start_worker(there, "--only", "segments", "--only", "clips").ready()
    job = submit(spec("a", "b", "c", "d"), settings=there)
    wait_until(lambda: job.status().clips == 4)
    first.stop()
    jobs, store = job_store(there), open_blob_store(there.blobs)
    clips = jobs.clips(job.id)
    # When a clip, its latents, and the state before it are gone
    latents = jobs.handoffs(job.id)[2].latents
    for blob in (clips[2].blob_id, latents, *states.blob_ids(jobs.handoffs(job.id)[1].state)):
        assert blob
        store.drop(blob)
    start_worker(there).ready()
    # Then segments 1 and 2 are rendered again, and what came after stands
    later = jobs.handoffs(job.id)[3]
    assert film_of(job) == undisturbed
    assert jobs.handoffs(job.id)[3] == later
    assert job.status().epoch == 3  # the clip, its latents, the state before it


def test_a_lost_clip_is_decoded_again_from_its_latents(
    there: Settings, own_server: RedisProcess, undisturbed: str, start_worker: Start
) -> None:
    # Given all clips made, and the film not begun
    first = start_worker(there, "--only", "segments", "--only", "clips").ready()
    job = submit(spec("a", "b", "c", "d"), settings=there)
    wait_until(lambda: job.status().clips == 4 and redis.Redis(port=own_server.port).llen(FILMS))
    jobs = job_store(there)
    fences = [handoff.fence for handoff in jobs.handoffs(job.id)]
    # When
    open_blob_store(there.blobs).drop(jobs.clips(job.id)[2].blob_id)
    start_worker(there, "--only", "films").ready()
    # Then
    assert film_of(job) == undisturbed
    assert [handoff.fence for handoff in jobs.handoffs(job.id)] == fences
    assert job.status().epoch == 1
    first.stop()


def test_an_outage_of_the_blob_server_fails_no_job(
    here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path
) -> None:
    # Given three jobs, and a worker whose blob server is away
    (tmp_path / "blobs").mkdir()
    blobs, broker = RedisProcess(tmp_path / "blobs", "--appendonly", "yes"), RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": broker.url, "blob_url": blobs.url})
        start_worker(there).ready()
        blobs.stop()
        queued = [submit(spec("a", "b", "c", "d"), settings=there) for _ in range(3)]
        wait_until(lambda: queued[0].status().progress)
        # When it is back
        blobs.start()
        # Then
        assert [film_of(job) for job in queued] == [undisturbed] * 3
    finally:
        broker.stop()
        blobs.stop()
