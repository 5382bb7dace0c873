"""Locks on the server of job records: one process of many does something until its lock expires."""

from __future__ import annotations

import redis


class ExpiringLock:
    """The lock in one key, as one process sees it. It ends when its holder no longer keeps it."""

    def __init__(self, client: redis.Redis, key: str, token: str) -> None:
        """token: of this process, random."""
        self._redis = client
        self._key = key
        self.token = token

    def hold(self, seconds: float) -> bool:
        """Take or keep the lock for so long; False: another process has it."""
        life_ms = int(seconds * 1000)
        if self._take(life_ms):
            return True
        holder = self._redis.get(self._key)
        if holder is None:  # it has just expired
            return self._take(life_ms)
        if holder != self.token.encode():
            if self._redis.pttl(self._key) > life_ms:  # taken before the server's clock was set back
                self._redis.pexpire(self._key, life_ms)
            return False
        self._redis.pexpire(self._key, life_ms)
        return True

    def release(self) -> None:
        """Leave the lock to another process."""
        if self._redis.get(self._key) == self.token.encode():
            self._redis.delete(self._key)

    def _take(self, life_ms: int) -> bool:
        return bool(self._redis.set(self._key, self.token, nx=True, px=life_ms))
