"""Reads that many ask for at the same moment."""

from __future__ import annotations

import asyncio
import threading

import redis

from tasks.errors import JobNotFoundError
from tasks.server.films.shared_reads import SharedReads


def test_what_many_ask_for_is_read_once_and_never_before_they_ask() -> None:
    begun, released, reads = threading.Event(), threading.Event(), []

    def read(key: str) -> tuple[str, int]:
        reads.append(key)
        number = len(reads)
        begun.set()
        released.wait(60)
        return key, number

    async def run() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        shared = SharedReads(read)
        # Given a read that is under way
        early = [asyncio.create_task(shared.get("a")) for _ in range(50)]
        await asyncio.to_thread(begun.wait)
        # When others ask for the same, and one of them leaves
        late = [asyncio.create_task(shared.get(key)) for key in ("a", "b", "a", "b", "a")]
        leaves = asyncio.create_task(shared.get("a"))
        await asyncio.sleep(0)
        leaves.cancel()
        released.set()
        return await asyncio.gather(*early), await asyncio.gather(*late)

    # Then what they get was read after they asked, once for all of them
    early, late = asyncio.run(run())
    assert early == [("a", 1)] * 50
    assert late == [("a", 2), ("b", 3), ("a", 2), ("b", 3), ("a", 2)]
    assert reads == ["a", "a", "b"]


def test_a_read_that_fails_concerns_nobody_else_but_an_outage_is_waited_for_once() -> None:
    reads: list[str] = []

    def read(key: str) -> str:
        reads.append(key)
        if key == "gone":
            raise JobNotFoundError("there is no job gone")
        if key == "out":
            raise redis.ConnectionError("no answer")
        return key

    async def run(*keys: str) -> list[object]:
        shared = SharedReads(read)
        return list(await asyncio.gather(*map(shared.get, keys), return_exceptions=True))

    gone, found = asyncio.run(run("gone", "a"))
    assert isinstance(gone, JobNotFoundError)
    assert found == "a"
    found, *lost = asyncio.run(run("a", "out", "b", "c"))
    assert found == "a"
    assert [type(one) for one in lost] == [redis.ConnectionError] * 3
    assert "b" not in reads
