"""A TCP proxy of tests: it moves to another server, delays, goes silent, forgets connections and loses replies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65536


class Proxy:
    """A loopback port that forwards to `port`. A context manager.

    delay_s: how long every chunk takes in each direction, without limiting the rate.
    """

    def __init__(self, port: int, *, delay_s: float = 0.0) -> None:
        self._target = port
        self._delay_s = delay_s
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._forgotten = 0
        self._accepted = 0
        self._marker = b""
        self._left = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._open.set()
        self.close_connections()

    def move_to(self, port: int) -> None:
        """Forward new connections to another server; those that exist stay where they are."""
        self._target = port

    def close_connections(self) -> None:
        """Close every connection."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Forward nothing any more, and close nothing; new connections are accepted and get no reply."""
        self._open.clear()

    def heal(self) -> None:
        """Forward again, also what was sent meanwhile."""
        self._open.set()

    def forget(self) -> None:
        """Drop what is sent on every connection so far, and close nothing, as a firewall does; new ones work."""
        self._forgotten = self._accepted

    def lose(self, marker: bytes, *, times: int = 1) -> None:
        """Lose the replies to the next commands that contain `marker`: close the connection after the server ran them.

        Commands, or pipelines, must fit into one packet each.
        """
        self._marker, self._left = marker, times

    @property
    def lost(self) -> bool:
        """Whether every reply that was to be lost is lost."""
        return self._left == 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        self._open.wait()
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            self._accepted += 1
            number = self._accepted
            loses = threading.Event()  # set while the reply to the last command is one that is to be lost
            replies = (far, near, number, lambda data: self._reply(data, near, loses))
            back = threading.Thread(target=self._pump, args=replies, daemon=True)
            back.start()
            self._pump(near, far, number, lambda data: self._command(data, loses))
            back.join()

    def _command(self, data: bytes, loses: threading.Event) -> bytes:
        if self._left > 0 and self._marker in data:
            loses.set()
        return data

    def _reply(self, data: bytes, near: socket.socket, loses: threading.Event) -> bytes:
        if not loses.is_set() or data.startswith(b"-NOSCRIPT"):
            loses.clear()
            return data
        self._left -= 1
        near.shutdown(socket.SHUT_RDWR)
        return b""

    def _pump(
        self, source: socket.socket, target: socket.socket, number: int, change: Callable[[bytes], bytes]
    ) -> None:
        chunks: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._deliver, args=(chunks, target, number), daemon=True).start()
        data = b"."
        while data:
            try:
                data = change(source.recv(CHUNK_BYTES))
            except OSError:
                data = b""
            chunks.put((time.monotonic() + self._delay_s, data))

    def _deliver(self, chunks: SimpleQueue[tuple[float, bytes]], target: socket.socket, number: int) -> None:
        data = b"."
        while data:
            due, data = chunks.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._open.wait()
            if number <= self._forgotten:
                continue
            with suppress(OSError):
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)
