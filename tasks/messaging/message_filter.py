"""The message filter: drops and logs invalid messages before Celery sees them.

Celery and kombu trust their broker: an entry that is not JSON ends a worker, and a message may name tasks to call next.
So everything that a worker receives is checked here first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from kombu.utils.encoding import bytes_to_str

from tasks.errors import LongtakeError
from tasks.messaging.schema import check_entry

log = logging.getLogger(__name__)
MINUTE_S = 60.0
SHOWN_PER_MINUTE = 10
COUNT_EVERY_S = 10.0


class MessageFilter:
    """A base of kombu's Redis channels: they deliver only entries that pass `check_entry`."""

    sep: str

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # not in the stubs
        client.set_response_callback("BRPOP", self._popped)
        return client

    def _popped(self, reply: Any, **_: Any) -> Any:
        """The key and entry of a queue; None, as if it were empty, for an invalid entry."""
        if not reply:
            return None
        key, entry = reply
        return (key, entry) if _is_valid(entry, bytes_to_str(key).rsplit(self.sep, 1)[0]) else None

    def _handle_message(self, client: Any, reply: Any) -> Any:
        """The payload of an event or command; its data is None if it is invalid."""
        payload = super()._handle_message(client, reply)  # type: ignore[misc]  # not in the stubs
        is_message = bytes_to_str(payload["type"]).endswith("message")
        if is_message and not _is_valid(payload["data"], bytes_to_str(payload["channel"])):
            payload["data"] = None
        return payload


class RefusalLog:
    """Logs refused messages: the first of each minute with their reasons, then how many more there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = -math.inf
        self._shown = self._more = 0

    def add(self, queue: str, error: LongtakeError) -> None:
        """Log one refused message, or count it."""
        with self._lock:
            now = time.monotonic()
            if now - self._minute >= MINUTE_S:
                self._minute, self._shown = now, 0
            if self._shown == SHOWN_PER_MINUTE:
                if not self._more:
                    self._log_count_later()
                self._more += 1
                return
            self._shown += 1
        log.warning("a message on %.100s is refused: %s: %s", queue, type(error).__name__, error)

    def _log_count_later(self) -> None:
        timer = threading.Timer(COUNT_EVERY_S, self._log_count)
        timer.daemon = True
        timer.start()

    def _log_count(self) -> None:
        with self._lock:
            more, self._more = self._more, 0
        log.warning("%d more messages were refused in the last %d s", more, COUNT_EVERY_S)


refusals = RefusalLog()


def _is_valid(entry: bytes, queue: str) -> bool:
    try:
        check_entry(entry, queue)
    except LongtakeError as error:
        refusals.add(queue, error)
        return False
    return True
