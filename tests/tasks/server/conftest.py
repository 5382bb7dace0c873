"""A server in its own process, with one worker, on a real Redis."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tasks.embedded import processes
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, environment, fork_server, free_port, wait_until

KEY = "a-key-of-this-test"


class Server:
    """`longtake serve` on a loopback port."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self.log = log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = fork_server().start(
                "tasks.cli",
                *("serve", "--port", str(self.port)),
                environ=environment(self.settings),
                folder=self.log.parent,
                out=file,
                err=file,
            )
        wait_until(self._answers, what="the server")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx2.get(f"{self.url}/health").status_code == 200
        except httpx2.TransportError:
            return False

    def client(self, **options: object) -> httpx2.Client:
        """An HTTP client with the key."""
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def stop(self, number: int = signal.SIGTERM) -> None:
        processes.stop(self.process, number, timeout_s=60)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def settings(redis_server: RedisProcess, home: Path) -> Settings:
    return Settings(
        redis_url=redis_server.url,
        home=home,
        engine=STAND_IN,
        lease_s=2.0,
        reconcile_s=0.25,
        api_keys=f"another-key-of-this, {KEY}",
        server_body_bytes=8 * 1024 * 1024,
    )


@pytest.fixture(scope="module")
def server(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(settings, tmp_path_factory.mktemp("server") / "server.log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(settings, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield worker
    worker.end()


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client
