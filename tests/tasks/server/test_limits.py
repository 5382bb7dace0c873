"""Limits of requests: clients that stop in the middle."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tasks.server.limits import BodyLimit


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers what it gets."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(body.decode())(scope, receive, send)


def answered(*parts: dict[str, Any]) -> tuple[int, str]:
    """The status and body for a request whose client sends these parts, and then nothing."""
    sent: list[dict[str, Any]] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return {"type": "http.request"} | waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(BodyLimit(echo, 100, pause_s=0.05)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"].decode()


def test_a_request_that_is_whole_is_answered() -> None:
    assert answered({"body": b"a", "more_body": True}, {"body": b"b"}) == (200, "ab")


@pytest.mark.parametrize("parts", [[], [{"body": b"a", "more_body": True}]], ids=["at its start", "in the middle"])
def test_a_request_that_stops_is_refused(parts: list[dict[str, Any]]) -> None:
    status, body = answered(*parts)
    assert (status, json.loads(body)["error"]["message"]) == (408, "nothing came of the request for 0.05 s")


def test_a_request_that_grows_too_large_is_refused() -> None:
    status, body = answered(*[{"body": b"x" * 60, "more_body": True}] * 2)
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
