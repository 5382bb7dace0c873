"""Limits of requests, enforced before they are read."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.server.answers import INVALID, Problem, answer

LONGEST_PAUSE_S = 30.0


class _RefusedError(Exception):
    """The body of a request is beyond a limit; `problem` says which."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class BodyLimit:
    """ASGI middleware that refuses bodies of more than `limit` bytes, whatever their header says, and those that stop
    for more than `pause_s` seconds before their end.
    """

    def __init__(self, app: ASGIApp, limit: int, pause_s: float = LONGEST_PAUSE_S) -> None:
        self._app = app
        self._limit = limit
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._limit:
            await answer(self._too_large())(scope, receive, send)
            return
        left, reading, started = self._limit, True, False

        async def counted() -> Message:
            nonlocal left, reading
            if not reading:  # what comes now is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._pause_s)
            except TimeoutError:
                raise _RefusedError(self._too_slow()) from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise _RefusedError(self._too_large())
            reading = bool(message.get("more_body", False))
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _RefusedError as error:
            if not started:
                await answer(error.problem)(scope, receive, send)

    def _too_large(self) -> Problem:
        return Problem(413, f"the request is larger than {self._limit:,} bytes", INVALID, "too_large")

    def _too_slow(self) -> Problem:
        return Problem(408, f"nothing came of the request for {self._pause_s:g} s", INVALID, "too_slow")
