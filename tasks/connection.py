"""Redis clients that ride out a short outage, and the Lua scripts they run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from blobstore.redis import is_out_of_memory
from tasks.config import redacted
from tasks.errors import ServerError

log = logging.getLogger(__name__)
LUA = Path(__file__).with_name("lua")
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua") if path.stem != "prelude")
PATIENT_RETRIES = 40
RETRY_EVERY_S = 2.0
FULL_PATIENCE_S = 60.0
FULL_PAUSE_S = 1.0
OLDEST_REDIS = (6, 2)
# One of each kind that Celery makes, beside the queues.
KEYS_OF_CELERY = ("segments", "clips", "films", "unacked", "_kombu.check", "celery-task-meta-check", "a.celery.pidbox")
T = TypeVar("T")


def connect(url: str, *, patient: bool = False) -> redis.Redis:
    """A client for `url`. A patient one keeps trying for about a minute, the other for about a second."""
    retry = Retry(ExponentialWithJitterBackoff(cap=RETRY_EVERY_S, base=0.1), retries(patient=patient))
    try:
        client = redis.Redis.from_url(
            url, retry=retry, socket_connect_timeout=5, socket_timeout=30, health_check_interval=30
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect, but refuses unknown options
    except (TypeError, ValueError, redis.RedisError) as error:
        raise ServerError(f"{redacted(url)} is no address of a Redis: {error}") from None
    return client


def retries(*, patient: bool) -> int:
    """How often a lost connection is tried again."""
    return PATIENT_RETRIES if patient else 3


def patiently(call: Callable[[], T], is_full: Callable[[Exception], bool], *, patience_s: float, wanted: str) -> T:
    """The result of `call`, which is repeated for so long while `is_full` says that it failed for want of room.

    Whatever else `call` raises is raised at once, and want of room when patience is at its end.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except Exception as error:
            if not is_full(error) or time.monotonic() >= end:
                raise
            log.warning("waiting for %s: %s", wanted, error)
        time.sleep(FULL_PAUSE_S)


def when_there_is_memory(call: Callable[[], T], *, patient: bool) -> T:
    """The result of `call`, which a full Redis refuses as a whole; a patient caller waits about a minute for room.

    Raises:
        redis.OutOfMemoryError: there is none.
    """
    patience_s = FULL_PATIENCE_S if patient else 0.0
    try:
        return patiently(call, is_out_of_memory, patience_s=patience_s, wanted="Redis to have memory")
    except redis.ResponseError as error:
        if not is_out_of_memory(error):
            raise
        raise redis.OutOfMemoryError(f"Redis is full; raise its maxmemory ({error})") from error


def load_scripts(client: redis.Redis) -> dict[str, Any]:
    """The scripts of `lua/`, by name, bound to `client`; each has the prelude before it."""
    prelude = (LUA / "prelude.lua").read_text()
    return {name: client.register_script(prelude + (LUA / f"{name}.lua").read_text()) for name in SCRIPTS}


def check_server(client: redis.Redis, url: str) -> None:
    """Refuse a server that cannot be reached, or that may evict the queue.

    Raises:
        ServerError: says what to set.
    """
    try:
        version = str(client.info("server")["redis_version"])
        if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
            raise ServerError(f"Redis at {redacted(url)} is version {version}; 6.2 or later is needed")
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.ResponseError:
        return  # CONFIG is not for this user: the operator's choice
    except redis.RedisError as error:
        raise ServerError(f"Redis at {redacted(url)} cannot be reached: {error}") from None
    if policy != "noeviction":
        raise ServerError(
            f"Redis at {redacted(url)} has maxmemory-policy {policy}, which can drop queued work; set it to noeviction"
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
            f"Redis at {redacted(url)} does not let this user work: {error} (the rule is in docs/operations.md)"
        ) from None
    except redis.RedisError as error:
        raise ServerError(f"Redis at {redacted(url)} cannot be reached: {error}") from None
