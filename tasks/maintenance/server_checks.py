"""Checks that a Redis server can do what a deployment needs."""

from __future__ import annotations

import redis

from blobstore.redis.client import shown_url
from tasks.errors import ServerError

OLDEST_REDIS = (6, 2)
# One of each kind that Celery makes, beside the queues.
KEYS_OF_CELERY = ("segments", "clips", "films", "unacked", "_kombu.check", "celery-task-meta-check", "a.celery.pidbox")


def check_server(client: redis.Redis, url: str) -> None:
    """Refuse a server that cannot be reached, or that may evict the queue.

    Raises:
        ServerError: says what to set.
    """
    try:
        version = str(client.info("server")["redis_version"])
        if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
            raise ServerError(f"Redis at {shown_url(url)} is version {version}; 6.2 or later is needed")
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.ResponseError:
        return  # CONFIG is not for this user: the operator's choice
    except redis.RedisError as error:
        raise ServerError(f"Redis at {shown_url(url)} cannot be reached: {error}") from None
    if policy != "noeviction":
        raise ServerError(
            f"Redis at {shown_url(url)} has maxmemory-policy {policy}, which can drop queued work; set it to noeviction"
        )


def check_rights(client: redis.Redis, url: str) -> None:
    """Refuse a user that may not do what workers do: run scripts, use their keys, listen on their channels.

    Raises:
        ServerError: says what this user may not do.
    """
    database = client.connection_pool.connection_kwargs.get("db", 0)
    try:
        client.register_script("return redis.call('TIME')")()
        client.set("longtake:check", "", px=1000)
        for key in KEYS_OF_CELERY:
            client.exists(key)
        with client.pubsub() as heard:  # type: ignore[no-untyped-call]
            heard.psubscribe(f"/{database}.celery.pidbox", f"/{database}.celeryev/worker.*")
            heard.get_message(timeout=5)
    except redis.ResponseError as error:
        raise ServerError(
            f"Redis at {shown_url(url)} does not let this user work: {error} (the rule is in docs/operations.md)"
        ) from None
    except redis.RedisError as error:
        raise ServerError(f"Redis at {shown_url(url)} cannot be reached: {error}") from None
