"""Checks that a Redis server can do what a deployment needs."""

from __future__ import annotations

import redis

from blobstore.redis.server_info import server_info
from blobstore.redis.urls import shown_url
from tasks.errors import ServerError
from tasks.jobs.connection import IS_CLUSTER, refused, unreachable

OLDEST_REDIS = (6, 2)
# The queues, and one key of each kind that Celery writes.
CELERY_KEYS = ("segments", "clips", "films", "unacked", "_kombu.check", "celery-task-meta-check", "a.celery.pidbox")


def check_server(client: redis.Redis, url: str) -> None:
    """Refuse a server that cannot be reached, is too old, is a cluster, or may evict queued work.

    Raises:
        ServerError: says what to set.
    """
    try:
        info = server_info(client)
    except redis.RedisError as error:
        raise ServerError(unreachable(url, error)) from None
    if info.is_cluster:
        raise ServerError(f"Redis at {shown_url(url)} {IS_CLUSTER}")
    if info.version and info.version < OLDEST_REDIS:
        version = ".".join(map(str, info.version))
        raise ServerError(f"Redis at {shown_url(url)} is version {version}; longtake needs 6.2 or later")
    if info.eviction not in ("", "noeviction"):
        raise ServerError(
            f"Redis at {shown_url(url)} has maxmemory-policy {info.eviction}, which can drop queued work; "
            "set it to noeviction"
        )


def check_rights(client: redis.Redis, url: str) -> None:
    """Refuse a Redis user that may not use scripts, keys, transactions and channels as workers do.

    Raises:
        ServerError: says what this user may not do.
    """
    database = client.connection_pool.connection_kwargs.get("db", 0)
    try:
        client.register_script("return redis.call('TIME')")()
        client.set("longtake:check", "", px=1000)
        client.scan(count=1)  # the sweeper and the doctor look for keys
        for key in CELERY_KEYS:
            client.exists(key)
        with client.pipeline(transaction=True) as pipe:
            pipe.exists(CELERY_KEYS[0])
            pipe.execute()
        with client.pubsub() as channels:  # type: ignore[no-untyped-call]
            channels.psubscribe(f"/{database}.celery.pidbox", f"/{database}.celeryev/worker.*")
            channels.get_message(timeout=5)
    except redis.ResponseError as error:
        raise ServerError(refused(url, error)) from None
    except redis.RedisError as error:
        raise ServerError(unreachable(url, error)) from None
