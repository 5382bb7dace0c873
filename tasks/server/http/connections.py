"""Connections of the server: one whose client sends no request, or takes nothing of an answer, is ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from tasks.server.http.limits import LONGEST_PAUSE_S

LONGEST_STALL_S = 60.0
"""Longer than a player that has buffered enough pauses its download for."""


class PromptServer(uvicorn.Server):
    """A server of uvicorn that ends its streams first when it is stopped, and not only after waiting for them."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has been asked, within the time of the configuration."""
        self._end_streams()
        await super().shutdown(sockets)


class BoundedConnection(H11Protocol):
    """A connection of uvicorn with two more limits; uvicorn has one only for the pause between two requests.

    The head of a request has to be whole within `pause_s`, and an answer must get on within each `stall_s`.
    """

    pause_s = LONGEST_PAUSE_S
    stall_s = LONGEST_STALL_S
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called once the kernel takes no more
        self.loop.call_later(self.pause_s, self._end_without_request, None)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        answered = self.cycle
        super().on_response_complete()
        self.loop.call_later(self.pause_s, self._end_without_request, answered)

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has taken everything."""
        super().resume_writing()
        self._stop_watching()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_watching()
        super().connection_lost(exc)

    def _end_without_request(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last:
            self.transport.close()

    def _watch(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.stall_s, self._end_without_progress, unsent)

    def _stop_watching(self) -> None:
        if self._stall is not None:
            self._stall.cancel()

    def _end_without_progress(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() < unsent:
            self._watch()
        else:
            self.transport.abort()  # `close` would wait for the client
