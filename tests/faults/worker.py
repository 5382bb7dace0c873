"""A worker that records every failpoint it reaches, and stops at those where a test holds it.

Started as `python -m tests.faults.worker`, with the options of `longtake worker`. It uses the folder FAULT_FOLDER:
  events          one line per failpoint reached: seconds, pid, failpoint, job, segment
  holds/<name>    created by a test: the first process to reach this failpoint stops there
  held/<name>     the same file after that, with the process id in it; the process continues when the test deletes it,
                  or when another process is held at the same failpoint
  ready/<pid>     exists while the worker consumes messages; contains the token of its reconciler
FAULT_CONSTANTS overrides constants: `tasks.jobs.connection.PATIENCE_S=1`, several separated by spaces.
FAULT_MESSAGE_COPIES is how many copies of every message are published.
A name is `<failpoint with dashes>@<segment>`, for instance `segment-committed@1`.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import signals
from kombu.transport.redis import Channel

from blobstore import BlobStoreError
from ltx2.request import OnStep, SegmentOutput, SegmentRequest
from tasks.cli import main
from tasks.jobs import failpoints as points
from tasks.jobs.state_wire import handoff_blobs
from tasks.worker.context import process
from tests.faults.message_faults import MESSAGE_COPIES, publish_copies

# Modules that a child needs, besides its engine.
PRELOADED = ("ltx2.media.clip", "ltx2.state.arrays", "ltx2.state.continuation", "ltx2.media.film")
FOLDER = Path(os.environ.get("FAULT_FOLDER", ""))
ENGINE_STEP = "engine step"  # the end of a step inside the engine; not a failpoint of `tasks`
INCOMPLETE_COMMIT = "a committed record names an incomplete blob"


def hold_name(point: str, index: int) -> str:
    """The name of the file that holds a process at this failpoint of this segment."""
    return f"{point.replace(' ', '-')}@{index}"


def record_event(point: str, job_id: str, index: int) -> None:
    """Append one line to `events`."""
    line = f"{time.time()}|{os.getpid()}|{point}|{job_id}|{index}\n"
    handle = os.open(FOLDER / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def check_blobs(point: str, job_id: str, index: int) -> None:
    """Record an event if a commit names a blob that is not complete."""
    deployment = process.context.deployment
    handoff, clip = deployment.jobs.handoff(job_id, index), deployment.jobs.clips(job_id).get(index)
    ids = handoff_blobs(handoff) if point == "segment committed" and handoff else []
    ids += [clip.blob_id] if point == "clip committed" and clip else []
    try:
        for blob_id in ids:
            deployment.blobs.get(blob_id)
    except BlobStoreError:
        record_event(INCOMPLETE_COMMIT, job_id, index)


def hold(point: str, job_id: str, index: int) -> None:
    """Stop here if a test requested it, until the test deletes the file or ends this process."""
    held = FOLDER / "held" / hold_name(point, index)
    try:
        os.rename(FOLDER / "holds" / held.name, held)
    except FileNotFoundError:
        return
    held.write_text(str(os.getpid()))
    while must_wait(held):
        time.sleep(0.01)


def must_wait(held: Path) -> bool:
    """Whether this process is still held; the file is empty for a moment when another process is held."""
    try:
        return held.read_text() in ("", str(os.getpid()))
    except FileNotFoundError:
        return False


def mark_ready(**_: Any) -> None:
    """Create the `ready` file of this worker."""
    from tasks.worker.lifecycle import reconciler_thread

    unfinished = FOLDER / f"ready-{os.getpid()}"
    unfinished.write_text(reconciler_thread.reconciler._lock.token)
    unfinished.rename(FOLDER / "ready" / str(os.getpid()))


def mark_shutting_down(**_: Any) -> None:
    """Delete the `ready` file of this worker; its shutdown flag is set by now."""
    (FOLDER / "ready" / str(os.getpid())).unlink(missing_ok=True)


def preload_modules() -> None:
    """Import before the fork, so that a new child starts fast; not for CUDA, which does not survive a fork."""
    if not os.environ["LONGTAKE_DEVICE"].startswith("cuda"):
        for module in (*PRELOADED, os.environ["LONGTAKE_ENGINE"].partition(":")[0]):
            importlib.import_module(module)


def hold_between_steps(run: Callable[..., SegmentOutput]) -> Callable[..., SegmentOutput]:
    """Wrap an engine's `run` so that it can also be held at the end of each step."""

    def run_and_hold(
        engine: Any, request: SegmentRequest, state: Any = None, *, on_step: OnStep, **more: Any
    ) -> SegmentOutput:
        def step(number: int, steps: int) -> bool | None:
            hold(ENGINE_STEP, "", request.timing.index)
            return on_step(number, steps)

        return run(engine, request, state, on_step=step, **more)

    return run_and_hold


def override_constants(changes: str) -> None:
    """Set numeric constants of this process, given as in FAULT_CONSTANTS."""
    for change in changes.split():
        name, _, value = change.partition("=")
        module, _, constant = name.rpartition(".")
        owner = importlib.import_module(module)
        kind = type(getattr(owner, constant))
        assert kind in (int, float), f"not a numeric constant: {name}"
        setattr(owner, constant, kind(value))


def run_worker(options: list[str]) -> None:
    """Run a worker with these options in this process."""
    import tasks.worker.lifecycle  # noqa: F401 - first: its receivers must run before those below

    preload_modules()
    override_constants(os.environ.get("FAULT_CONSTANTS", ""))
    if MESSAGE_COPIES in os.environ:
        Channel._put = publish_copies(int(os.environ[MESSAGE_COPIES]))
    signals.worker_ready.connect(mark_ready)
    signals.worker_shutting_down.connect(mark_shutting_down)
    for listener in (record_event, hold, check_blobs):
        points.listeners.add(listener)
    if os.environ["LONGTAKE_ENGINE"].startswith("tests.stand_in:"):
        from tests.stand_in import StandInEngine

        StandInEngine.run = hold_between_steps(StandInEngine.run)  # type: ignore[method-assign]
    main(["worker", *options])


if __name__ == "__main__":
    run_worker(sys.argv[1:])
