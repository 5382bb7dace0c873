"""What the server answers about jobs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tasks.client.films.summary import film_summary
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus, Progress
from tasks.jobs.units import JobState
from tasks.server.context import ServerContext
from tasks.server.http.answers import without_paths


class ProgressView(BaseModel):
    """A segment in work: `step` of `steps`, `step_s` seconds each so far; all 0 before its first step."""

    segment: int
    step: int
    steps: int
    step_s: float


class FilmView(BaseModel):
    """A finished film. size: bytes. fps: an exact fraction as text."""

    size: int
    sha256: str
    width: int
    height: int
    fps: str
    frames: int
    duration_s: float


class ForkView(BaseModel):
    """What a fork began with: the segments of the job `id` up to and including segment `after`."""

    id: str
    after: int


class JobView(BaseModel):
    """A job. Times are seconds since the epoch, null before they occur. waiting: what it waits for, in words.

    committed: the segments from the first to before the first one that is missing. rendered: all that are there.
    progress: of the first segment in work that has begun a step. in_work: of every one, in the film's order.
    fork_of: of a fork, where its first segments are from; that job may be gone.
    """

    id: str
    title: str
    state: JobState
    segments: int
    committed: int
    rendered: int
    clips: int
    epoch: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    reason: str | None
    failed_segment: int | None
    progress: ProgressView | None
    in_work: list[ProgressView]
    film: FilmView | None
    waiting: str | None
    fork_of: ForkView | None


class DeliveryView(BaseModel):
    """A message to a job's webhook. problem: why the last attempt failed. given_up: it is not tried any more."""

    event_id: str
    kind: str
    at: float
    attempts: int
    problem: str | None
    delivered_at: float | None
    given_up: bool


class JobPage(BaseModel):
    """Jobs, newest first. next: give it as `after` for those that follow; null at the end."""

    jobs: list[JobView]
    next: str | None


def job_view(status: JobStatus, wait: Wait | None) -> JobView:
    """A job as it is answered."""
    film = status.film
    own = {
        "id": status.job_id,
        "reason": None if status.reason is None else without_paths(status.reason),
        "progress": progress_view(status.progress),
        "in_work": [progress_view(one) for one in status.in_work],
        "film": film and FilmView(**_common(film, FilmView)),
        "waiting": None if wait is None else str(wait),
        "fork_of": status.fork_of and ForkView(id=status.fork_of.job_id, after=status.fork_of.after),
    }
    return JobView(**_common(status, JobView) | own)


def progress_view(progress: Progress | None) -> ProgressView | None:
    """Progress as it is answered."""
    return None if progress is None else ProgressView(segment=progress.index, **_common(progress, ProgressView))


def _common(record: Any, view: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in view.model_fields if hasattr(record, name)}


def summary_view(context: ServerContext, job_id: str) -> dict[str, Any]:
    """The film summary, with the model's name in place of its path."""
    summary = film_summary(context.deployment.jobs, job_id)
    return summary | {"model": context.names.name_of(str(summary["model"]))}
