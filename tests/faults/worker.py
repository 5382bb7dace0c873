"""A worker that notes every point it reaches, and stops where a test wants to break something.

Started as `python -m tests.faults.worker`, with the options of `longtake worker`. It works in the folder FAULT_FOLDER:
  events          one line for every point reached: seconds, pid, point, job, segment
  holds/<place>   made by a test: the first process to reach this place stops there
  held/<place>    then the same file, with the process' id in it; the process goes on when the test deletes it, or when
                  another one is held there
  ready/<pid>     made when the worker takes work, with the name of its reconciler in it
FAULT_CONSTANTS, when set, changes constants first: `tasks.worker.failures.FULL_STORE_PATIENCE_S=2`, separated by blanks.
FAULT_COPIES, when set, is how often every message is put into its queue.
A place is `<point with dashes>@<segment>`, for instance `segment-committed@1`.
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
from tasks import failpoints as points
from tasks.cli import main
from tasks.jobs.state_wire import handoff_blobs
from tasks.worker.context import process
from tests.faults.copies import COPIES, keep_copies

# What a child needs, besides its engine.
HEAVY = ("ltx2.media.clip", "ltx2.state.arrays", "ltx2.state.continuation", "ltx2.media.film")
FOLDER = Path(os.environ.get("FAULT_FOLDER", ""))
IN_THE_ENGINE = "engine step"
BROKEN = "a commit names a blob that is not whole"


def place(point: str, index: int) -> str:
    """The name of the file that holds a process at this point of this segment."""
    return f"{point.replace(' ', '-')}@{index}"


def note(point: str, job_id: str, index: int) -> None:
    """Write one line of `events`."""
    line = f"{time.time()}|{os.getpid()}|{point}|{job_id}|{index}\n"
    handle = os.open(FOLDER / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def check_blobs(point: str, job_id: str, index: int) -> None:
    """At the moment of a commit every blob it names is whole."""
    deployment = process.context.deployment
    handoff, clip = deployment.jobs.handoff(job_id, index), deployment.jobs.clips(job_id).get(index)
    ids = handoff_blobs(handoff) if point == "segment committed" and handoff else []
    ids += [clip.blob_id] if point == "clip committed" and clip else []
    try:
        for blob_id in ids:
            deployment.blobs.get(blob_id)
    except BlobStoreError:
        note(BROKEN, job_id, index)


def hold(point: str, job_id: str, index: int) -> None:
    """Stop here if a test asked for it, until it deletes the file or ends this process."""
    held = FOLDER / "held" / place(point, index)
    try:
        os.rename(FOLDER / "holds" / held.name, held)
    except FileNotFoundError:
        return
    held.write_text(str(os.getpid()))
    while is_mine(held):
        time.sleep(0.01)


def is_mine(held: Path) -> bool:
    """Whether this process is still to wait; the file is empty for a moment when the next one comes."""
    try:
        return held.read_text() in ("", str(os.getpid()))
    except FileNotFoundError:
        return False


def say_ready(**_: Any) -> None:
    """Tell the test that this worker takes work."""
    from tasks.worker.lifecycle import reconciler_thread

    unfinished = FOLDER / f"ready-{os.getpid()}"
    unfinished.write_text(reconciler_thread.reconciler._name)
    unfinished.rename(FOLDER / "ready" / str(os.getpid()))


def load_before_the_fork() -> None:
    """Have a new child there at once; not on a GPU, whose libraries do not survive a fork."""
    if not os.environ["LONGTAKE_DEVICE"].startswith("cuda"):
        for module in (*HEAVY, os.environ["LONGTAKE_ENGINE"].partition(":")[0]):
            importlib.import_module(module)


def hold_in(run: Callable[..., SegmentOutput]) -> Callable[..., SegmentOutput]:
    """An engine's `run` that may be held at the end of each step, too."""

    def run_and_hold(
        engine: Any, request: SegmentRequest, state: Any = None, *, on_step: OnStep, **more: Any
    ) -> SegmentOutput:
        def step(number: int, steps: int) -> bool | None:
            hold(IN_THE_ENGINE, "", request.timing.index)
            return on_step(number, steps)

        return run(engine, request, state, on_step=step, **more)

    return run_and_hold


def change_constants(changes: str) -> None:
    """Give constants of this process other numbers."""
    for change in changes.split():
        name, _, value = change.partition("=")
        module, _, constant = name.rpartition(".")
        home = importlib.import_module(module)
        kind = type(getattr(home, constant))
        assert kind in (int, float), f"no such number: {name}"
        setattr(home, constant, kind(value))


def work(options: list[str]) -> None:
    """Be a worker with these options."""
    import tasks.worker.lifecycle  # noqa: F401 - before the next line: its own receiver makes the reconciler

    load_before_the_fork()
    change_constants(os.environ.get("FAULT_CONSTANTS", ""))
    if COPIES in os.environ:
        Channel._put = keep_copies(int(os.environ[COPIES]))
    signals.worker_ready.connect(say_ready)
    for listener in (note, hold, check_blobs):
        points.listen(listener)
    if os.environ["LONGTAKE_ENGINE"].startswith("tests.stand_in:"):
        from tests.stand_in import StandInEngine

        StandInEngine.run = hold_in(StandInEngine.run)  # type: ignore[method-assign]
    main(["worker", *options])


if __name__ == "__main__":
    work(sys.argv[1:])
