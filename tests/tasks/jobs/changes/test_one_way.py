"""Commands whose replies nobody waits for: they arrive in order, and a lost connection loses none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import redis

from tasks.jobs.changes.one_way import OneWay
from tasks.jobs.connection import connect
from tests.conftest import RedisProcess, free_port, wait_until
from tests.proxies import Proxy

SCRIPT = "return redis.call('RPUSH', KEYS[1], ARGV[1])"


@pytest.fixture
def client(shared_redis: RedisProcess) -> redis.Redis:
    client = redis.Redis(port=shared_redis.port)
    client.flushall()
    return client


@pytest.fixture
def proxy(shared_redis: RedisProcess) -> Iterator[Proxy]:
    with Proxy(shared_redis.port) as proxy:
        yield proxy


@pytest.fixture
def one_way(proxy: Proxy) -> Iterator[OneWay]:
    one_way = OneWay(connect(proxy.url).connection_pool, [SCRIPT])
    yield one_way
    one_way.close()


@pytest.fixture
def sha(client: redis.Redis) -> str:
    return client.register_script(SCRIPT).sha


def pushed(client: redis.Redis) -> list[bytes]:
    return client.lrange("list", 0, -1)


def test_commands_do_not_wait_for_a_server_that_does_not_reply(
    client: redis.Redis, proxy: Proxy, one_way: OneWay, sha: str
) -> None:
    # Given a connection from which nothing arrives any more
    one_way.send(("EVALSHA", sha, 1, "list", 0))
    wait_until(lambda: pushed(client), what="the first command")
    proxy.cut()
    # When / Then each would take as long as a client waits for a reply
    for number in range(1, 20):
        one_way.send(("EVALSHA", sha, 1, "list", number), ("RPUSH", "list", number))
    # When it replies again, Then they arrive in order
    proxy.heal()
    wait_until(lambda: len(pushed(client)) == 39, what="all commands")
    assert pushed(client) == [b"0", *(str(number).encode() for number in range(1, 20) for _ in range(2))]


def close_its_connections(client: redis.Redis, proxy: Proxy) -> None:
    proxy.close_connections()


def flush_scripts(client: redis.Redis, proxy: Proxy) -> None:
    client.script_flush()


@pytest.mark.parametrize("fault", [close_its_connections, flush_scripts])
def test_commands_without_a_reply_are_sent_again(
    client: redis.Redis, proxy: Proxy, one_way: OneWay, sha: str, fault: Callable[[redis.Redis, Proxy], None]
) -> None:
    # Given a command that the server has not seen, or refuses
    one_way.send(("SET", "first", 1))
    wait_until(lambda: client.get("first"), what="the first command")
    if fault is close_its_connections:
        proxy.cut()
    else:
        fault(client, proxy)
    one_way.send(("EVALSHA", sha, 1, "list", "second"))
    if fault is close_its_connections:
        fault(client, proxy)
        proxy.heal()

    def arrived() -> bool:
        one_way.send(("SET", "third", 1))
        return bool(pushed(client))

    # When the next one is sent, Then it arrives
    wait_until(arrived, what="the second command")
    assert set(pushed(client)) == {b"second"}


def test_a_full_server_refuses_a_command_and_takes_the_next(client: redis.Redis, one_way: OneWay, sha: str) -> None:
    client.config_set("maxmemory", 1)
    try:
        one_way.send(("SET", "refused", 1), ("DEL", "list"))
        one_way.close()
    finally:
        client.config_set("maxmemory", 0)
    one_way.send(("EVALSHA", sha, 1, "list", "taken"))
    wait_until(lambda: pushed(client) == [b"taken"], what="the next command")
    assert not client.exists("refused")


def test_a_server_that_is_down_is_an_error() -> None:
    one_way = OneWay(redis.Redis(port=free_port(), retry=None).connection_pool)
    with pytest.raises(redis.ConnectionError):
        one_way.send(("SET", "first", 1))


def connections(client: redis.Redis) -> set[str]:
    return {found["id"] for found in client.client_list()}


def test_a_forked_child_has_a_connection_of_its_own(client: redis.Redis, one_way: OneWay) -> None:
    # Given a connection with a command whose reply was not read
    one_way.send(("RPUSH", "list", "parent"))
    wait_until(lambda: pushed(client), what="the first")
    before = connections(client)
    # When a child sends a command, Then both go on
    if (child := os.fork()) == 0:
        one_way.send(("RPUSH", "list", "child"))
        one_way.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    one_way.send(("RPUSH", "list", "parent again"))
    wait_until(lambda: len(pushed(client)) == 3, what="all three")
    assert pushed(client)[-1] == b"parent again"
    # And the connection of the child is gone, as soon as the server has heard of it
    wait_until(lambda: connections(client) <= before, what="the end of the child's connection")
