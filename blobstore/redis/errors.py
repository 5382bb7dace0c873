"""The errors of a Redis server that a blob store distinguishes."""

from __future__ import annotations

from typing import Any

import redis
from redis.client import Pipeline


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Redis is full. Redis 6.2 reports errors of scripts as plain errors with the reason in the text."""
    by_script = isinstance(error, redis.ResponseError) and "OOM command not allowed" in str(error)
    return by_script or isinstance(error, redis.OutOfMemoryError)


def takes_no_writes(error: BaseException) -> bool:
    """Whether Redis refuses writes for now: its disk is full, or it is a replica."""
    text = str(error)
    by_script = isinstance(error, redis.ResponseError) and ("MISCONF" in text or "READONLY" in text)
    return by_script or isinstance(error, redis.ReadOnlyError)


def results_of(pipe: Pipeline) -> list[Any]:
    """The results of a pipeline. Raises the first error as the server sent it, without the command."""
    results = pipe.execute(raise_on_error=False)
    for result in results:
        if isinstance(result, redis.RedisError):
            raise result
    return results
