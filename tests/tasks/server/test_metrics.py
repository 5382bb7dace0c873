"""Figures for Prometheus: of the deployment from the server, of the work from each worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasks.settings import Settings
from tests.conftest import Worker, free_port, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.test_jobs_api import finished, submitted

PORT = free_port()


@pytest.fixture(scope="module")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with a port for its figures."""
    changed = settings.model_copy(update={"metrics_port": PORT})
    worker = Worker(changed, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield worker
    worker.stop()


def figures(text: str) -> dict[str, float]:
    """Samples by name and labels."""
    return {
        f"{sample.name}{dict(sample.labels) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker_figures() -> dict[str, float]:
    return figures(httpx2.get(f"http://127.0.0.1:{PORT}/metrics").text)


def test_a_worker_counts_what_it_does(client: httpx2.Client, worker: Worker) -> None:
    # Given a worker that has nothing else to do
    before = worker_figures()
    # When it renders a film
    finished(client, submitted(client, spec("a", "b", "c")))
    found = {name: value - before.get(name, 0) for name, value in worker_figures().items()}
    # Then
    assert found["longtake_segments_rendered_total{'kind': 'new'}"] == 3
    assert found["longtake_film_seconds_rendered_total"] == pytest.approx((17 + 8 + 8) / 24)
    assert found["longtake_engine_seconds_count"] == 3
    assert found["longtake_handoff_seconds_count"] == found["longtake_seam_change_count"] == 2
    assert found["longtake_clips_made_total"] == 3
    assert found["longtake_blob_bytes_stored_total"] > 1000
    assert found["longtake_leases_lost_total"] == 0


def test_a_segment_of_a_cancelled_job_has_lost_its_lease(client: httpx2.Client, worker: Worker, tmp_path: Path) -> None:
    # Given a segment that is being rendered
    before = worker_figures()["longtake_leases_lost_total"]
    job = submitted(client, spec(f"wait until {tmp_path / 'cancelled'}"))
    wait_until(lambda: client.get(f"/jobs/{job}").json()["started_at"], what="the segment")
    # When
    client.post(f"/jobs/{job}/cancel")
    (tmp_path / "cancelled").touch()
    # Then
    wait_until(lambda: worker_figures()["longtake_leases_lost_total"] == before + 1, what="the figure")


def test_a_server_knows_jobs_queues_and_workers(client: httpx2.Client, worker: Worker) -> None:
    # Given a finished job, and one that is paused
    finished(client, submitted(client, spec("a")))
    paused = submitted(client, spec(*"abcdefgh"))
    client.post(f"/jobs/{paused}/pause")
    # When
    found = figures(client.get("/metrics").text)
    # Then
    assert found["longtake_jobs{'state': 'paused'}"] == 1
    assert found["longtake_jobs{'state': 'ended'}"] >= 1
    assert found["longtake_segments_to_render"] > 0
    assert found["longtake_oldest_queued_seconds"] == 0
    assert {f"longtake_queue_messages{{'queue': '{name}'}}" for name in ("segments", "clips", "films")} <= found.keys()
    assert sum(found[f"longtake_workers{{'state': '{state}'}}"] for state in ("loading", "idle", "working")) == 1
    client.post(f"/jobs/{paused}/cancel")
