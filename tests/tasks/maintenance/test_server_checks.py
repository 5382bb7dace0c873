"""Brokers that a worker refuses to start on, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tasks.errors import ServerError
from tasks.jobs.connection import connect
from tasks.maintenance.server_checks import check_rights, check_server
from tests.conftest import RedisProcess, free_port

Start = Callable[..., RedisProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[RedisProcess] = []

    def start(*options: str) -> RedisProcess:
        started.append(RedisProcess(tmp_path, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def refusal_of(url: str) -> str:
    """What a worker says about this broker."""
    with connect(url) as client:
        try:
            check_server(client, url)
            check_rights(client, url)
        except ServerError as error:
            return str(error)
    pytest.fail("the server is accepted")


def test_a_server_that_may_evict_although_config_is_renamed(start: Start) -> None:
    server = start("--rename-command", "CONFIG", "", "--maxmemory-policy", "allkeys-lru")
    assert "has maxmemory-policy allkeys-lru, which can drop queued work" in refusal_of(server.url)


def test_a_cluster(start: Start) -> None:
    server = start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    assert "is a Redis Cluster, which cannot run scripts on the keys of a job; use one" in refusal_of(server.url)


def test_a_replica(start: Start) -> None:
    server = start("--replicaof", "127.0.0.1", "1")
    assert refusal_of(server.url).endswith("cannot be used: it is a read-only replica (READONLY)")


def test_a_server_that_asks_for_a_password(start: Start) -> None:
    server = start()
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", "s3cret")
        assert refusal_of(server.url).endswith("asks for a password; put it into LONGTAKE_REDIS_URL")
        client.config_set("requirepass", "")


def test_a_user_or_a_server_without_transactions_is_refused(start: Start) -> None:
    server = start()
    with redis.Redis(port=server.port) as client:
        client.acl_setuser(
            "app", enabled=True, passwords=["+s3cret"], keys=["*"], channels=["*"], commands=["+@all", "-multi"]
        )
    assert "denies its user what a worker needs: " in refusal_of(server.url.replace("//", "//app:s3cret@"))
    renamed = start("--rename-command", "MULTI", "")
    assert "MULTI" in refusal_of(renamed.url)
