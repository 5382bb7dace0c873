"""Message faults: every message published several times, and queues in random order."""

from __future__ import annotations

import threading
import uuid
from types import TracebackType
from typing import Any, Self

import redis
from kombu.transport.redis import Channel

from tasks.jobs.queues import QUEUES, STICKY_PREFIX

MESSAGE_COPIES = "FAULT_MESSAGE_COPIES"
_put = Channel._put
_SHUFFLE = """
math.randomseed(tonumber(ARGV[1]))
for _, queue in ipairs(KEYS) do
  local messages = redis.call('LRANGE', queue, 0, -1)
  for i = #messages, 2, -1 do
    local j = math.random(i)
    messages[i], messages[j] = messages[j], messages[i]
  end
  redis.call('DEL', queue)
  for _, message in ipairs(messages) do
    redis.call('RPUSH', queue, message)
  end
end
"""


def publish_copies(count: int) -> Any:
    """A replacement for `Channel._put` that puts each message `count` times.

    Each copy has its own delivery tag: kombu needs one per delivery.
    """

    def put(self: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        for _ in range(count if queue in QUEUES or queue.startswith(STICKY_PREFIX) else 1):
            properties = {**message["properties"], "delivery_tag": str(uuid.uuid4())}
            _put(self, queue, {**message, "properties": properties}, **options)

    return put


class QueueShuffler:
    """Shuffles the messages of every queue repeatedly until the block ends; the seed determines the order."""

    def __init__(self, client: redis.Redis, seed: int) -> None:
        self._client = client
        self._shuffle = client.register_script(_SHUFFLE)
        self._seed = seed
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue-shuffler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.005):
            self._seed += 1
            self._shuffle(keys=[*QUEUES, *self._client.keys(f"{STICKY_PREFIX}*")], args=[self._seed])
