"""Which parts of films are opened for workers that have nothing to do."""

from __future__ import annotations

import pytest

from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.reading.workload import Workload
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.jobs.workers import ChildInfo, ChildState, WorkerInfo, WorkerRegistry
from tasks.maintenance.parts import free_children, open_parts
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings

IDLE, WORKING, LOADING = ChildState.IDLE, ChildState.WORKING, ChildState.LOADING


def worker(name: str, state: ChildState = IDLE, *, queue: str = SEGMENTS, blob_outage_s: float = 0.0) -> WorkerInfo:
    child = ChildInfo(1, state, 0.0)
    about = {"token": name, "name": name, "host": "host", "pid": 1, "model": "tiny", "engine": "ltx2"}
    times = {"started_at": 0.0, "seen_at": 0.0, "clock_offset_s": 0.0, "blob_outage_s": blob_outage_s}
    return WorkerInfo(**about, **times, queues=(queue,), children=(child,))


@pytest.mark.parametrize(
    ("states", "load", "free"),
    [
        ([IDLE, IDLE, WORKING], Workload(held=1), 2),
        ([IDLE, IDLE, WORKING], Workload(held=1, queued=1), 1),
        ([IDLE, IDLE, IDLE], Workload(held=2), 1),  # two have claimed work since their heartbeats
        ([IDLE, LOADING, LOADING], Workload(), 1),
        ([WORKING, WORKING], Workload(held=1), 0),  # one of them joins a film
        ([IDLE], Workload(queued=5), 0),
        ([], Workload(held=3), 0),
    ],
)
def test_free_children(states: list[ChildState], load: Workload, free: int) -> None:
    workers = [worker(str(number), state) for number, state in enumerate(states)]
    assert free_children(workers, load) == free


def test_workers_of_other_queues_and_without_blobs_are_not_free() -> None:
    assert free_children([worker("a", queue="longtake.clips"), worker("b", blob_outage_s=1.0)], Workload()) == 0


def film(settings: Settings, parts: int) -> str:
    """A job of so many parts, with two segments each; its first message is in the queue."""
    part = [{"prompt": "a", "transition": "cut"}, {"prompt": "b"}]
    return submit({"segments": [{"prompt": "a"}, part[1], *(part * (parts - 1))]}, settings=settings).id


def test_idle_workers_get_parts_of_each_job_in_turn(settings: Settings, jobs: JobStore) -> None:
    # Given two films whose first segments are in work, and three workers that are idle
    client = connect(settings.redis_url)
    publisher = Publisher(make_app(settings, results=False), jobs)
    long, short = film(settings, 4), film(settings, 2)
    for job_id in (long, short):
        assert isinstance(jobs.claim(job_id, WorkUnit.segment(0), 1, "w"), Claim)
    client.delete(SEGMENTS)
    for number, state in enumerate([WORKING, WORKING, IDLE, IDLE, IDLE]):
        WorkerRegistry(client).write(worker(f"worker-{number}", state), life_s=60)
    # When
    opened = open_parts(jobs, publisher, [long, short])
    # Then the first parts of both, and another one of the long film
    assert opened == client.llen(SEGMENTS) == 3
    units = {job_id: sorted(client.hkeys(f"longtake:job:{job_id}:units")) for job_id in (long, short)}
    assert units == {long: [b"segment:0", b"segment:2", b"segment:4"], short: [b"segment:0", b"segment:2"]}
    # When / Then nobody is left
    assert open_parts(jobs, publisher, [long, short]) == 0


def test_no_part_is_opened_while_work_waits_for_workers(settings: Settings, jobs: JobStore) -> None:
    # Given one idle worker, and a message
    WorkerRegistry(connect(settings.redis_url)).write(worker("idle"), life_s=60)
    waiting = film(settings, 2)
    # When / Then
    assert open_parts(jobs, Publisher(make_app(settings, results=False), jobs), [waiting]) == 0
