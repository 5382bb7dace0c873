"""Submits jobs, lists them, and frees what no job needs."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import redis

from tasks.client.job import Job
from tasks.client.submissions.idempotency import check_key
from tasks.client.submissions.prepared import Prepared, check_submission, prepare
from tasks.client.submissions.submission import create_job
from tasks.deployment import Deployment
from tasks.errors import LongtakeError, SpecError
from tasks.field_errors import shown
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.jobs.queues import Priority
from tasks.jobs.reader import JOBS_PER_PAGE
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus
from tasks.jobs.results import CreateOutcome
from tasks.jobs.units import JobState
from tasks.maintenance.submissions import complete_submissions
from tasks.maintenance.sweeper import Sweeper, SweepResult
from tasks.messaging.tracing import tracing
from tasks.settings import Settings
from tasks.spec.loader import check_spec, load_spec
from tasks.spec.schema import JobSpec

log = logging.getLogger(__name__)
SECOND_LOOK_S = 2.0


def submit(
    spec: JobSpec | Mapping[str, Any] | Path | str,
    *,
    from_state: Path | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    job_id: str | None = None,
    idempotency_key: str | None = None,
    priority: Priority | Literal["normal", "high"] = Priority.NORMAL,
) -> Job:
    """Queue a job.

    spec: a spec, a mapping or a file. from_state: the state to continue, a mapping or a file. idempotency_key: 1 to 200
    printable characters that name this submission: while the job has a record, the same key with the same spec, image
    and state returns the same job. priority: workers take the work of `high` jobs before that of all others.

    Raises:
        SpecError: an invalid spec, state, image, key or priority. RoomError: it needs more than the whole blob budget,
        or this has no room now for its image or state.
        JobStateError: `job_id` is taken, or the key was used with another spec. UnreachableError, a
        ServerError: Redis cannot be reached. MaybeQueuedError, a ServerError: the reply was lost; names the job, which
        may be queued. BlobStoreError: the blob server failed.
    """
    began_ns = time.time_ns()
    if not isinstance(spec, JobSpec):
        spec = check_spec(spec) if isinstance(spec, Mapping) else load_spec(Path(spec))
    if idempotency_key is not None:
        check_key(idempotency_key)
        if job_id is not None:
            raise SpecError("idempotency key: it excludes an id; give one of the two")
    priority = _valid_priority(priority)
    job = Job(job_id or new_job_id(), settings=settings)
    deployment = job._deployment
    prepared = prepare(spec, deployment.settings, from_state=from_state, with_video=True)
    for warning in prepared.warnings:
        log.warning("%s", warning)
    has_key = idempotency_key is not None
    creation = create_job(
        deployment,
        job.id,
        lambda _: prepared.draft(deployment.blobs, deployment.settings, has_key=has_key, priority=priority),
        idempotency_key=idempotency_key,
    )
    if creation.outcome == CreateOutcome.CREATED:
        tracing.job_submitted(job.id, began_ns)
    job.id = creation.job_id
    return job


def check_only(spec: JobSpec, *, from_state: Path | None, settings: Settings) -> Prepared:
    """Check all that `submit` checks, and store nothing. A deployment that cannot be reached is not needed.

    Raises:
        SpecError: as `submit`. RoomError: it needs more than the whole blob budget.
    """
    with Deployment(settings) as deployment:
        try:
            budget = deployment.budget_bytes()
        except (redis.RedisError, LongtakeError):
            budget = settings.blob_budget_bytes
        return check_submission(spec, deployment.blobs, settings, from_state=from_state, budget_bytes=budget)


def _valid_priority(priority: str) -> Priority:
    try:
        return Priority(priority)
    except ValueError:
        raise SpecError(f"priority: {shown(priority)} must be one of {', '.join(Priority)}") from None


def list_jobs(
    *, settings: Settings | None = None, states: Collection[JobState | str] = (), limit: int | None = None
) -> list[JobStatus]:
    """The jobs of the deployment, oldest first; with a limit, so many of the newest, newest first.

    states: only jobs in one of these, such as "running".

    Raises:
        ValueError: an unknown state, or a limit below 1.
    """
    return list(iterate_jobs(settings=settings, states=states, limit=limit))


def iterate_jobs(
    *,
    settings: Settings | None = None,
    states: Collection[JobState | str] = (),
    limit: int | None = None,
    after: str | None = None,
) -> Iterator[JobStatus]:
    """The same as `list_jobs`, read page by page. after: see `JobReader.statuses`."""
    wanted = {JobState(state) for state in states}
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    with Deployment(settings or Settings.from_env()) as deployment:
        yield from islice(deployment.jobs.statuses(wanted, newest_first=limit is not None, after=after), limit)


def iterate_waiting(
    *,
    settings: Settings | None = None,
    states: Collection[JobState | str] = (),
    limit: int | None = None,
    after: str | None = None,
) -> Iterator[tuple[JobStatus, Wait | None]]:
    """The same as `iterate_jobs`, each with what the job waits for."""
    settings = settings or Settings.from_env()
    jobs = iterate_jobs(settings=settings, states=states, limit=limit, after=after)
    with Deployment(settings) as deployment:
        while page := list(islice(jobs, JOBS_PER_PAGE)):
            waits = deployment.jobs.waits(page)
            yield from ((status, waits.get(status.job_id)) for status in page)


def collect_garbage(*, dry_run: bool, grace_s: float, settings: Settings | None = None) -> SweepResult:
    """Free what no job needs, or only report it; see `tasks.maintenance.sweeper`.

    grace_s: seconds, LONGTAKE_BLOB_GRACE_S at most.
    """
    with Deployment(settings or Settings.from_env()) as deployment:
        grace_s = min(grace_s, deployment.settings.blob_grace_s)
        sweeper = Sweeper(deployment.jobs, deployment.blobs, retention_s=deployment.settings.retention_s)
        if dry_run:
            return sweeper.preview(grace_s=grace_s)
        for job_id, error in complete_submissions(deployment.jobs, deployment.blobs):
            if error is not None:
                log.warning("the submission of job %s cannot be completed: %s", job_id, error)
        ended, _ = sweeper.sweep()
        time.sleep(SECOND_LOOK_S)
        found = sweeper.collect(grace_s=grace_s)
        return replace(found, jobs=[*ended, *found.jobs])
