"""Jobs of all kinds whose parts are rendered in parallel, also while they change: the film is that in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.state_wire import state_blobs
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness
from tests.faults.harness import Harness
from tests.faults.server_faults import client_of, full
from tests.ltx2.media.sources.videos import numbered, tone, video
from tests.tasks.conftest import film_hash_of, spec

pytestmark = pytest.mark.faults
PROMPTS = "abcdef"
CUT, FADE = {"transition": "cut"}, {"transition": "fade", "fade": 0.1}
SHAPES: dict[str, tuple[dict[int, dict[str, Any]], dict[str, Any]]] = {
    "cuts everywhere": (dict.fromkeys(range(1, 6), CUT), {}),
    "cut at the last": ({5: CUT}, {}),
    "cuts and fades": ({1: CUT, 2: FADE, 3: CUT, 5: FADE}, {}),
    "a fade into the last before a cut": ({3: FADE, 4: CUT}, {}),
    "unequal lengths": (
        {1: {"frames": 33}, 2: CUT | {"frames": 9}, 3: {"overlap": 1}, 4: CUT | {"frames": 25}},
        {},
    ),
    "images in time": (
        {2: CUT, 4: CUT},
        {"images": [{"at": at, "path": "image.png"} for at in (0.5, 1.0, 1.5, 2.0)]},
    ),
    "images of segments": ({2: CUT | {"image": "image.png"}, 3: {"end_image": "image.png"}, 4: CUT}, {}),
    "sound": ({2: CUT, 4: CUT}, {"audio": "track.wav"}),
    "extension": ({2: CUT, 4: CUT}, {"extend": "video.mp4"}),
    "extension with its video": ({2: CUT, 4: CUT}, {"extend": "video.mp4", "include_video": True}),
    "the best of three": ({2: CUT, 4: CUT}, {"best_of": 3, "retry_joins": 1}),
}


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """Three workers, slow enough that each gets a part."""
    made = make_harness()
    for _ in range(3):
        made.start_worker(STAND_IN_STEP_S="0.1")
    wait_until(lambda: sum(worker.is_idle for worker in made.jobs.workers().living) == 3, what="three idle workers")
    Image.fromarray(np.full((32, 64, 3), 200, np.uint8)).save(made.folder / "image.png")
    (made.folder / "track.wav").write_bytes(video(None, kind="wav", sound=tone(5.0), sound_codec="pcm_s16le"))
    (made.folder / "video.mp4").write_bytes(video(numbered(40), sound=tone(40 / 24)))
    return made


def film_job(harness: Harness, segments: dict[int, dict[str, Any]], **changes: Any) -> Job:
    """A job of six segments with these values."""
    wanted = spec(*PROMPTS, **changes)
    for index, values in segments.items():
        wanted["segments"][index] |= values
    for owner in (wanted, *wanted["segments"], *wanted.get("images", [])):
        for key in ("path", "image", "end_image", "audio", "extend"):
            if key in owner:
                owner[key] = str(harness.folder / owner[key])
    return submit(wanted, settings=harness.settings)


def workers_of(harness: Harness, job: Job) -> int:
    return len({handoff.worker for handoff in harness.jobs.handoffs(job.id)})


@pytest.mark.parametrize("shape", SHAPES)
def test_jobs_of_each_shape(harness: Harness, shape: str) -> None:
    # Given
    segments, changes = SHAPES[shape]
    # When
    job = film_job(harness, segments, **changes)
    film = film_hash_of(job)
    # Then
    harness.verify(film_job(harness, segments, **changes, parallel=False), film)
    assert workers_of(harness, job) > 1
    harness.wait_idle()


def pause(_: Harness, job: Job) -> None:
    job.pause()
    wait_until(lambda: not job.status().claimed, what="the end of what is in work")
    job.resume()


def kill_child(harness: Harness, _: Job) -> None:
    os.kill(harness.workers[1].pids[1], signal.SIGKILL)


def kill_worker(harness: Harness, _: Job) -> None:
    harness.workers[2].kill()


def fill_blob_server(harness: Harness, _: Job) -> None:
    with full(harness.blob_server):
        waits = "waiting for the blob store to have room"
        wait_until(lambda: any(waits in worker.text() for worker in harness.workers), what="a full blob server")


def retake(_: Harness, job: Job) -> None:
    wait_until(lambda: job.status().committed, what="the first segment")
    job.retake(0, takes=2)


CHANGES: list[Callable[[Harness, Job], None]] = [pause, kill_child, fill_blob_server, retake, kill_worker]


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_that_changes_while_parts_are_rendered(harness: Harness, change: Callable[[Harness, Job], None]) -> None:
    # Given
    cuts = {2: CUT, 4: CUT}
    film = film_hash_of(film_job(harness, cuts, parallel=False))
    harness.wait_idle()
    client_of(harness.blob_server).flushall()  # that job stored the same blobs
    job = film_job(harness, cuts)
    wait_until(lambda: len(job.status().claimed) > 1, what="parts in work")
    # When
    change(harness, job)
    # Then at most what two workers had in work is rendered again
    takes = 2 * (change is retake)
    harness.verify(job, film, denoised_again=2 + takes, in_order=False)


@pytest.fixture
def classes(make_harness: MakeHarness) -> Harness:
    """Two workers of two render classes, whose bytes differ."""
    made = make_harness()
    made.start_worker(STAND_IN_STEP_S="0.1")
    made.start_worker(STAND_IN_STEP_S="0.1", STAND_IN_SALT="7", LONGTAKE_COMPILER="eager")
    wait_until(lambda: sum(worker.is_idle for worker in made.jobs.workers().living) == 2, what="two idle workers")
    return made


def classes_of(harness: Harness, job: Job) -> list[str]:
    return [handoff.render_class for handoff in harness.jobs.handoffs(job.id)]


def test_a_part_stays_with_its_render_class_and_so_does_its_repair(classes: Harness) -> None:
    # Given two parts in two classes, of which the second loses its worker's process before that has read a state
    hold = classes.hold("segment claimed", 4)
    job = film_job(classes, {3: CUT})
    pid = hold.wait()
    before = classes.jobs.handoff(job.id, 3)
    assert before
    # When that state is lost
    for blob_id in state_blobs(before.state):
        classes.blobs.drop(blob_id)
    os.kill(pid, signal.SIGKILL)
    job.wait()
    # Then a worker of its class renders it again, and the part goes on in that class
    first, *others = classes_of(classes, job)
    assert [one == first for one in others] == [True, True, False, False, False]
    assert len(set(others[2:])) == 1
    assert classes.jobs.handoffs(job.id)[3].state == before.state


def test_a_part_whose_render_class_is_gone_goes_on_in_another(classes: Harness) -> None:
    # Given two parts in two classes
    holds = [classes.hold("segment hydrated", index) for index in (1, 4)]
    job = film_job(classes, {3: CUT})
    _, pid = [hold.wait() for hold in holds]
    # When the only worker of one class ends for good
    [gone] = [worker for worker in classes.workers if pid in worker.pids]
    gone.kill()
    for hold in holds:
        hold.release()
    # Then the other one renders the rest, and says so
    job.wait()
    made = classes.jobs.handoffs(job.id)
    assert [one.render_class == made[0].render_class for one in made] == [True, True, True, False, True, True]
    assert ["another render class" in "".join(one.warnings) for one in made] == [False] * 4 + [True, False]
