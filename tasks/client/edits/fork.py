"""Forks: new jobs that share the first segments of another one, by blob id, and render what comes after."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from blobstore import BlobNotFoundError, InMemoryBlobStore, ManagedBlobStore
from ltx2.timeline import handed_on
from tasks.client.edits.losses import first_loss, lost
from tasks.client.edits.same_head import check_same_head
from tasks.client.inputs.reading import read_inputs
from tasks.client.submissions.idempotency import check_key
from tasks.client.submissions.submission import Draft, create_job, request_digest
from tasks.deployment import Deployment
from tasks.errors import JobStateError, SpecError
from tasks.field_errors import FieldError, counted
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.jobs.committed import Committed
from tasks.jobs.records import ForkOrigin
from tasks.jobs.results import JobContents
from tasks.jobs.state_wire import handoff_blobs
from tasks.jobs.units import JobState, rendered_text, segments_text
from tasks.maintenance.submissions import pin_all
from tasks.spec.auto_frames import check_head
from tasks.spec.head import INPUT_FIELDS, JobHead
from tasks.spec.images import image_paths
from tasks.spec.loader import check_spec
from tasks.spec.schema import JobSpec

log = logging.getLogger(__name__)
SHARES = "whose segments the fork shares"


def fork_job(
    deployment: Deployment,
    job_id: str,
    *,
    after: int,
    spec: JobSpec | None,
    may_be_whole: bool = False,
    idempotency_key: str | None = None,
) -> str:
    """Queue a fork of `job_id` after segment `after`, see `Job.fork`; returns its id.

    may_be_whole: it may share all of its segments, and only join them.
    """
    source = deployment.jobs.contents(job_id)
    count = after + 1
    if not 0 < count <= len(source.committed.handoffs):
        rendered = rendered_text(source.committed.rendered(after))
        raise JobStateError(f"job {job_id} cannot be forked after segment {after}: up to there, {rendered}")
    wanted, pending = spec_of(source), InMemoryBlobStore()
    given = len((spec or wanted).segments)
    if given < count or (given == count and not may_be_whole):
        raise SpecError(f"segments: there is none after segment {after}, so there is nothing to render")
    if spec:
        inputs = read_inputs(spec, continues=source.committed.start is not None, kept=source.segments[:count])
        wanted, pending = check_same_head(inputs.spec, source.head, job_id, why=SHARES), inputs.pending
        _warn_of_other_prompts(spec, source, count)
        for warning in inputs.warnings:
            log.warning("%s", warning)
    return create_fork(deployment, new_job_id(), source, count, wanted, pending, idempotency_key=idempotency_key)


def fork_longer(deployment: Deployment, job_id: str, added: Sequence[Mapping[str, Any]]) -> str:
    """Queue a fork that shares all segments of a job that is done and goes on with those of `added`; returns its id.

    Raises:
        JobStateError: the job is not done. SpecError: an invalid segment. Others as `create_fork`.
    """
    if deployment.jobs.status(job_id).state != JobState.DONE:
        raise JobStateError(f"job {job_id} is not done")
    source = deployment.jobs.contents(job_id)
    fields = spec_of(source).model_dump()
    longer = check_spec(fields | {"segments": [*fields["segments"], *added]})
    if len(longer.segments) == len(source.segments):
        raise SpecError("segments: there is none, so there is nothing to render")
    return create_fork(deployment, new_job_id(), source, len(source.segments), longer)


def create_fork(
    deployment: Deployment,
    job_id: str,
    source: JobContents,
    count: int,
    spec: JobSpec,
    pending: InMemoryBlobStore | None = None,
    *,
    idempotency_key: str | None = None,
) -> str:
    """Queue the job `job_id`, which shares the first `count` segments of `source` and goes on with those of `spec`.

    Returns its id, or that of the job that was made when the same was asked for with the same key.
    It may have no other segments. The head of `spec` equals that of `source` in SHARED_FIELDS. pending: the images that
    its own segments show, see `Inputs`.

    Raises:
        JobStateError: the id is taken, or a blob of these segments is missing. What `submit` raises.
    """
    key = None if idempotency_key is None else check_key(idempotency_key)
    shared = [
        segment.model_copy(update={"seed": source.head.seed_of(index, segment)})  # a repair needs it
        for index, segment in enumerate(source.segments[:count])
    ]
    segments, given = [*shared, *spec.segments[count:]], pending or InMemoryBlobStore()
    inputs = {field: getattr(source.head, field) for field in INPUT_FIELDS}
    spec = spec.model_copy(update={"model": source.head.model, "segments": segments, **inputs})
    check_join(spec, source, count)

    def draw_up(owner: str) -> Draft:
        committed = _pinned(deployment.blobs, source, count, owner)
        blobs, shown = blobs_of(source.head, committed), dict.fromkeys(image_paths(spec).values())
        stored = [blob_id for blob_id in shown if blob_id not in given and blob_id not in blobs]
        try:
            pin_all(deployment.blobs, stored, owner, provisional=True)
        except BlobNotFoundError:
            raise JobStateError(f"images of job {source.job_id} are missing, so it cannot be forked") from None
        digest = "" if key is None else request_digest(spec, {"fork": source.job_id, "after": count - 1})
        origin = ForkOrigin(source.job_id, count - 1) if count else None
        return Draft(spec, committed, list(dict.fromkeys([*blobs, *shown])), digest, given, fork_of=origin)

    return create_job(deployment, job_id, draw_up, idempotency_key=key).job_id


def check_join(spec: JobSpec, source: JobContents, count: int) -> None:
    """Check that segment `count` of `spec` can follow the shared ones.

    Raises:
        SpecError: the state before it was made for another overlap, the lengths of both do not fit, or the model finds
        no length for a segment with `frames: auto`. JobStateError: the last segment of either film is
        shared, and only one of both leads into a video.
    """
    _check_last(len(spec.segments), source, count)
    if len(spec.segments) <= count:
        return
    try:
        spec.check_neighbours(continues=source.committed.start is not None)
        check_head(spec.segments, str(spec.model))
    except FieldError as error:
        raise SpecError(f"{spec.source.place(*error.location)}: {error}") from None
    if count == 0:
        return
    before, *after = (source.head.planned(segment) for segment in source.segments[count - 1 : count + 1])
    handed, wanted = handed_on(before, after[0] if after else None)[0] or before.shape.overlap, spec.segments[count]
    repeated = spec.planned(wanted).shape.overlap
    if not wanted.is_new_scene and repeated != handed:
        raise SpecError(
            f"{spec.source.place('segments', count, 'overlap')}: it repeats {counted(repeated, 'frame')}; "
            f"segment {count - 1} of job {source.job_id} hands on {handed}, so it must be {handed}"
        )


def _check_last(segments: int, source: JobContents, count: int) -> None:
    """Check that only the last of `segments` leads into a video, if the film goes on with one.

    Raises:
        JobStateError: one that is shared does and would not be the last one, or does not and would be.
    """
    last = min(segments, len(source.segments)) - 1
    if not source.head.before or segments == len(source.segments) or count <= last:
        return
    what = "leads into a video (`before`), so that no other one can follow it"
    if segments < len(source.segments):
        what = "does not lead into the video (`before`), so that it cannot be the last one"
    advice = f"fork it after segment {last - 1} or an earlier one" if last > 0 else "submit another job"
    raise JobStateError(f"segment {last} of job {source.job_id} {what}: {advice}")


def spec_of(source: JobContents) -> JobSpec:
    """The whole spec of a job, with the blob ids of its inputs."""
    return JobSpec(**source.head.model_dump(), segments=list(source.segments))


def blobs_of(head: JobHead, committed: Committed) -> list[str]:
    """Every blob that a job with these segments needs."""
    found = [str(getattr(head, field)) for field in INPUT_FIELDS if getattr(head, field) is not None]
    for handoff in (*committed.given, *committed.handoffs):
        found += handoff_blobs(handoff)
    clips = list(committed.clips.values())
    for take in committed.takes.takes.values():
        found += handoff_blobs(take.made) if take.made else []
        clips += [take.clip] if take.clip else []
    return list(dict.fromkeys([*found, *(clip.blob_id for clip in clips)]))


def _pinned(blobs: ManagedBlobStore, source: JobContents, count: int, owner: str) -> Committed:
    """The first segments of `source`, pinned provisionally for `owner`; without clips whose blobs are missing."""
    committed = source.committed.first(count)
    try:
        pin_all(blobs, blobs_of(source.head, committed), owner, provisional=True)
        return committed
    except BlobNotFoundError:
        clips = {index: clip for index, clip in committed.clips.items() if clip.blob_id in blobs}
    takes = committed.takes.needed(committed.handoffs, blobs)
    committed = replace(committed, clips=clips, takes=takes)  # other clips are made again from the latents
    try:
        pin_all(blobs, blobs_of(source.head, committed), owner, provisional=True)
    except BlobNotFoundError:
        loss = first_loss(blobs, source, count)
        if loss is None:
            raise  # it was put again meanwhile
        raise lost(loss, source.job_id, otherwise="it cannot be forked") from None
    return committed


def _warn_of_other_prompts(spec: JobSpec, source: JobContents, count: int) -> None:
    pairs = zip(spec.segments[:count], source.segments, strict=False)
    others = [index for index, (here, there) in enumerate(pairs) if here.prompt != there.prompt]
    if others:
        log.warning(
            "%s of the spec: another prompt than that of job %s, which is kept", segments_text(others), source.job_id
        )
