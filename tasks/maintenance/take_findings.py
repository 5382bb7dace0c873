"""Takes that failed: their job goes on without them, so nothing else says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import redis

from tasks.errors import RecordError, VersionError
from tasks.jobs.committed import Takes
from tasks.jobs.keys import job_keys
from tasks.maintenance.findings import Finding, warning


def failed_takes(client: redis.Redis, job_ids: Sequence[str], about: str) -> Iterator[Finding]:
    """The takes of these jobs that failed, with the reason. Damaged ones are left to other checks."""
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(job_keys(job_id, "takes")[0])
        replies = pipe.execute(raise_on_error=False)
    for job_id, reply in zip(job_ids, replies, strict=True):
        try:
            takes = Takes.read(reply if isinstance(reply, dict) else {})
        except (RecordError, ValueError, VersionError):
            continue
        for _, take in sorted(takes.takes.items()):
            if take.failed is None or take.segment != take.segments[0]:
                continue
            problem = f"{take} of job {job_id} has failed: {take.failed}"
            yield warning(about, problem, f"see `longtake takes {job_id}`; `longtake retake` asks for another one")
