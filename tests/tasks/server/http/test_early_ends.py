"""Answers that fail after they have begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tasks.errors import JobNotFoundError
from tasks.server.events.hub import StreamCutError
from tasks.server.http.answers import add_error_answers
from tasks.server.http.early_ends import EarlyEnds


def sent_before(error: Exception | None) -> list[Any]:
    """What a client gets of a growing film that this error ends; None: the server cancels it."""
    app, sent = FastAPI(), list[Any]()
    app.add_middleware(EarlyEnds)
    add_error_answers(app)

    @app.get("/film")
    async def film() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            if error is not None:
                raise error
            request.cancel()
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/film", "query_string": b"", "headers": []}

    async def answered() -> None:
        nonlocal request
        request = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
        await request

    request: asyncio.Future[None]
    asyncio.run(answered())
    return sent


def test_a_film_whose_job_is_deleted_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    # Given a film that grows, When its job is gone
    sent = sent_before(JobNotFoundError("there is no job abc"))
    # Then the answer has no end, so that the server cuts the connection off, and the log has a line about it
    assert [message.get("more_body") for message in sent] == [None, True]
    assert caplog.messages == ["/film ended early: there is no job abc"]


def test_a_film_is_cut_off_when_the_server_ends(caplog: pytest.LogCaptureFixture) -> None:
    for error in (None, ExceptionGroup("of a stream", [StreamCutError("the server ends")])):
        assert [message.get("more_body") for message in sent_before(error)] == [None, True]
    assert caplog.messages == ["/film ended early: the server ends"] * 2


def test_a_fault_is_no_early_end() -> None:
    with pytest.raises(ZeroDivisionError):
        sent_before(ZeroDivisionError())


def test_a_server_that_is_stopped_twice_is_cancelled_as_it_is() -> None:
    """The second signal cancels the lifespan, which has sent that it started, and has no path."""
    app = FastAPI()
    app.add_middleware(EarlyEnds)

    async def stopped_twice() -> None:
        messages, started = [{"type": "lifespan.startup"}], asyncio.Event()

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            started.set()

        running = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, receive, send))
        await started.wait()
        await asyncio.sleep(0)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped_twice())
