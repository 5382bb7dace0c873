"""A process that has imported what a command or a worker needs, and forks one process per request.

Importing Celery, pydantic, torch and diffusers takes seconds of a core, and tests start hundreds of processes. A forked
process is otherwise like a new one: its own environment, working directory, session, umask, streams and exit status.
Tests of imports, of encodings and of the interpreter's own options start new processes. So do those of renders that are
interrupted, which also show that the interpreter can end while threads run. A forked `longtake render` has its worker
forked, too.

Started as `python -m tests.forkserver FD`, FD being a Unix socket that listens; all processes of a test run use one.
Each client has a process that serves it, and ends with it. A request is a JSON object with `module`, which runs as with
`python -m`, its `arguments`, `environ`, `folder` and `umask`. Three files come with it: standard output, standard
error, and a pipe, which gets a line with the process id and, at the end, a line with the exit status.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from ltx2.processes import die_with_parent

# What workers, servers and commands import, most of it at their start. Nothing here may read the settings of its
# environment, as `tasks.worker.app` does.
PRELOADED = (
    "anyio._backends._asyncio",
    "av.subtitles.stream",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.events.state",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "cffi.cparser",  # with which billiard has a child end with its parent
    "kombu.pidbox",
    "kombu.transport.redis",
    "ltx2.engine",
    "ltx2.media.clip",
    "ltx2.media.clip_process",
    "ltx2.media.film",
    "ltx2.state.continuation",
    "numpy.ctypeslib",
    "tasks.cli",
    "tasks.embedded.render",
    "tasks.maintenance.reconciler",
    "tasks.messaging.celery_app",
    "tasks.messaging.message_filter",
    "tasks.messaging.result_backend",
    "tasks.server.app",
    "tasks.worker.claims.run_claimed",
    "tasks.worker.engines",
    "tasks.worker.heartbeats.heartbeat",
    "tasks.worker.inputs.dissolve",
    "tasks.worker.inputs.given_sound",
    "tasks.worker.inputs.images",
    "tasks.worker.inputs.pinned_end",
    "tasks.worker.segments.renderings",
    "tasks.worker.segments.state_upload",
    "tests.stand_in",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
)
ADDRESS = "TESTS_FORK_SERVER"
"""The variable with the name of its socket, an abstract one."""
FORKED_PYTHON = Path(__file__).with_name("forked_python.sh")
READ_AT_IMPORT = {"REMAP_SIGTERM"}
"""Variables that modules read when they are imported: with these, a process is started anew."""
REQUEST_BYTES = 1 << 17  # an environment is a few kB
FILES = 3  # that come with a request: standard output, standard error, and the pipe for the process id and the status


class ForkedProcess:
    """A process that the fork server started, with what tests need of `subprocess.Popen`."""

    def __init__(self, pipe: IO[str]) -> None:
        self.pid = int(pipe.readline())
        self.returncode: int | None = None
        self._ended = threading.Thread(target=self._await_status, args=(pipe,), daemon=True)
        self._ended.start()

    def _await_status(self, pipe: IO[str]) -> None:
        with pipe:
            line = pipe.readline()
        self.returncode = int(line) if line else -signal.SIGKILL  # no line: it was killed with the fork server

    def poll(self) -> int | None:
        """None while it runs, then its exit status, or the number of the signal that ended it, negative."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; raises `subprocess.TimeoutExpired`."""
        self._ended.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # its status is on the way
                os.kill(self.pid, number)


@functools.cache
def launch() -> subprocess.Popen[bytes]:
    """Start the fork server, which ends with this process; its address goes into this process's environment."""
    name = f"longtake-tests-{os.getpid()}-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver", str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},  # read when diffusers is imported
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    os.environ[ADDRESS] = name
    return process


class ForkServer:
    """A client of the fork server process; what it started ends with this process."""

    def __init__(self) -> None:
        if ADDRESS not in os.environ:
            launch()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(f"\0{os.environ[ADDRESS]}")

    def start(
        self, module: str, *arguments: object, environ: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a process that runs `module` with these arguments in `folder`."""
        if READ_AT_IMPORT & environ.keys():
            return subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(environ),
                cwd=folder,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        request = {
            "module": module,
            "arguments": [*map(str, arguments)],
            "environ": dict(environ),
            "folder": str(folder),
            "umask": None,
        }
        ours, theirs = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [out.fileno(), err.fileno(), theirs])
        finally:
            os.close(theirs)
        return cast("subprocess.Popen[bytes]", ForkedProcess(os.fdopen(ours)))


@functools.cache
def fork_server() -> ForkServer:
    """The fork server of this test run, started on first use, if no other process has."""
    return ForkServer()


def accept(listener: socket.socket) -> None:
    """Fork a process for every client. Returns in those processes alone, at their ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps these processes, and theirs
    while True:
        requests, _ = listener.accept()
        if not os.fork():
            die_with_parent()
            listener.close()
            return serve(requests)
        requests.close()


def serve(requests: socket.socket) -> None:
    """Fork a process for every request. Returns at the end, also in each of these processes."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES, FILES)
        if not message:
            return None
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            requests.close()
            return watch(json.loads(message), *files)
        for file in files:
            os.close(file)


def watch(request: dict[str, Any], out: int, err: int, pipe: int) -> None:
    """Fork the requested process, and report its id and its status. Returns in that process alone."""
    if not (pid := os.fork()):
        os.close(pipe)
        return become(request, out, err)
    os.close(out)
    os.close(err)
    os.write(pipe, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(request: dict[str, Any], out: int, err: int) -> None:
    """Become the requested process."""
    os.setsid()
    die_with_parent()
    for file, stream in ((out, 1), (err, 2)):
        os.dup2(file, stream)
        os.close(file)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), "utf-8", "backslashreplace", write_through=True)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environ"])
    tempfile.tempdir = None  # that of the fork server, if an import has asked for it
    os.chdir(request["folder"])
    if request["umask"] is not None:
        os.umask(request["umask"])
    sys.executable = str(FORKED_PYTHON)
    sys.path[:1] = [request["folder"], *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = ["", *request["arguments"]]
    sys.modules.pop(request["module"], None)  # it runs again, as `__main__`
    run_and_exit(request["module"])


def run_and_exit(module: str) -> None:
    """Run `module` as `__main__`, then end this process as the interpreter does, except that modules are not deleted.

    Deleting all that the fork server has imported takes most of a second of a core. An exception that the interpreter
    prints ends the process as usual.
    """
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    threading._shutdown()  # waits for the threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    assert "tasks.worker.app" not in sys.modules
    gc.freeze()  # or each process would search what was imported here for garbage, and so copy it
    accept(socket.socket(fileno=int(sys.argv[1])))
