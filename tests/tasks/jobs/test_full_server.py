"""A full Redis: calls wait for memory, and a process logs the start and the end, however many wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tasks.jobs import connection
from tasks.jobs.connection import connect, when_there_is_memory
from tasks.settings import Settings
from tests.conftest import RedisProcess, wait_until
from tests.faults.server_faults import full

WAITERS = 3


def test_the_wait_for_memory_is_one_line_at_its_start_and_one_at_its_end(
    own_server: RedisProcess, own_settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FULL_PAUSE_S", 0.05)
    client = connect(own_settings.redis_url)
    client.ping()
    script = client.register_script("return redis.call('SET', 'key', 'value')")
    refused = 0

    def write() -> bool:
        nonlocal refused
        try:
            return bool(client.set("key", "value"))
        except redis.OutOfMemoryError:
            refused += 1
            raise

    def write_and_be_slow() -> bool:
        try:
            return write()
        except redis.OutOfMemoryError:
            wait_until(lambda: "Redis has memory again" in caplog.text, what="the line of another call")
            raise

    with ThreadPoolExecutor(WAITERS + 1) as threads:
        # Given calls that wait for a full server, and one that learns of its refusal only after the end
        with full(own_server):
            slow = threads.submit(when_there_is_memory, write_and_be_slow, patient=True)
            calls = [threads.submit(when_there_is_memory, write, patient=True) for _ in range(WAITERS)]
            wait_until(lambda: refused >= 3 * WAITERS, what="calls that are refused again and again")
            # When one does not wait, Then it fails, adds no line, and says nothing of the script
            with pytest.raises(redis.OutOfMemoryError, match=r"its maxmemory \([^:]*command not allowed [^:]*\)$"):
                when_there_is_memory(script, patient=False)
            # and a call that needs no memory is not taken for the end
            assert when_there_is_memory(client.ping, patient=True)
        # When there is memory again
        assert all(call.result() for call in [slow, *calls])
    # Then there are two lines
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines[:1]] == ["waiting for Redis to have memory"]
    assert [line.partition(" after")[0] for line in lines[1:]] == ["Redis has memory again"]
    # And the next time it is full, it is said again
    caplog.clear()
    monkeypatch.setattr(connection, "FULL_PATIENCE_S", 0.1)
    with full(own_server), pytest.raises(redis.OutOfMemoryError):
        when_there_is_memory(write, patient=True)
    assert len(caplog.records) == 1
    # and the end after calls that gave up is noticed, too
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    when_there_is_memory(write, patient=True)
    assert "Redis has memory again" in caplog.messages[-1]
