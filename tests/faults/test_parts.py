"""A child killed at each failpoint of a segment, while another worker renders the other part of the film."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.state_wire import handoff_blobs, state_blobs
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
SHORT = [case for case in CASES if case[0] in KEPT and case[1] != CUT - 1]


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


@pytest.mark.faults
def test_the_processes_of_two_parts_killed_at_once(harness: Harness, film: str) -> None:
    # Given
    holds = [harness.hold("segment stored", 0), harness.hold("segment rendered", CUT)]
    job = film_job(harness)
    # When
    for pid in [hold.wait() for hold in holds]:
        os.kill(pid, signal.SIGKILL)
    # Then
    harness.verify(job, film, denoised_again=2, in_order=False)
    harness.wait_idle()


@pytest.mark.faults
def test_a_job_paused_and_appended_to_in_two_parts(harness: Harness, film: str) -> None:
    # Given two parts in work
    holds = [harness.hold("segment hydrated", index) for index in (0, CUT)]
    job = film_job(harness)
    for hold in holds:
        hold.wait()
    # When
    job.pause()
    assert job.append([{"prompt": "e", "transition": "cut"}]) == range(4, 5)
    for hold in holds:
        hold.release()
    # Then both are committed, and nothing more begins while another job is rendered
    wait_until(lambda: job.status().rendered == 2, what="the segments in work")
    harness.verify(film_job(harness), film, in_order=False)
    assert sorted(harness.count(job, "segment hydrated")) == [0, CUT]
    # When
    job.resume()
    # Then the film is that of a fork which is rendered in order from the second part on
    found = job.wait().status().film
    assert found
    longer = spec("a", "b", "c", "d", "e", parallel=False)
    for index in (CUT, 4):
        longer["segments"][index]["transition"] = "cut"
    harness.verify(job.fork(CUT - 1, longer), found.sha256, shared=CUT)
    harness.wait_idle()


@pytest.mark.faults
def test_what_a_part_loses_before_the_film_reaches_it_is_made_again(harness: Harness, film: str) -> None:
    # Given a part that is rendered behind a segment that is missing
    hold = harness.hold("segment hydrated", CUT - 1)
    job = film_job(harness)
    hold.wait()
    wait_until(lambda: job.status().clips == 3, what="the clips of the second part")
    # When its clips are lost, and all of its last segment
    last = harness.jobs.handoff(job.id, CUT + 1)
    assert last
    lost = [harness.jobs.clips(job.id)[index].blob_id for index in (CUT, CUT + 1)]
    for blob_id in [*lost, *handoff_blobs(last)]:
        harness.blobs.drop(blob_id)
    hold.release()
    # Then only that segment is rendered again
    harness.verify(job, film, denoised_again=1, in_order=False)
    harness.wait_idle()
