"""The errors of a Redis server that a blob store distinguishes, and what it raises for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.client import Pipeline

from blobstore.protocol import BlobStoreError, BlobStoreFullError, BlobStoreUnavailableError
from blobstore.redis.client import server_of
from blobstore.redis.outages import REFUSALS, reason_of, refusal_of

# How Redis 7 and Valkey end the error of a script, and Redis 6 begins it; and the arguments of an unknown command,
# which may be a whole script.
_NOISE = re.compile(
    r" script: (?:\w+, )?on @user_script:\d+\.?$|^Error running script \(.*?\): (?:@user_script: ?\d+: )+"
    r"|, with args beginning with: .*$",
    re.DOTALL,
)
_LONGEST_REPLY = 200


def reply_of(error: BaseException) -> str:
    """What the server replied, in short: without the place in a script, and without arguments."""
    return _NOISE.sub("", str(error))[:_LONGEST_REPLY].rstrip()


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


@contextmanager
def translated_errors(client: redis.Redis) -> Iterator[None]:
    """Raise the errors of `client` in this block as those of a blob store."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        if lacks_password(error):
            raise BlobStoreUnavailableError(
                f"Redis at {server_of(client)} asks for a password; put it into the URL of the blob store"
            ) from None
        raise BlobStoreUnavailableError(f"Redis at {server_of(client)} cannot be used: {reason_of(error)}") from error
    except redis.RedisError as error:
        server = server_of(client)
        if refused := refusal_of(error):  # of a client that was not opened by `open_client`
            raise BlobStoreUnavailableError(
                f"Redis at {server} cannot be used: {REFUSALS[refused]} ({refused})"
            ) from error
        if is_out_of_memory(error):
            raise BlobStoreFullError(f"Redis at {server} is full; free blobs or raise its maxmemory") from error
        raise BlobStoreError(f"Redis at {server}: {reply_of(error)}") from error
