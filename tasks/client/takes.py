"""Takes of a job's segments: ask for them, list them, look at them, choose one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

import redis
from pydantic import ValidationError

from blobstore import BlobCorruptError, BlobNotFoundError
from ltx2.request import END_AUDIO_LATENTS, free_latents
from ltx2.timeline import SegmentTiming, segment_seed
from tasks.client.edits.fork import create_fork, spec_of
from tasks.client.submissions.idempotency import request_of
from tasks.deployment import Deployment
from tasks.errors import JobStateError, ServerError, SpecError
from tasks.field_errors import explain, field_path
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.jobs.committed import Take, TakeRequest
from tasks.jobs.records import Progress
from tasks.jobs.results import JobContents
from tasks.jobs.timing import timing_after
from tasks.jobs.units import WorkUnit, rendered_text, segments_text
from tasks.maintenance.admission import choice_bytes, segment_bytes
from tasks.spec.segments import LONGEST_FRAMES, SegmentSpec

log = logging.getLogger(__name__)
MOST_TAKES = 16
"""Asked for at once."""


class TakeState(StrEnum):
    """What became of a take."""

    DUE = "due"
    """It is being rendered, or will be."""
    RENDERED = "rendered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TakeStatus:
    """A take as people see it. take: from 1; 0 is what the chain rendered first.

    segment, last: the first and last of its segments; name says them in words. prompt, seed: of the first one. shown:
    whether the film shows it, or will. reason: why it failed. engine_s: seconds that it took to render. clip: the blob
    of the first one's clip. leads_into: whether it is rendered and can be chosen: the segment after it continues it, or
    the take that it leads into, or no take. prevented_by: the segment that continues another one, if a rendered take
    does not lead into that. progress: of the segment that a worker renders.
    join: see `Handoff`.
    """

    segment: int
    take: int
    state: TakeState
    shown: bool
    prompt: str
    seed: int
    reason: str | None = None
    engine_s: float | None = None
    leads_into: bool = True
    prevented_by: int | None = None
    clip: str | None = None
    last: int = -1

    name: str = ""
    progress: Progress | None = None
    join: float | None = None


def retake_segments(
    deployment: Deployment,
    job_id: str,
    segments: range,
    *,
    prompt: str | None,
    seed: int | None,
    takes: int,
    idempotency_key: str | None = None,
) -> list[int]:
    """Ask for takes of a segment, or of neighbours as a whole, see `Job.retake`; returns their numbers."""
    source = deployment.jobs.contents(job_id)
    _check_order(segments)
    for segment in segments:
        _check_rendered(source, segment)
    changed = [_changed_segment(source.segments[segment], prompt, seed) for segment in segments]
    _check_length(source, segments[-1])
    if not 1 <= takes <= MOST_TAKES:
        raise SpecError(f"takes: must be 1 to {MOST_TAKES}, not {takes}")
    several = {"first": segments[0], "last": segments[-1]} if len(segments) > 1 else {}
    requests = [
        TakeRequest(prompt, None if seed is None else segment_seed(seed, number + segment - segments[0]), **several)
        for number in range(takes)
        for segment in segments
    ]
    needs, budget = takes * segment_bytes(source.head, changed), deployment.budget_bytes()
    request = "" if idempotency_key is None else f"take {segments[0]} {request_of(idempotency_key)}"
    numbers = deployment.jobs.retake(
        job_id, segments, requests, needs_bytes=needs, budget_bytes=budget, request=request
    )
    for number in numbers:
        _publish(deployment, job_id, WorkUnit.of_take(segments[0], number))
    return numbers


def cascade(deployment: Deployment, job_id: str, segment: int, *, prompt: str | None, seed: int | None) -> str:
    """Queue a fork that renders a segment and all after it anew, see `Job.cascade`; returns its id."""
    source = deployment.jobs.contents(job_id)
    _check_rendered(source, segment)
    if segment > (missing := len(source.committed.handoffs)):
        raise JobStateError(f"segment {missing} of job {job_id} is not rendered yet, so a fork cannot share it")
    spec = spec_of(source)
    segments = list(spec.segments)
    before, changed = segments[segment], _changed_segment(segments[segment], prompt, seed)
    segments[segment] = changed if changed.prompt == before.prompt else changed.undecided  # its length followed from it
    return create_fork(deployment, new_job_id(), source, segment, spec.model_copy(update={"segments": segments}))


def choose_take(deployment: Deployment, job_id: str, segments: range, take: int) -> bool:
    """Have the film show a take, see `Job.choose`; returns whether it showed another one."""
    source = deployment.jobs.contents(job_id)
    _check_whole(source, segments, take)
    needs = choice_bytes(source.head, source.segments, source.committed.source_frames)
    budget = deployment.budget_bytes()
    # those that may be refused come first, so that all are refused or none
    chosen = segments[:1] if take else sorted(segments, key=lambda one: (_can_show_first(source, one), -one))
    shown = [deployment.jobs.choose(job_id, one, take, needs_bytes=needs, budget_bytes=budget) for one in chosen]
    try:
        deployment.publisher.publish_due(job_id)
    except (ServerError, redis.RedisError) as error:
        log.warning("the take is chosen, but the first message is not published yet: %s", error)
    return any(number != take for number in shown)


def _can_show_first(source: JobContents, segment: int) -> bool:
    """Whether the film can show take 0 of a segment: the next segment continues it, or is a new scene or missing."""
    return source.committed.continued_take(segment) in (None, 0)


def _check_order(segments: range) -> None:
    """Refuse a last segment before the first one."""
    if not segments:
        raise SpecError(f"last: must be {segments.start} or a later segment, not {segments.stop - 1}")


def _check_whole(source: JobContents, segments: range, take: int) -> None:
    """Refuse several segments that are not those of the take. Take 0 is of any."""
    _check_order(segments)
    if len(segments) == 1 or not take:
        return
    takes = source.committed.takes
    found = next((takes.takes[index, take] for index in segments if (index, take) in takes.takes), None)
    if found is None:
        raise JobStateError(f"there is no take {take} of {segments_text(segments)} of job {source.job_id}")
    if found.segments != segments:
        raise JobStateError(
            f"take {take} of job {source.job_id} is of {segments_text(found.segments)}, not of "
            f"{segments_text(segments)}"
        )


def text_of(segments: range) -> str:
    """Neighbours as the command line has them: 3, or 3-5."""
    return "-".join(map(str, dict.fromkeys((segments[0], segments[-1]))))


def list_takes(deployment: Deployment, job_id: str) -> list[TakeStatus]:
    """The takes of every rendered segment that has more than one, in order."""
    return takes_in(deployment.jobs.contents(job_id))


def takes_in(source: JobContents) -> list[TakeStatus]:
    """The takes in what a job's record has, see `list_takes`."""
    takes = source.committed.takes
    found = []
    for original in (*source.committed.handoffs, *source.committed.ahead):
        index = original.index
        others = [take for take in takes.of(index) if take.segments[0] == index]
        if not others:
            continue
        clip = source.committed.clips.get(index)
        own_clip = takes.takes.get((index, 0), Take(index, 0)).clip or clip
        found.append(_status_of(source, [Take(index, 0, made=original, clip=own_clip)]))
        found += [_status_of(source, takes.whole(take)) for take in others]
    return found


def clip_of(deployment: Deployment, job_id: str, segment: int, take: int | None) -> bytes:
    """The MP4 of a segment as the film shows it, or of one of its takes by itself.

    Raises:
        JobNotFoundError: no such job. JobStateError: there is no such clip yet, or it was lost.
    """
    blob_id = clip_blob(deployment, job_id, segment, take)
    try:
        return deployment.blobs.get(blob_id)
    except (BlobNotFoundError, BlobCorruptError):
        what = clip_name(segment, take)
        raise JobStateError(f"the clip of {what} of job {job_id} is missing or damaged in the blob store") from None


def clip_blob(deployment: Deployment, job_id: str, segment: int, take: int | None) -> str:
    """The blob with the MP4 of a segment, or of a take; see `clip_of`."""
    source = deployment.jobs.contents(job_id)
    _check_rendered(source, segment)
    known = source.committed.takes.takes.get((segment, take or 0))
    clip = known.clip if known and take is not None else None
    shown = source.committed.clips.get(segment)
    if clip is None and shown is not None and take in (None, shown.take):
        clip = shown
    if clip is None:
        what = clip_name(segment, take)
        raise JobStateError(f"{what} of job {job_id} has no clip; `longtake takes {job_id}` shows what there is")
    return clip.blob_id


def hidden_takes(deployment: Deployment, job_id: str) -> Callable[[int], dict[str, bytes]]:
    """Reads a segment's clips of takes that the film does not show, by their names; without those that were lost."""
    takes = deployment.jobs.contents(job_id).committed.takes

    def read(segment: int) -> dict[str, bytes]:
        found = {}
        for take in [takes.takes.get((segment, 0), Take(segment, 0)), *takes.of(segment)]:
            if take.clip is not None and takes.shown.get(segment, 0) != take.number:
                with suppress(BlobNotFoundError, BlobCorruptError):
                    found[f"{segment}, take {take.number}"] = deployment.blobs.get(take.clip.blob_id)
        return found

    return read


def clip_name(segment: int, take: int | None) -> str:
    """Which clip `clip_of` gives, in words."""
    return f"segment {segment}" if take is None else f"take {take} of segment {segment}"


def _status_of(source: JobContents, parts: Sequence[Take]) -> TakeStatus:
    """The status of a take. parts: the take in each of its segments."""
    take, last, committed = parts[0], parts[-1], source.committed
    index, number = take.segment, take.number
    segment = source.segments[index]
    prompt, seed = segment.prompt, source.head.seed_of(index, segment)
    if number:
        prompt, seed = take.request.prompt_and_seed(prompt, seed, number)
    made = [part.made for part in parts if part.made]
    is_whole = len(made) == len(parts)
    reason = next((part.failed for part in parts if part.failed), None)
    prevented_by = committed.prevents(last) if is_whole else None
    state = TakeState.RENDERED if is_whole else TakeState.FAILED if reason else TakeState.DUE
    return TakeStatus(
        segment=index,
        take=number,
        state=state,
        shown=committed.takes.shown.get(index, 0) == number,
        prompt=prompt,
        seed=take.made.seed if take.made else seed,
        reason=reason,
        engine_s=round(sum(one.engine_ended - one.engine_started for one in made), 3) if is_whole else None,
        leads_into=is_whole and prevented_by is None,
        prevented_by=prevented_by,
        clip=take.clip.blob_id if take.clip else None,
        last=last.segment,
        name=str(take),
        join=take.made.join if take.made else None,
        progress=next((one for one in source.take_progress if one.take == number and one.index in take.segments), None),
    )


def _check_rendered(source: JobContents, segment: int) -> None:
    if source.committed.handoff(segment) is None:
        rendered = rendered_text(source.committed.rendered())
        raise JobStateError(f"segment {segment} of job {source.job_id} is not rendered; {rendered}")


def _check_length(source: JobContents, segment: int) -> None:
    """Refuse a take that must lead into the next segment and is too short for it."""
    if source.committed.continued_take(segment) is None:
        return
    planned = [source.head.planned(one) for one in source.segments[: segment + 2]]
    has_image = any(not image.frame for image in source.segments[segment].images or ())
    has_image = has_image or (segment == 0 and source.head.image is not None)
    previous = source.committed.handoff(segment - 1) if segment else source.committed.start
    before = planned[segment - 1] if segment and previous else None

    def timing_of(frames: int) -> SegmentTiming:
        own = replace(planned[segment], shape=replace(planned[segment].shape, frames=frames))
        return timing_after(own, previous, before=before, following=planned[segment + 1])

    def leads_on(frames: int) -> bool:
        """Whether something is left to render before a pinned end."""
        timing = timing_of(frames)
        picture, sound = free_latents(timing, image=has_image and not timing.continued)
        return picture >= 2 and (sound > END_AUDIO_LATENTS or source.head.audio is not None)

    shape = planned[segment].shape
    if leads_on(shape.frames):
        return
    longer = range(shape.frames + 8, LONGEST_FRAMES + 1, 8)
    least = next((f": it would need {frames} frames" for frames in longer if leads_on(frames)), "")
    raise JobStateError(
        f"segment {segment} of {shape.frames} frames with an overlap of {shape.overlap} is too short to lead into the "
        f"next one{least}; `longtake retake --cascade` renders the later segments, too"
    )


def _changed_segment(segment: SegmentSpec, prompt: str | None, seed: int | None) -> SegmentSpec:
    """`segment` with another prompt and seed, where they are given. SpecError: one is invalid."""
    given = {name: value for name, value in (("prompt", prompt), ("seed", seed)) if value is not None}
    try:
        return SegmentSpec.model_validate(segment.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{field_path(first['loc'])}: {explain(first)}") from None


def _publish(deployment: Deployment, job_id: str, unit: WorkUnit) -> None:
    """Publish a take at once; if that fails, a worker does so within seconds."""
    try:
        deployment.publisher.publish(job_id, unit)
    except (ServerError, redis.RedisError) as error:
        log.warning("the take is queued, but its message is not published yet: %s", error)
