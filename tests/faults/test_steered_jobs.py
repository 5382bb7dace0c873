"""Forks, and jobs that are appended to, open or approved, whose workers and clients end at any moment."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tasks.client.edits import methods as edits
from tasks.client.submit import submit
from tests.conftest import wait_until
from tests.faults.harness import SEGMENTS, Harness, failpoints, segments_lost_at
from tests.faults.steering import Steered, Way
from tests.tasks.conftest import spec

# The client and the reconciler publish the messages of jobs that wait for their user.
IN_A_CHILD = [(point, index) for point, index in failpoints() if not point.startswith("message")]
STEERED = [Way.APPENDED, Way.OPEN_AND_APPROVED]
SOME = [(Way.APPENDED, "segment committed", 2), (Way.OPEN_AND_APPROVED, "segment rendered", 1)]
OTHERS = [case for case in ((way, *place) for way in STEERED for place in IN_A_CHILD) if case not in SOME]


def kill_and_steer(harness: Harness, film: str, way: Way, point: str, index: int) -> None:
    # Given a job that its user steers, and a process that is killed at a failpoint
    hold = harness.hold(point, index)
    steered = Steered.begin(harness, way, SEGMENTS)

    def killed() -> bool:
        steered.step()
        if not hold.is_reached:
            return False
        harness.mark_fault()
        os.kill(hold.wait(), signal.SIGKILL)
        return True

    # When
    wait_until(killed, what=f"a process at {point} of segment {index}")
    wait_until(steered.step, what="the film")
    # Then
    harness.verify(steered.job, film, denoised_again=segments_lost_at(point))
    harness.wait_idle()


@pytest.mark.parametrize(("way", "point", "index"), SOME)
def test_a_steered_job_whose_child_is_killed_at(harness: Harness, film: str, way: Way, point: str, index: int) -> None:
    kill_and_steer(harness, film, way, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("way", "point", "index"), OTHERS)
def test_a_steered_job_whose_child_is_killed_anywhere(
    harness: Harness, film: str, way: Way, point: str, index: int
) -> None:
    kill_and_steer(harness, film, way, point, index)


def kill_a_fork(harness: Harness, film: str, point: str, index: int) -> None:
    # Given a finished job, and a process that is killed at a failpoint of its fork
    source = harness.submit().wait()
    hold = harness.hold(point, index)
    # When
    fork = source.fork(0)
    pid = hold.wait()
    harness.mark_fault()
    os.kill(pid, signal.SIGKILL)
    # Then
    harness.verify(fork, film, denoised_again=segments_lost_at(point), shared=1)
    harness.wait_idle()


def test_a_fork_whose_child_is_killed(harness: Harness, film: str) -> None:
    kill_a_fork(harness, film, "clip stored", 2)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), [place for place in IN_A_CHILD if place[1] != 0])
def test_a_fork_whose_child_is_killed_anywhere(harness: Harness, film: str, point: str, index: int) -> None:
    kill_a_fork(harness, film, point, index)


def crash(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", STEERED)
def test_a_client_that_crashes_after_each_change(
    harness: Harness, film: str, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    # Given a client that publishes nothing, because it crashes before
    steered = Steered.begin(harness, way, SEGMENTS)
    monkeypatch.setattr(edits, "publish_now", crash)

    def step() -> bool:
        try:
            return steered.step()
        except KeyboardInterrupt:
            return False

    # When / Then the workers finish the job
    wait_until(step, what="the film")
    harness.verify(steered.job, film)
    harness.wait_idle()


def test_segments_appended_while_the_film_is_joined(harness: Harness, film: str) -> None:
    # Given a film in the hands of a worker
    hold = harness.hold("film joined", -1)
    job = harness.submit(SEGMENTS - 1)
    hold.wait()
    # When
    job.append([{"prompt": str(SEGMENTS - 1)}])
    hold.release()
    # Then it is joined again with them
    harness.verify(job, film)
    harness.wait_idle()


def test_nothing_is_rendered_before_it_is_approved(harness: Harness, film: str) -> None:
    # Given a job that asks for approval, and a child that is killed once a segment is committed
    hold = harness.hold("segment committed", 0)
    job = submit(spec(*map(str, range(SEGMENTS)), approve=True), settings=harness.settings)
    os.kill(hold.wait(), signal.SIGKILL)
    for index in range(SEGMENTS):
        # When its clip is made again, and messages of old tickets have come back
        wait_until(lambda count=index + 1: job.status().clips == count, what=f"clip {index}")
        harness.wait_idle()
        # Then the next one was not claimed
        assert max(harness.count(job, "segment claimed")) == index
        assert not harness.count(job, "film claimed")
        job.approve(index)
    harness.verify(job, film)
