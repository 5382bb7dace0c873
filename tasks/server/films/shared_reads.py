"""Reads that many ask for at the same moment, such as all players of a film: each is done once, in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import redis
from starlette.concurrency import run_in_threadpool

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
OUTAGES = (redis.ConnectionError, redis.TimeoutError)


class SharedReads(Generic[K, V]):
    """Reads values by key, in rounds. Who asks during a round waits for the next: no value is older than its question.

    read: called in a thread, once for each key of a round.
    """

    def __init__(self, read: Callable[[K], V]) -> None:
        self._read = read
        self._asked: dict[K, asyncio.Future[V]] = {}
        self._rounds: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """The value of a key. Raises what `read` raises for it, or in an outage for another key of the round."""
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().create_future()
        asked = self._asked[key]
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._run())
        return await asyncio.shield(asked)

    async def _run(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                found = await run_in_threadpool(self._read_all, list(asked))
                for future, value in zip(asked.values(), found, strict=True):
                    if isinstance(value, Exception):
                        future.set_exception(value)
                        future.exception()  # nobody may wait for it any more, which is not worth a line in the log
                    else:
                        future.set_result(value)
        finally:
            self._rounds = None

    def _read_all(self, keys: Sequence[K]) -> list[V | Exception]:
        found: list[V | Exception] = []
        for key in keys:
            try:
                found.append(self._read(key))
            except OUTAGES as error:  # each other key would wait for it as long
                return [*found, *[error] * (len(keys) - len(found))]
            except Exception as error:
                found.append(error)
        return found
