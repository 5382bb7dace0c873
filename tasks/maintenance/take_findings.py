"""Takes that failed: their job goes on without them, so nothing else says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import redis

from tasks.jobs.keys import job_keys
from tasks.maintenance.findings import Finding, warning

FAILED = b":failed"


def failed_takes(client: redis.Redis, job_ids: Sequence[str], about: str) -> Iterator[Finding]:
    """The takes of these jobs that failed, with the reason."""
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(job_keys(job_id, "takes")[0])
        replies = pipe.execute(raise_on_error=False)
    for job_id, reply in zip(job_ids, replies, strict=True):
        for name, reason in sorted(reply.items()) if isinstance(reply, dict) else ():
            if not name.endswith(FAILED):
                continue
            segment, _, take = name.removesuffix(FAILED).decode(errors="replace").partition(":")
            problem = f"take {take} of segment {segment} of job {job_id} has failed: {reason.decode(errors='replace')}"
            yield warning(about, problem, f"see `longtake takes {job_id}`; `longtake retake` asks for another one")
