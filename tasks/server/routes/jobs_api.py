"""`/jobs`: everything that the command line does with jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from ltx2.media.container import MP4_MIME
from tasks.client.job import Job
from tasks.errors import JobStateError
from tasks.field_errors import escaped
from tasks.jobs.units import JobState
from tasks.server.context import Context, ServerContext
from tasks.server.films.reports import FIGURES, FILES, ReportFile
from tasks.server.http.answers import content, invalid
from tasks.server.http.json_bodies import JsonRoute
from tasks.server.http.stored_files import StoredFile
from tasks.server.routes.spec_requests import (
    SpecRequest,
    read_spec_request,
    submit_request,
    with_uploads,
    without_files,
)
from tasks.server.routes.views import DeliveryView, JobPage, JobView, job_view, summary_view
from tasks.spec.head import INPUT_FIELDS
from tasks.spec.loader import check_spec
from tasks.spec.schema import JobSpec
from tasks.spec.segments import MAX_SEGMENTS, FilmImage, SegmentSpec

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=JsonRoute)
JobId = Annotated[str, Path(description="The id of a job.")]
SegmentIndex = Annotated[int, Path(ge=0, le=2**31, description="A segment, from 0.")]
IdempotencyKey = Annotated[str | None, Header(description="Names this submission: the same again is the same job.")]


class NewSegments(BaseModel):
    """Segments to append, and images at times of the whole film."""

    model_config = ConfigDict(extra="forbid")
    segments: Annotated[list[SegmentSpec], Field(min_length=1, max_length=MAX_SEGMENTS)]
    images: tuple[FilmImage, ...] = ()


def _body(spec: type[BaseModel], files: Mapping[str, str]) -> dict[str, Any]:
    """A body for the OpenAPI document: JSON, or a form with the same as `spec` and these files."""
    fields: dict[str, Any] = {"spec": {"type": "string", "description": "The same as JSON."}}
    fields |= {name: {"type": "string", "format": "binary", "description": text} for name, text in files.items()}
    schema = spec.model_json_schema(ref_template="#/components/schemas/{model}")
    form = {"type": "object", "required": ["spec"], "properties": fields}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


IMAGE_FILES = {"segments.0.image": "An image of the spec, by the field that names it."}
SPEC_FILES = {
    "image": "What the film starts from.",
    "extend": "The video to go on with; with `before: true` in the spec, to lead into.",
    "audio": "The sound of the film.",
    "state": "A continuation state as JSON.",
    **IMAGE_FILES,
}
SPEC_BODY = _body(JobSpec, SPEC_FILES)


@router.post("", status_code=201, openapi_extra=SPEC_BODY)
def submit_job(
    context: Context,
    wanted: Annotated[SpecRequest, Depends(read_spec_request)],
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Queue a job: a spec as JSON, or a form with `spec`, `image`, `extend`, `audio`, `state` and more images."""
    with submit_request(context, wanted, idempotency_key=idempotency_key) as job:
        response.headers["Location"] = context.at(f"/jobs/{job.id}")
        return _view(context, job.id)


@router.get("")
def list_jobs(
    context: Context,
    state: Annotated[list[JobState] | None, Query(description="Only jobs in these states.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> JobPage:
    """The newest jobs, newest first."""
    if after is not None:
        context.status(after)  # 404 if it is gone
    page = context.waiting_jobs(state or (), after=after, limit=limit)
    views = [job_view(status, wait) for status, wait in page.entries]
    return JobPage(jobs=views, next=views[-1].id if page.has_more else None)


@router.get("/{job_id}")
def job_status(job_id: JobId, context: Context) -> JobView:
    """The state and progress of a job."""
    return _view(context, job_id)


@router.delete("/{job_id}", status_code=204)
def forget_job(job_id: JobId, context: Context) -> None:
    """Delete an ended job; its blobs are freed."""
    with context.job(job_id) as job:
        job.forget()


@router.post("/{job_id}/pause")
def pause_job(job_id: JobId, context: Context) -> JobView:
    """Pause a job: running segments finish, no new ones start."""
    return _changed(context, job_id, Job.pause)


@router.post("/{job_id}/resume")
def resume_job(job_id: JobId, context: Context) -> JobView:
    """Resume a paused job."""
    return _changed(context, job_id, Job.resume)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: JobId, context: Context) -> JobView:
    """Stop a job; rendered segments stay until its retention ends."""
    return _changed(context, job_id, Job.cancel)


@router.post("/{job_id}/retry")
def retry_job(job_id: JobId, context: Context) -> JobView:
    """Retry a failed job, or rebuild a lost film."""
    return _changed(context, job_id, Job.retry)


class NewPrompt(BaseModel):
    """Another prompt of a segment."""

    model_config = ConfigDict(extra="forbid")
    prompt: str


@router.post("/{job_id}/segments", openapi_extra=_body(NewSegments, IMAGE_FILES))
def append_segments(
    job_id: JobId,
    context: Context,
    wanted: Annotated[SpecRequest, Depends(read_spec_request)],
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Add segments to the end of a job. One that is done continues; its film stays until the next one."""
    given = wanted.spec.keys() | (wanted.files.keys() & INPUT_FIELDS)
    for name in given - NewSegments.model_fields.keys():
        raise invalid(f"{escaped(name)[:60]}: only segments and images can be appended", param=name[:60])
    spec = without_files(check_spec({"open": True, **wanted.spec}, source=wanted.source, appended=True), wanted.files)
    with with_uploads(spec, wanted.files) as whole:
        return _changed(context, job_id, lambda job: job.append(whole, idempotency_key=idempotency_key))


@router.put("/{job_id}/segments/{segment}/prompt")
def replace_prompt(job_id: JobId, segment: SegmentIndex, context: Context, wanted: NewPrompt) -> JobView:
    """Give a segment that no worker has begun another prompt."""
    return _changed(context, job_id, lambda job: job.replace_prompt(segment, wanted.prompt))


@router.post("/{job_id}/close")
def close_job(job_id: JobId, context: Context) -> JobView:
    """Wait for no more segments of an open job."""
    return _changed(context, job_id, Job.close_end)


@router.post("/{job_id}/approve")
def approve_job(
    job_id: JobId,
    context: Context,
    segment: Annotated[int | None, Query(ge=0, le=2**31, description="Default: the one it waits for.")] = None,
    all: Annotated[bool, Query(description="Every segment, also those to come.")] = False,
) -> JobView:
    """Approve a segment, so that the job goes on."""
    return _changed(context, job_id, lambda job: job.approve(segment, all=all))


@router.get("/{job_id}/summary")
def job_summary(job_id: JobId, context: Context) -> dict[str, Any]:
    """The film, and seed, prompt, times and blobs of every committed segment."""
    context.status(job_id)
    return summary_view(context, job_id)


@router.get("/{job_id}/report", response_class=FileResponse, responses=content(FILES[FIGURES], in_parts=True))
def job_report(job_id: JobId, context: Context) -> StoredFile:
    """How well the film's segments join, the figures of `longtake report`. The first question decodes the film."""
    return report_file(job_id, FIGURES, context)


@router.get("/{job_id}/report/{name}", response_class=FileResponse, responses=content(*FILES.values(), in_parts=True))
def report_file(job_id: JobId, name: Annotated[ReportFile, Path()], context: Context) -> StoredFile:
    """A file of the report: the figures, a chart of them, or a sheet of pictures around each join."""
    with context.job(job_id) as job:
        return StoredFile(context.reports.opened(job, name), media_type=FILES[name])


@router.get("/{job_id}/webhooks")
def job_webhooks(job_id: JobId, context: Context) -> list[DeliveryView]:
    """What was sent to the job's webhook, or is to be sent, oldest first."""
    context.status(job_id)
    return [DeliveryView.model_validate(asdict(delivery)) for delivery in context.outbox.of_job(job_id)]


@router.get("/{job_id}/film", response_class=FileResponse, responses=content(MP4_MIME, in_parts=True))
def job_film(job_id: JobId, context: Context) -> StoredFile:
    """The film, MP4. Parts of it can be asked for with `Range`."""
    status = context.status(job_id)
    if status.film is None:
        raise JobStateError(f"job {job_id} is {status.state}; only a job that is done has a film")
    film = context.files.opened(status.film.blob_id)
    return StoredFile(film, media_type=MP4_MIME, filename=f"{job_id}.mp4")


@router.get("/{job_id}/segments/{segment}/state")
def segment_state(job_id: JobId, segment: SegmentIndex, context: Context) -> dict[str, Any]:
    """The continuation state after a segment, `ltx2.v1` with its arrays inline; another job can continue it."""
    context.check_segment(job_id, segment)
    with context.job(job_id) as job:
        return job.state(segment)


@router.get(
    "/{job_id}/segments/{segment}/clip", response_class=FileResponse, responses=content(MP4_MIME, in_parts=True)
)
def segment_clip(job_id: JobId, segment: SegmentIndex, context: Context) -> StoredFile:
    """The clip of a segment: an MP4 with its new pictures and its whole sound, which overlaps those next to it."""
    return StoredFile(context.clip(job_id, segment), media_type=MP4_MIME)


def _view(context: ServerContext, job_id: str) -> JobView:
    status = context.status(job_id)
    return job_view(status, context.deployment.jobs.waits([status]).get(job_id))


def _changed(context: ServerContext, job_id: str, change: Any) -> JobView:
    with context.job(job_id) as job:
        change(job)
    return _view(context, job_id)
