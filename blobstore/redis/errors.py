"""The errors of a Redis server that a blob store distinguishes."""

from __future__ import annotations

import re
from typing import Any

import redis
from redis.client import Pipeline


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Redis is full. Redis 6.2 reports errors of scripts as plain errors with the reason in the text."""
    by_script = isinstance(error, redis.ResponseError) and "OOM command not allowed" in str(error)
    return by_script or isinstance(error, redis.OutOfMemoryError)


def lacks_password(error: BaseException) -> bool:
    """Whether the server asks for a password and the URL has none."""
    return isinstance(error, redis.AuthenticationError) and bool(re.search("HELLO must|required", str(error)))


def results_of(pipe: Pipeline) -> list[Any]:
    """The results of a pipeline. Raises the first error as the server sent it, without the command."""
    results = pipe.execute(raise_on_error=False)
    for result in results:
        if isinstance(result, redis.RedisError):
            raise result
    return results
