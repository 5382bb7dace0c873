"""Reads the beginning of a job's spec, for lists that say little of each job, however many segments it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.client import Pipeline

from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.jobs.keys import job_keys
from tasks.jobs.reading.specs import read_head, read_segment
from tasks.jobs.reading.status import damaged, no_such_job
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec

log = logging.getLogger(__name__)
BEGINNING_FIELDS = ("job", "0")
"""Of the spec, as `read_beginning` takes their values."""


class Beginning(NamedTuple):
    """What all segments of a job share, and its first segment; an open job may have none yet."""

    head: JobHead
    first: SegmentSpec | None


def queue_beginning(pipe: Pipeline, job_id: str) -> None:
    """Ask for what `read_beginning` reads."""
    pipe.hmget(job_keys(job_id, "spec")[0], *BEGINNING_FIELDS)


def read_beginning(job_id: str, reply: Any) -> Beginning:
    """The beginning in this reply.

    Raises:
        JobNotFoundError: no such job. VersionError: a newer major version wrote it. RecordError: it is damaged.
    """
    if isinstance(reply, Exception):  # a key of another type
        raise damaged(job_id, reply)
    head, first = reply
    if head is None:
        raise no_such_job(job_id)
    return Beginning(read_head(head), None if first is None else read_segment(first))


def read_beginnings(replies: Iterable[tuple[str, Sequence[Any]]]) -> dict[str, Beginning]:
    """Those that can be read, by job id."""
    found = {}
    for job_id, (reply,) in replies:
        try:
            found[job_id] = read_beginning(job_id, reply)
        except JobNotFoundError:
            continue  # deleted since the list was read
        except (RecordError, VersionError) as error:
            log.warning("skipped in the list: job %s: %s", job_id, error)
    return found
