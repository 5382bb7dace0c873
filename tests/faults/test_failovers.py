"""Servers that become read-only replicas, and failovers behind one address. One counted failure ends a job here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import redis

from tasks.client.job import Job
from tasks.jobs.connection import connect
from tasks.jobs.queues import SEGMENTS as SEGMENTS_QUEUE
from tests.conftest import RedisProcess, wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import SEGMENTS, FaultWorker, Harness
from tests.faults.server_faults import client_of
from tests.faults.worker import ENGINE_STEP
from tests.proxies import Proxy

DEMOTED_S = 5.0
LONGER_THAN_PATIENCE = {
    "FAULT_CONSTANTS": "tasks.jobs.connection.PATIENCE_S=1 tasks.worker.claims.failures.OUTAGE_PAUSE_S=0.5"
}
BROKER, BLOBS = "broker", "blobs"


@dataclass
class Replicated:
    """A server behind an address, and its replica."""

    proxy: Proxy
    master: RedisProcess
    replica: RedisProcess

    def fail_over(self) -> None:
        """Make the replica the master behind the address; the old master and all connections to it live on."""
        with redis.Redis(port=self.replica.port) as new, redis.Redis(port=self.master.port) as old:
            wait_until(lambda: in_sync(old), what="the replica")
            old.replicaof("127.0.0.1", str(self.replica.port))
            new.replicaof("NO", "ONE")
        self.proxy.move_to(self.replica.port)
        self.master, self.replica = self.replica, self.master


def in_sync(master: redis.Redis) -> bool:
    """Whether the only replica has everything."""
    found = master.info("replication")
    return found["connected_slaves"] == 1 and found["slave0"]["offset"] == found["master_repl_offset"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, harness: Harness) -> Iterator[dict[str, Replicated]]:
    """The broker and the blob server of the harness, each behind a proxy and with a replica."""
    with ExitStack() as stack:
        made = {}
        for name, master in ((BROKER, harness.broker), (BLOBS, harness.blob_server)):
            folder = tmp_path_factory.mktemp(name)
            replica = RedisProcess(folder, "--replicaof", "127.0.0.1", str(master.port))
            stack.callback(replica.stop)
            made[name] = Replicated(stack.enter_context(Proxy(master.port)), master, replica)
        urls = {"redis_url": made[BROKER].proxy.url, "blob_url": made[BLOBS].proxy.url}
        harness.settings = harness.settings.model_copy(update=urls)
        yield made


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    return make_harness(max_attempts=1)


@pytest.fixture(scope="module")
def worker(harness: Harness, servers: dict[str, Replicated]) -> FaultWorker:
    return harness.start_worker()


@pytest.fixture(scope="module")
def film(harness: Harness, worker: FaultWorker) -> str:
    return film_of(harness, SEGMENTS)


@contextmanager
def read_only(server: RedisProcess) -> Iterator[None]:
    """Inside the block, the server is a replica of nothing."""
    with client_of(server) as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


def outage_lines(text: str) -> list[str]:
    """The lines of a log that are about the connection to a server, without those at the level INFO."""
    return [line for line in text.splitlines() if "Redis at " in line or "onnection" in line or "Traceback" in line]


def test_an_idle_worker_survives_a_broker_that_is_demoted_for_a_while(
    harness: Harness, servers: dict[str, Replicated], worker: FaultWorker, film: str
) -> None:
    before = len(worker.text())
    # When
    with read_only(servers[BROKER].master):
        threading.Event().wait(DEMOTED_S)
    # Then the worker takes work again
    harness.verify(harness.submit(), film)
    harness.wait_idle()
    assert worker.is_alive
    # and each of its two processes has logged at most the start and the end
    lines = outage_lines(worker.text()[before:])
    starts = [line for line in lines if "cannot be used, waiting for it: it " in line and "replica (" in line]
    ends = [line for line in lines if "can be used again" in line]
    assert 1 <= len(starts) == len(ends) <= 2, lines
    assert len(lines) == len(starts) + len(ends), lines


@pytest.mark.parametrize(
    "point",
    [
        ENGINE_STEP,
        *(pytest.param(point, marks=pytest.mark.faults) for point in ("state rendered", "segment committed")),
    ],
)
@pytest.mark.parametrize("name", [BROKER, BLOBS])
def test_failover_behind_one_address(
    harness: Harness, servers: dict[str, Replicated], film: str, name: str, point: str
) -> None:
    # Given a job, and open connections to its servers
    hold = harness.hold(point, 1)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    servers[name].fail_over()
    hold.release()
    # Then nothing is rendered again
    harness.verify(job, film)
    harness.wait_idle()


def test_nothing_is_rendered_while_the_blob_server_takes_no_writes(
    harness: Harness, servers: dict[str, Replicated], worker: FaultWorker, film: str
) -> None:
    # Given a worker that waits for a second, instead of a minute
    worker.stop()
    impatient = harness.start_worker(**LONGER_THAN_PATIENCE).ready()
    # When a job is submitted during the outage
    harness.mark_fault()
    with read_only(servers[BLOBS].master):
        job = harness.submit()
        wait_until(lambda: is_released(harness, job), what="the release")
        # Then it is claimed and released, and not rendered
        assert not harness.count(job, "segment hydrated")
    harness.verify(job, film)
    harness.wait_idle()
    # and the outage is two lines in the log of each process that met it
    for name in ("MainProcess", "ForkPoolWorker-1"):
        wait_until(lambda name=name: len(warnings_of(impatient, name)) != 1, what=f"the end of the outage in {name}")
        lines = warnings_of(impatient, name)
        assert ["waiting for it" in line for line in lines] in ([], [True, False]), lines
        assert all("can be used again" in line for line in lines[1:]), lines
    impatient.stop()


def test_a_worker_that_is_cut_off_from_the_blobs_leaves_the_work_to_others(
    harness: Harness, servers: dict[str, Replicated], film: str
) -> None:
    # Given a job that was released by a worker to which nothing from the blob server arrives
    shared = harness.settings
    with Proxy(servers[BLOBS].proxy.port) as proxy:
        harness.settings = shared.model_copy(update={"blob_url": proxy.url})
        cut_off = harness.start_worker(**LONGER_THAN_PATIENCE).ready()
        harness.settings = shared
        proxy.cut()
        harness.mark_fault()
        job = harness.submit()
        wait_until(lambda: is_released(harness, job), what="the release")
        # When another worker is there
        other = harness.start_worker()
        # Then it does the work, and the first one takes none
        harness.verify(job, film)
        assert harness.count(job, "segment claimed")[0] == 2
        # And when the blob server is back, both end as usual
        proxy.heal()
        harness.wait_idle()
        cut_off.stop()
        other.stop()


def warnings_of(worker: FaultWorker, process: str) -> list[str]:
    """The warnings and errors in the log of one of a worker's processes."""
    return [line for line in worker.text().splitlines() if f"WARNING/{process}" in line or f"ERROR/{process}" in line]


def is_released(harness: Harness, job: Job) -> bool:
    """Whether a segment was claimed and released, and its message waits."""
    with connect(harness.settings.redis_url) as client:
        return bool(harness.count(job, "segment claimed")) and client.llen(SEGMENTS_QUEUE) == 1
