"""Videos as the OpenAI API describes them, made of jobs and back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ltx2.timeline import PlannedSegment, SegmentShape, planned_frames
from tasks.field_errors import explain, shown
from tasks.jobs.records import JobStatus
from tasks.jobs.units import JobState
from tasks.server.http.answers import invalid, without_paths
from tasks.server.names import NameTable
from tasks.spec.head import SPATIAL_COMPRESSION, JobHead
from tasks.spec.loader import check_spec
from tasks.spec.places import SpecSource
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec

DEFAULT_SECONDS, LONGEST_SECONDS = "4", 24 * 3600
DEFAULT_SIZE = "720x1280"
REMIXED_FROM, SECONDS = "remixed_from_video_id", "seconds"
"""Labels of a job that was made through this API."""
REQUEST = SpecSource("request")
_SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")


class VideoError(BaseModel):
    """Why a video could not be made."""

    code: str
    message: str


class Video(BaseModel):
    """A video. Times are whole seconds since the epoch. progress: percent."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str
    prompt: str | None
    remixed_from_video_id: str | None
    error: VideoError | None


class VideoPage(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """A video that was deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


def spec_of_video(fields: Mapping[str, Any], names: NameTable) -> JobSpec:
    """The spec of a new video. fields: `prompt`, `model`, `seconds`, `size` and `spec`, each optional but the first.

    `spec` is a whole spec, or some fields of one: what it has counts. `seconds` becomes as many segments as are needed,
    so the film is that long or up to a segment longer. `size` is rendered as the next multiples of 32 (64 with two
    stages), and cropped.

    Raises:
        RequestError: a field of the request is invalid. SpecError: one of the spec is.
    """
    given = fields.get("spec")
    if not isinstance(given, Mapping | None):
        raise invalid("spec: must be a mapping with fields of a spec", param="spec")
    given = dict(given or {})
    if fields.get("model") is not None:
        given.setdefault("model", fields["model"])
    resolved = names.resolved(given)
    if fields.get("size") is not None or not {"width", "height"} & resolved.keys():
        resolved |= _size_fields(
            DEFAULT_SIZE if fields.get("size") is None else fields["size"], 2 if resolved.get("stages") == 2 else 1
        )
    if "segments" not in resolved:
        prompt, seconds = prompt_of(fields), seconds_of(fields)
        one = check_spec({**resolved, "image": None, "segments": [{"prompt": prompt}]}, source=REQUEST)
        resolved["segments"] = [{"prompt": prompt}] * segments_for(seconds, one.shape)
        resolved["labels"] = {**one.labels, SECONDS: seconds}
        resolved.setdefault("title", " ".join(prompt.split())[:120] if prompt.isprintable() else "untitled")
    return check_spec(resolved, source=REQUEST)


def prompt_of(fields: Mapping[str, Any]) -> str:
    """The prompt of a request. RequestError: there is none, or no segment can have it."""
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise invalid("prompt: must be text that is not blank", param="prompt")
    try:
        return SegmentSpec(prompt=prompt).prompt
    except ValidationError as error:
        raise invalid(f"prompt: {explain(error.errors(include_url=False)[0])}", param="prompt") from None


def seconds_of(fields: Mapping[str, Any]) -> str:
    """The length that a request asks for, as text. RequestError: neither text nor a number."""
    seconds = fields.get("seconds")
    if seconds is None:
        return DEFAULT_SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, str | int | float):
        raise invalid(f"seconds: must be a number, not {shown(seconds)}", param="seconds")
    return str(seconds)


def segments_for(seconds: str, shape: SegmentShape, *, continued: bool = False) -> int:
    """How many segments make a film of at least `seconds`, or make one longer by that.

    Raises:
        RequestError: not a number of seconds.
    """
    if not _SECONDS.fullmatch(seconds) or not 0 < float(seconds) <= LONGEST_SECONDS:
        raise invalid(
            f"seconds: must be a number above 0 and at most {LONGEST_SECONDS}, not {seconds!r:.40}", param="seconds"
        )
    new, first = shape.frames - shape.overlap, 0 if continued else shape.overlap
    return max(1, math.ceil((float(seconds) * shape.fps - first) / new))


def video_of(
    status: JobStatus, head: JobHead, prompt: str | None, seconds: str, names: NameTable, *, retention_s: float
) -> Video:
    """A job as a video. prompt: of its first segment. seconds: see `length_of`."""
    failed = status.state in (JobState.FAILED, JobState.CANCELLED)
    reason = without_paths(status.reason or "cancelled")
    visible = head.crop or head
    return Video(
        id=status.job_id,
        model=names.name_of(str(head.model)),
        status=_STATUS[status.state],
        progress=_progress(status),
        created_at=int(status.created_at),
        completed_at=int(status.finished_at) if status.finished_at and not failed else None,
        expires_at=int(status.finished_at + retention_s) if status.finished_at else None,
        size=f"{visible.width}x{visible.height}",
        seconds=seconds,
        prompt=prompt,
        remixed_from_video_id=head.labels.get(REMIXED_FROM),
        error=VideoError(code=str(status.state), message=reason) if failed else None,
    )


def length_of(status: JobStatus, head: JobHead, planned: Callable[[], Mapping[int, PlannedSegment]]) -> str:
    """The seconds of a video, as text: what was asked for, else those of its film, else what its segments will be.

    planned: what the spec says of each segment; it is called only for the last, which reads all of them.
    """
    if SECONDS in head.labels:
        return head.labels[SECONDS]
    if status.film is not None:
        return f"{status.film.duration_s:g}"
    frames = planned_frames([segment for _, segment in sorted(planned().items())])
    return f"{float(frames / head.shape.fps):g}"


_STATUS: dict[JobState, Literal["queued", "in_progress", "completed", "failed"]] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.PAUSED: "in_progress",
    JobState.OPEN: "in_progress",
    JobState.AWAITING_APPROVAL: "in_progress",
    JobState.DONE: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


def _progress(status: JobStatus) -> int:
    if status.state == JobState.DONE:
        return 100
    return min(99, int(100 * (status.rendered + status.steps_done) / max(1, status.segments)))


def _size_fields(size: object, stages: int) -> dict[str, Any]:
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise invalid(f"size: must be WIDTHxHEIGHT in pixels, such as 1280x720, not {size!r:.40}", param="size")
    width, height = int(found[1]), int(found[2])
    if width % 2 or height % 2:
        raise invalid(f"size: {width}x{height} must be even numbers", param="size")
    step = SPATIAL_COMPRESSION * stages
    fields: dict[str, Any] = {"width": -(-width // step) * step, "height": -(-height // step) * step}
    if (fields["width"], fields["height"]) != (width, height):
        fields["crop"] = {"width": width, "height": height}
    return fields
