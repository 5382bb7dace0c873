"""URLs of Redis servers: what redis-py and Celery get, and what is refused before anything is written."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery
from redis.connection import parse_url as parse_for_redis

from blobstore.redis.client import open_client
from blobstore.redis.urls import RedisURLError, Sentinels, mask_urls, parse_url, shown_url
from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tests.conftest import wait_until

TCP = ("host", "port", "db", "username", "password")


@pytest.mark.parametrize(
    ("url", "host", "port", "db", "username", "password"),
    [
        ("redis://h", "h", 6379, 0, None, None),
        ("redis://h:7000/3", "h", 7000, 3, None, None),
        ("redis://h:7000?db=3", "h", 7000, 3, None, None),
        ("redis://h/3/", "h", 6379, 3, None, None),
        ("redis://user:p%40%23%2Fw@h/1", "h", 6379, 1, "user", "p@#/w"),
        ("redis://:pw@h", "h", 6379, 0, None, "pw"),
        ("redis://h?password=p%26w&username=u", "h", 6379, 0, "u", "p&w"),
        ("redis://[::1]:7000/1", "::1", 7000, 1, None, None),
    ],
)
def test_redis_py_and_celery_reach_the_same_database(
    url: str, host: str, port: int, db: int, username: str | None, password: str | None
) -> None:
    address = parse_url(url)
    # Then redis-py
    found = parse_for_redis(address.for_redis)
    assert (found["host"], found["port"], found.get("db", 0)) == (host, port, db)
    assert (found.get("username"), found.get("password")) == (username, password)
    # and Celery read the same
    theirs = Celery(broker=address.for_celery).connection_for_write()
    assert (theirs.hostname, theirs.port, int(theirs.virtual_host)) == (host, port, db)
    assert (theirs.userid or None, theirs.password or None) == (username, password)
    client = open_client(url, patience_s=0)
    assert client.connection_pool.connection_kwargs["db"] == db


@pytest.mark.parametrize(
    ("url", "path", "db"),
    [
        ("unix:///run/r.sock", "/run/r.sock", 0),
        ("unix:///run/r.sock?db=2", "/run/r.sock", 2),
        ("unix:///run/mydb=1/r.sock", "/run/mydb=1/r.sock", 0),
    ],
)
def test_a_unix_socket_keeps_its_path(tmp_path: Path, url: str, path: str, db: int) -> None:
    # Given a server behind that path, below a folder of the test's
    socket = tmp_path / path.lstrip("/")
    socket.parent.mkdir(parents=True)
    command = [find_redis_server(), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    with (tmp_path / "log").open("wb") as log:
        server = processes.start(command, log=log)
    try:
        wait_until(socket.exists, what="redis-server")
        address = parse_url(url.replace("unix://", f"unix://{tmp_path}"))
        # When Celery sends a message
        app = Celery(broker=address.for_celery)
        app.send_task("nothing", queue="found")
        # Then it is in the database that redis-py reads
        with open_client(f"unix://{tmp_path}{url.removeprefix('unix://')}", patience_s=0) as client:
            assert client.connection_pool.connection_kwargs.get("db") == db
            assert client.llen("found") == 1
    finally:
        processes.stop(server, signal.SIGTERM)


def test_tls_options_are_kept_and_the_certificate_is_checked_by_default() -> None:
    assert parse_url("rediss://h:1/0").for_celery == "rediss://h:1/0?ssl_cert_reqs=required"
    url = "rediss://h:1/0?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none"
    assert parse_url(url).for_redis == "rediss://h:1/0?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem"
    assert "ssl_cert_reqs=none" in parse_url(url).for_celery


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://user:p%40w@a:1,b,[::1]:3/2?master_name=films&sentinel_username=s&sentinel_password=t%26",
        "sentinel://user:p%40w@a:1/2;sentinel://user:p%40w@b/2;sentinel://user:p%40w@[::1]:3/2"
        "?master_name=films&sentinel_username=s&sentinel_password=t%26",
    ],
)
def test_sentinels_in_both_forms(url: str) -> None:
    # Given the form of most clients, and that of Celery
    address = parse_url(url)
    # Then redis-py and Celery get the same
    assert address.sentinels == Sentinels((("a", 1), ("b", 26379), ("::1", 3)), "films", "s", "t&")
    theirs = Celery(broker=address.for_celery).connection_for_write()
    assert [urlsplit(one).port for one in theirs.alt] == [1, 26379, 3]
    assert (theirs.hostname, theirs.userid, theirs.password, theirs.virtual_host) == ("a", "user", "p@w", "2")
    with open_client(url, patience_s=0) as client:
        given = client.connection_pool.connection_kwargs
        assert (given["username"], given["password"], given["db"]) == ("user", "p@w", 2)
    # and messages show neither password
    assert shown_url(url).startswith("sentinel://a:1")
    for secret in ("p%40w", "t%26"):
        assert secret not in shown_url(url) + mask_urls(f"at {url} failed")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sentinel://a/0", "the sentinel: URL must name the master, such as ?master_name=mymaster"),
        ("sentinel://:s3cret@a,,b/0?master_name=m", "the sentinel: URL is not valid"),
        ("sentinel://a/films?master_name=m", "the database of the sentinel: URL must be a number"),
        ("sentinel://a?master_name=m&ssl_ca_certs=a", "is for TLS: the URL must begin with sentinels://"),
        ("sentinels://a/0?ssl_ca_certs=a", "the sentinels: URL must name the master"),
        ("sentinels://a?master_name=m&ssl_cert_reqs=maybe", "the TLS options of the sentinels: URL are not valid"),
        ("redis://h?master_name=m", "option 'master_name'"),
        ("http://:s3cret@h/", "'http' is not a Redis URL scheme"),
        ("redis", "'redis' is not a Redis URL scheme"),
        ("redis:h", "is not a Redis URL scheme"),
        ("redis://h/films", "the database of the redis: URL must be a number"),
        ("redis://h?db=films", "the database of the redis: URL must be a number"),
        ("redis://h/0?socket_timeout=5", "option 'socket_timeout' of the redis: URL is not supported; db, username, "),
        ("redis://h/0?health_check_interval=5", "option 'health_check_interval'"),
        ("redis://h/0?decode_responses=1", "option 'decode_responses'"),
        ("redis://h?ssl_ca_certs=a", "option 'ssl_ca_certs' is for TLS: the URL must begin with rediss://"),
        ("unix:///run/r.sock?virtual_host=1", "option 'virtual_host'"),
        ("redis://:my#s3cret@h/0", "special characters in a password percent-encoded"),
        ("redis://h:port/0", "the redis: URL is not valid"),
        ("redis://[::1/0", "the redis: URL is not valid"),
        ("redis://h:0/0", "the redis: URL is not valid"),
        ("redis://.../0", "the redis: URL is not valid"),
        (f"redis://{'h' * 64}/0", "the redis: URL is not valid"),
        ("redis://a host/0", "the redis: URL is not valid"),
        ("sentinel://a,..:1/0?master_name=m", "the sentinel: URL is not valid"),
        ("sentinel://a,b:0/0?master_name=m", "the sentinel: URL is not valid"),
        ("redis://", "the redis: URL is not valid"),
        ("unix://host/r.sock", "the unix: URL is not valid"),
        ("unix://", "the unix: URL is not valid"),
    ],
)
def test_a_url_that_is_not_valid_is_refused_without_its_secrets(url: str, message: str) -> None:
    with pytest.raises(RedisURLError) as caught:
        open_client(url, patience_s=0)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
