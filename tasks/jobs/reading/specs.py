"""Reads a job's spec as stored: what all segments share, and each segment."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tasks.errors import RecordError
from tasks.jobs.records import unpack_stored
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec

M = TypeVar("M", bound=BaseModel)


def read_head(data: bytes) -> JobHead:
    """What all segments of a job share, as stored; keys that this version does not know are ignored.

    Raises:
        VersionError: a newer major version wrote it. RecordError: it is damaged.
    """
    return _validated(JobHead, data, "a job's spec")


def read_segment(data: bytes) -> SegmentSpec:
    """The spec of one segment, as stored; see `read_head`."""
    return _validated(SegmentSpec, data, "a segment's spec")


def _validated(model: type[M], data: bytes, what: str) -> M:
    try:
        return model.model_validate(unpack_stored(data, what), extra="ignore")
    except ValidationError as error:
        field = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise RecordError(f"{what} is damaged: {field}") from None
