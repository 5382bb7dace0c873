"""What is wrong with the parts of job records: specs, handoffs and clips. Reads them as workers do, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks.errors import LongtakeError, VersionError
from tasks.field_errors import counted
from tasks.jobs.keys import JOBS, job_keys
from tasks.jobs.reading.specs import read_head, read_segment
from tasks.jobs.records import ClipRecord, Handoff
from tasks.maintenance.findings import Finding, Severity, error, first_few, warning

ABOUT = "records"
PARTS_READ = 20_000
"""How many parts are read at most, of the newest jobs first."""
JOBS_PER_PAGE = 50
PARTS_PER_CALL = 500
HASHES: dict[str, Callable[[bytes, bytes], object]] = {
    "spec": lambda name, data: read_head(data) if name == b"job" else read_segment(data),
    "handoffs": lambda _, data: Handoff.unpack(data),
    "clips": lambda _, data: ClipRecord.unpack(data),
}
"""The hashes of a job with a part in each field, and how one is read."""
SUBMIT_AGAIN = "the job fails where a worker reads it: submit it again, and forget this one"


@dataclass(slots=True)
class PartsRead:
    """How much was looked at. left_out: jobs whose parts were not read, because there are too many."""

    jobs: int = 0
    parts: int = 0
    left_out: int = 0

    def __str__(self) -> str:
        more = f"; {counted(self.left_out, 'older job')} left out" if self.left_out else ""
        return f"read {counted(self.parts, 'stored part')} of {counted(self.jobs, 'job')}{more}"


def examine_parts(client: redis.Redis, read: PartsRead) -> Iterator[Finding]:
    """What is wrong with the parts of jobs on the broker of `client`; adds to `read`."""
    ids = [job_id.decode(errors="replace") for job_id in cast("list[bytes]", client.zrevrange(JOBS, 0, -1))]
    damaged: list[Finding] = []
    newer: list[Finding] = []
    for first in range(0, len(ids), JOBS_PER_PAGE):
        page = ids[first : first + JOBS_PER_PAGE]
        if read.parts >= PARTS_READ:
            read.left_out = len(ids) - first
            break
        read.jobs += len(page)
        for job_id, kind, length in _lengths(client, page):
            for finding in _examine_hash(client, job_id, kind, length, read):
                (newer if finding.severity == Severity.WARNING else damaged).append(finding)
    yield from first_few(damaged, ABOUT, "parts of records cannot be read")
    yield from first_few(newer, ABOUT, "parts of records are of a newer version")


def _lengths(client: redis.Redis, page: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Every hash of these jobs with its length, or the error of a key that is no hash."""
    hashes = [(job_id, kind) for job_id in page for kind in HASHES]
    with client.pipeline(transaction=False) as pipe:
        for job_id, kind in hashes:
            pipe.hlen(job_keys(job_id, kind)[0])
        lengths = pipe.execute(raise_on_error=False)
    return ((job_id, kind, length) for (job_id, kind), length in zip(hashes, lengths, strict=True))


def _examine_hash(client: redis.Redis, job_id: str, kind: str, length: Any, read: PartsRead) -> Iterator[Finding]:
    key = job_keys(job_id, kind)[0]
    if isinstance(length, Exception):
        yield error(ABOUT, f"the {kind} of job {job_id} are damaged: the key is no hash", SUBMIT_AGAIN)
        return
    if not length:
        return
    for name, data in client.hscan_iter(key, count=PARTS_PER_CALL):
        if read.parts >= PARTS_READ:
            return
        read.parts += 1
        where = f"{kind}, field {name.decode(errors='replace')!r:.40}, of job {job_id}"
        try:
            HASHES[kind](name, data)
        except VersionError as found:
            yield warning(ABOUT, f"{where}: {found}", "or let the newer workers finish the job")
        except (LongtakeError, ValueError, TypeError) as found:
            yield error(ABOUT, f"{where}: {found}", SUBMIT_AGAIN)
