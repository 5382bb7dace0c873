"""Server faults: kills, restarts with less data, hangs, full memory, cut connections, redelivery."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tasks.messaging.celery_app import make_app
from tasks.settings import Settings
from tests.conftest import RedisProcess, wait_until
from tests.faults.harness import Harness


def client_of(server: RedisProcess) -> redis.Redis:
    """A plain client of this server."""
    return redis.Redis(port=server.port)


def kill_connections(server: RedisProcess) -> None:
    """Close every connection to the server except the one that sends the command."""
    for kind in ("normal", "pubsub"):
        client_of(server).execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def aof_size(server: RedisProcess) -> int:
    """Size of the server's append-only file in bytes, once every write so far is in it."""
    wait_until(lambda: not client_of(server).info("persistence")["aof_buffer_length"], what="the append-only file")
    return server.aof().stat().st_size


def restart(server: RedisProcess, *, keep_bytes: int | None = None) -> None:
    """Kill the server and start it again with its append-only file, or with the first `keep_bytes` of it."""
    size = aof_size(server)
    server.stop(signal.SIGKILL)
    if keep_bytes is not None and keep_bytes < size:
        os.truncate(server.aof(), keep_bytes)
    server.start()


def restart_empty(server: RedisProcess) -> None:
    """Kill the server and start it again without its data."""
    server.stop(signal.SIGKILL)
    folder = server.aof().parent
    if folder == server.folder:
        server.aof().unlink()
    else:
        shutil.rmtree(folder)
    server.start()


@contextmanager
def unresponsive(server: RedisProcess) -> Iterator[None]:
    """Inside the block, the server keeps its connections and does not reply."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def full(server: RedisProcess) -> Iterator[None]:
    """Inside the block, the server refuses every command that needs memory."""
    client = client_of(server)
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


def redeliver(settings: Settings) -> None:
    """Have kombu requeue messages that were delivered over a second ago and are not acknowledged."""
    app = make_app(settings.model_copy(update={"visibility_timeout_s": 1}), results=False)
    with app.connection_for_read() as connection:
        connection.default_channel.qos.restore_visible(num=1000, interval=1)


def wait_idle_after_redelivery(harness: Harness) -> None:
    """Wait until every message is acknowledged, redelivering those whose acknowledgement was lost.

    Workers refuse such a message, because its unit is already committed.
    """

    def all_acknowledged() -> bool:
        redeliver(harness.settings)
        return not client_of(harness.broker).hlen("unacked")

    wait_until(all_acknowledged, what="every message to be acknowledged")
    harness.wait_idle()
