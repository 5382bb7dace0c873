"""A worker that cannot reach the blob server, while it reaches the broker. One counted failure ends a job here."""

from __future__ import annotations

import pytest

from tasks.client.display.workers import list_workers
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import SEGMENTS, Harness
from tests.faults.server_faults import unresponsive
from tests.faults.worker import ENGINE_STEP
from tests.proxies import Proxy

LONG_S = 3.0  # after so long, a worker gives its segment up if another one can take it


def wait_for_outages(harness: Harness, count: int) -> None:
    """Wait until so many workers have been without the blob server for long enough."""

    def outages() -> int:
        living = list_workers(settings=harness.settings).living
        return sum(worker.blob_outage_s >= LONG_S for worker in living)

    wait_until(lambda: outages() == count, what=f"{count} workers without the blob server")


@pytest.mark.faults  # on a busy machine, heartbeats are late, and a segment is rendered once more than it must be
def test_a_segment_is_given_up_to_a_worker_that_reaches_the_blob_server(make_harness: MakeHarness) -> None:
    harness = make_harness(max_attempts=1)
    with Proxy(harness.blob_server.port) as proxy:
        # Given a segment in the engine of a worker, and an idle worker
        shared = harness.settings
        harness.settings = shared.model_copy(update={"blob_url": proxy.url})
        cut_off = harness.start_worker().ready()
        harness.settings = shared
        film = film_of(harness, SEGMENTS)
        hold = harness.hold(ENGINE_STEP, 1)
        job = harness.submit()
        hold.wait()
        other = harness.start_worker().ready()
        # When the blob server is out for both, Then the worker keeps its segment, and says what it waits for
        with unresponsive(harness.blob_server):
            wait_for_outages(harness, 2)
            assert harness.count(job, "segment claimed")[1] == 1
            assert str(job.waiting()) == "worker worker-0@test cannot reach the blob server"
        wait_until(lambda: job.waiting() is None, what="the end of the outage")
        assert harness.count(job, "segment claimed")[1] == 1
        # When it is out for the worker that renders alone, Then the other one renders the segment meanwhile
        harness.mark_fault()
        proxy.cut()
        wait_until(lambda: harness.count(job, "clip committed")[1], what="the segment elsewhere")
        harness.verify(job, film, denoised_again=1)
        assert cut_off.text().count("released: worker worker-1@test reaches the blob server") == 1
        # And when both reach it again, both work
        hold.release()
        proxy.heal()
        harness.wait_idle()
        other.stop()
        harness.verify(harness.submit(), film)
