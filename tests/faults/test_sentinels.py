"""Both servers found through three Redis Sentinels, all with TLS and passwords, and a real failover."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import redis

from blobstore import BlobStoreError, open_blob_store
from tasks.jobs.units import JobState
from tests.conftest import free_port, wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import SEGMENTS, FaultWorker, Harness
from tests.faults.worker import ENGINE_STEP
from tests.sentinels import MASTER_NAME, PASSWORD, SENTINEL_PASSWORD, SentinelGroup, sentinel_group


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with sentinel_group(tmp_path_factory.mktemp("sentinels"), secure=True) as group:
        yield group


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness, group: SentinelGroup) -> Harness:
    """Records and blobs on one group of servers; each URL is written in one of the two forms."""
    made = make_harness(max_attempts=1)
    one_each = (f"{group.scheme}://{group.login}{host}/1" for host in group.hosts)
    celery_form = f"{';'.join(one_each)}?{group.options}"
    made.settings = made.settings.model_copy(update={"redis_url": group.url, "blob_url": celery_form})
    return made


@pytest.fixture(scope="module")
def worker(harness: Harness) -> Iterator[FaultWorker]:
    worker = harness.start_worker().ready()
    yield worker
    worker.stop()  # before its servers: it would wait for them


def test_hostile_messages_are_refused(harness: Harness, group: SentinelGroup, worker: FaultWorker) -> None:
    # Given messages and commands that would end a worker, or run something
    with group.client() as queues:
        for entry in (b"garbage", b"[]", b'{"body": 1}'):
            queues.lpush("segments", entry)
        queues.publish("/0.celery.pidbox", b"garbage")
        queues.publish("/0.celeryev/worker.heartbeat", b"[]")
        # When the worker reads them
        wait_until(lambda: not queues.llen("segments"), what="an empty queue")
    # Then each is refused with one line, and the worker works
    wait_until(lambda: worker.text().count("is refused: ") == 5, what=f"five refusals in {worker.text()}")
    film_of(harness, 1)
    assert worker.is_alive


def test_a_job_survives_a_failover(harness: Harness, group: SentinelGroup, worker: FaultWorker) -> None:
    film = film_of(harness, SEGMENTS)
    before = len(worker.text())
    # Given a job with a segment in the engine, and its result in Redis
    hold = harness.hold(ENGINE_STEP, 1)
    job = harness.submit()
    hold.wait()
    old = group.master
    with group.client() as client:
        client.wait(1, 5000)
    # When the master is killed
    old.stop(signal.SIGKILL)
    hold.release()
    wait_until(lambda: group.master is not old, what="the failover")
    # Then the job goes on with the new master
    wait_until(lambda: is_done(harness, job.id), what=f"the job: {worker.text()[before:]}")
    harness.verify(job, film)
    harness.wait_idle()
    assert worker.is_alive
    # and so do Celery's results
    with group.client() as client:
        assert list(client.scan_iter(f"celery-task-meta-{job.id}-segment-*"))
    text = worker.text()[before:]
    assert "Traceback" not in text
    for secret in (PASSWORD, quote(PASSWORD, safe=""), SENTINEL_PASSWORD, quote(SENTINEL_PASSWORD)):
        assert secret not in worker.text()
    # and each process has logged a start and an end for the group
    assert 1 <= text.count("cannot be used, waiting for it") == text.count("can be used again") <= 4, text
    old.start()


def is_done(harness: Harness, job_id: str) -> bool:
    """Whether the job is done; False while its server cannot be asked."""
    try:
        return harness.jobs.status(job_id).state == JobState.DONE
    except redis.ConnectionError:
        return False


def test_what_is_wrong_with_a_sentinel_is_named(group: SentinelGroup) -> None:
    no_master = "no Sentinel can be reached that knows a master of this"
    for url, reason in (
        (group.url.replace(f"={MASTER_NAME}", "=other"), no_master),
        (f"sentinel://127.0.0.1:{free_port()}?master_name=a", no_master),
        (group.url.replace("sentinel_password=", "sentinel_password=no"), "a Sentinel refuses the login"),
        (group.url.replace("sentinel_password=", "sentinel_username="), "a Sentinel refuses the login"),
        (group.url.partition("&ssl_ca_certs")[0], "the certificate of a Sentinel is not valid"),
        (group.url.replace(group.login, ""), "asks for a password"),
        (group.url.replace(group.login, ":other@"), "invalid username-password pair"),
    ):
        with pytest.raises(BlobStoreError, match=f"(?i){reason}") as caught:
            open_blob_store(url, patience_s=0.2).check()
        assert quote(SENTINEL_PASSWORD) not in str(caught.value)
