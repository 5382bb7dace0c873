"""Examines a deployment: its servers, workers, queues and job records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import redis

from blobstore.redis.outages import reason_of
from blobstore.redis.urls import shown_url
from tasks.jobs.connection import connect
from tasks.jobs.reader import JobReader
from tasks.maintenance.findings import Finding, Severity, error, has_error
from tasks.maintenance.part_findings import PartsRead, examine_parts
from tasks.maintenance.queue_findings import examine_queues
from tasks.maintenance.record_findings import examine_records
from tasks.maintenance.server_findings import BROKER, examine_servers
from tasks.maintenance.worker_findings import examine_workers
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that is wrong, errors first, with every secret masked; and how much of the records was read."""

    findings: list[Finding]
    read: PartsRead


def examine(settings: Settings) -> Examination:
    """Examine the deployment of `settings`; changes nothing but a blob that it removes."""
    read = PartsRead()
    found = examine_servers(settings)
    if not has_error(finding for finding in found if finding.about == BROKER):
        found += _examine_broker_data(settings, read)
    urls = (settings.redis_url, settings.blobs)
    order = list(Severity)
    masked = sorted((finding.masked(urls) for finding in found), key=lambda finding: order.index(finding.severity))
    return Examination(masked, read)


def _examine_broker_data(settings: Settings, read: PartsRead) -> Iterator[Finding]:
    with closing(connect(settings.redis_url, reply_timeout_s=settings.reply_timeout_s)) as client:
        reader = JobReader(client)
        try:
            workers = reader.workers()
            yield from examine_workers(workers)
            yield from examine_queues(client, workers.living)
            yield from examine_records(client, reader, workers)
            yield from examine_parts(client, read)
        except redis.RedisError as failed:
            problem = f"Redis at {shown_url(settings.redis_url)} cannot be used: {reason_of(failed)}"
            yield error(BROKER, problem, "check LONGTAKE_REDIS_URL and the network")
