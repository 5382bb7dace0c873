"""`/v1/videos` as the official `openai` client speaks it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from ltx2.media.container import MP4_MIME
from ltx2.media.images import LARGEST_FILE_BYTES
from tasks.client.edits.fork import create_fork, spec_of
from tasks.errors import JobStateError
from tasks.field_errors import escaped
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.jobs.reading.beginnings import Beginning
from tasks.jobs.records import JobStatus
from tasks.jobs.units import JobState
from tasks.server.context import Context, ServerContext
from tasks.server.films.pictures import spritesheet, thumbnail
from tasks.server.http.answers import content, invalid
from tasks.server.http.paging import page_of
from tasks.server.http.stored_files import StoredFile
from tasks.server.routes.jobs_api import IdempotencyKey
from tasks.server.routes.spec_requests import (
    LARGEST_MEDIA_BYTES,
    data_url,
    fields_in,
    file_of,
    is_form,
    read_form,
    submit_spec,
    taken_files,
)
from tasks.server.routes.videos import (
    REMIXED_FROM,
    REQUEST,
    SECONDS,
    DeletedVideo,
    Video,
    VideoPage,
    length_of,
    prompt_of,
    seconds_of,
    segments_for,
    spec_of_video,
    video_of,
)
from tasks.spec.images import input_paths
from tasks.spec.loader import check_spec
from tasks.spec.schema import JobSpec

router = APIRouter(prefix="/v1/videos", tags=["videos"])
VideoId = Annotated[str, Path(description="The id of a video: that of its job.")]
POLL_AFTER_MS = "1000"
OBJECTS = ("input_reference", "video")
SENT_AS = {"image": "input_reference", "extend": "video"}
"""The fields of a spec that a request has by other names."""
FIELDS = ("prompt", "model", "seconds", "size", "spec", *OBJECTS)
_BRACKETS = re.compile(r"([a-z0-9_]+)(?:\[\])*\[(.*)\]")


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """The fields of a request, and its uploads by field."""

    fields: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The prompt. RequestError: there is none."""
        return prompt_of(self.fields)


async def read_video_request(request: Request) -> VideoRequest:
    """The fields of a request: a JSON object, or a form.

    Raises:
        RequestError: it cannot be read, or has other fields than FIELDS.
    """
    wanted = await _read(request)
    for name in wanted.fields.keys() | wanted.uploads.keys():
        if name not in FIELDS:
            raise invalid(f"{escaped(name)[:60]}: unknown field; there are {', '.join(FIELDS)}", param=name[:60])
    return wanted


async def _read(request: Request) -> VideoRequest:
    if not is_form(request):
        return VideoRequest((await run_in_threadpool(fields_in, await request.body(), "request"))[0])
    wanted, objects = VideoRequest(), dict[str, dict[str, str]]()
    async with read_form(request) as form:
        for name, part in form.multi_items():
            if not isinstance(part, str):
                limit = LARGEST_MEDIA_BYTES if name == "video" else LARGEST_FILE_BYTES
                wanted.uploads[name] = await file_of(form, name, limit) or b""
                continue
            inside = _BRACKETS.fullmatch(name)
            if inside is None:
                wanted.fields[name] = part
            elif inside[1] in OBJECTS and inside[2].isidentifier():
                objects.setdefault(inside[1], {})[inside[2]] = part
            else:
                raise invalid(
                    f"{escaped(name)[:60]}: send lists as one field `spec` of JSON, not with brackets", param=inside[1]
                )
    if both := wanted.fields.keys() & objects.keys():
        raise invalid(f"{both.pop()}: given more than once")
    wanted.fields.update(objects)
    if isinstance(text := wanted.fields.get("spec"), str):
        wanted.fields["spec"] = (await run_in_threadpool(fields_in, text.encode(), "spec"))[0]
    return wanted


Wanted = Annotated[VideoRequest, Depends(read_video_request)]
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "prompt": {"type": "string"},
                        "model": {"type": "string"},
                        "seconds": {"type": "string"},
                        "size": {"type": "string", "description": "WIDTHxHEIGHT"},
                        "spec": {"type": "string", "description": "A whole spec, or some of its fields, as JSON."},
                    },
                }
            }
            for kind in ("application/json", "multipart/form-data")
        },
    }
}


@router.post("", openapi_extra=FORM)
def create_video(context: Context, wanted: Wanted, idempotency_key: IdempotencyKey = None) -> Video:
    """Make a video from a prompt, or from a whole spec in `spec`."""
    if "video" in wanted.fields.keys() | wanted.uploads.keys():
        raise invalid("video: a video is extended at /v1/videos/extensions", param="video")
    image = _input_reference(wanted)
    return _new(context, wanted, {} if image is None else {"image": image}, idempotency_key)


@router.get("")
def list_videos(
    context: Context,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoPage:
    """Videos by creation, newest first unless `order` says otherwise."""
    if after is not None:
        context.status(after)
    statuses = context.deployment.jobs.statuses(newest_first=order == "desc", after=after)
    page = page_of(_videos(context, statuses, at_once=limit + 1), limit=limit)
    videos = page.entries
    ends = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoPage(data=videos, first_id=ends[0], last_id=ends[1], has_more=page.has_more)


@router.post("/extensions", openapi_extra=FORM)
def extend_video(context: Context, wanted: Wanted, idempotency_key: IdempotencyKey = None) -> Video:
    """Go on with a finished video, or with an uploaded one.

    After a finished one, the new video begins with it and shares what was rendered. After an uploaded one, it is only
    what follows.
    """
    source = wanted.fields.get("video")
    if source is None and (upload := wanted.uploads.get("video")):
        return _new(context, wanted, {"extend": upload}, idempotency_key)
    if not isinstance(source, Mapping) or not isinstance(source.get("id"), str):
        raise invalid('video: must be an upload, or {"id": ...} of a finished video', param="video")
    status = context.status(source["id"])
    if status.state != JobState.DONE:
        raise _without_film(status)
    contents = context.deployment.jobs.contents(status.job_id)
    spec, seconds = spec_of(contents), seconds_of(wanted.fields)
    more = [{"prompt": wanted.prompt}] * segments_for(seconds, spec.shape, continued=True)
    fields = spec.model_dump()
    labels = {name: text for name, text in spec.labels.items() if name != SECONDS}
    longer = check_spec(fields | {"segments": [*fields["segments"], *more], "labels": labels}, source=REQUEST)
    shared = len(spec.segments)
    video_id = create_fork(context.deployment, new_job_id(), contents, shared, longer, idempotency_key=idempotency_key)
    return _video(context, context.status(video_id))


@router.get("/{video_id}")
def retrieve_video(video_id: VideoId, context: Context, response: Response) -> Video:
    """A video, and how far it is."""
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return _video(context, context.status(video_id))


@router.delete("/{video_id}")
def delete_video(video_id: VideoId, context: Context) -> DeletedVideo:
    """Stop a video if it is not finished, and delete it."""
    with context.job(video_id) as job:
        if not job.status().finished:
            job.cancel()
        job.forget()
    return DeletedVideo(id=video_id)


@router.get(
    "/{video_id}/content",
    response_class=FileResponse,
    responses=content(MP4_MIME, "image/webp", "image/jpeg", in_parts=True),
)
def download_content(
    video_id: VideoId, context: Context, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> Response:
    """The MP4, a WebP of its first picture, or a JPEG with 25 pictures."""
    status = context.status(video_id)
    if status.film is None:
        raise _without_film(status)
    film = context.files.opened(status.film.blob_id)
    if variant == "video":
        return StoredFile(film, media_type=MP4_MIME, filename=f"{video_id}.mp4")
    with film:
        if variant == "thumbnail":
            return Response(thumbnail(film), media_type="image/webp")
        return Response(spritesheet(film), media_type="image/jpeg")


@router.post("/{video_id}/remix")
def remix_video(video_id: VideoId, context: Context, wanted: Wanted, idempotency_key: IdempotencyKey = None) -> Video:
    """The same video with another prompt: size, length, seeds and start image are the same."""
    source = context.deployment.jobs.contents(context.status(video_id).job_id)
    segments = [segment.model_dump() | {"prompt": wanted.prompt} for segment in source.segments]
    labels = {name: text for name, text in source.head.labels.items() if name == SECONDS} | {REMIXED_FROM: video_id}
    image = None if source.head.image is None else context.deployment.blobs.get(source.head.image)
    fields = source.head.model_dump() | {"image": None, "labels": labels, "segments": segments}
    spec = check_spec(fields, source=REQUEST)
    if input_paths(spec):  # blobs by now, of which only the start image can be sent again
        raise JobStateError(f"video {video_id} shows images, extends a video or has given sound: submit its spec again")
    return _submitted(context, spec, {} if image is None else {"image": image}, idempotency_key)


def _new(context: ServerContext, wanted: VideoRequest, uploads: Mapping[str, bytes], key: str | None) -> Video:
    """A new video. uploads: of the request, by field of the spec; `data:` URLs of its `spec` are sent, too."""
    given = wanted.fields.get("spec")
    sent = taken_files(given) if isinstance(given, dict) else {}
    return _submitted(context, spec_of_video(wanted.fields, context.names), {**sent, **uploads}, key, uploads)


def _submitted(
    context: ServerContext, spec: JobSpec, files: Mapping[str, bytes], key: str | None, uploads: Collection[str] = ()
) -> Video:
    sent_as = {field: SENT_AS[field] for field in uploads}
    with submit_spec(context, spec, files, idempotency_key=key, sent_as=sent_as) as job:
        return _video(context, job.status())


def _video(context: ServerContext, status: JobStatus) -> Video:
    return _begun_by(context, status, context.deployment.jobs.beginning(status.job_id))


def _videos(context: ServerContext, statuses: Iterator[JobStatus], *, at_once: int) -> Iterator[Video]:
    """These jobs as videos, without those that are gone or damaged. at_once: how many are read in one round trip."""
    while some := list(islice(statuses, at_once)):
        beginnings = context.deployment.jobs.beginnings([status.job_id for status in some])
        for status in some:
            if status.job_id in beginnings:
                yield _begun_by(context, status, beginnings[status.job_id])


def _begun_by(context: ServerContext, status: JobStatus, beginning: Beginning) -> Video:
    head, first = beginning
    seconds = length_of(status, head, partial(context.deployment.jobs.planned, status.job_id))
    prompt, retention_s = None if first is None else first.prompt, context.settings.retention_s
    return video_of(status, head, prompt, seconds, context.names, retention_s=retention_s)


def _without_film(status: JobStatus) -> JobStateError:
    why = f"has no film: it is {status.state}" if status.finished else "is not finished"
    return JobStateError(f"video {status.job_id} {why}")


def _input_reference(wanted: VideoRequest) -> bytes | None:
    given = wanted.uploads.get("input_reference", wanted.fields.get("input_reference"))
    if given == b"":
        raise invalid("input_reference: the file is empty", param="input_reference")
    if given is None or isinstance(given, bytes):
        return given
    url = given.get("image_url") if isinstance(given, Mapping) else given
    if not isinstance(url, str):
        raise invalid("input_reference: must be an upload, or a data: URL in `image_url`", param="input_reference")
    return data_url(url, "input_reference", LARGEST_FILE_BYTES)
