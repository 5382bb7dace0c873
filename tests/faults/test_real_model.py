"""Faults with a real model: the film is the same, byte for byte. On a GPU: `pytest -m gpu tests/faults`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tasks.jobs.units import START_INDEX
from tests.faults.blob_faults import damage, segment_blobs
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import SEGMENTS, Harness

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def real_harness(make_harness: MakeHarness, request: pytest.FixtureRequest) -> Iterator[Harness]:
    """A harness whose worker renders with the small LTX-2 model."""
    made = make_harness(engine="ltx2.engine:Engine", device=request.param, lease_s=3.0)
    made.start_worker()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def undisturbed(real_harness: Harness) -> str:
    return film_of(real_harness, SEGMENTS)


def test_a_second_run_of_the_same_job(real_harness: Harness, undisturbed: str) -> None:
    assert film_of(real_harness, SEGMENTS) == undisturbed


@pytest.mark.parametrize("point", ["segment rendered", "segment committed"])
def test_a_child_killed_with_the_real_model(real_harness: Harness, undisturbed: str, point: str) -> None:
    # Given / When
    job = real_harness.kill_at(point, 1)
    # Then
    real_harness.verify(job, undisturbed, denoised_again=int(point == "segment rendered"))


def test_a_state_repaired_by_the_real_model(real_harness: Harness, undisturbed: str) -> None:
    # Given a worker that has claimed segment 2
    hold = real_harness.hold("segment claimed", 2)
    job = real_harness.submit()
    pid = hold.wait()
    # When it is killed, and its successor must fetch a damaged state
    damage(real_harness, segment_blobs(real_harness, job, 1)["audio"], "flipped")
    real_harness.mark_fault()
    os.kill(pid, signal.SIGKILL)
    # Then the repair produces the same bytes, so later commits are kept
    real_harness.verify(job, undisturbed, denoised_again=1)
    assert real_harness.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}


def test_a_clip_decoded_again_by_the_real_model(real_harness: Harness, undisturbed: str) -> None:
    # Given all clips, and a worker that is about to join the film
    hold = real_harness.hold("film claimed", START_INDEX)
    job = real_harness.submit()
    hold.wait()
    # When
    damage(real_harness, segment_blobs(real_harness, job, 1)["clip"], "expired")
    real_harness.mark_fault()
    hold.release()
    # Then only that clip is decoded again
    real_harness.verify(job, undisturbed)
    assert real_harness.count(job, "clip encoded") == {0: 1, 1: 2, 2: 1}
