"""Submits jobs, lists them, and frees what no job needs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.client.job import Job
from tasks.client.start_image import IMAGE_MIME, read_image
from tasks.client.state_files import read_state, start_handoff
from tasks.deployment import Deployment
from tasks.errors import JobStateError, SpecError
from tasks.jobs.records import Handoff, JobStatus
from tasks.jobs.store import new_job_id
from tasks.maintenance.admission import admit_now, check_room, estimate_bytes
from tasks.maintenance.sweeper import Sweeper, SweepResult
from tasks.settings import Settings
from tasks.spec.loader import check_spec, load_spec
from tasks.spec.model_policy import check_model_folders
from tasks.spec.schema import JobSpec

SECOND_LOOK_S = 2.0


def submit(
    spec: JobSpec | Mapping[str, Any] | Path | str,
    *,
    from_state: Path | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    job_id: str | None = None,
) -> Job:
    """Queue a job.

    spec: a spec, a mapping or a file. from_state: the state to continue, a mapping or a file.

    Raises:
        SpecError: an invalid spec, state or image. RoomError: it needs more than the whole blob budget.
        JobStateError: `job_id` is taken. ServerError, redis.RedisError: a server cannot be reached.
    """
    if not isinstance(spec, JobSpec):
        spec = check_spec(spec) if isinstance(spec, Mapping) else load_spec(Path(spec))
    job = Job(job_id or new_job_id(), settings=settings)
    deployment = job._deployment
    spec = spec.with_absolute_paths()  # workers run elsewhere
    check_model_folders(spec.model or deployment.settings.model, spec.loras, deployment.settings)
    if from_state is not None and spec.segments[0].transition == "cut":
        raise SpecError("segments.0.transition: a job that continues a state cannot start with a cut")
    if from_state is not None and spec.image is not None:
        raise SpecError("image: a job that continues a state starts with that state's frames; remove one of the two")
    image = read_image(spec)
    needs = estimate_bytes(spec)
    check_room(needs, deployment.jobs.budget_bytes() or deployment.settings.blob_budget_bytes)
    start: Handoff | None = None
    if from_state is not None:
        envelope = from_state if isinstance(from_state, Mapping) else read_state(Path(from_state))
        start = start_handoff(
            dict(envelope),
            spec,
            deployment.blobs,
            owner=job.id,
            inline_threshold_bytes=deployment.settings.inline_threshold_bytes,
        )
    if image is not None:
        spec = spec.model_copy(update={"image": deployment.store_for_job(job.id, image, IMAGE_MIME)})
    model = spec.model or deployment.settings.model
    if not deployment.jobs.create(job.id, spec, model=model, needs_bytes=needs, start=start):
        raise JobStateError(f"job {job.id} already exists")
    admit_now(deployment.jobs, deployment.publisher, deployment.settings)
    return job


def list_jobs(*, settings: Settings | None = None) -> list[JobStatus]:
    """Every job of the deployment, oldest first."""
    with Deployment(settings or Settings.from_env()) as deployment:
        return list(deployment.jobs.statuses())


def collect_garbage(*, dry_run: bool, grace_s: float, settings: Settings | None = None) -> SweepResult:
    """Free what no job needs, or only report it; see `tasks.maintenance.sweeper`.

    grace_s: seconds, LONGTAKE_BLOB_GRACE_S at most.
    """
    with Deployment(settings or Settings.from_env()) as deployment:
        grace_s = min(grace_s, deployment.settings.blob_grace_s)
        sweeper = Sweeper(deployment.jobs, deployment.blobs, retention_s=deployment.settings.retention_s)
        if dry_run:
            return sweeper.preview(grace_s=grace_s)
        ended, _ = sweeper.sweep()
        time.sleep(SECOND_LOOK_S)
        found = sweeper.collect(grace_s=grace_s)
        return replace(found, jobs=[*ended, *found.jobs])
