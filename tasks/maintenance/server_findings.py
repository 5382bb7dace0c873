"""What is wrong with the two Redis servers: a worker's checks at start, and a part of `longtake doctor`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import redis

from blobstore import BlobStoreError, BlobStoreFullError, BlobStoreUnavailableError, open_blob_store
from blobstore.redis.client import open_client
from blobstore.redis.outages import reason_of
from blobstore.redis.urls import RedisURLError, shown_url
from tasks.errors import ServerError
from tasks.jobs.connection import connect, server_time
from tasks.jobs.key_types import wrong_keys
from tasks.maintenance.findings import Finding, Severity, error, has_error, warning
from tasks.maintenance.server_checks import check_rights, check_server
from tasks.settings import Settings

BROKER, BLOB_SERVER = "broker", "blob server"
PINGS = 5
SLOW_PING_S = 0.1
CLOCK_TOLERANCE_S = 1.0
FULL_SHARE = 0.9
PROBE_BYTES = 64


def check_servers(settings: Settings) -> None:
    """Refuse to start on servers that could lose work.

    Raises:
        ServerError: says which server, and what to set.
    """
    for finding in examine_servers(settings):
        if finding.severity == Severity.ERROR:
            raise ServerError(str(finding.masked([settings.redis_url, settings.blobs])))


def examine_servers(settings: Settings) -> list[Finding]:
    """What is wrong with the broker and the blob server of `settings`. Of a server that fails, only the first error."""
    found = _examine_broker(settings)
    if settings.blobs != settings.redis_url:
        return found + _examine_blob_server(settings)
    return found if has_error(found) else found + list(_examine_blob_store(settings))


def _examine_broker(settings: Settings) -> list[Finding]:
    url = settings.redis_url
    with closing(connect(url, reply_timeout_s=settings.reply_timeout_s)) as client:
        return _until_error(
            lambda: _refusal(lambda: check_server(client, url)),
            lambda: examine_info(BROKER, url, _info(client)),
            lambda: _refusal(lambda: check_rights(client, url)),
            lambda: _examine_keys(url, client),
            lambda: _examine_answers(BROKER, url, client),
        )


def _examine_keys(url: str, client: redis.Redis) -> Iterator[Finding]:
    for wrong in wrong_keys(client):
        yield error(BROKER, f"Redis at {shown_url(url)}: {wrong}", wrong.advice)


def _examine_blob_server(settings: Settings) -> list[Finding]:
    url = settings.blobs
    try:
        client = open_client(url, patience_s=1.0, reply_timeout_s=settings.reply_timeout_s)
    except RedisURLError as invalid:
        return [error(BLOB_SERVER, f"LONGTAKE_BLOB_URL: {invalid}")]
    with closing(client):
        return _until_error(
            lambda: examine_info(BLOB_SERVER, url, _info(client)),
            lambda: _examine_blob_store(settings),
            lambda: _examine_answers(BLOB_SERVER, url, client),
        )


def examine_info(about: str, url: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a server according to its INFO, which is empty where the user may not ask for it."""
    server = f"Redis at {shown_url(url)}"
    if info.get("loading"):
        yield error(about, f"{server} still loads its data", "wait until it is done")
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield error(about, f"{server} is a replica of {primary} and takes no writes", f"put {primary} into its URL")
    if info and not info.get("aof_enabled"):
        yield warning(about, f"{server} has no append-only file and loses data when it crashes", "set appendonly yes")
    if info.get("aof_last_write_status", "ok") != "ok":
        yield warning(about, f"{server} could not write its append-only file", "check the disk and the log of Redis")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield warning(about, f"{server} could not save its last snapshot", "check the disk and the log of Redis")
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0) or info.get("total_system_memory", 0)
    if limit and used > FULL_SHARE * limit:
        share = f"{used:,} of {limit:,} bytes"
        yield warning(about, f"{server} uses {share} of memory", "free blobs with `longtake gc`, or raise maxmemory")


def _until_error(*checks: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What these checks find, up to the first that finds an error."""
    found: list[Finding] = []
    for check in checks:
        found += check()
        if has_error(found):
            break
    return found


def _refusal(check: Callable[[], None]) -> Iterator[Finding]:
    try:
        check()
    except ServerError as refused:
        yield error(BROKER, str(refused))


def _info(client: redis.Redis) -> Mapping[str, Any]:
    try:
        return client.info()
    except redis.RedisError:
        return {}  # forbidden; a server that cannot be reached is found by the check of its kind


def _examine_blob_store(settings: Settings) -> Iterator[Finding]:
    """Whether the blob store can be used, with one small blob."""
    with closing(open_blob_store(settings.blobs, reply_timeout_s=settings.reply_timeout_s)) as blobs:
        try:
            blobs.check()
            blob_id = blobs.put(os.urandom(PROBE_BYTES))
            blobs.get(blob_id)
            blobs.drop(blob_id)
        except BlobStoreFullError as full:  # workers wait for room
            yield warning(BLOB_SERVER, str(full))
        except BlobStoreUnavailableError as out:
            yield error(BLOB_SERVER, str(out), "start it, or check LONGTAKE_BLOB_URL and the network")
        except BlobStoreError as refused:
            yield error(BLOB_SERVER, str(refused))


def _examine_answers(about: str, url: str, client: redis.Redis) -> Iterator[Finding]:
    """How fast a server answers, and what its clock says."""
    server = f"Redis at {shown_url(url)}"
    try:
        round_trips, offsets_s = zip(*(_ask_time(client) for _ in range(PINGS)), strict=True)
    except redis.RedisError as failed:
        yield error(about, f"{server} cannot be reached: {reason_of(failed)}", "check its URL and the network")
        return
    round_trip_s, offset_s = statistics.median(round_trips), statistics.median(offsets_s)
    if round_trip_s > SLOW_PING_S:
        yield warning(about, f"{server} answers after {1000 * round_trip_s:.0f} ms", "move it closer to the workers")
    if abs(offset_s) > CLOCK_TOLERANCE_S + round_trip_s:
        yield warning(about, f"the clock of {server} differs from this host's by {offset_s:+.1f} s", "synchronize both")


def _ask_time(client: redis.Redis) -> tuple[float, float]:
    """How long the server took to tell its time, and how far that is ahead of this host's clock; seconds."""
    asked = time.time()
    now, answered = server_time(client), time.time()
    return answered - asked, now - (asked + answered) / 2
