"""Ways to break a Redis server and its connections under a running deployment."""

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
from tests.faults.ground import Ground


def client_of(server: RedisProcess) -> redis.Redis:
    """A plain client of this server."""
    return redis.Redis(port=server.port)


def kill_connections(server: RedisProcess) -> None:
    """Close every connection to the server but the one that asks for it."""
    for kind in ("normal", "pubsub"):
        client_of(server).execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def written(server: RedisProcess) -> int:
    """Bytes in the server's append-only file, once all that it did so far is there."""
    wait_until(lambda: not client_of(server).info("persistence")["aof_buffer_length"], what="the append-only file")
    return server.aof().stat().st_size


def restart(server: RedisProcess, *, keep_bytes: int | None = None) -> None:
    """Kill the server and start it again with its file, or with the first `keep_bytes` of it."""
    whole = written(server)
    server.stop(signal.SIGKILL)
    if keep_bytes is not None and keep_bytes < whole:
        os.truncate(server.aof(), keep_bytes)
    server.start()


def restart_empty(server: RedisProcess) -> None:
    """Kill the server and start it again without what it held."""
    server.stop(signal.SIGKILL)
    folder = server.aof().parent
    if folder == server.folder:
        server.aof().unlink()
    else:
        shutil.rmtree(folder)
    server.start()


@contextmanager
def unreachable(server: RedisProcess) -> Iterator[None]:
    """The server keeps its connections and answers nobody."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def full(server: RedisProcess) -> Iterator[None]:
    """The server refuses whatever needs memory."""
    client = client_of(server)
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


def redeliver(settings: Settings) -> None:
    """Have kombu put back what was delivered more than a second ago and is not acknowledged."""
    app = make_app(settings.model_copy(update={"visibility_timeout_s": 1}), results=False)
    with app.connection_for_read() as connection:
        connection.default_channel.qos.restore_visible(num=1000, interval=1)


def at_rest_once_redelivered(ground: Ground) -> None:
    """Messages whose acknowledgement was lost come back after the visibility timeout, and are refused."""

    def nothing_is_left() -> bool:
        redeliver(ground.settings)
        return not client_of(ground.broker).hlen("unacked")

    wait_until(nothing_is_left, what="every message to be acknowledged")
    ground.at_rest()
