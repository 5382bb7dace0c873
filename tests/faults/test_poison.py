"""Segments that cannot be rendered: they kill their process, fill its memory, or fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tasks.client.job import Job
from tasks.errors import JobFailedError
from tests.faults.crew import Crew

Command = Callable[..., subprocess.CompletedProcess[str]]
DIES = "the worker died on every attempt, last "
REASONS = {
    "fail": "RuntimeError: the stand-in was told to fail",
    "memory": "EngineMemoryError: the stand-in was told to run out of memory",
}


def shows_why(crew: Crew, longtake: Command, job: Job, reason: str) -> None:
    """`longtake status` says it: which segment, after how many attempts, why."""
    text = longtake("status", job.id, settings=crew.settings).stdout
    assert "\n  failed; 1 rendered, " in text
    assert f"segment 1, attempt 3: {reason}" in text
    shown = json.loads(longtake("status", job.id, "--json", settings=crew.settings).stdout)
    assert (shown["state"], shown["failed_segment"], shown["attempts"]) == ("failed", 1, 3)
    assert shown["reason"].startswith(reason)


def test_a_segment_that_kills_its_process(crew: Crew, undisturbed: str, longtake: Command) -> None:
    # Given
    workers, cause_is_gone = crew.staff(2), crew.folder / "no-more-deaths"
    poison, behind = crew.submit_prompts("a", f"die until {cause_is_gone}", "c"), crew.submit()
    # When / Then it ends its job, not the workers, and not the job behind it
    with pytest.raises(JobFailedError, match=f"segment 1 after 3 attempts: {DIES}"):
        poison.wait()
    crew.verify(behind, undisturbed)
    crew.verify(crew.submit(), undisturbed)
    assert all(worker.is_alive for worker in workers)
    crew.at_rest()
    assert crew.count(poison, "segment hydrated") == {0: 1, 1: 3}
    shows_why(crew, longtake, poison, DIES)
    # And it goes on from there when its cause is gone
    cause_is_gone.touch()
    assert longtake("retry", poison.id, settings=crew.settings).returncode == 0
    crew.verify(poison, undisturbed, denoised_again=3)
    crew.at_rest()


@pytest.mark.parametrize("what", REASONS)
def test_a_segment_that_fails(crew: Crew, undisturbed: str, what: str) -> None:
    # Given
    cause_is_gone = crew.folder / f"no-more-{what}"
    bad, behind = crew.submit_prompts("a", f"{what} until {cause_is_gone}", "c"), crew.submit()
    # When it was tried three times
    with pytest.raises(JobFailedError, match=f"segment 1 after 3 attempts: {REASONS[what]}"):
        bad.wait()
    crew.verify(behind, undisturbed)
    crew.at_rest()
    assert crew.count(bad, "segment hydrated") == {0: 1, 1: 3}
    # Then it goes on from there when its cause is gone
    cause_is_gone.touch()
    bad.retry()
    crew.verify(bad, undisturbed, denoised_again=3)
    assert crew.count(bad, "segment hydrated")[0] == 1
    crew.at_rest()
