"""`/jobs/{id}/takes`: render a segment again, look at its takes and joins, choose one, and keep a job for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from ltx2.media.container import MP4_MIME
from tasks.client.takes import MOST_TAKES, TakeState, TakeStatus, clip_blob
from tasks.server.context import Context
from tasks.server.films.joins import JoinView
from tasks.server.http.answers import content, without_paths
from tasks.server.http.json_bodies import JsonRoute
from tasks.server.http.stored_files import StoredFile
from tasks.server.routes.jobs_api import IdempotencyKey, JobId, SegmentIndex, job_status
from tasks.server.routes.views import JobView, ProgressView, progress_view

router = APIRouter(prefix="/jobs", tags=["takes"], route_class=JsonRoute)
MOST = 2**31
LONGEST_KEPT_S = 10**9
CACHE = {"Cache-Control": "private, max-age=3600"}
TakeNumber = Annotated[int, Path(ge=0, le=MOST, description="A take; 0 is what was rendered first.")]


class TakeView(BaseModel):
    """A take. shown: whether the film shows it, or will. leads_into: whether it can be chosen.

    segment, last: the first and last of its segments, which are shown together. prompt, seed, clip: of the first one;
    clip: whether it can be fetched. reason: why it failed. engine_s: seconds that it took to render. progress: of
    the segment that a worker renders. join: of a segment that was rendered several times, the largest part of a bound
    that its join to the one before reaches; above 1 it is out of bounds.
    """

    segment: int
    last: int
    take: int
    state: TakeState
    shown: bool
    prompt: str
    seed: int
    reason: str | None
    engine_s: float | None
    leads_into: bool
    clip: bool
    progress: ProgressView | None
    join: float | None


class WantedTakes(BaseModel):
    """What is asked for. prompt, seed: default: the segment's prompt, and another seed for each take.

    last: have the segments up to this one as one take; default: the segment alone.
    """

    model_config = ConfigDict(extra="forbid")
    last: Annotated[int | None, Field(ge=0, le=MOST, strict=True)] = None
    prompt: str | None = None
    seed: Annotated[int | None, Field(strict=True)] = None
    takes: Annotated[int, Field(ge=1, le=MOST_TAKES, strict=True)] = 1


class QueuedTakes(BaseModel):
    """The numbers of the takes that are rendered."""

    segment: int
    takes: list[int]


class Choice(BaseModel):
    """The take that the film is to show; 0 is what was rendered first. last: up to this segment."""

    model_config = ConfigDict(extra="forbid")
    take: Annotated[int, Field(ge=0, le=MOST, strict=True)]
    last: Annotated[int | None, Field(ge=0, le=MOST, strict=True)] = None


class Keeping(BaseModel):
    """How many seconds from now a job is kept; null: until it is released."""

    model_config = ConfigDict(extra="forbid")
    seconds: Annotated[float | None, Field(gt=0, le=LONGEST_KEPT_S, strict=True)] = None


@router.get("/{job_id}/takes")
def list_takes(job_id: JobId, context: Context) -> list[TakeView]:
    """The takes of every segment that was retaken, in order; take 0 is what was rendered first."""
    with context.job(job_id) as job:
        return [_view(take) for take in job.takes()]


def _view(take: TakeStatus) -> TakeView:
    own = {
        "clip": take.clip is not None,
        "reason": take.reason and without_paths(take.reason),
        "progress": progress_view(take.progress),
    }
    return TakeView.model_validate(asdict(take) | own)


@router.post("/{job_id}/segments/{segment}/takes", status_code=202)
def retake_segment(
    job_id: JobId,
    segment: SegmentIndex,
    context: Context,
    wanted: WantedTakes | None = None,
    idempotency_key: IdempotencyKey = None,
) -> QueuedTakes:
    """Render a segment again, or neighbours as one take. The film changes when one of the takes is chosen."""
    with context.job(job_id) as job:
        numbers = job.retake(segment, **(wanted or WantedTakes()).model_dump(), idempotency_key=idempotency_key)
    return QueuedTakes(segment=segment, takes=numbers)


@router.get(
    "/{job_id}/segments/{segment}/takes/{take}/clip",
    response_class=FileResponse,
    responses=content(MP4_MIME, in_parts=True),
)
def take_clip(job_id: JobId, segment: SegmentIndex, take: TakeNumber, context: Context) -> StoredFile:
    """The clip of a take by itself, MP4."""
    context.check_segment(job_id, segment)
    blob_id = clip_blob(context.deployment, job_id, segment, take)
    return StoredFile(context.files.opened(blob_id), media_type=MP4_MIME)


@router.post("/{job_id}/segments/{segment}/choose")
def choose_take(job_id: JobId, segment: SegmentIndex, context: Context, wanted: Choice) -> JobView:
    """Have the film show a take, with all of its segments. The old film stays until the new one is joined."""
    with context.job(job_id) as job:
        job.choose(segment, wanted.take, last=wanted.last)
    return job_status(job_id, context)


@router.post("/{job_id}/keep")
def keep_job(job_id: JobId, context: Context, wanted: Keeping | None = None) -> JobView:
    """Keep a job and its blobs beyond its retention."""
    with context.job(job_id) as job:
        job.keep(wanted.seconds if wanted else None)
    return job_status(job_id, context)


@router.post("/{job_id}/release")
def release_job(job_id: JobId, context: Context) -> JobView:
    """Keep a job no longer than other jobs."""
    with context.job(job_id) as job:
        job.unkeep()
    return job_status(job_id, context)


@router.get("/{job_id}/segments/{segment}/join")
def segment_join(job_id: JobId, segment: SegmentIndex, context: Context, response: Response) -> JoinView:
    """How well a segment joins the one before it. The first question takes about as long as decoding both clips."""
    context.check_segment(job_id, segment)
    response.headers.update(CACHE)
    return context.joins.of(job_id, segment)


@router.get("/{job_id}/segments/{segment}/takes/{take}/join")
def take_join(job_id: JobId, segment: SegmentIndex, take: TakeNumber, context: Context, response: Response) -> JoinView:
    """How well a take joins what the film shows before it."""
    context.check_segment(job_id, segment)
    response.headers.update(CACHE)
    return context.joins.of(job_id, segment, take)
