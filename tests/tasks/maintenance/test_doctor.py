"""`longtake doctor`: what it prints, and what is wrong with the servers; a healthy deployment has no finding."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.client.submit import submit
from tasks.jobs.keys import worker_key
from tasks.maintenance import server_findings
from tasks.maintenance.doctor import examine
from tasks.maintenance.findings import Severity
from tasks.settings import Settings
from tests.conftest import ROOT, RedisProcess, Worker, free_port, wait_until
from tests.tasks.conftest import spec
from tests.tasks.maintenance.conftest import HEALTHY, Start, add, another, only, texts

Longtake = Callable[..., Any]


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
