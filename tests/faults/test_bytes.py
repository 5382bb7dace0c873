"""The real model, disturbed: the film is the same to the last bit. On a GPU: `pytest -m gpu tests/faults`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tasks.jobs.records import START_INDEX
from tests.faults.conftest import Grounds, film_of
from tests.faults.damage import blobs_of, damage
from tests.faults.ground import SEGMENTS, Ground

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def real(grounds: Grounds, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A ground whose worker renders with the small LTX-2."""
    made = grounds(engine="ltx2.engine:Engine", device=request.param, lease_s=3.0)
    made.start_worker()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def undisturbed(real: Ground) -> str:
    return film_of(real, SEGMENTS)


def test_another_run_of_the_same_job(real: Ground, undisturbed: str) -> None:
    assert film_of(real, SEGMENTS) == undisturbed


@pytest.mark.parametrize("point", ["segment rendered", "segment committed"])
def test_a_child_killed_under_the_real_model(real: Ground, undisturbed: str, point: str) -> None:
    # Given / When
    job = real.kill_at(point, 1)
    # Then
    real.verify(job, undisturbed, denoised_again=int(point == "segment rendered"))


def test_a_state_repaired_by_the_real_model(real: Ground, undisturbed: str) -> None:
    held = real.hold("segment claimed", 2)
    job = real.submit()
    pid = held.pid()
    # When the one that goes on must read it
    damage(real, blobs_of(real, job, 1)["audio"], "flipped")
    real.breaks()
    os.kill(pid, signal.SIGKILL)
    # Then the repair gives the same bytes, so that what followed stands
    real.verify(job, undisturbed, denoised_again=1)
    assert real.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}


def test_a_clip_decoded_again_by_the_real_model(real: Ground, undisturbed: str) -> None:
    held = real.hold("film claimed", START_INDEX)
    job = real.submit()
    held.pid()
    # When
    damage(real, blobs_of(real, job, 1)["clip"], "expired")
    real.breaks()
    held.release()
    # Then
    real.verify(job, undisturbed)
    assert real.count(job, "clip encoded") == {0: 1, 1: 2, 2: 1}
