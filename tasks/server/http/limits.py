"""Limits of requests, enforced before they are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.server.http.answers import INVALID, Problem, answer
from tasks.server.http.proxies import path_of

LONGEST_PAUSE_S = 30.0
LEAST_BYTES_PER_S = 1000
"""Far below any network that carries pictures, and enough to end a client that sends a byte now and then."""


class _RefusedError(Exception):
    """The body of a request is beyond a limit."""


class BodyLimit:
    """ASGI middleware that refuses bodies that are too large, whatever their header says, or that come too slowly.

    largest: bytes of a body by the path of a request. A body may pause for `pause_s` seconds, and after as many it must
    have come at LEAST_BYTES_PER_S. Only the time in which the application waits for it counts.
    """

    def __init__(self, app: ASGIApp, largest: Callable[[str], int], pause_s: float = LONGEST_PAUSE_S) -> None:
        self._app = app
        self._largest = largest
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._largest(path_of(scope))
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            await answer(_too_large(limit))(scope, receive, send)
            return
        body = _Body(receive, limit, self._pause_s)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                raise _RefusedError  # the application has an answer of its own for a body that it could not read
            started = True
            await send(message)

        try:
            await self._app(scope, body.receive, noted)
        except _RefusedError:
            if not started and body.problem is not None:
                await answer(body.problem)(scope, receive, send)


class _Body:
    """The body of a request while it comes. problem: why no more of it is read."""

    def __init__(self, receive: Receive, limit: int, pause_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._pause_s = pause_s
        self._waited_s = 0.0
        self._received = 0
        self._is_whole = False
        self.problem: Problem | None = None

    async def receive(self) -> Message:
        if self._is_whole:  # what comes now is that the client has gone
            return await self._receive()
        left_s = self._pause_s + self._received / LEAST_BYTES_PER_S - self._waited_s
        began = time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), min(self._pause_s, left_s))
        except TimeoutError:
            raise self._refused(_too_slow(self._pause_s)) from None
        self._waited_s += time.monotonic() - began
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise self._refused(_too_large(self._limit))
        self._is_whole = not message.get("more_body", False)
        return message

    def _refused(self, problem: Problem) -> _RefusedError:
        self.problem = problem
        return _RefusedError()


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the request is larger than {limit:,} bytes", INVALID, "too_large")


def _too_slow(pause_s: float) -> Problem:
    text = f"the request stopped for {pause_s:g} s, or came at less than {LEAST_BYTES_PER_S:,} bytes/s"
    return Problem(408, text, INVALID, "too_slow")
