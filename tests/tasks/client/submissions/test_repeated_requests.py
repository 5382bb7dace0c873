"""Requests whose reply is lost, and requests that users repeat: each is carried out once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from blobstore import open_blob_store
from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.errors import JobStateError, LongtakeError, MaybeQueuedError, SpecError
from tasks.jobs.keys import IDEMPOTENCY
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tests.conftest import RedisProcess
from tests.proxies import Proxy
from tests.tasks.conftest import spec

KEY = "order 7: the harbour"


@pytest.fixture
def proxy(settings: Settings, shared_redis: RedisProcess) -> Iterator[Proxy]:
    with Proxy(shared_redis.port) as proxy:
        yield proxy


@pytest.fixture
def lossy(settings: Settings, proxy: Proxy) -> Settings:
    """The same deployment, seen through the proxy."""
    return settings.model_copy(update={"redis_url": proxy.url})


@pytest.fixture
def boat(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 32), "white").save(tmp_path / "boat.png")
    return tmp_path / "boat.png"


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("times", [1, 3])
def test_a_submission_whose_reply_is_lost_is_sent_again_and_is_one_job(
    lossy: Settings, proxy: Proxy, boat: Path, key: str | None, times: int
) -> None:
    proxy.lose(b"needs_bytes", times=times)
    job = submit(spec("a", image=str(boat)), settings=lossy, idempotency_key=key)
    assert proxy.lost
    assert [status.job_id for status in list_jobs(settings=lossy)] == [job.id]
    assert job.status().admitted


def test_a_submission_whose_replies_are_all_lost_names_the_job_that_may_be_queued(
    settings: Settings, lossy: Settings, proxy: Proxy, boat: Path
) -> None:
    # Given a user who submits with a key, and whose replies to the last step are lost for good
    proxy.lose(b"title", times=100)
    # When
    with pytest.raises(MaybeQueuedError) as lost:
        submit(spec("a", image=str(boat)), settings=lossy, idempotency_key=KEY)
    # Then the error names the job, which is queued, and its image is pinned
    job = Job(lost.value.job_id, settings=settings)
    assert f"job {job.id} may be queued" in str(lost.value)
    assert "with the same idempotency key, which is safe" in str(lost.value)
    assert job.status().state == "queued"
    # When the user repeats the submission, Then it is the same job, and it is completed
    again = submit(spec("a", image=str(boat)), settings=settings, idempotency_key=KEY)
    assert again.id == job.id
    assert again.status().admitted
    assert list(open_blob_store(settings.blobs).owners()) == [job.id]


def test_the_command_says_that_a_job_may_be_queued(
    lossy: Settings, proxy: Proxy, tmp_path: Path, longtake: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "spec.yaml").write_text("segments: [{prompt: a}]")
    proxy.lose(b"needs_bytes", times=100)
    ended = longtake("submit", "spec.yaml", settings=lossy)
    [status] = list_jobs(settings=lossy)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"longtake: job {status.job_id} may be queued: the reply to its submission was lost")
    assert len(ended.stderr.splitlines()) == 1


def test_an_unreachable_server_has_queued_nothing(settings: Settings) -> None:
    with pytest.raises((LongtakeError, redis.ConnectionError)) as refused:
        submit(spec("a"), settings=settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    assert not isinstance(refused.value, MaybeQueuedError)


Request = Callable[[Job], object]
REQUESTS: dict[str, tuple[list[Request], Request, JobState, bytes]] = {
    "pause": ([], Job.pause, JobState.PAUSED, b"pause"),
    "resume": ([Job.pause], Job.resume, JobState.QUEUED, b"resume"),
    "cancel": ([], Job.cancel, JobState.CANCELLED, b"by user"),
    "retry": (
        [lambda job: job._deployment.jobs.stop(job.id, JobState.FAILED, "a bad prompt")],
        Job.retry,
        JobState.QUEUED,
        b"revive",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_whose_reply_is_lost_succeeds_once(lossy: Settings, proxy: Proxy, name: str) -> None:
    # Given
    before, request, state, marker = REQUESTS[name]
    job = submit(spec("a"), settings=lossy)
    for change in before:
        change(job)
    # When
    proxy.lose(marker)
    request(job)
    # Then
    assert proxy.lost
    assert job.status().state == state


def test_deleting_a_record_whose_reply_is_lost_succeeds(lossy: Settings, proxy: Proxy, jobs: JobStore) -> None:
    job = submit(spec("a"), settings=lossy)
    job.cancel()
    proxy.lose(b":idempotency")
    job.forget()
    assert proxy.lost
    assert not job.exists()


def test_a_request_that_arrives_again_later_changes_nothing(settings: Settings, jobs: JobStore) -> None:
    # Given a job that was paused, and resumed since
    job = submit(spec("a"), settings=settings)
    assert jobs.pause(job.id, request="first") == JobState.QUEUED
    jobs.resume(job.id)
    # When the first request arrives again
    assert jobs.pause(job.id, request="first") == JobState.QUEUED
    # Then the job goes on
    assert job.status().state == "queued"


def test_a_refused_request_stays_refused(settings: Settings, jobs: JobStore) -> None:
    job = submit(spec("a"), settings=settings)
    assert jobs.resume(job.id, request="early") == JobState.QUEUED
    jobs.pause(job.id)
    assert jobs.resume(job.id, request="early") == JobState.QUEUED
    assert job.status().state == "paused"


def test_a_record_keeps_the_last_requests_only(settings: Settings, jobs: JobStore, shared_redis: RedisProcess) -> None:
    job = submit(spec("a"), settings=settings)
    record = f"longtake:job:{job.id}:record"
    client = redis.Redis(port=shared_redis.port)
    sizes = []
    for _ in range(20):
        jobs.pause(job.id)
        jobs.resume(job.id)
        sizes.append(len(client.hget(record, "requests") or b""))
    assert sizes[10] == sizes[-1] < 1024
    # And damaged ones do not get in the way
    for garbage in (b"{", b"7", b"[1]", b"\xc1", b'[["append", 1e999]]', b'[["append", -3]]', b"[" * 100_000):
        client.hset(record, "requests", garbage)
        assert jobs.earlier_append(job.id, "append") is None
        assert jobs.pause(job.id) == JobState.QUEUED
        assert jobs.resume(job.id) == JobState.PAUSED


# Idempotency keys


def test_the_same_key_and_spec_are_the_same_job(settings: Settings, boat: Path, tmp_path: Path) -> None:
    # Given a job with a key
    first = submit(spec("a", image=str(boat)), settings=settings, idempotency_key=KEY)
    # When the same is submitted again: as a mapping, and with a default spelled out and the image elsewhere
    moved = boat.rename(tmp_path / "ship.png")
    again = submit(spec("a", image=str(moved), fps=24.0), settings=settings, idempotency_key=KEY)
    # Then
    assert again.id == first.id
    assert len(list_jobs(settings=settings)) == 1
    assert list(open_blob_store(settings.blobs).owners()) == [first.id]
    # And another key, or none, is another job
    others = {submit(spec("a", image=str(moved)), settings=settings, idempotency_key=key).id for key in ("other", None)}
    assert len({first.id, *others}) == 3


@pytest.mark.parametrize("change", ["prompt", "seed", "image", "state"])
def test_the_same_key_with_another_spec_is_refused(settings: Settings, boat: Path, change: str) -> None:
    # Given
    first = submit(spec("a", image=str(boat)), settings=settings, idempotency_key=KEY)
    other: dict[str, Any] = spec("b" if change == "prompt" else "a", image=str(boat))
    if change == "seed":
        other["seed"] = 8
    elif change == "image":
        Image.new("RGB", (64, 32), "black").save(boat)
    elif change == "state":
        del other["image"]
    # When / Then
    with pytest.raises(JobStateError, match=f"{KEY}' belongs to job {first.id}, .* another spec; use another key"):
        submit(other, settings=settings, idempotency_key=KEY)
    assert len(list_jobs(settings=settings)) == 1
    assert list(open_blob_store(settings.blobs).owners()) == [first.id]


def test_a_key_is_free_again_when_its_job_is_forgotten(settings: Settings, shared_redis: RedisProcess) -> None:
    first = submit(spec("a"), settings=settings, idempotency_key=KEY)
    first.cancel()
    assert submit(spec("a"), settings=settings, idempotency_key=KEY).id == first.id
    first.forget()
    assert not redis.Redis(port=shared_redis.port).exists(IDEMPOTENCY)
    assert submit(spec("b"), settings=settings, idempotency_key=KEY).id != first.id


def test_a_key_whose_record_was_lost_is_free(settings: Settings, shared_redis: RedisProcess) -> None:
    first = submit(spec("a"), settings=settings, idempotency_key=KEY)
    redis.Redis(port=shared_redis.port).delete(f"longtake:job:{first.id}:record")
    assert submit(spec("b"), settings=settings, idempotency_key=KEY).id != first.id


@pytest.mark.parametrize("key", ["", "k" * 201, "two\nlines", "\udcff", 7])
def test_an_invalid_key_is_refused(settings: Settings, key: Any) -> None:
    with pytest.raises(SpecError, match=r"idempotency key: .* must have 1 to 200 printable characters"):
        submit(spec("a"), settings=settings, idempotency_key=key)


def test_a_key_and_an_id_exclude_each_other(settings: Settings) -> None:
    with pytest.raises(SpecError, match="idempotency key"):
        submit(spec("a"), settings=settings, idempotency_key=KEY, job_id="aaaa")


def test_the_command_repeats_a_submission(
    settings: Settings, tmp_path: Path, longtake: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "spec.yaml").write_text("segments: [{prompt: a}]")
    (tmp_path / "other.yaml").write_text("segments: [{prompt: b}]")
    first, again = (longtake("submit", "spec.yaml", "--idempotency-key", KEY, settings=settings) for _ in range(2))
    other = longtake("submit", "other.yaml", "--idempotency-key", KEY, settings=settings)
    assert first.stdout == again.stdout != ""
    assert other.returncode == 1
    assert f"belongs to job {first.stdout.strip()}" in other.stderr
