"""Locks that expire."""

from __future__ import annotations

import redis

from tasks.jobs.locks import ExpiringLock
from tasks.settings import Settings


class LateClient(redis.Redis):
    """Reads a lock when it has just expired."""

    def get(self, name: str) -> bytes | None:
        self.delete(name)
        return super().get(name)


def test_a_lock_that_expires_while_it_is_asked_for_is_taken(settings: Settings) -> None:
    with LateClient.from_url(settings.redis_url) as late:
        lock = ExpiringLock(late, "lock", "own")
        assert [lock.hold(60) for _ in range(3)] == [True] * 3
