"""Redis keys of job records and heartbeats, and the check of job ids."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tasks.errors import JobNotFoundError

PREFIX = "longtake:"
JOBS = f"{PREFIX}jobs"
ACTIVE = f"{PREFIX}active"
ENDED = f"{PREFIX}ended"
WAITING = f"{PREFIX}waiting"
SUBMITTING = f"{PREFIX}submitting"
IDEMPOTENCY = f"{PREFIX}idempotency"
RESERVED = f"{PREFIX}reserved"
PULSE = f"{PREFIX}pulse"
RECONCILER_LOCK = f"{PREFIX}reconciler"
WORKERS = f"{PREFIX}workers"
EVENTS = f"{PREFIX}events"
OUTBOX = f"{PREFIX}outbox"
OUTBOX_PLACE = f"{PREFIX}outbox:place"
OUTBOX_CLOCK = f"{PREFIX}outbox:clock"
OUTBOX_LOCK = f"{PREFIX}outbox:lock"
JOB_ID = re.compile(r"[0-9a-z]{1,40}")
JOB_PREFIX = f"{PREFIX}job:"
RECORD_AFFIXES = (JOB_PREFIX, ":record")
"""What the key of a record has before and after the job's id, for scripts that find other jobs."""
SUBMISSION = "submission:"  # no job id can begin with it


def check_job_id(job_id: object) -> str:
    """Return `job_id` if it is valid: 1 to 40 digits and lower-case letters.

    Raises:
        JobNotFoundError: no job can have this id.
    """
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        raise JobNotFoundError(f"{job_id!r:.60} is not a job id; `longtake list` shows the ids")
    return job_id


def job_ids_in(members: Iterable[bytes]) -> list[str]:
    """The members of a list of jobs that are valid ids; others, which somebody else wrote, would stop all jobs."""
    texts = (member.decode(errors="replace") for member in members)
    return [text for text in texts if JOB_ID.fullmatch(text)]


def job_keys(job_id: str, *names: str) -> list[str]:
    """The keys of the named parts of a job's record."""
    return [f"{JOB_PREFIX}{job_id}:{name}" for name in names]


def queue_key(queue: str) -> str:
    """The key of the history of `queue`: messages announced and claimed, by priority."""
    return f"{PREFIX}queue:{queue}"


def worker_key(token: str) -> str:
    """The key of a worker's heartbeat."""
    return f"{PREFIX}worker:{token}"


def submission_owner(request: str) -> str:
    """The owner that pins a job's blobs, provisionally, until the job has a record; `request` is its create's token."""
    return f"{SUBMISSION}{request}"


def is_submission(owner: str) -> bool:
    """Whether `owner` is one of `submission_owner`, whose pins expire by themselves."""
    return owner.startswith(SUBMISSION)
