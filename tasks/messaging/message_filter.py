"""The gate of the queues: what is no message of ours is dropped as it comes off the wire, with one line in the log.

Celery and kombu trust their broker: an entry that is no JSON ends a worker, and a message may name tasks to call next.
So whatever a worker receives is looked at here before they see it.
"""

from __future__ import annotations

import logging
from typing import Any

import kombu
from celery.app import amqp
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str

from tasks.errors import LongtakeError
from tasks.messaging.schema import check_entry

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """A channel that delivers only what `check_entry` lets through."""

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # not in the stubs
        client.set_response_callback("BRPOP", self._popped)
        return client

    def _popped(self, reply: Any, **_: Any) -> Any:
        """A queue's key and entry; None, as when nothing came, in place of an entry that is refused."""
        if not reply:
            return None
        key, entry = reply
        return (key, entry) if _is_let_through(entry, bytes_to_str(key).rsplit(self.sep, 1)[0]) else None

    def _handle_message(self, client: Any, reply: Any) -> Any:
        """What came on a channel of events or remote control; without its data when that is refused."""
        payload = super()._handle_message(client, reply)  # type: ignore[misc]  # not in the stubs
        is_message = bytes_to_str(payload["type"]).endswith("message")
        if is_message and not _is_let_through(payload["data"], bytes_to_str(payload["channel"])):
            payload["data"] = None
        return payload


def _is_let_through(entry: bytes, queue: str) -> bool:
    try:
        check_entry(entry, queue)
    except LongtakeError as error:
        log.warning("a message on %.100s is refused: %s: %s", queue, type(error).__name__, error)
        return False
    return True


class Transport(redis.Transport):
    """Redis behind the gate."""

    Channel = Channel


class Connection(kombu.Connection):
    """A connection whose channels are behind the gate, whatever its URL's scheme."""

    def get_transport_cls(self) -> type[Transport]:
        """The only transport there is here."""
        return Transport


class AMQP(amqp.AMQP):
    """Celery's way to its broker, behind the gate."""

    Connection = Connection
