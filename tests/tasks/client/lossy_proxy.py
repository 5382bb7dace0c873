"""A TCP proxy before a Redis server that loses the replies to chosen commands, after the server ran them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.conftest import RedisProcess


class LossyProxy:
    """Passes everything on, except the replies that `lose` asks for: it closes the connection instead."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._marker = b""
        self._left = 0
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether every reply that was to be lost is lost."""
        return self._left == 0

    def lose(self, marker: bytes, *, times: int = 1) -> None:
        """Lose the next replies to commands that contain `marker`."""
        self._marker, self._left = marker, times

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        """Serve a client whose commands, or pipelines, fit into one packet each, as those of these tests do."""
        loses = threading.Event()  # set while the reply to the last command is one that is to be lost
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, suppress(OSError):
            threading.Thread(target=self._pass_replies, args=(server, client, loses), daemon=True).start()
            while command := client.recv(1 << 20):
                if self._left > 0 and self._marker in command:
                    loses.set()
                server.sendall(command)
            server.shutdown(socket.SHUT_WR)

    def _pass_replies(self, server: socket.socket, client: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while reply := server.recv(1 << 20):
                if loses.is_set() and not reply.startswith(b"-NOSCRIPT"):
                    self._left -= 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                loses.clear()
                client.sendall(reply)


@contextmanager
def lossy_proxy(server: RedisProcess) -> Iterator[LossyProxy]:
    """A proxy before `server`."""
    proxy = LossyProxy(server.port)
    yield proxy
    proxy.close()
