"""Outages: replies that mean one, connections that leave such a server, deadlines, and the lines of the log."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from blobstore import BlobStoreError, BlobStoreUnavailableError, open_blob_store
from blobstore.redis.client import open_client
from blobstore.redis.outages import REFUSALS, RefusedError, refusal_of
from tests.conftest import RedisProcess, wait_until
from tests.proxies import Proxy

NOWHERE = ("127.0.0.1", "1")


def demote(server) -> Callable[[], object]:
    server.client.execute_command("REPLICAOF", *NOWHERE)
    return lambda: server.client.execute_command("REPLICAOF", "NO", "ONE")


def lose_the_master(server) -> Callable[[], object]:
    server.client.config_set("replica-serve-stale-data", "no")
    return demote(server)


def lose_replicas(server) -> Callable[[], object]:
    server.client.config_set("min-replicas-to-write", 1)
    return lambda: server.client.config_set("min-replicas-to-write", 0)


def lose_the_disk(server) -> Callable[[], object]:
    os.mkdir(server.client.config_get("dir")["dir"] + "/dump.rdb")
    server.client.config_set("save", "3600 1")
    server.client.set("key", "")
    server.client.bgsave()
    wait_until(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err", what="a failed save")
    return lambda: server.client.config_set("stop-writes-on-bgsave-error", "no")


def run_a_long_script(server) -> Callable[[], object]:
    server.client.config_set("lua-time-limit", 1)
    client = redis.Redis.from_url(server.url)  # a connection of its own
    endless = client.register_script("while true do end")

    def run() -> None:
        with suppress(redis.RedisError):  # it is killed
            endless()

    threading.Thread(target=run).start()
    wait_until(lambda: is_busy(server.client), what="a busy server")
    return server.client.script_kill


def is_busy(client: redis.Redis) -> bool:
    try:
        return not client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)


def write(client: redis.Redis) -> None:
    client.set("key", "value")


def write_in_a_script(client: redis.Redis) -> None:
    client.register_script("return redis.call('SET', KEYS[1], 'value')")(keys=["key"])


def write_in_a_transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.get("key")
        pipe.set("key", "value")
        pipe.eval("return redis.call('SET', KEYS[1], 'value')", 1, "key")
        pipe.execute()


@pytest.mark.parametrize(
    ("fault", "call"),
    [
        (demote, write),
        (demote, write_in_a_script),
        (demote, write_in_a_transaction),
        (lose_the_master, write_in_a_script),
        (lose_replicas, write_in_a_transaction),
        (lose_the_disk, write_in_a_script),
        (run_a_long_script, write_in_a_transaction),
    ],
)
def test_a_server_that_refuses_work_for_a_while(
    start_server, caplog: pytest.LogCaptureFixture, fault: Callable, call: Callable[[redis.Redis], None]
) -> None:
    # Given
    server = start_server("--repl-diskless-load", "disabled")
    with open_client(server.url, patience_s=20) as client:
        client.ping()
        repair = fault(server)

        def repair_at_the_first_line() -> None:
            wait_until(lambda: "waiting for it" in caplog.text, what="the call to wait")
            repair()

        repairs = threading.Thread(target=repair_at_the_first_line)
        repairs.start()
        # When
        call(client)
        repairs.join()
        # Then the call has waited, and the log has one line for the start and one for the end
        assert client.get("key") == b"value"
    lines = [record.getMessage() for record in caplog.records if record.name == "blobstore.redis.outages"]
    assert len(lines) == 2, lines
    assert "cannot be used, waiting for it: it " in lines[0]
    assert "can be used again after " in lines[1]


@pytest.mark.parametrize("code", REFUSALS)
def test_codes_of_replies_of_servers_and_scripts(code: str) -> None:
    in_scripts_of_6 = f"Error running script (call to f_c0ffee): @user_script:12: @user_script: 12: -{code} no"
    assert refusal_of(redis.ResponseError(f"{code} no")) == code
    assert refusal_of(redis.ResponseError(in_scripts_of_6)) == code
    assert refusal_of(redis.ResponseError(f"unknown command '{code} no'")) is None
    assert refusal_of(RuntimeError(f"{code} no")) is None


def test_a_server_that_loads_its_data(start_server) -> None:
    # Given a server that needs a second to load its data
    server = start_server("--save", "3600 1", "--key-load-delay", "300000")
    for number in range(3):
        server.client.set(f"key:{number}", bytes(4096))
    server.client.save()
    server.stop()
    server.launch()
    # When / Then
    with open_client(server.url, patience_s=20) as client:
        assert client.get("key:1") == bytes(4096)


@contextmanager
def failover(tmp_path) -> Iterator[tuple[Proxy, RedisProcess, RedisProcess]]:
    """A master and a replica of it, and one address that is the master's."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = RedisProcess(tmp_path / "first")
    second = RedisProcess(tmp_path / "second", "--replicaof", "127.0.0.1", str(first.port))
    try:
        with Proxy(first.port) as proxy:
            yield proxy, first, second
    finally:
        first.stop()
        second.stop()


def test_every_connection_of_a_pool_leaves_a_demoted_server(tmp_path) -> None:
    with failover(tmp_path) as (proxy, first, second), open_client(proxy.url, patience_s=20) as client:
        # Given a pool with idle connections to the master
        connections = [client.connection_pool.get_connection() for _ in range(4)]
        for connection in connections:
            client.connection_pool.release(connection)
        # When it is demoted, and its address is another server's: its connections stay open
        with redis.Redis(port=second.port) as new:
            new.replicaof("NO", "ONE")
        with redis.Redis(port=first.port) as old:
            old.replicaof("127.0.0.1", str(second.port))
        proxy.move_to(second.port)
        client.set("key", "new")
        # Then no connection reads from the demoted server
        with redis.Redis(port=first.port) as old:
            before = old.info("commandstats").get("cmdstat_get", {}).get("calls", 0)
            for connection in [client.connection_pool.get_connection() for _ in range(4)]:
                connection.send_command("GET", "key")
                assert connection.read_response() == b"new"
                client.connection_pool.release(connection)
            assert old.info("commandstats").get("cmdstat_get", {}).get("calls", 0) == before


def test_a_call_ends_at_its_deadline_when_packets_vanish(tmp_path) -> None:
    server = RedisProcess(tmp_path)
    try:
        with Proxy(server.port) as proxy, open_client(proxy.url, patience_s=2, reply_timeout_s=0.5) as client:
            client.ping()
            proxy.cut()
            # When / Then it ends; 40 attempts of 5 s each, as before, are over 3 minutes
            start = time.monotonic()
            with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                client.ping()
            assert 2 <= time.monotonic() - start < 30
            # When the packets arrive again, Then it works
            proxy.heal()
            assert client.ping()
    finally:
        server.stop()


def test_a_full_server_is_no_outage(start_server, caplog: pytest.LogCaptureFixture) -> None:
    server = start_server("--maxmemory", "1")
    with open_client(server.url, patience_s=20) as client, pytest.raises(redis.ResponseError, match="maxmemory"):
        client.set("key", "value")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_blob_server_that_is_read_only(start_server) -> None:
    # Given a replica
    server = start_server()
    store = open_blob_store(server.url, patience_s=0.2)
    server.client.execute_command("REPLICAOF", *NOWHERE)
    # When / Then it is refused at start, before work and at a put
    for call in (store.check, store.check_writable, lambda: store.put(b"one")):
        with pytest.raises(BlobStoreUnavailableError, match=r"cannot be used: it is a read-only replica \(READONLY\)"):
            call()
    # When it is the master again
    server.client.execute_command("REPLICAOF", "NO", "ONE")
    store.check()
    assert store.put(b"one") in store
    store.close()


def test_a_write_proves_that_the_next_one_is_possible(start_server) -> None:
    server = start_server()
    store = open_blob_store(server.url, patience_s=0.2)

    def sets() -> int:
        return server.client.info("commandstats").get("cmdstat_set", {}).get("calls", 0)

    # Given a store that has not written yet
    store.check_writable()
    assert sets() == 1
    # When it has written, Then it does not write to find out whether it could
    blob_id = store.put(b"one")
    store.check_writable()
    assert sets() == 1
    # When the server refuses writes, and this was noticed, Then it does
    server.client.execute_command("REPLICAOF", *NOWHERE)
    store.check_writable()
    with pytest.raises(BlobStoreUnavailableError):
        store.pin([blob_id], "job")
    with pytest.raises(BlobStoreUnavailableError, match="read-only replica"):
        store.check_writable()
    store.close()


def test_a_server_that_asks_for_a_password(start_server) -> None:
    server = start_server()
    server.client.config_set("requirepass", "s3cret")
    with pytest.raises(BlobStoreError, match="asks for a password; put it into the URL of the blob store"):
        open_blob_store(server.url, patience_s=0.2).check()


def test_refused_errors_are_lost_connections() -> None:
    assert issubclass(RefusedError, redis.ConnectionError)
