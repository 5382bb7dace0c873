"""Lists the workers of a deployment, and says what they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tasks.client.display.progress import clock
from tasks.deployment import Deployment
from tasks.jobs.workers import ChildInfo, WorkerInfo, WorkerList
from tasks.settings import Settings


def list_workers(*, settings: Settings | None = None) -> WorkerList:
    """The workers of the deployment as their last heartbeats said, seconds ago.

    Raises:
        UnreachableError: the broker cannot be reached.
    """
    with Deployment(settings or Settings.from_env()) as deployment:
        return deployment.jobs.workers()


def describe_activity(worker: WorkerInfo) -> str:
    """What a worker does, in a few words."""
    if worker.fault is not None:
        return f"ended: {worker.fault}"
    working = worker.working
    if working is not None:
        text = f"{working.unit} of job {working.job_id} for {clock(worker.seen_at - working.since)}"
    elif worker.is_idle:
        text = "idle"
    else:
        text = "loading its model"
    if worker.blob_outage_s:
        text += f" · cannot reach the blob server for {worker.blob_outage_s:.0f} s"
    return f"{text} · stops after it" if worker.stopping else text


def describe_worker(worker: WorkerInfo) -> str:
    """What a worker is, in one line."""
    children = [child for child in worker.children if child.gpu or child.ranks > 1]
    device = ", ".join(map(_describe_device, children)) or "no GPU"
    process = f"process {worker.pid} on {worker.host}"
    return f"{worker.name}  {process}, longtake {worker.versions.longtake}, model {worker.model}, {device}"


def _describe_device(child: ChildInfo) -> str:
    memory = f" with {child.gpu.memory_bytes / 2**30:.0f} GiB" if child.gpu else ""
    return f"{child.device}{memory}"


def worker_lines(found: WorkerList) -> Iterator[str]:
    """The lines of `longtake workers`."""
    for worker in found.workers:
        yield describe_worker(worker)
        yield f"  {describe_activity(worker)}"
    for silent in found.silent:
        yield describe_worker(silent.worker)
        yield f"  no word for {silent.seconds:.0f} s; last {describe_activity(silent.worker)}"


def workers_json(found: WorkerList) -> list[dict[str, Any]]:
    """The objects of `longtake workers --json`; `silent_s` is null for a worker that beats."""
    beating = [asdict(worker) | {"silent_s": None} for worker in found.workers]
    return beating + [asdict(silent.worker) | {"silent_s": silent.seconds} for silent in found.silent]
