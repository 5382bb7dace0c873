"""The records of a 0.1 deployment, as 0.1 wrote them: they are read, and unfinished jobs continue.

`fixtures/records_0_1/records.json` holds every `longtake:` key of a drained 0.1 deployment on one Redis (base64), with
the summaries that 0.1 gave. Its jobs have 64x64 segments of 9 frames and the model `shapes`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ltx2 import ContinuationState, LTX2ContinuationState
from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.errors import JobStateError
from tasks.jobs.units import WorkUnit
from tasks.settings import Settings
from tests.conftest import ROOT, RedisProcess, Worker
from tests.tasks.conftest import job_store

GOLDEN = json.loads((ROOT / "tests" / "fixtures" / "records_0_1" / "records.json").read_text())
STATES = {
    "g0done": "done",
    "g0image": "done",
    "g0from": "done",
    "g0failed": "failed",
    "g0paused": "paused",
    "g0queued": "queued",
    "g0cancel": "cancelled",
}


def restore(client: redis.Redis) -> None:
    """Write every golden key."""
    for key, stored in GOLDEN["keys"].items():
        value = stored["value"]
        if stored["type"] == "hash":
            client.hset(key, mapping={base64.b64decode(k): base64.b64decode(v) for k, v in value.items()})
        else:
            assert stored["type"] == "zset"
            client.zadd(key, {base64.b64decode(k): score for k, score in value.items()})


@pytest.fixture
def old(own_settings: Settings, own_server: RedisProcess) -> Settings:
    """A deployment with the records of 0.1, and the engine that made them."""
    restore(redis.Redis(port=own_server.port))
    return own_settings.model_copy(update={"engine": "ltx2.engine:Engine", "device": "cpu", "lease_s": 10.0})


def test_every_job_is_listed(old: Settings) -> None:
    assert {status.job_id: str(status.state) for status in list_jobs(settings=old)} == STATES
    failed = Job("g0failed", settings=old).status()
    assert (failed.failed_segment, failed.attempts) == (0, 1)
    assert "latent_upsampler" in str(failed.reason)


@pytest.mark.parametrize("job_id", sorted(GOLDEN["reports"]))
def test_a_summary_is_the_one_that_0_1_gave(old: Settings, job_id: str) -> None:
    assert Job(job_id, settings=old).summary() == GOLDEN["reports"][job_id]


@pytest.mark.parametrize("job_id", ["g0done", "g0image", "g0from"])
def test_a_film_and_a_report_are_written(old: Settings, job_id: str, tmp_path: Any) -> None:
    job = Job(job_id, settings=old)
    film = job.save(tmp_path / "film.mp4").read_bytes()
    assert hashlib.sha256(film).hexdigest() == GOLDEN["reports"][job_id]["sha256"]
    job.write_report(tmp_path / "report")
    assert (tmp_path / "report" / "seams.json").exists()


def test_a_state_is_exported_and_continued(old: Settings) -> None:
    envelope = Job("g0done", settings=old).state(1)
    state = LTX2ContinuationState.from_continuation_state(ContinuationState(**envelope))
    assert state.video_frames is not None
    assert state.audio_latents is not None
    spec = {"width": 64, "height": 64, "frames": 9, "overlap": 1, "segments": [{"prompt": "a red circle"}]}
    assert submit(spec, from_state=envelope, settings=old).status().state == "queued"


def test_unfinished_jobs_continue(old: Settings, start_worker: Callable[..., Worker]) -> None:
    # Given a job that 0.1 paused after its first segment, and one that it never started
    paused, queued = Job("g0paused", settings=old), Job("g0queued", settings=old)
    first = job_store(old).handoff("g0paused", 0)
    # When
    paused.resume()
    start_worker(old).ready()
    # Then both end, and the segment that 0.1 committed was not rendered again
    for job, segments in ((paused, 6), (queued, 2)):
        film = job.wait().status().film
        assert film
        assert film.frames == 9 + 8 * (segments - 1)
    assert job_store(old).handoff("g0paused", 0) == first


def test_a_failed_job_is_retried_and_an_ended_one_forgotten(old: Settings) -> None:
    failed, cancelled = Job("g0failed", settings=old), Job("g0cancel", settings=old)
    with pytest.raises(JobStateError):
        cancelled.retry()
    failed.retry()
    assert failed.status().state == "running"
    cancelled.forget()
    assert not cancelled.exists()


def test_segments_are_appended_to_a_film_of_0_1(old: Settings) -> None:
    job, film = Job("g0done", settings=old), Job("g0done", settings=old).status().film
    first = job.status().segments
    assert job.append([{"prompt": "a red circle"}]) == range(first, first + 1)
    status = job.status()
    assert (status.state, status.film, status.open, status.approved) == ("running", film, False, None)
    assert [need.unit for need in job_store(old).survey(job.id)] == [WorkUnit.segment(first)]
