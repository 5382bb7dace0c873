"""Commands to Redis that are sent in order, without waiting for the replies."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import redis
from redis.connection import ConnectionPool
from redis.exceptions import NoScriptError

from blobstore.redis.errors import is_out_of_memory
from tasks.logs import SaidOnce

log = logging.getLogger(__name__)
UNANSWERED_LIMIT = 1000
CLOSE_S = 1.0
Command = tuple[Any, ...]
OUTAGES = (redis.ConnectionError, redis.TimeoutError)


class OneWay:
    """Sends commands over a connection of its own, and returns before the server has run them.

    For writes that may be late, but not out of order. After a lost connection, all commands without a reply are sent
    again: each must be safe to run twice. Nothing but a server that stays away loses them, or a process that dies while
    its connection is lost. Thread-safe; a forked child begins with a connection of its own.
    """

    def __init__(self, pool: ConnectionPool, scripts: Sequence[str] = ()) -> None:
        """pool: makes the connection. scripts: the texts of all scripts that the commands run."""
        self._pool = pool
        self._scripts = scripts
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._unanswered: deque[Command] = deque()
        self._sent = 0  # so many of them, on the present connection
        self._connection: Any = None  # redis-py has no types for it
        self._said = SaidOnce()

    def send(self, *commands: Command) -> None:
        """Send commands. Without a connection it tries as long as the pool's connections do, then drops them.

        Raises:
            redis.ConnectionError, redis.TimeoutError: the server is out.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            self._unanswered += commands
            try:
                connection = self._connection or self._open()
                connection.retry.call_with_retry(lambda: self._exchange(connection), connection.disconnect)
            except OUTAGES:
                self._unanswered.clear()
                self._sent = 0
                raise

    def close(self) -> None:
        """Wait a moment for the replies, and close the connection. A later call opens another."""
        if self._process != os.getpid() or self._connection is None:
            return
        with self._lock, suppress(redis.RedisError):
            while self._sent and self._connection.can_read(CLOSE_S):
                self._read_reply(self._connection)
        self._connection.disconnect()
        self._begin()

    def _open(self) -> Any:
        self._connection = self._pool.make_connection()
        self._connection.register_connect_callback(self._on_connect)
        return self._connection

    def _on_connect(self, connection: Any) -> None:
        self._sent = 0
        for script in self._scripts:
            connection.send_command("SCRIPT", "LOAD", script)
            connection.read_response()

    def _exchange(self, connection: Any) -> None:
        connection.connect()  # unless it is connected
        while self._sent and (connection.can_read() or self._sent > UNANSWERED_LIMIT):
            self._read_reply(connection)
        unsent = list(islice(self._unanswered, self._sent, None))
        connection.send_packed_command(connection.pack_commands(unsent), check_health=False)
        self._sent = len(self._unanswered)

    def _read_reply(self, connection: Any) -> None:
        try:
            connection.read_response()
        except NoScriptError:
            raise redis.ConnectionError("the server has lost its scripts") from None
        except redis.ResponseError as error:
            # the calls that wait for their reply log that the server is full
            if not is_out_of_memory(error) and self._said.is_new(str(error)):
                log.warning("Redis refused a command: %s", error)
        self._unanswered.popleft()
        self._sent -= 1
