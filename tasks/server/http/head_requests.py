"""HEAD: what GET would answer, without the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware that answers HEAD with the status and headers of GET; a stream is not begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_over = False

        async def without_body(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                await send(message)
            elif not is_over:
                is_over = True  # from now on the server says that the client has left, which ends streams
                await send({"type": "http.response.body", "body": b""})

        async def left() -> Message:
            return {"type": "http.disconnect"} if is_over else await receive()

        await self._app({**scope, "method": "GET"}, left, without_body)
