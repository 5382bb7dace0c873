"""Resumes a render: keeps every leading segment of an earlier one to the same film whose inputs are unchanged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.client.display.pace import seconds_of
from tasks.client.edits.fork import create_fork
from tasks.client.edits.losses import whole_segments
from tasks.client.edits.same_head import SHARED_FIELDS, own_inputs
from tasks.client.inputs.reading import read_inputs
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.deployment import Deployment
from tasks.embedded.inputs import Note, RenderInputs, read_note
from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.field_errors import counted
from tasks.jobs.results import JobContents
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tasks.spec.schema import JobSpec

TEXTS = ("audio", "extend", "image", "model", "negative_prompt", "text_encoder", "upsampler")
SUPERSEDED = "another spec is rendered to this film"


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier job to the same film. kept: how many leading segments can be kept. change: the first, in words."""

    contents: JobContents
    kept: int
    change: str | None


def start_or_resume(
    spec: JobSpec, inputs: RenderInputs, *, folder: Path, film: Path | None, settings: Settings
) -> tuple[Job, str | None]:
    """The job of a render, with what is kept of an earlier one, and a line that says so.

    spec: that of `inputs`, with the path of its image. settings: those of the deployment in `folder`, which has no
    worker yet.

    Raises what `submit` raises.
    """
    job = Job(inputs.job_id, settings=settings)
    made_with = {**read_note(folder).jobs, job.id: inputs.made_with}  # a job with this id has the same inputs
    earlier = _best(job._deployment, inputs, made_with)
    _stop_others(job._deployment, job.id)
    Note(None if film is None else str(film.resolve()), made_with).write(folder)
    if job.exists():
        if earlier is None or earlier.contents.job_id == job.id:
            return job, _continue(job)
        # another one has more of it: this one was stopped, and both continued it since
        job._deployment.jobs.stop(job.id, JobState.CANCELLED, SUPERSEDED)
        job.forget()
    if earlier is not None and earlier.kept:
        pending = read_inputs(spec, continues=inputs.state is not None).pending
        create_fork(job._deployment, job.id, earlier.contents, earlier.kept, inputs.spec, pending)
    else:
        submit(spec, from_state=inputs.state, settings=settings, job_id=job.id)
    if earlier is None or not earlier.contents.committed.handoffs:
        return job, None
    why = f"; {earlier.change}" if earlier.change else ""
    return job, f"keeping {earlier.kept} of {counted(len(spec.segments), 'segment')}{why}"


def finish(job: Job, inputs: RenderInputs, *, folder: Path, film: Path) -> None:
    """Keep of a render whose film is written what a later one to the same film may resume: this job, and no other.

    The deployment in `folder` has no worker any more.
    """
    jobs, blobs = job._deployment.jobs, job._deployment.blobs
    others = [status.job_id for status in jobs.statuses() if status.job_id != job.id]
    for other in others:
        jobs.delete(other)
        blobs.release(other)
    if others:
        blobs.collect(grace_s=0)
    seconds = seconds_of(jobs.handoffs(job.id))
    Note(str(film.resolve()), {job.id: inputs.made_with}, time.time(), inputs.work, seconds).write(folder)


def _continue(job: Job) -> str:
    status = job.status()
    if status.state == JobState.DONE:
        return f"keeping {status.segments} of {counted(status.segments, 'segment')}: the film is rendered already"
    if status.state == JobState.FAILED:
        job.retry()
    elif status.state == JobState.CANCELLED:  # by a render of another spec to the same film
        job._deployment.jobs.revive(job.id, JobState.CANCELLED)
    return f"resuming: {status.committed} of {counted(status.segments, 'segment')} already rendered"


def _best(deployment: Deployment, inputs: RenderInputs, note: Mapping[str, Mapping[str, Any]]) -> Earlier | None:
    """The earlier job of which most can be kept; among equals this one, or the one with most segments."""
    found = []
    for job_id, made_with in note.items():
        try:
            contents = deployment.jobs.contents(job_id)
        except (JobNotFoundError, RecordError, VersionError):
            continue
        same, change = unchanged(contents, made_with, inputs)
        kept = min(same, whole_segments(deployment.blobs, contents)) if same else 0
        found.append(Earlier(contents, kept, change))

    def rank(earlier: Earlier) -> tuple[int, bool, int]:
        contents = earlier.contents
        return earlier.kept, contents.job_id == inputs.job_id, len(contents.committed.handoffs)

    return max(found, key=rank, default=None)


def unchanged(contents: JobContents, made_with: Mapping[str, Any], inputs: RenderInputs) -> tuple[int, str | None]:
    """How many leading segments of a job were made from the same inputs, and the first change, in words.

    Each segment is made from all that its engine call is given: what all segments share, its own values, the state that
    the segment before it left, and how many frames the next one repeats. The title, and later segments, do not count.
    """
    spec, head = inputs.spec, contents.head
    for name, value in inputs.made_with.items():
        if made_with.get(name) != value:
            return 0, _changed(name, made_with.get(name), value)
    for name in made_with:
        if name not in inputs.made_with:
            return 0, f"{name} was removed"
    for name in SHARED_FIELDS:
        if getattr(spec, name) != getattr(head, name):
            return 0, _changed(name, getattr(head, name), getattr(spec, name))
    committed = len(contents.committed.handoffs)
    for index in range(min(len(contents.segments), len(spec.segments))):
        values = own_inputs(head, index, contents.segments), own_inputs(spec, index, spec.segments)
        for name in values[0]:
            if values[0][name] != values[1][name]:
                return min(index, committed), f"segment {index}'s {name} changed"
    same = min(len(contents.segments), len(spec.segments))
    change = "the title changed" if spec.title != head.title else None
    if len(spec.segments) > same:
        change = f"segment {same} is new"
    elif len(contents.segments) > same:
        change = f"segment {same} was removed"
    return min(same, committed), change


def _changed(name: str, before: object, now: object) -> str:
    """A change in words; short values are shown, but none of a user's texts."""
    values = (before, now)
    if name in TEXTS or not all(isinstance(value, str | int | float) and len(str(value)) < 80 for value in values):
        return f"{name} changed"
    return f"{name} changed from {before} to {now}"


def _stop_others(deployment: Deployment, job_id: str) -> None:
    """Cancel every other job, so that the worker renders this one; what they have rendered stays."""
    for other in deployment.jobs.active():
        if other != job_id:
            deployment.jobs.stop(other, JobState.CANCELLED, SUPERSEDED)
