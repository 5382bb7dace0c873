"""Answers that fail after they have begun, such as a growing film whose job is deleted."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.server.http.answers import EXPECTED

log = logging.getLogger(__name__)


class EarlyEnds:
    """ASGI middleware that ends the connection of such an answer, so that its client knows that something is missing.

    Its log has a line, not a stack trace, if the error is one that `problem_of` explains.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if not has_begun:
                raise
            log.warning("%s ended early: the server ends", scope["path"])
        except Exception as error:
            cause = error.__cause__ or error  # the routes raise an error of their own from it
            while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:  # of what runs next to a stream
                cause = cause.exceptions[0]
            if not has_begun or not isinstance(cause, EXPECTED):
                raise
            log.warning("%s ended early: %s", scope["path"], cause)
