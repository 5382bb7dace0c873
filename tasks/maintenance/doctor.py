"""Examines a deployment: its servers, workers, queues and job records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import redis

from blobstore.redis.urls import shown_url
from tasks.jobs.connection import connect
from tasks.jobs.reader import JobReader
from tasks.maintenance.findings import Finding, Severity, error, has_error
from tasks.maintenance.queue_findings import examine_queues
from tasks.maintenance.record_findings import examine_records
from tasks.maintenance.server_findings import BROKER, examine_servers
from tasks.maintenance.worker_findings import examine_workers
from tasks.settings import Settings


def examine(settings: Settings) -> list[Finding]:
    """Everything that is wrong with the deployment of `settings`, errors first; changes nothing but a blob it removes.

    Every secret is masked.
    """
    found = examine_servers(settings)
    if not has_error(finding for finding in found if finding.about == BROKER):
        found += _examine_broker_data(settings)
    urls = (settings.redis_url, settings.blobs)
    order = list(Severity)
    return sorted((finding.masked(urls) for finding in found), key=lambda finding: order.index(finding.severity))


def _examine_broker_data(settings: Settings) -> Iterator[Finding]:
    with closing(connect(settings.redis_url, reply_timeout_s=settings.reply_timeout_s)) as client:
        reader = JobReader(client)
        try:
            workers = reader.workers()
            yield from examine_workers(workers)
            yield from examine_queues(client, workers.living)
            yield from examine_records(client, reader)
        except redis.RedisError as failed:
            yield error(BROKER, f"Redis at {shown_url(settings.redis_url)} cannot be used: {failed}")
