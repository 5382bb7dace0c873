"""Figures for Prometheus: of the deployment from the server, of the work from each worker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasks.jobs.connection import connect
from tasks.settings import Settings
from tasks.worker.metrics import REGISTRY
from tests.conftest import ROOT, Worker, free_port, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.events.test_events import events_of
from tests.tasks.server.exchanges import finished, submitted

EVENTS = "longtake_events_total{{'kind': '{}'}}"


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the worker's figures."""
    return free_port()


@pytest.fixture(scope="module")
def worker(settings: Settings, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with a port for its figures."""
    changed = settings.model_copy(update={"metrics_port": port})
    worker = Worker(changed, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield worker
    worker.end()


def figures(text: str) -> dict[str, float]:
    """Samples by name and labels."""
    return {
        f"{sample.name}{dict(sample.labels) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker_figures(port: int) -> dict[str, float]:
    return figures(httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text)


def test_a_worker_counts_what_it_does(client: httpx2.Client, worker: Worker, port: int) -> None:
    # Given a worker that has nothing else to do
    before = worker_figures(port)

    def counted() -> dict[str, float]:
        return {name: value - before.get(name, 0) for name, value in worker_figures(port).items()}

    # When it renders a film, and has counted its bytes, just after it committed it
    film = finished(client, submitted(client, spec("a", "b", "c")))["film"]
    wait_until(lambda: counted()["longtake_blob_bytes_stored_total"] > film["size"] > 1000, what="the figure")
    found = counted()
    # Then
    assert found["longtake_segments_rendered_total{'kind': 'new'}"] == 3
    assert found["longtake_film_seconds_rendered_total"] == pytest.approx((17 + 8 + 8) / 24)
    assert found["longtake_engine_seconds_count"] == 3
    assert found["longtake_handoff_seconds_count"] == found["longtake_seam_change_count"] == 2
    assert found["longtake_clips_made_total"] == 3
    assert found["longtake_leases_lost_total"] == 0


def test_a_segment_of_a_cancelled_job_has_lost_its_lease(
    client: httpx2.Client, worker: Worker, port: int, tmp_path: Path
) -> None:
    # Given a segment that is being rendered
    before = worker_figures(port)["longtake_leases_lost_total"]
    job = submitted(client, spec(f"wait until {tmp_path / 'cancelled'}"))
    wait_until(lambda: client.get(f"/jobs/{job}").json()["started_at"], what="the segment")
    # When
    client.post(f"/jobs/{job}/cancel")
    (tmp_path / "cancelled").touch()
    # Then
    wait_until(lambda: worker_figures(port)["longtake_leases_lost_total"] == before + 1, what="the figure")


def test_a_server_knows_jobs_queues_and_workers(client: httpx2.Client, worker: Worker, tmp_path: Path) -> None:
    # Given a finished job, and one that is paused
    workers = [f"longtake_workers{{'state': '{state}'}}" for state in ("loading", "idle", "working")]
    finished(client, submitted(client, spec("a")))
    paused = submitted(client, spec(f"wait until {tmp_path / 'never'}", "b"))
    client.post(f"/jobs/{paused}/pause")
    # When
    wait_until(lambda: figures(client.get("/metrics").text)[EVENTS.format("paused")], what="the event")
    wait_until(lambda: any(figures(client.get("/metrics").text)[name] for name in workers), what="a heartbeat")
    found = figures(client.get("/metrics").text)
    # Then
    assert found[EVENTS.format("done")] >= 1
    assert found[EVENTS.format("failed")] == 0
    assert found["longtake_jobs{'state': 'paused'}"] == 1
    assert found["longtake_jobs{'state': 'done'}"] >= 1
    assert found["longtake_jobs{'state': 'failed'}"] == 0
    assert found["longtake_segments_to_render"] > 0
    assert found["longtake_oldest_queued_seconds"] == 0
    assert {f"longtake_queue_messages{{'queue': '{name}'}}" for name in ("segments", "clips", "films")} <= found.keys()
    assert sum(found[name] for name in workers) == 1
    # And that it was cancelled
    client.post(f"/jobs/{paused}/cancel")
    cancelled = "longtake_jobs{'state': 'cancelled'}"
    assert figures(client.get("/metrics").text)[cancelled] == found[cancelled] + 1


def test_a_killed_process_is_counted_by_the_server(client: httpx2.Client, worker: Worker, tmp_path: Path) -> None:
    # Given / When a segment kills its process, once or twice
    job_id = submitted(client, spec(f"die until {tmp_path / 'mended'}"))
    died = "longtake_lost_attempts_total{'why': 'died'}"
    wait_until(lambda: figures(client.get("/metrics").text)[died], what="the figure")
    (tmp_path / "mended").touch()
    assert finished(client, job_id)["state"] == "done"
    # Then each is counted once
    reasons = [data["why"] for _, kind, data in events_of(client, job_id) if kind == "attempt"]
    assert figures(client.get("/metrics").text)[died] == reasons.count("died") == len(reasons)


def test_a_lost_blob_is_counted_as_the_repair_that_it_costs(
    client: httpx2.Client, worker: Worker, port: int, settings: Settings
) -> None:
    # Given a film that is lost with one of its clips
    job_id = submitted(client, spec("a", "b"))
    film = finished(client, job_id)["film"]["sha256"]
    clip = client.get(f"/jobs/{job_id}/summary").json()["segments"][1]["blobs"]["clip"].removeprefix("sha256:")
    before = worker_figures(port)
    with connect(settings.redis_url) as redis:
        redis.delete(*(key for blob in (film, clip) for key in redis.scan_iter(f"*{blob}*")))
    # When
    client.post(f"/jobs/{job_id}/retry").raise_for_status()
    finished(client, job_id)
    # Then
    changed = {name: value - before.get(name, 0) for name, value in worker_figures(port).items() if "repairs" in name}
    counted = {name: value for name, value in changed.items() if name.startswith("longtake_repairs_requested_total")}
    assert list(counted.values()) == [1]
    assert "'clip'" in str(counted)
    assert "'BlobNotFoundError'" in str(counted)
    # And the film that waited for its clip has not lost its lease to anybody
    assert worker_figures(port)["longtake_leases_lost_total"] == before["longtake_leases_lost_total"]


def test_the_dashboard_asks_for_what_there_is(client: httpx2.Client, worker: Worker) -> None:
    # Given the names of all figures
    text = client.get("/metrics").text
    families = [*text_string_to_metric_families(text), *REGISTRY.collect()]
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    known = {family.name + ending for family in families for ending in endings.get(family.type, [""])}
    # Then each query of the dashboard has only such
    dashboard = json.loads((ROOT / "docs/monitoring/grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"longtake_\w+", target["expr"])
    }
    assert asked
    assert asked <= known
