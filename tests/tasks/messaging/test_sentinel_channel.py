"""The message filter over Sentinel's channel: what is refused from one server is refused there, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks.client.submit import submit
from tasks.settings import Settings
from tests.conftest import STAND_IN, Worker, wait_until
from tests.sentinels import SentinelGroup, sentinel_group
from tests.tasks.conftest import spec
from tests.tasks.messaging.hostile import broadcasts, entries


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with sentinel_group(tmp_path_factory.mktemp("sentinels")) as group:
        yield group


@pytest.fixture(scope="module")
def module_settings(group: SentinelGroup, home: Path) -> Settings:
    """A deployment that finds its server through Sentinels; its worker logs every refusal."""
    return Settings(redis_url=group.url, home=home, engine=STAND_IN, lease_s=2.0, reconcile_s=0.25)


@pytest.mark.parametrize("kind", ["entries", "broadcasts"])
def test_every_hostile_message_is_refused(
    module_settings: Settings, group: SentinelGroup, worker: Worker, kind: str
) -> None:
    # Given every message that a worker on one server refuses
    hostile = entries() if kind == "entries" else broadcasts()
    before = len(worker.text())
    with redis.Redis(port=group.master.port) as queues:
        # When
        for name, data in hostile:
            if kind == "entries":
                queues.lpush(name, data)
            else:
                assert queues.publish(name, data) == 1
        # Then each is one line of the log
        wait_until(lambda: worker.text()[before:].count(" is refused: ") >= len(hostile), what="the refusals")
        lines = [line for line in worker.text()[before:].splitlines() if ": INFO/" not in line]
        assert len(lines) == len(hostile), lines
        # And the worker works
        submit(spec("a"), settings=module_settings).wait()
        wait_until(lambda: not queues.hlen("unacked"), what="the last acknowledgement")
    assert worker.process.poll() is None
