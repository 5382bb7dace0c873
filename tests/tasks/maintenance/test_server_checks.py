"""Brokers that a worker refuses to start on, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tasks.client.submit import submit
from tasks.errors import ServerError, UnreachableError
from tasks.jobs.connection import connect, refused
from tasks.maintenance.server_checks import check_rights, check_server
from tasks.settings import Settings
from tests.conftest import RedisProcess, free_port, wait_until

Start = Callable[..., RedisProcess]
SPEC = {"segments": [{"prompt": "a"}]}


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


def test_what_a_command_says_of_a_server_that_cannot_be_used(start: Start) -> None:
    # Given a cluster whose slots are all on one node, a server without scripts, and one without the database
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    cluster, no_scripts = start(*options), start("--rename-command", "EVALSHA", "")
    with redis.Redis(port=cluster.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), what="the cluster")
    urls = [cluster.url, no_scripts.url, no_scripts.url.replace("/0", "/99")]
    # When / Then
    assert [refused(url, error_of(url)).removeprefix(f"Redis at {url} ") for url in urls] == [
        "is a Redis Cluster, which cannot run scripts on the keys of a job; use one server, or Sentinel for failover",
        "denies its user what longtake needs: unknown command 'EVALSHA'; see the ACL in docs/operations.md",
        "has no such database; give a lower number at the end of its URL, such as /0",
    ]
    assert refusal_of(urls[2]).endswith("such as /0")
    # And a replica has refused the job: it is not said that it may be queued
    replica = start("--replicaof", "127.0.0.1", "1")
    with pytest.raises(UnreachableError, match=r"cannot be used: it is a read-only replica \(READONLY\)$"):
        submit(SPEC, settings=Settings(redis_url=replica.url))


def error_of(url: str) -> redis.RedisError:
    with pytest.raises(redis.RedisError) as caught:
        submit(SPEC, settings=Settings(redis_url=url))
    return caught.value


def test_a_server_without_scan_is_refused(start: Start) -> None:
    assert re.search("needs: unknown command .SCAN.; see", refusal_of(start("--rename-command", "SCAN", "").url))


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
    assert "denies its user what longtake needs: " in refusal_of(server.url.replace("//", "//app:s3cret@"))
    renamed = start("--rename-command", "MULTI", "")
    assert "MULTI" in refusal_of(renamed.url)
