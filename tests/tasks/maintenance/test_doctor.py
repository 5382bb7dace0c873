"""`longtake doctor`: each fault of a deployment is one finding, and a healthy one has none."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.client.submit import submit
from tasks.jobs.keys import WORKERS, job_keys, worker_key
from tasks.jobs.queues import CLIPS, FILMS, QUEUES, SEGMENTS
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.jobs.workers import ChildInfo, ChildState, Gpu, Versions, WorkerInfo, WorkerRegistry
from tasks.maintenance import server_findings
from tasks.maintenance.doctor import examine
from tasks.maintenance.findings import SHOWN, Severity
from tasks.maintenance.record_findings import STUCK_S
from tasks.settings import Settings
from tests.conftest import ROOT, STAND_IN, RedisProcess, Worker, free_port, wait_until
from tests.tasks.conftest import job_store, spec

Longtake = Callable[..., Any]
Start = Callable[..., RedisProcess]
GPU = Gpu("H200", 140 * 2**30, "GPU-1")
HEALTHY = WorkerInfo(
    token="healthy",
    name="gpu-0@host",
    host="host",
    pid=7,
    started_at=1.0,
    seen_at=2.0,
    clock_offset_s=0.0,
    model="shapes",
    engine=STAND_IN,
    queues=tuple(sorted(QUEUES)),
    versions=Versions("0.2.0", "3.12.1", "5.7.0", "2.13.0", "0.42.1"),
    children=(ChildInfo(8, ChildState.IDLE, 1.5, gpu=GPU),),
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A server that keeps its data."""
    server = RedisProcess(tmp_path_factory.mktemp("kept"), "--appendonly", "yes")
    yield server
    server.stop()


@pytest.fixture
def client(kept: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis(port=kept.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def healthy(kept: RedisProcess, client: redis.Redis, home: Path) -> Settings:
    """A deployment with one worker and nothing wrong."""
    add(client, HEALTHY)
    return Settings(redis_url=kept.url, home=home, engine=STAND_IN)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Start]:
    started: list[RedisProcess] = []

    def start(*options: str) -> RedisProcess:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(RedisProcess(folder, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def add(client: redis.Redis, *workers: WorkerInfo) -> None:
    for worker in workers:
        WorkerRegistry(client).write(worker, life_s=60)


def another(**changes: Any) -> WorkerInfo:
    """A second healthy worker, with `changes`."""
    second = replace(HEALTHY, token="second", name="gpu-1@host", pid=17)
    child = ChildInfo(18, ChildState.IDLE, 1.5, gpu=replace(GPU, uuid="GPU-2"))
    return replace(second, **{"children": (child,), **changes})


def texts(settings: Settings) -> list[str]:
    return [f"{finding.severity}: {finding.about}: {finding}" for finding in examine(settings).findings]


def only(settings: Settings) -> str:
    """The one finding."""
    [text] = texts(settings)
    return text


def test_nothing_is_wrong_with_a_healthy_deployment(
    healthy: Settings, client: redis.Redis, longtake: Longtake, start_worker: Callable[..., Worker]
) -> None:
    # Given two workers, a waiting job and a job that is done
    add(client, another())
    submit(spec("a"), settings=healthy)
    # When
    shown = longtake("doctor", settings=healthy)
    # Then
    assert (shown.stderr, shown.returncode) == ("", 0)
    assert shown.stdout == "nothing is wrong\nread 2 stored parts of 1 job\n"
    assert not list(client.scan_iter("longtake:blob:*"))
    # When a real worker does the job
    client.delete(worker_key(HEALTHY.token), worker_key("second"))
    start_worker(healthy).ready()
    wait_until(lambda: not texts(healthy), what="nothing wrong")


def test_a_worker_that_does_not_reach_the_blob_server(healthy: Settings, client: redis.Redis) -> None:
    add(client, another(blob_outage_s=7.4))
    assert only(healthy) == (
        "error: workers: worker gpu-1@host on host cannot reach the blob server, for 7 s; "
        "check LONGTAKE_BLOB_URL and the network there"
    )


def test_findings_are_lines_and_objects(client: redis.Redis, kept: RedisProcess, longtake: Longtake) -> None:
    # Given a deployment without workers
    settings = Settings(redis_url=kept.url)
    # When
    lines, objects = longtake("doctor", settings=settings), longtake("doctor", "--json", settings=settings)
    # Then
    assert (lines.returncode, objects.returncode) == (1, 1)
    assert lines.stdout.splitlines() == [
        "error: workers: no worker is alive",
        "  start `longtake worker` on a machine with a GPU",
        "read 0 stored parts of 0 jobs",
    ]
    [finding] = json.loads(objects.stdout)
    assert (finding["severity"], finding["about"], finding["problem"]) == ("error", "workers", "no worker is alive")
    assert finding["advice"] == "start `longtake worker` on a machine with a GPU"


def test_the_sample_in_the_docs_is_what_is_shown(
    healthy: Settings, client: redis.Redis, start_server: Start, longtake: Longtake
) -> None:
    # Given the deployment that docs/operations.md describes
    client.flushall()
    first = replace(HEALTHY, name="gpu-0@render-a", host="render-a")
    older = another(name="gpu-1@render-a", versions=replace(HEALTHY.versions, longtake="0.1.0"))
    ended = another(token="ended", name="gpu-2@render-b", host="render-b", fault="no CUDA device")
    add(client, first, older, ended)
    blob_server = start_server()
    # When
    shown = longtake("doctor", settings=healthy.model_copy(update={"blob_url": blob_server.url}))
    # Then
    sample = shown.stdout.replace(str(blob_server.port), "6380")
    assert f"```text\n{sample}```" in (ROOT / "docs" / "operations.md").read_text()


def test_a_slow_server_and_a_wrong_clock(healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given tolerances that no server meets
    monkeypatch.setattr(server_findings, "SLOW_PING_S", -1.0)
    monkeypatch.setattr(server_findings, "CLOCK_TOLERANCE_S", -1.0)
    # When
    slow, clock = texts(healthy)
    # Then
    assert re.search(r"^warning: broker: Redis at \S+ answers after \d+ ms; move it closer to the workers$", slow)
    assert re.search(r"^warning: broker: the clock of Redis at \S+ differs from this host's by [+-]0\.0 s", clock)


def test_servers_that_cannot_be_reached_are_named_without_their_passwords(home: Path, longtake: Longtake) -> None:
    # Given
    down = free_port()
    urls = {
        "redis_url": f"redis://me:broker-pass@127.0.0.1:{down}",
        "blob_url": f"redis://:blob-pass@127.0.0.1:{down}/1",
    }
    settings = Settings(home=home, **urls)
    # When
    shown = longtake("doctor", settings=settings)
    # Then
    broker, blobs = [line for line in shown.stdout.splitlines() if line.startswith("error: ")]
    assert broker.startswith(
        f"error: broker: Redis at redis://127.0.0.1:{down} cannot be reached: Connection refused; "
    )
    assert blobs.startswith(f"error: blob server: Redis at 127.0.0.1:{down} cannot be used: Connection refused")
    assert shown.returncode == 1
    assert "pass" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("role", "about", "words"), [("redis_url", "broker", "queued work"), ("blob_url", "blob server", "blobs in use")]
)
def test_a_server_that_may_evict(healthy: Settings, start_server: Start, role: str, about: str, words: str) -> None:
    # Given
    server = start_server("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru")
    settings = healthy.model_copy(update={role: server.url})
    # When / Then
    found = only(settings)
    assert found.startswith(f"error: {about}: Redis at ")
    assert f"has maxmemory-policy allkeys-lru, which can drop {words}" in found


@pytest.mark.parametrize(("role", "about"), [("redis_url", "broker"), ("blob_url", "blob server")])
def test_a_replica(
    healthy: Settings,
    start_server: Start,
    start_worker: Callable[..., Worker],
    kept: RedisProcess,
    role: str,
    about: str,
) -> None:
    # Given
    replica = start_server("--appendonly", "yes", "--replicaof", "127.0.0.1", str(kept.port))
    wait_until(lambda: redis.Redis(port=replica.port).info()["master_link_status"] == "up", what="the replica")
    settings = healthy.model_copy(update={role: replica.url})
    # When / Then
    problem = f"Redis at {replica.url} is a replica of 127.0.0.1:{kept.port} and takes no writes"
    assert only(settings) == f"error: {about}: {problem}; put 127.0.0.1:{kept.port} into its URL"
    # And a worker refuses to start with the same words
    worker = start_worker(settings)
    assert wait_until(lambda: worker.process.poll(), what="the end of the worker") == 1
    assert worker.text() == f"longtake: {problem}; put 127.0.0.1:{kept.port} into its URL\n"


def test_a_server_without_persistence_is_a_warning(healthy: Settings, start_server: Start) -> None:
    settings = healthy.model_copy(update={"blob_url": start_server().url})
    assert only(settings) == (
        f"warning: blob server: Redis at {settings.blob_url} has no append-only file and loses data when it crashes; "
        "set appendonly yes"
    )


def test_a_full_blob_server_is_a_warning(healthy: Settings, start_server: Start) -> None:
    settings = healthy.model_copy(update={"blob_url": start_server("--appendonly", "yes", "--maxmemory", "600kb").url})
    assert [finding.severity for finding in examine(settings).findings] == [Severity.WARNING] * 2
    assert any("is full; free blobs or raise its maxmemory" in text for text in texts(settings))
    assert any("bytes of memory; free blobs with `longtake gc`, or raise maxmemory" in text for text in texts(settings))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"versions": replace(HEALTHY.versions, longtake="0.1.0")},
            "different versions of longtake: 0.1.0 (gpu-1@host); 0.2.0",
        ),
        (
            {"versions": replace(HEALTHY.versions, torch="")},
            "different versions of torch: 2.13.0 (gpu-0@host); unknown",
        ),
        (
            {"model": "tiny"},
            "different models: shapes (gpu-0@host); tiny (gpu-1@host); give all workers one LONGTAKE_MODEL",
        ),
        ({"name": HEALTHY.name}, "2 workers have the name gpu-0@host: process 7 on host, process 17 on host"),
        ({"clock_offset_s": -7.25}, "the clock of host (worker gpu-1@host) is off by -7.2 s"),
        ({"children": HEALTHY.children}, "gpu-0@host, gpu-1@host render on one GPU, H200 GPU-1"),
        ({"children": (ChildInfo(1, ChildState.IDLE, 1.0),)}, "different GPUs: H200 (gpu-0@host); none (gpu-1@host)"),
        ({"children": (ChildInfo(1, ChildState.IDLE, 1.0),), "queues": (FILMS,)}, ""),
        ({"children": (ChildInfo(1, ChildState.LOADING, 1.0),), "model": "tiny"}, ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_workers_that_do_not_fit_together(
    healthy: Settings, client: redis.Redis, other: dict[str, Any], words: str
) -> None:
    add(client, another(**other))
    if words:
        found = only(healthy)
        assert found.startswith("warning: workers: ")
        assert words in found
    else:
        assert texts(healthy) == []


def test_a_worker_with_several_gpus(healthy: Settings, client: redis.Redis) -> None:
    # Given a worker with two GPUs, the second of which another worker has, too
    gpu = replace(GPU, uuid="GPU-3", others=(GPU.uuid,))
    add(client, another(children=(ChildInfo(1, ChildState.IDLE, 1.0, gpu=gpu, ranks=2),)))
    # When / Then
    one_gpu, kinds = texts(healthy)
    assert "gpu-0@host, gpu-1@host render on one GPU, H200 GPU-1" in one_gpu
    assert "different GPUs: 2 x H200 (gpu-1@host); H200 (gpu-0@host)" in kinds


def test_a_worker_that_ended_by_a_host_fault(healthy: Settings, client: redis.Redis) -> None:
    add(client, another(fault="model m cannot be loaded: redis://:secret@h\x1b[2J"))
    problem = "worker gpu-1@host on host has ended because its host cannot render: model m cannot be loaded: "
    assert only(healthy).startswith(f"error: workers: {problem}redis://***@h")
    assert "secret" not in only(healthy)
    assert only(healthy).isprintable()


def test_a_worker_that_runs_since_in_place_of_one_that_ended(healthy: Settings, client: redis.Redis) -> None:
    # Given a start that failed, of a worker with a name and of one without
    named = another(name="gpu@host", token="ended", fault="no CUDA device", seen_at=5.0, children=())
    for ended in (named, replace(named, name="longtake-0a1b2c@host")):
        add(client, ended)
        later = replace(ended, token="later", fault=None, started_at=6.0, children=another().children)
        unlike = {
            "another host": replace(later, host="other"),
            "before": replace(later, started_at=4.0),
            "loading": replace(later, children=(ChildInfo(18, ChildState.LOADING, 1.5),)),
        }
        if ended is named:
            unlike["another name"] = replace(later, name="gpu-2@host")
        # When / Then
        for why, worker in unlike.items():
            add(client, worker)
            assert "has ended because its host" in only(healthy), why
        add(client, later if ended is named else replace(later, name="longtake-3d4e5f@host"))
        assert texts(healthy) == []
        client.flushall()
        add(client, HEALTHY)
    # Given one that ended after it had rendered on a GPU, and another one on another GPU since
    add(client, another(name="longtake-0a1b2c@host", fault="device lost", seen_at=5.0))
    other = ChildInfo(18, ChildState.IDLE, 1.5, gpu=replace(GPU, uuid="GPU-3"))
    add(client, another(name="longtake-3d4e5f@host", token="later", started_at=6.0, children=(other,)))
    assert "has ended because its host cannot render: device lost" in only(healthy)


def test_a_heartbeat_that_cannot_be_read(healthy: Settings, client: redis.Redis) -> None:
    client.set(worker_key("x"), json.dumps({"format": "9.0"}))
    client.sadd(WORKERS, "x")
    assert "the heartbeat of a worker cannot be read: x: a worker's entry: written by a newer longtake" in only(healthy)


def test_messages_that_no_worker_takes(healthy: Settings, client: redis.Redis) -> None:
    # Given
    add(client, replace(HEALTHY, queues=(CLIPS, FILMS)))
    submit(spec("a"), settings=healthy)
    submit(spec("a"), settings=healthy, priority="high")
    # When / Then
    assert only(healthy).startswith(f"error: queues: no living worker takes the messages of {SEGMENTS}: 2 wait; start")


def test_junk(healthy: Settings, client: redis.Redis) -> None:
    # Given junk in a queue, and lists of another application
    client.lpush(FILMS, "junk")
    for number in range(12):
        client.lpush(f"celery\n{number:02}", "x")
    # When
    junk, *lists = texts(healthy)
    # Then
    assert junk.startswith(
        f"warning: queues: 1 of the next 1 entries of {FILMS} are refused by workers: entry: not JSON"
    )
    assert len(lists) == 11
    assert lists[0].startswith(r"warning: queues: the list celery\n00 is no queue of longtake")
    assert lists[-1] == "warning: queues: 2 more lists are no queues of longtake"


def test_records_that_cannot_be_read(healthy: Settings, client: redis.Redis) -> None:
    # Given records that are damaged in five ways, one of a newer version, and a good one
    jobs = [submit(spec("a"), settings=healthy) for _ in range(7)]
    records = [job_keys(job.id, "record")[0] for job in jobs]
    client.hset(records[0], "segments", "many")
    client.hset(records[1], "film", b"\xc1garbage")
    client.hset(records[2], "format", "9.0")
    client.set(records[3], "x")
    client.hset(records[4], "progress", "[1]")
    client.hset(records[5], "failures", "[7]")
    # When
    found = texts(healthy)
    # Then
    assert [text.partition(":")[0] for text in found] == ["error"] * 5 + ["warning"]
    assert f"the record of job {jobs[0].id} is damaged" in found[0]
    assert f"job {jobs[2].id}: written by a newer longtake; upgrade this worker" in found[5]
    assert jobs[6].id not in "".join(found)


def set_back(client: redis.Redis, job_id: str, seconds: float) -> None:
    """Make a job and its message older."""
    record, units = job_keys(job_id, "record", "units")
    client.hincrby(record, "created_at", -int(seconds * 1000))
    unit = json.loads(client.hget(units, "segment") or b"")
    client.hset(units, "segment", json.dumps(unit | {"announced": unit["announced"] - int(seconds * 1000)}))


def test_jobs_that_are_stuck(healthy: Settings, client: redis.Redis) -> None:
    # Given a job whose message is queued for long, and one of the same age; and one that waits for its user
    queued, lost = submit(spec("a"), settings=healthy), submit(spec("a"), settings=healthy)
    waiting = submit({"segments": "open"}, settings=healthy)
    client.hset(job_keys(waiting.id, "record")[0], "created_at", 1)
    for job in (queued, lost):
        set_back(client, job.id, STUCK_S + 1)
    assert texts(healthy) == []
    # When the messages are lost
    client.delete(SEGMENTS)
    # Then
    found = texts(healthy)
    assert found == [
        f"error: jobs: job {job.id} waits for its segment 0, and no message asks for it; "
        "a living worker publishes it within seconds: start one, or read its log"
        for job in (queued, lost)
    ]
    # When a worker has claimed one of them, Then it is not stuck
    unit = json.loads(client.hget(job_keys(queued.id, "units")[0], "segment") or b"")
    claim = job_store(healthy).claim(queued.id, WorkUnit.segment(0), unit["ticket"], "worker")
    assert claim
    assert len(texts(healthy)) == 1


def test_jobs_that_failed_lately(healthy: Settings, client: redis.Redis, jobs: JobStore) -> None:
    # Given one failure more than are shown, and an old one
    failed = [submit(spec("a"), settings=healthy) for _ in range(SHOWN + 2)]
    for job in failed:
        job_store(healthy).stop(job.id, JobState.FAILED, "out of memory")
    client.hset(job_keys(failed[-1].id, "record")[0], "finished_at", int((time.time() - 2 * 86400) * 1000))
    # When
    found = [text for text in texts(healthy) if "jobs:" in text]
    # Then
    assert found[0].startswith(f"warning: jobs: job {failed[0].id} has failed: out of memory; see `longtake status ")
    assert found[SHOWN:] == ["warning: jobs: 1 more jobs failed in the last day"]
