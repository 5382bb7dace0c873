"""A child killed at each failpoint of a segment, while another worker renders the other part of the film."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.state_wire import state_blobs
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness
from tests.faults.harness import Harness, segments_lost_at
from tests.tasks.conftest import spec

CUT = 2
STEPS = ("claimed", "hydrated", "rendered", "stored", "committed")
SEGMENT_POINTS = [f"segment {step}" for step in STEPS] + ["state rendered", "state stored"]
MESSAGE_POINTS = [f"message {step}" for step in ("announced", "sent", "chained")]
CLIP_POINTS = [f"clip {step}" for step in ("encoded", "stored", "committed")]
FIRST_OF_PART = [(point, CUT) for point in (*SEGMENT_POINTS, *CLIP_POINTS)]
LAST_OF_PART = [(point, CUT + 1) for point in (*SEGMENT_POINTS, *MESSAGE_POINTS, *CLIP_POINTS)]
LAST_BEFORE = [(point, CUT - 1) for point in (*SEGMENT_POINTS, *MESSAGE_POINTS, *CLIP_POINTS)]
KEPT = ("segment hydrated", "segment committed", "message announced")
CASES = [*FIRST_OF_PART, *LAST_OF_PART, *LAST_BEFORE]
SHORT = [case for case in CASES if case[0] in KEPT]


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """Two workers, slow enough that both get a part."""
    made = make_harness()
    for _ in range(2):
        made.start_worker(STAND_IN_STEP_S="0.15")
    wait_until(lambda: sum(worker.is_idle for worker in made.jobs.workers().living) == 2, what="two idle workers")
    return made


@pytest.fixture(scope="module")
def film(harness: Harness) -> str:
    """The hash of the film when its segments are rendered in order."""
    found = film_job(harness, parallel=False).wait().status().film
    assert found
    return found.sha256


def film_job(harness: Harness, **changes: Any) -> Job:
    """A job of two parts, with two segments each."""
    wanted = spec("a", "b", "c", "d", **changes)
    wanted["segments"][CUT]["transition"] = "cut"
    return submit(wanted, settings=harness.settings)


def kill_at(harness: Harness, film: str, point: str, index: int) -> None:
    # Given
    hold = harness.hold(point, index)
    job = film_job(harness)
    # When
    os.kill(hold.wait(), signal.SIGKILL)
    # Then at most the segment in progress is rendered again
    harness.verify(job, film, denoised_again=segments_lost_at(point), in_order=False)
    harness.wait_idle()


@pytest.mark.parametrize(("point", "index"), SHORT)
def test_a_child_killed_in_a_part(harness: Harness, film: str, point: str, index: int) -> None:
    kill_at(harness, film, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), [case for case in CASES if case not in SHORT])
def test_a_child_killed_anywhere_in_a_part(harness: Harness, film: str, point: str, index: int) -> None:
    kill_at(harness, film, point, index)


def test_a_lost_state_of_a_part_is_made_again(harness: Harness, film: str) -> None:
    # Given a part whose first segment is there, and whose second one loses its worker before that has read its state
    hold = harness.hold("segment claimed", CUT + 1)
    job = film_job(harness)
    pid = hold.wait()
    handoff = harness.jobs.handoff(job.id, CUT)
    assert handoff
    # When
    for blob_id in state_blobs(handoff.state):
        harness.blobs.drop(blob_id)
    os.kill(pid, signal.SIGKILL)
    # Then
    harness.verify(job, film, denoised_again=2, in_order=False)
    harness.wait_idle()
