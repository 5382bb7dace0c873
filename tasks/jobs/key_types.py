"""The types of the keys that all jobs share, and a client that names the one that holds something else."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, cast

import redis
from redis.client import Pipeline

from blobstore.redis.client import server_of
from tasks.errors import KeyTypeError
from tasks.jobs import keys
from tasks.jobs.queues import QUEUES, Priority, list_key

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # a program that does not set up logging shows the error, and no line before it
WRONG_TYPE = "WRONGTYPE"
ABSENT = "none"
KEY_TYPES: Mapping[str, str] = MappingProxyType(
    {
        keys.JOBS: "zset",
        keys.ACTIVE: "zset",
        keys.ENDED: "zset",
        keys.WAITING: "zset",
        keys.SUBMITTING: "set",
        keys.IDEMPOTENCY: "hash",
        keys.RESERVED: "hash",
        keys.PULSE: "hash",
        keys.RECONCILER_LOCK: "string",
        keys.WORKERS: "set",
        keys.EVENTS: "stream",
        keys.OUTBOX: "zset",
        keys.OUTBOX_PLACE: "string",
        keys.OUTBOX_CLOCK: "string",
        keys.OUTBOX_LOCK: "string",
        **{keys.queue_key(queue): "hash" for queue in QUEUES},
        **{list_key(queue, priority): "list" for queue, priority in product(QUEUES, Priority)},
        **{f"_kombu.binding.{queue}": "set" for queue in QUEUES},
        "unacked": "hash",
        "unacked_index": "zset",
    }
)
"""The type of each key that is there once in a deployment; the last three lines are Celery's."""
_WORDS = {"zset": "sorted set"}
QUIET_S = 30.0
"""A problem that was not met for so long is logged again."""
_met: dict[str, float] = {}  # problem -> when it was met last, by the monotonic clock


@dataclass(frozen=True, slots=True)
class WrongKey:
    """A key that holds another type than longtake keeps there; `found` and `wanted` are the words of Redis."""

    key: str
    found: str
    wanted: str

    def __str__(self) -> str:
        found, wanted = (_WORDS.get(one, one) for one in (self.found, self.wanted))
        return f"the key {_shown(self.key)} is a {found}, and longtake keeps a {wanted} there"

    @property
    def advice(self) -> str:
        """What to do about it."""
        shown = _shown(self.key)
        return f"rename it (`redis-cli RENAME {shown} old`), and give other programs a database of their own"


def wrong_keys(client: redis.Redis) -> list[WrongKey]:
    """The keys of a deployment that hold another type than longtake keeps there."""
    return _wrong(client, KEY_TYPES)


def wrong_parts(client: redis.Redis, parts: Sequence[str]) -> list[WrongKey]:
    """Those of the keys of one job that hold another type."""
    mine = [key for key in parts if key.startswith(keys.JOB_PREFIX)]
    return _wrong(client, {key: "stream" if key.endswith(":events") else "hash" for key in mine})


def _wrong(client: redis.Redis, types: Mapping[str, str]) -> list[WrongKey]:
    with redis.Redis(connection_pool=client.connection_pool).pipeline(transaction=False) as pipe:
        for key in types:
            pipe.type(key)
        found = cast("list[bytes]", pipe.execute())
    pairs = zip(types.items(), (name.decode() for name in found), strict=True)
    return [WrongKey(key, name, wanted) for (key, wanted), name in pairs if name not in (ABSENT, wanted)]


class CheckedClient(redis.Redis):
    """A client that raises KeyTypeError where a key of the deployment holds another type; it logs them, too."""

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """The reply to a command."""
        with _named_keys(self):
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """A pipeline that raises the same."""
        return _CheckedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _CheckedPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands."""
        with _named_keys(self):
            replies: list[Any] = super().execute(raise_on_error)
            for reply in replies:
                if isinstance(reply, redis.ResponseError) and WRONG_TYPE in str(reply) and wrong_keys(self):
                    raise reply
        return replies


@contextmanager
def _named_keys(client: redis.Redis) -> Iterator[None]:
    try:
        yield
    except redis.ResponseError as error:
        found = wrong_keys(client) if WRONG_TYPE in str(error) else []
        if not found:  # of one job
            raise
        problem = f"Redis at {server_of(client)}: {found[0]}; {found[0].advice}"
        now = time.monotonic()
        if now - _met.get(problem, -QUIET_S) >= QUIET_S:
            log.error("%s", problem)
        _met[problem] = now
        raise KeyTypeError(problem) from None


def _shown(key: str) -> str:
    """`key` as it is written after `redis-cli`."""
    return key if key.isprintable() else f'"{ascii(key)[1:-1]}"'
