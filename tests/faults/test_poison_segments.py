"""Segments that cannot be rendered: they kill their process, run out of memory, or fail."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from tasks.client.job import Job
from tasks.errors import JobFailedError
from tests.faults.pool import WorkerPool

Command = Callable[..., subprocess.CompletedProcess[str]]
DIES = "its process died"
REASONS = {
    "fail": "RuntimeError: the prompt requests a failure",
    "memory": "EngineMemoryError: the prompt requests out of memory",
}


def check_status(pool: WorkerPool, longtake: Command, job: Job, reason: str) -> None:
    """`longtake status` shows the failed segment, the attempts and the reason."""
    text = longtake("status", job.id, settings=pool.settings).stdout
    assert re.search(r"\n  failed · 1 of \d segments rendered · ", text)
    assert f"segment 1, attempt 3: {reason}" in text
    shown = json.loads(longtake("status", job.id, "--json", settings=pool.settings).stdout)
    assert (shown["state"], shown["failed_segment"], shown["attempts"]) == ("failed", 1, 3)
    assert shown["reason"].startswith(reason)


def test_a_segment_that_kills_its_process(pool: WorkerPool, undisturbed: str, longtake: Command) -> None:
    # Given a segment that kills its process until its cause is fixed, and another job behind it
    workers, fixed = pool.scale(2), pool.folder / "kill-fixed"
    poison, behind = pool.submit_prompts("a", f"die until {fixed}", "c"), pool.submit()
    # When / Then its job fails; the workers survive, and the other job finishes
    with pytest.raises(JobFailedError, match=f"segment 1 after 3 attempts: {DIES}"):
        poison.wait()
    pool.verify(behind, undisturbed)
    pool.verify(pool.submit(), undisturbed)
    assert all(worker.is_alive for worker in workers)
    pool.wait_idle()
    tries = pool.count(poison, "segment hydrated")[1]
    assert tries in (3, 4)  # a lease of a second may end before its worker has reported the third death
    check_status(pool, longtake, poison, DIES)
    # When the cause is fixed and the job retried, Then it continues from that segment
    fixed.touch()
    assert longtake("retry", poison.id, settings=pool.settings).returncode == 0
    pool.verify(poison, undisturbed, denoised_again=tries)
    pool.wait_idle()


@pytest.mark.parametrize("what", REASONS)
def test_a_segment_that_fails(pool: WorkerPool, undisturbed: str, what: str) -> None:
    # Given a segment that fails until its cause is fixed, and another job behind it
    fixed = pool.folder / f"{what}-fixed"
    bad, behind = pool.submit_prompts("a", f"{what} until {fixed}", "c"), pool.submit()
    # When / Then its job fails after three attempts, and the other job finishes
    with pytest.raises(JobFailedError, match=f"segment 1 after 3 attempts: {REASONS[what]}"):
        bad.wait()
    pool.verify(behind, undisturbed)
    pool.wait_idle()
    assert pool.count(bad, "segment hydrated") == {0: 1, 1: 3}
    # When the cause is fixed and the job retried, Then it continues from that segment
    fixed.touch()
    bad.retry()
    pool.verify(bad, undisturbed, denoised_again=3)
    assert pool.count(bad, "segment hydrated")[0] == 1
    pool.wait_idle()
