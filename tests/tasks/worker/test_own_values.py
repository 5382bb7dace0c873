"""A job whose segments differ in length, overlap, strengths and beginnings, on a real worker with a stand-in engine."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import redis

from blobstore import open_blob_store
from ltx2.media.crossfade import crossfaded
from ltx2.state.arrays import decode_latents
from ltx2.timeline import film_frames, film_samples, handed_on, plan_segments
from tasks.client.display.plan import plan_lines
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import SpecError, VersionError
from tasks.jobs.keys import job_keys
from tasks.jobs.state_wire import handoff_blobs
from tasks.jobs.units import WorkUnit
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import RedisProcess, Worker, wait_until
from tests.ltx2.media.sources.videos import frames_in
from tests.stand_in import StandInEngine
from tests.tasks.conftest import job_store, spec

SEGMENTS: list[dict[str, Any]] = [
    {"prompt": "a", "frames": 25},
    {"prompt": "b", "frames": 41, "overlap": 17, "loras": [0.5]},
    {"prompt": "c", "transition": "fade", "fade": 0.2, "frames": 33},
    {"prompt": "d", "overlap": 1, "repeat": 2},
    {"prompt": "e", "transition": "cut", "frames": 9},
    {"prompt": "f", "steps": 20, "negative_prompt": "fog", "overlap": 1},
]
SPEC = {**spec(), "fps": 29.97, "loras": [{"path": "owner/rain"}], "segments": SEGMENTS}
FRAMES = 25 + 24 + 33 + 16 + 16 + 9 + 16 - 6


def rendered(job: Job, settings: Settings, index: int) -> np.ndarray[Any, Any]:
    """The frames of a segment, from its stored latents."""
    handoff = job_store(settings).handoff(job.id, index)
    assert handoff
    latents = open_blob_store(settings.blobs).get(str(handoff.latents))
    frames: np.ndarray[Any, Any] = StandInEngine().decode(*decode_latents(latents))[0]
    return frames


@pytest.fixture(scope="module")
def done(module_settings: Settings, worker: Worker) -> Job:
    return submit(SPEC, settings=module_settings).wait()


def test_the_film_has_the_frames_and_samples_of_its_spec(done: Job, module_settings: Settings) -> None:
    # Then it has every new frame once, less those that dissolve, and the sound of exactly so many
    film = done.status().film
    assert film
    assert film.frames == FRAMES
    assert film.audio_samples == film_samples(FRAMES, Fraction(30000, 1001), film.audio_sample_rate)
    assert plan_lines(check_spec(SPEC), "shapes", continues=False, pace=None)[0] == (
        f"harbour at dawn: {FRAMES * 1001 / 30000:.2f} s, {FRAMES} frames, 64x32, 7 segments of 9 to 41 frames"
    )
    # And the timings of the record are those of the spec
    planned = [check_spec(SPEC).planned(segment) for segment in check_spec(SPEC).segments]
    timings = job_store(module_settings).timings(done.id)
    assert timings == plan_segments(planned) == check_spec(SPEC).plan()
    assert film_frames(timings) == FRAMES
    # And every state holds what the next segment repeats
    for index, (one, following) in enumerate(zip(planned, [*planned[1:], None], strict=True)):
        state = done.state(index)["payload"]
        blob = state["video"].get("blob_id")
        count = state["video"]["frame_count"] if blob else len(state["video"]["frames_b64"])
        assert count == (handed_on(one, following)[0] or one.shape.overlap)


def test_a_dissolve_shows_both_scenes(done: Job, module_settings: Settings) -> None:
    # Given the two segments between which the film dissolves
    film = frames_in(open_blob_store(module_settings.blobs).get(done.status().film.blob_id))  # type: ignore[union-attr]
    timings = job_store(module_settings).timings(done.id)
    before, after = rendered(done, module_settings, 1), rendered(done, module_settings, 2)
    begin, count = timings[2].first_frame, timings[2].dissolve
    assert (begin, count, [timing.shown_frames for timing in timings[:3]]) == (43, 6, [25, 18, 33])
    # Then the film goes from one to the other in six frames
    expected = [*before[17:][:18], *crossfaded(before[-6:], after[:6]), *after[6:]]
    for shown, wanted in zip(film[25 : 25 + len(expected)], expected, strict=True):
        assert abs(float(shown.mean()) - float(wanted.mean())) < 3
    assert abs(float(before[-6].mean()) - float(after[0].mean())) > 15, "the two scenes look the same"


def test_every_kind_of_blob_is_made_again_with_the_same_bytes(
    done: Job, own_settings: Settings, own_server: RedisProcess, start_worker: Callable[..., Worker]
) -> None:
    # Given the same job on other servers, with all clips but no film
    job = submit(SPEC, settings=own_settings)
    first = start_worker(own_settings, "--only", "segments", "--only", "clips").ready()
    wait_until(lambda: job.status().clips == 7, what="clips")
    first.stop()
    # When what segments 1 and 2 left is lost, around the dissolve, and the clip of a segment that repeats one frame
    jobs, blobs = job_store(own_settings), open_blob_store(own_settings.blobs)
    clips = jobs.clips(job.id)
    lost = [*handoff_blobs(jobs.handoffs(job.id)[1]), str(jobs.handoffs(job.id)[2].latents)]
    for blob_id in (*lost, *(clips[index].blob_id for index in (1, 2, 3))):
        blobs.drop(blob_id)
    start_worker(own_settings).ready()
    # Then the film has the same bytes as without a fault
    assert job.wait().status().film.sha256 == done.status().film.sha256  # type: ignore[union-attr]
    assert {index: clip.blob_id for index, clip in jobs.clips(job.id).items()} == {
        index: clip.blob_id for index, clip in clips.items()
    }


def test_a_fork_shares_what_was_rendered_for_the_same_overlap(done: Job) -> None:
    # Given a fork after segment 0, whose state was made for the 17 frames that segment 1 repeats
    with pytest.raises(SpecError, match=r"segments\.1\.overlap: it repeats 9 frames; segment 0 of job \w+ hands on 17"):
        done.fork(0, {**SPEC, "segments": [SEGMENTS[0], {"prompt": "x"}]})
    # When it repeats as many, or is a new scene, Then it is rendered
    for segment in ({"prompt": "x", "overlap": 17, "frames": 25}, {"prompt": "x", "transition": "cut"}):
        film = done.fork(0, {**SPEC, "segments": [SEGMENTS[0], segment]}).wait().status().film
        assert film
        assert film.frames == 25 + (8 if "overlap" in segment else 17)


def test_workers_of_an_earlier_version_leave_such_a_job_alone(settings: Settings, shared_redis: RedisProcess) -> None:
    # Given a job with values of single segments, and one without
    own, plain = submit(SPEC, settings=settings), submit(spec("a", "b"), settings=settings)
    with redis.Redis(port=shared_redis.port) as client:
        formats = [client.hget(job_keys(job.id, "record")[0], "format") for job in (own, plain)]
        # Then only the record of the first has the version that they refuse
        assert formats == [b"1.0", b"0.2"]
        assert own.status().segments == 7
        # And that of one to which such a segment is appended, if it repeats what the last state holds
        with pytest.raises(SpecError, match=r"it repeats 1 frame; segment 1 of job \w+ hands on 9"):
            plain.append({"segments": [{"prompt": "c", "overlap": 1}]})
        plain.append({"segments": [{"prompt": "c", "frames": 25}]})
        assert client.hget(job_keys(plain.id, "record")[0], "format") == b"1.0"
        client.hset(job_keys(own.id, "record")[0], "format", "2.0")
    with pytest.raises(VersionError):
        job_store(settings).claim(own.id, WorkUnit.segment(0), 1, "w")
