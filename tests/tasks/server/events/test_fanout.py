"""What an event costs when many follow: it is read once, encoded once, and sent with those that come with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from fastapi.sse import KEEPALIVE_COMMENT

from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, Event, EventKind, EventReader
from tasks.jobs.keys import EVENTS, job_keys
from tasks.server.context import ServerContext
from tasks.server.events import hub, messages
from tasks.server.events.hub import EventHub
from tasks.server.events.messages import Message
from tasks.server.routes.event_stream import MOST_AT_ONCE, _chunks
from tests.conftest import RedisProcess

JOB, FOLLOWERS = "job1", 20
Chunks = list[bytes]


def add(client: redis.Redis, *kinds: EventKind) -> None:
    """Add events of a job in one step."""
    with client.pipeline() as pipe:
        for kind in kinds:
            number = client.incr("number")
            fields = {"kind": kind.value, "data": "{}"}
            pipe.xadd(job_keys(JOB, "events")[0], fields, id=f"{number}-1")
            pipe.xadd(EVENTS, {"job": JOB, "id": f"{number}-1", **fields})
        pipe.execute()


class CountingReader(EventReader):
    """Notes of which job each stream was that was read."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.reads: list[str | None] = []  # threads may append to it at once

    def after(self, event_id: str, *, job_id: str | None = None, **options: Any) -> list[Event]:
        found = super().after(event_id, job_id=job_id, **options)
        self.reads.append(job_id)
        return found


def followed(reader: CountingReader, events: Callable[[], None]) -> list[Chunks]:
    """What each follower gets when these events are added, after those that were there."""

    async def run() -> list[Chunks]:
        hub = EventHub(reader)
        await hub.start()
        running = asyncio.create_task(hub.run())
        context = cast("ServerContext", SimpleNamespace(hub=hub))
        found: list[Chunks] = [[] for _ in range(FOLLOWERS)]

        async def follow(chunks: Chunks) -> None:
            async for chunk in _chunks(context, JOB, BEGINNING, lambda: False):
                chunks.append(chunk)
                if b"event: paused" in chunk:
                    return

        following = [asyncio.create_task(follow(chunks)) for chunks in found]
        while reader.reads.count(JOB) < 2 * FOLLOWERS:  # each reads until there are no more
            await asyncio.sleep(0.01)
        await asyncio.to_thread(events)
        await asyncio.gather(*following)
        hub.close()
        await running
        return found

    return asyncio.run(run())


def test_an_event_is_read_and_encoded_once_for_all(redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = messages.format_sse_event

    def counted(*, id: str, event: str, data_str: str) -> bytes:
        encoded.append(id)
        return encode(id=id, event=event, data_str=data_str)

    with connect(redis_server.url, reply_timeout_s=60) as client:
        # Given some events that are kept, and followers that have got them
        client.flushall()
        add(client, *[EventKind.STEP] * (2 * MOST_AT_ONCE + 1))

        def new() -> None:
            monkeypatch.setattr(messages, "format_sse_event", counted)
            client.config_resetstat()
            add(client, *[EventKind.STEP] * 9, EventKind.PAUSED)

        # When ten are added
        reader = CountingReader(client)
        found = followed(reader, new)
    # Then each was encoded once, and nobody but the hub asked for it
    assert len(encoded) == 10
    assert reader.reads.count(JOB) == 2 * FOLLOWERS
    # And those that were there came in chunks of a bounded size, the new ones as one
    for chunks in found:
        assert [chunk.count(b"data: ") for chunk in chunks] == [MOST_AT_ONCE, MOST_AT_ONCE, 1, 10]


def test_a_stream_without_events_has_a_sign_of_life(
    redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PAUSE_S", 0.01)

    async def first(client: redis.Redis) -> bytes:
        context = cast("ServerContext", SimpleNamespace(hub=EventHub(EventReader(client))))
        return await anext(_chunks(context, "job2", BEGINNING))

    with connect(redis_server.url) as client:
        assert asyncio.run(first(client)) == KEEPALIVE_COMMENT


def test_a_number_that_json_does_not_have_is_null() -> None:
    event = Event("2-0", JOB, "1-0", EventKind.STEP, {"step_s": float("nan"), "reason": "cannot read /home/a/b"})
    name, data, place, *_ = Message(event).of_job.decode().splitlines()
    assert (name, place) == ("event: step", "id: 1-0")
    assert json.loads(data.removeprefix("data: "), parse_constant=pytest.fail)["step_s"] is None
    assert "/home" not in data
