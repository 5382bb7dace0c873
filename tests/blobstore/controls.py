"""Controls for tests: pass time, damage stored bytes, fill a store, and change bytes on a connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from blobstore import InMemoryBlobStore, RedisBlobStore

CHUNK_BYTES = 8

# Move every expiry, and the end of every provisional pin, closer.
PASS_TIME = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'zset' then
    local pins = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for number = 1, #pins, 2 do
      if pins[number + 1] ~= 'inf' then
        redis.call('ZADD', key, pins[number + 1] - ARGV[1], pins[number])
      end
    end
  end
  local left = redis.call('PTTL', key)
  if left >= 0 then
    redis.call('PEXPIRE', key, left - ARGV[1])
  end
end
"""


class MemoryControls:
    """Controls of stores in memory; the stores share one clock."""

    has_quarantine = False

    def __init__(self) -> None:
        self.now = 0.0

    def open(self, **lifetimes: float) -> InMemoryBlobStore:
        return InMemoryBlobStore(clock=lambda: self.now, **lifetimes)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def corrupt(self, store: Any, blob_id: str) -> None:
        blob = store._blobs[blob_id]
        blob.data = bytes([blob.data[0] ^ 1]) + blob.data[1:]

    def fill(self, store: Any, full: bool) -> None:
        store._max_bytes = -1 if full else None


class RedisControls:
    """Controls of one store at a time on the server of `client`; `open` empties the server."""

    has_quarantine = True

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def open(self, **lifetimes: float) -> RedisBlobStore:
        self.client.flushall()
        return RedisBlobStore(self.client, chunk_bytes=CHUNK_BYTES, **lifetimes)

    def pass_time(self, seconds: float) -> None:
        with self._unlimited():
            self.client.eval(PASS_TIME, 0, round(seconds * 1000))

    def corrupt(self, store: Any, blob_id: str) -> None:
        key = store._key("blob", blob_id.removeprefix("sha256:"))
        first = self.client.hget(key, "0")
        with self._unlimited():
            self.client.hset(key, "0", bytes([first[0] ^ 1]) + first[1:])

    def fill(self, store: Any, full: bool) -> None:
        self.client.config_set("maxmemory", 1 if full else 0)

    @contextmanager
    def _unlimited(self) -> Iterator[None]:
        limit = self.client.config_get("maxmemory")["maxmemory"]
        self.client.config_set("maxmemory", 0)
        yield
        self.client.config_set("maxmemory", limit)


@contextmanager
def proxy(server_url: str, pass_on: Callable[[bytes], bytes]) -> Iterator[str]:
    """A proxy for one connection to the server. It sends what `pass_on` returns, and closes when that is empty."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with source, target, suppress(OSError):
            while data := pass_on(source.recv(65536)):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        near, _ = listener.accept()
        listener.close()
        far = socket.socket(socket.AF_UNIX)
        far.connect(server_url.removeprefix("unix://"))
        back = threading.Thread(target=pump, args=(far.dup(), near.dup()))
        back.start()
        pump(near, far)
        back.join()

    thread = threading.Thread(target=serve, daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    yield f"redis://127.0.0.1:{port}"
    thread.join()
