"""Compares what all segments of a spec share with what those of a job do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ltx2.timeline import handed_on
from tasks.errors import SpecError
from tasks.field_errors import shown
from tasks.spec.head import INPUT_FIELDS, JobHead
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec

FREE_FIELDS = ("title", "seed", "labels", "webhook", "parallel")
"""Fields of a spec's head that say nothing about how a segment is rendered; seeds are compared per segment."""
INPUT_KINDS = dict(zip(INPUT_FIELDS, ("image", "video", "sound"), strict=True))
SHARED_FIELDS = tuple(name for name in JobHead.model_fields if name not in FREE_FIELDS)


def comparable(spec: JobSpec, head: JobHead) -> JobSpec:
    """`spec`, whose inputs are blob ids, as a record would have it: with the job's model if it names none."""
    return spec.model_copy(update={"model": spec.model or head.model}).with_absolute_paths()


def differences(spec: JobSpec, head: JobHead, fields: Collection[str] = SHARED_FIELDS) -> dict[str, str]:
    """What differs between a comparable spec and the head of a job, in words, by field."""
    pairs = {name: (getattr(spec, name), getattr(head, name)) for name in SHARED_FIELDS if name in fields}
    return {name: _difference(name, here, there) for name, (here, there) in pairs.items() if here != there}


def own_inputs(head: JobHead, index: int, segments: Sequence[SegmentSpec]) -> dict[str, object]:
    """What a segment is rendered from in addition to what all segments share and the state before it, by name.

    A length that a worker found in the prompt does not count.
    """
    segment, following = segments[index].undecided, segments[index + 1 : index + 2]
    tail, _ = handed_on(head.planned(segment), head.planned(following[0]) if following else None)
    own = {name: getattr(segment, name) for name in SegmentSpec.model_fields}
    leads = head.before and not following
    return {**own, "seed": head.seed_of(index, segment), "tail for the next one": tail, "video after it": leads}


def check_same_head(
    spec: JobSpec, head: JobHead, job_id: str, *, why: str, fields: Collection[str] = SHARED_FIELDS
) -> JobSpec:
    """The comparable form of `spec`, whose head must be that of the job. why: what needs that. fields: only these.

    Its inputs are blob ids.

    Raises:
        SpecError: one line for each field that differs.
    """
    spec = comparable(spec, head)
    found = differences(spec, head, fields)
    if found:
        places = spec.source.places([(name,) for name in found])
        problems = zip(places, found.values(), strict=True)
        raise SpecError("\n".join(f"{place}: must be that of job {job_id}, {why}: {text}" for place, text in problems))
    return spec


def _difference(name: str, here: object, there: object) -> str:
    if name in INPUT_KINDS:  # both are ids
        return f"it is another {INPUT_KINDS[name]}"
    if all(isinstance(value, str | int | float | None) for value in (here, there)):
        return f"{shown(here)} here, {shown(there)} there"
    return "it differs"
