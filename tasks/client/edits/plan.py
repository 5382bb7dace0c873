"""Compares a changed spec with what a job has rendered: what is kept, what is rendered again, and how. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.client.edits.same_head import differences, own_inputs
from tasks.jobs.units import JobState, segments_text
from tasks.spec.head import JobHead
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec


class EditKind(StrEnum):
    """How a changed spec is carried out."""

    NOTHING = "nothing"
    IN_PLACE = "in place"
    """In the same job: segments without a claim are replaced, new ones are appended."""
    FORK = "fork"
    """In a new job that shares the first segments."""
    NEW_JOB = "new job"
    """In a new job that shares nothing."""


@dataclass(frozen=True, slots=True)
class JobNow:
    """A job as it is now. committed: how many segments are rendered. begun: how many are rendered or claimed.

    state: shown in the plan; a job that failed or was cancelled is not changed in place.
    """

    job_id: str
    head: JobHead
    segments: Sequence[SegmentSpec]
    committed: int
    begun: int
    state: JobState


@dataclass(frozen=True, slots=True)
class EditPlan:
    """What a changed spec needs. kept: so many leading segments are not rendered again.

    head: what changed above `segments`, by field. changed: what changed of each segment that is in both, by index.
    segments: how many the spec has. before: how many the job has. rendered: how many of these are rendered.
    """

    kind: EditKind
    job_id: str
    kept: int
    segments: int
    before: int
    rendered: int
    head: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The plan in words: what is kept, what is rendered again and why, what is new, and how it is done."""
        yield from (f"{name}: {text}; every segment changes" for name, text in self.head.items())
        if self.kept:
            yield f"{segments_text(range(self.kept))} of job {self.job_id}: kept"
        for index, names in self.changed.items():
            again = "rendered again" if index < self.rendered else "not rendered yet"
            yield f"segment {index}: {' and '.join(names)} changed, {again}"
        follow = [index for index in range(self.kept, min(self.rendered, self.segments)) if index not in self.changed]
        if follow:
            yield f"{segments_text(follow)}: rendered again, because what comes before changes"
        if self.segments > self.before:
            yield f"{segments_text(range(self.before, self.segments))}: new"
        if self.segments < self.before:
            yield f"{segments_text(range(self.segments, self.before))}: removed"
        yield self._how()

    def _how(self) -> str:
        if self.kind == EditKind.NOTHING:
            return f"nothing is rendered: job {self.job_id} has this spec"
        if self.kind == EditKind.IN_PLACE:
            return f"in place: job {self.job_id} goes on"
        if self.kind == EditKind.FORK:
            return f"a new job: a fork of job {self.job_id} after segment {self.kept - 1}"
        return f"a new job, which shares nothing with job {self.job_id}"


def plan_edit(job: JobNow, spec: JobSpec) -> EditPlan:
    """How to make the film of `spec`, a comparable spec of the whole film (see `same_head`), from a job."""
    head = differences(spec, job.head)
    both = range(min(len(job.segments), len(spec.segments)))
    changed = {index: names for index in both if (names := _changes(job, spec, index))}
    count, before = len(spec.segments), len(job.segments)
    first = min([*changed, count, before])
    is_alive = not job.state.is_final or job.state == JobState.DONE
    kept = 0 if head else min(first, job.committed)
    if head:
        kind = EditKind.NEW_JOB
    elif not changed and count == before:
        kind = EditKind.NOTHING
    elif is_alive and first >= min(job.begun, before) and (count == before or (count > before and not spec.before)):
        kind = EditKind.IN_PLACE
    else:
        kind = EditKind.FORK if kept else EditKind.NEW_JOB
    return EditPlan(kind, job.job_id, kept, count, before, job.committed, head, changed)


def _changes(job: JobNow, spec: JobSpec, index: int) -> list[str]:
    there, here = own_inputs(job.head, index, job.segments), own_inputs(spec, index, spec.segments)
    return [name for name in here if here[name] != there[name]]
