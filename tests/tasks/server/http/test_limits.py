"""Limits of requests: clients that stop in the middle."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.server.app import largest_body
from tasks.server.http.limits import BodyLimit
from tasks.settings import Settings
from tasks.spec.loader import MAX_SPEC_BYTES


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers what it gets."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(body.decode())(scope, receive, send)


def answered(
    *parts: dict[str, Any], application: ASGIApp = echo, pause_s: float = 60.0, part_s: float = 0.01
) -> tuple[int, str]:
    """The status and body for a request whose client sends these parts, each after `part_s`, and then nothing."""
    sent: list[dict[str, Any]] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        if part_s:
            await asyncio.sleep(part_s)
        return {"type": "http.request"} | waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(BodyLimit(application, lambda path: 100, pause_s=pause_s)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"].decode()


def test_a_request_that_is_whole_is_answered() -> None:
    assert answered({"body": b"a", "more_body": True}, {"body": b"b"}) == (200, "ab")


@pytest.mark.parametrize("parts", [[], [{"body": b"a", "more_body": True}]], ids=["at its start", "in the middle"])
def test_a_request_that_stops_is_refused(parts: list[dict[str, Any]]) -> None:
    status, body = answered(*parts, pause_s=0.05)
    assert (status, json.loads(body)["error"]["message"]) == (
        408,
        "the request stopped for 0.05 s, or came at less than 1,000 bytes/s",
    )


def test_a_request_that_grows_too_large_is_refused() -> None:
    status, body = answered(*[{"body": b"x" * 60, "more_body": True}] * 2)
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "largest"),
    [
        ("/jobs", 64 * 1024**2),
        ("/jobs/abc/fork", 64 * 1024**2),
        ("/jobs/abc/edit", 64 * 1024**2),
        ("/jobs/abc/segments", 64 * 1024**2),
        ("/v1/videos/extensions", 64 * 1024**2),
        ("/jobs/abc/segments/0/takes", MAX_SPEC_BYTES),
        ("/v1/videos/abc/remix", MAX_SPEC_BYTES),
        ("/login", 16 * 1024),
    ],
)
def test_only_requests_with_uploads_may_be_large(path: str, largest: int) -> None:
    assert largest_body(Settings(server_body_bytes=64 * 1024**2), path) == largest


def test_a_request_that_drips_is_refused() -> None:
    """Each part comes in time, and the whole never would."""
    status, body = answered(*[{"body": b"x", "more_body": True}] * 50, pause_s=0.05)
    assert (status, json.loads(body)["error"]["code"]) == (408, "too_slow")


def test_it_is_said_what_is_wrong_with_a_body_that_the_application_cannot_read() -> None:
    """FastAPI answers every error of a body with one of its own."""

    async def hiding(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        except Exception:
            await PlainTextResponse("there was an error", 400)(scope, receive, send)

    status, body = answered(*[{"body": b"x" * 60, "more_body": True}] * 2, application=hiding)
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


def test_the_time_in_which_nobody_reads_does_not_count() -> None:
    """The server may be busy before it reads a body, and between its parts."""

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        parts = []
        for _ in range(2):
            await asyncio.sleep(0.2)
            parts.append((await receive())["body"])
        await PlainTextResponse(b"".join(parts).decode())(scope, receive, send)

    parts = {"body": b"a", "more_body": True}, {"body": b"b"}
    assert answered(*parts, application=busy, pause_s=0.1, part_s=0.0) == (200, "ab")
