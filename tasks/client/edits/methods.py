"""What a user changes of a job that has begun, as methods of `Job`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from blobstore import BlobStoreError, InMemoryBlobStore
from tasks.client.edits.fork import check_join
from tasks.client.edits.losses import first_loss, lost
from tasks.client.edits.plan import EditPlan, JobNow, plan_edit
from tasks.client.edits.same_head import check_same_head, comparable
from tasks.client.inputs.added_images import image_bytes, read_added_images, store_images
from tasks.client.inputs.reading import read_inputs, with_input_ids
from tasks.client.inputs.track import track_warnings
from tasks.client.submissions.idempotency import request_of
from tasks.client.submissions.state_files import refuse_first_cut
from tasks.deployment import Deployment
from tasks.errors import JobStateError, RoomError, ServerError, SpecError
from tasks.jobs.changes.edits import ANYWHERE, Appended, AppendOutcome, ReplaceOutcome
from tasks.jobs.records import JobStatus
from tasks.jobs.results import JobContents
from tasks.jobs.units import START_INDEX, JobState
from tasks.maintenance.admission import chain_bytes
from tasks.spec.head import INPUT_FIELDS, JobHead
from tasks.spec.loader import check_spec, load_spec
from tasks.spec.schema import JobSpec
from tasks.spec.segments import MAX_SEGMENTS, SegmentSpec

log = logging.getLogger(__name__)
GivenSpec = JobSpec | Mapping[str, Any] | Path | str
GivenSegments = Sequence[SegmentSpec | Mapping[str, Any]]


class JobEdits:
    """The part of `Job` that changes what is not rendered yet."""

    id: str
    _deployment: Deployment

    def append(self, added: GivenSpec | GivenSegments, *, idempotency_key: str | None = None) -> range:
        """Add segments to the end of the job; returns their indices. A job that is done continues.

        added: a list of segments, or a spec whose segments are added; what it says above `segments` must be as in the
        job. Times of its `images` count from the start of the film, and must be in the new segments. The film that the
        job has stays until the next one is joined. idempotency_key: any text that names this request: repeated with the
        same key, it adds nothing; other segments are refused. The record remembers the last sixteen requests.

        Raises:
            JobNotFoundError: no such job. JobStateError: it failed, was cancelled, or has lost blobs: fork it; or
            the key was used for other segments. SpecError: an invalid segment or key, a field that differs, or too many
            segments. RoomError: the blob budget has no room.
        """
        if isinstance(added, Sequence) and not isinstance(added, str):
            added = {"segments": list(added), "open": True}  # an empty list has an error of its own below
        spec = given_spec(added, appended=True)
        return append_segments(self._deployment, self.id, spec, request=request_of(idempotency_key))

    def replace_prompt(self, index: int, prompt: str) -> None:
        """Give a segment that no worker has claimed another prompt.

        Raises:
            JobNotFoundError: no such job. SpecError: an invalid prompt. JobStateError: there is no such segment, it is
            rendered, or a worker renders it.
        """
        checked = check_spec({"segments": [{"prompt": prompt}]}).segments[0].prompt
        replace_segments(self._deployment, self.id, {index: {"prompt": checked}})

    def close_end(self) -> None:
        """Wait for no more segments of an open job: the film is joined once all are rendered.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is not open, or has no segment.
        """
        if not self._deployment.jobs.close_end(self.id):
            raise JobStateError(f"job {self.id} is not open")
        publish_now(self._deployment, self.id)

    def approve(self, segment: int | None = None, *, all: bool = False) -> None:
        """Approve a segment (from 0) and those before it; default: the one for which the job waits.

        all: approve every segment, also those to come: the job waits no more. To approve again changes nothing.

        Raises:
            JobNotFoundError: no such job. JobStateError: it waits for no approval, or that segment is not rendered.
        """
        if segment is None and not all:
            status = self._deployment.jobs.status(self.id)
            if status.state != JobState.AWAITING_APPROVAL:
                raise JobStateError(f"job {self.id} is {status.state}; it waits for no approval")
            segment = status.committed - 1
        if segment is not None and segment < 0:
            raise JobStateError(f"job {self.id} has no segment {segment}")
        self._deployment.jobs.approve(self.id, None if all else segment)
        publish_now(self._deployment, self.id)

    def plan_edit(self, spec: GivenSpec) -> EditPlan:
        """What `tasks.edit` would do to make this job's film that of `spec`, a spec of the whole film. Changes nothing.

        Raises:
            JobNotFoundError: no such job. SpecError: an invalid spec.
        """
        return planned(self._deployment, self.id, given_spec(spec))


def given_spec(spec: GivenSpec, *, appended: bool = False) -> JobSpec:
    """The spec in a mapping or a file, or that is one. appended: see `check_spec`. SpecError: it is invalid."""
    if isinstance(spec, JobSpec):
        return spec
    if isinstance(spec, Mapping):
        return check_spec(spec, appended=appended)
    return load_spec(Path(spec), appended=appended)


def append_segments(
    deployment: Deployment,
    job_id: str,
    spec: JobSpec,
    *,
    first: int = ANYWHERE,
    request: str = "",
    images: InMemoryBlobStore | None = None,
) -> range:
    """Append the segments of `spec`, see `JobEdits.append`. first: the index that the first one must get.

    images: those of the segments, which name their blobs; None: they name files.
    """
    if not spec.segments:
        raise SpecError(f"{spec.source.place('segments')}: there is none, so there is nothing to append")
    contents = deployment.jobs.contents(job_id)
    status, head = deployment.jobs.status(job_id), contents.head
    given = spec.model_fields_set
    there = contents.segments[: deployment.jobs.earlier_append(job_id, request)]
    is_edit = images is not None
    if images is None:
        first = len(there) if spec.images else first  # their frames follow from it
        spec = spec.written_in(replace(spec.source, before=len(there)))
        segments, images = read_added_images(spec, head, there, start=contents.committed.start)
        spec = spec.model_copy(update={"segments": segments, "images": ()})
    _check_follows(spec, contents, there, job_id, fields=given)
    if not is_edit and "seed" in given and spec.seed != head.seed:
        place = spec.source.place("seed")
        raise SpecError(f"{place}: must be that of job {job_id}: {spec.seed} here, {head.seed} there")
    longer = spec.model_copy(update={**dict(head), "segments": [*there, *spec.segments]})
    check_join(longer, contents, len(there))
    if status.state == JobState.DONE:
        loss = first_loss(deployment.blobs, contents, status.committed)
        if loss is not None:
            raise lost(loss, job_id, otherwise="submit it again")
    for warning in _track_warnings(deployment, longer, len(there)):
        log.warning("%s", warning)
    budget = deployment.budget_bytes()
    old_film = status.film.size if status.film else 0
    store_images(deployment, job_id, spec.segments, images)
    appended = deployment.jobs.append(
        job_id,
        spec.segments,
        needs_bytes=chain_bytes(head, spec.segments) + image_bytes(spec.segments, images) + old_film,
        budget_bytes=budget,
        first=first,
        request=request,
    )
    if appended.outcome != AppendOutcome.APPENDED:
        raise _refusal(job_id, status, appended, len(spec.segments), budget)
    publish_now(deployment, job_id)
    return range(appended.first, appended.first + len(spec.segments))


def _check_follows(
    spec: JobSpec, contents: JobContents, there: Sequence[SegmentSpec], job_id: str, *, fields: Collection[str]
) -> None:
    """Raise SpecError unless the segments of `spec` may follow those that are `there`; see `check_same_head`."""
    begun = [segment.model_copy(update={"images": None}) for segment in there[:1] or spec.segments]
    first_of_job = with_input_ids(spec.model_copy(update={"segments": begun}))  # what it extends was read for this one
    check_same_head(first_of_job, contents.head, job_id, why="to which its segments are appended", fields=fields)
    if contents.committed.start and not there:
        refuse_first_cut(spec)


def _track_warnings(deployment: Deployment, longer: JobSpec, count: int) -> list[str]:
    """What may surprise about the given sound of a film that had `count` segments, and did not before."""
    if longer.audio is None:
        return []
    try:
        track = deployment.blobs.get(longer.audio)
    except BlobStoreError:  # the worker that needs it says so
        return []
    known = track_warnings(track, longer.model_copy(update={"segments": longer.segments[:count]})) if count else []
    return [warning for warning in track_warnings(track, longer) if warning not in known]


def replace_segments(deployment: Deployment, job_id: str, changes: Mapping[int, Mapping[str, object]]) -> None:
    """Change fields of segments that no worker has claimed, all of them or none.

    Raises:
        JobNotFoundError: no such job. JobStateError: what prevents it, and where.
    """
    replaced = deployment.jobs.replace_segments(job_id, changes)
    at = replaced.at
    words = {
        ReplaceOutcome.ABSENT: f"job {job_id} has no segment {at}",
        ReplaceOutcome.COMMITTED: f"segment {at} of job {job_id} is rendered; fork the job to change it",
        ReplaceOutcome.BEGUN: f"segment {at} of job {job_id} has begun, and would move in the film; fork the job",
        ReplaceOutcome.CLAIMED: f"a worker renders segment {at} of job {job_id}; fork the job to change it",
    }
    if replaced.outcome in words:
        raise JobStateError(words[replaced.outcome])


def planned(deployment: Deployment, job_id: str, spec: JobSpec) -> EditPlan:
    """The plan of an edit, see `JobEdits.plan_edit`."""
    contents, status = deployment.jobs.contents(job_id), deployment.jobs.status(job_id)
    begun = max(status.committed, deployment.jobs.begun(job_id))
    now = JobNow(
        job_id, contents.head, contents.segments, len(contents.committed.handoffs), begun, JobState(status.state)
    )
    continues = contents.committed.start is not None
    wanted = comparable(with_input_ids(spec, continues=continues), contents.head)
    if wanted.extend != contents.head.extend and _is_same_video(spec, contents.head, continues=continues):
        wanted = wanted.model_copy(update={"extend": contents.head.extend})
    return plan_edit(now, wanted)


def _is_same_video(spec: JobSpec, head: JobHead, *, continues: bool) -> bool:
    """Whether a spec extends the video of a job, of which other fields may take another part in another form."""
    if spec.extend is None or head.extend is None:
        return False
    others = {name: getattr(head, name) for name in JobHead.model_fields if name not in INPUT_FIELDS}
    try:
        return with_input_ids(spec.model_copy(update=others), continues=continues).extend == head.extend
    except SpecError:  # it does not fit these fields
        return False


def edit_in_place(deployment: Deployment, plan: EditPlan, spec: JobSpec) -> None:
    """Replace and append what `plan`, of kind IN_PLACE, says. To repeat it changes nothing.

    Raises:
        JobStateError: the job went on since it was planned. What `append_segments` raises.
    """
    head = deployment.jobs.head(plan.job_id)
    inputs = read_inputs(spec, continues=deployment.jobs.handoff(plan.job_id, START_INDEX) is not None)
    segments, spec = inputs.spec.segments, spec.model_copy(update={"images": ()})
    if spec.seed != head.seed:  # those of the job stay as they are
        written = [segment.model_copy(update={"seed": spec.seed_of(i, segment)}) for i, segment in enumerate(segments)]
        segments, spec = written, spec.model_copy(update={"segments": written})
    if plan.changed:
        store_images(deployment, plan.job_id, [segments[index] for index in plan.changed], inputs.pending)
        replace_segments(deployment, plan.job_id, {index: dict(segments[index]) for index in plan.changed})
    if plan.segments > plan.before:
        rest = spec.model_copy(update={"segments": segments[plan.before :]})
        append_segments(deployment, plan.job_id, rest, first=plan.before, images=inputs.pending)


def publish_now(deployment: Deployment, job_id: str) -> None:
    """Publish what is due at once; during an outage, a worker does it within seconds."""
    try:
        deployment.publisher.publish_due(job_id)
    except (ServerError, redis.RedisError) as error:
        log.warning("job %s is changed; a worker publishes what is due: %s", job_id, error)


def _refusal(job_id: str, status: JobStatus, appended: Appended, count: int, budget: int | None) -> Exception:
    """The error about an append that was refused."""
    if appended.outcome == AppendOutcome.OTHER:
        return JobStateError(
            f"other segments were appended to job {job_id} with this idempotency key, the first as segment "
            f"{appended.first}; use another key for more"
        )
    if appended.outcome == AppendOutcome.ENDED:
        last = status.committed - 1
        advice = f"fork it after segment {last}" if last >= 0 else "submit another one"
        advice += ", or retry it first" if appended.state == JobState.FAILED else ""
        return JobStateError(f"job {job_id} is {appended.state}, so nothing can be appended: {advice}")
    if appended.outcome == AppendOutcome.LONG:
        return SpecError(
            f"segments: job {job_id} has {appended.first:,} and would have {appended.first + count:,}; "
            f"a job has at most {MAX_SEGMENTS:,}"
        )
    if appended.outcome == AppendOutcome.MOVED:
        return JobStateError(
            f"job {job_id} was changed meanwhile: what is appended would begin with segment {appended.first}; try again"
        )
    return RoomError(
        f"the segments need about {appended.needs_bytes:,} more bytes of blobs, and {appended.free_bytes:,} of the "
        f"{budget or 0:,} of LONGTAKE_BLOB_BUDGET_BYTES are free; append fewer, or forget jobs that have ended"
    )
