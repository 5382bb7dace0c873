"""What `longtake doctor` finds in the heartbeats of workers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from tasks.jobs.keys import WORKERS, worker_key
from tasks.jobs.queues import FILMS
from tasks.jobs.workers import ChildInfo, ChildState
from tasks.settings import Settings
from tests.tasks.maintenance.conftest import GPU, HEALTHY, add, another, only, texts


def test_a_worker_that_does_not_reach_the_blob_server(healthy: Settings, client: redis.Redis) -> None:
    add(client, another(blob_outage_s=7.4))
    assert only(healthy) == (
        "error: workers: worker gpu-1@host on host cannot reach the blob server, for 7 s; "
        "check LONGTAKE_BLOB_URL and the network there"
    )


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
