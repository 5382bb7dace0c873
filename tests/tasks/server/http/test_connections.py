"""Connections whose clients send no request, or take nothing of an answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tasks.server.http.connections import BoundedConnection
from tests.conftest import wait_until

ended = threading.Event()


class Impatient(BoundedConnection):
    pause_s = stall_s = 0.2


async def zeros() -> AsyncIterator[bytes]:
    """A body without end."""
    try:
        while True:
            yield bytes(1 << 20)
            await asyncio.sleep(0)  # a send to a client that has gone does not wait
    finally:
        ended.set()


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """An application whose answer ends with its client."""
    await StreamingResponse(zeros())(scope, receive, send)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A server of `endless`."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(endless, http=Impatient, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the server")
    yield listening.getsockname()
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_one_without_a_whole_request_is_ended(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(sent)
        assert client.recv(1) == b""


def test_one_that_takes_nothing_is_ended(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client that asks, however late, and reads nothing
    monkeypatch.setattr(Impatient, "pause_s", 60.0)
    ended.clear()
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        # Then its answer ends, although the client is there
        assert ended.wait(30)
