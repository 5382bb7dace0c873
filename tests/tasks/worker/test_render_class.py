"""Two workers of different render classes: a chain stays with its own, for as long as the setting says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.client.display.workers import list_workers
from tasks.client.submit import submit
from tasks.jobs.store import JobStore
from tasks.jobs.workers import TEXT_LIMIT
from tasks.settings import Settings
from tasks.worker.render_class import render_class_of
from tests.conftest import Worker, wait_until
from tests.tasks.conftest import spec

Start = Callable[..., Worker]
FAST = "tests.tasks.worker.heartbeats.fast_heartbeats"


@pytest.mark.parametrize(("wait_s", "waits"), [(60.0, True), (0.5, False)])
def test_a_chain_waits_for_a_worker_of_its_class(
    settings: Settings, jobs: JobStore, start_worker: Start, tmp_path: Path, wait_s: float, waits: bool
) -> None:
    # Given a paused job whose first segment was rendered in fp32, that worker at another job, and an idle one in bf16
    settings = settings.model_copy(update={"precision": "fp32", "class_wait_s": wait_s})
    first, busy = tmp_path / "first", tmp_path / "busy"
    start_worker(settings, program=FAST)
    job = submit(spec(f"wait until {first}", "b"), settings=settings)
    wait_until(lambda: job.status().progress, what="the first segment")
    job.pause()
    first.touch()
    wait_until(lambda: jobs.handoffs(job.id), what="its commit")
    other = submit(spec(f"wait until {busy}"), settings=settings)
    wait_until(lambda: other.status().progress, what="the other job")
    bf16 = start_worker(settings.model_copy(update={"precision": "bf16"}), program=FAST)
    wait_until(
        lambda: (
            len({worker.render_class for worker in list_workers(settings=settings).living if worker.is_idle}) == 1
            and len(list_workers(settings=settings).living) == 2
        ),
        what="an idle worker in bf16",
    )
    # When the job goes on, and its worker is free only after the other one has had the message
    job.resume()
    if waits:
        wait_until(lambda: "waits for a worker of its class" in bf16.text(), what="the wait")
        busy.touch()
    # Then the worker of its class renders the rest, or, after the wait, the other one with a warning
    job.wait()
    made = jobs.handoffs(job.id)
    assert "precision fp32" in made[0].render_class
    assert (made[0].render_class == made[1].render_class) == waits
    told = "rendered by a worker of another render class"
    assert [told in line for line in made[1].warnings] == ([] if waits else [True])
    assert (told in bf16.text()) != waits
    busy.touch()


def test_a_class_fits_a_heartbeat() -> None:
    # Given two engines that say much of themselves
    settings = Settings()
    classes = [render_class_of(settings, {"precision": "fp32", "more": "x" * 300 + end}) for end in "ab"]
    # Then their classes differ, and are not cut
    assert classes[0] != classes[1]
    assert max(map(len, classes)) <= TEXT_LIMIT
    assert classes[0].startswith("cpu, precision fp32, attention auto, text_encoder auto, ")
