"""Films whose lengths follow from their prompts, on real workers."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers.pipelines.ltx2 import LTX2DurationHead

from blobstore import open_blob_store
from ltx2.checkpoints.duration_head import DURATION_FOLDER
from ltx2.checkpoints.random import ensure
from ltx2.engine import Engine
from ltx2.timeline import film_samples
from tasks.client.display.plan import plan_lines
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import SpecError
from tasks.jobs.state_wire import handoff_blobs
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import Worker, wait_until
from tests.stand_in import DURATION
from tests.tasks.conftest import job_store, spec

Start = Callable[..., Worker]
SPEC = {**spec("boat", "a boat leaves the bay"), "model": "tiny-2.5", "fps": 8, "overlap": 1, "frames": 49}
"""Of a stand-in, whose answer is a second for each word: 8 and 40 frames."""


def auto(**changes: Any) -> dict[str, Any]:
    film = {**SPEC, **changes}
    return {**film, "segments": [{"frames": "auto", **segment} for segment in film["segments"]]}


def lengths(job: Job) -> list[int | None]:
    return [segment.frames for segment in job._deployment.jobs.contents(job.id).segments]


@pytest.fixture(scope="module")
def done(module_settings: Settings, worker: Worker) -> Job:
    return submit(auto(), settings=module_settings).wait()


def test_the_film_is_as_long_as_its_prompts_say(done: Job) -> None:
    # Given a plan with the longest lengths
    lines = plan_lines(check_spec(auto()), "tiny-2.5", continues=False, pace=None)
    assert lines[0] == "harbour at dawn: at most 12.12 s, 97 frames, 64x32, 2 segments of at most 49 frames"
    # Then the film has those that were decided
    assert lengths(done) == [9, 41]
    film = done.status().film
    assert film
    assert (film.frames, film.duration_s) == (9 + 40, 49 / 8)
    assert film.audio_samples == film_samples(film.frames, check_spec(SPEC).shape.fps, film.audio_sample_rate)
    # And the same is kept by an edit without a change, a take, and a fork
    assert done.plan_edit(auto()).kept == 2
    done.retake(1, prompt="fog")
    done.wait()
    assert lengths(done) == [9, 41]
    fork = done.fork(0, auto(segments=[{"prompt": "boat"}, {"prompt": "fog on the bay"}])).wait()
    assert lengths(fork) == [9, 33]
    # And a film is longer by what is appended
    assert done.append([{"prompt": "one more", "frames": "auto"}]) == range(2, 3)
    assert done.wait().status().film.frames == 9 + 40 + 16  # type: ignore[union-attr]


def test_a_length_outlives_the_worker_that_decided_it(
    own_settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a worker that has decided a length, and renders
    go = tmp_path / "go"
    job = submit(auto(segments=[{"prompt": f"wait until {go}"}]), settings=own_settings)
    monkeypatch.setenv(DURATION, "2")
    worker = start_worker(own_settings).ready()
    wait_until(lambda: lengths(job) == [17], what="a length")
    assert job.status().committed == 0
    # When it is killed, and one follows whose model would answer something else
    worker.stop(signal.SIGKILL)
    monkeypatch.setenv(DURATION, "5")
    go.touch()
    start_worker(own_settings)
    # Then the length is that of before
    film = job.wait().status().film
    assert film
    assert (film.frames, lengths(job)) == (17, [17])
    # And a segment without one gets the other
    assert lengths(submit(auto(), settings=own_settings).wait()) == [41, 41]


def test_what_needs_the_film_before_it_is_rendered_is_refused(settings: Settings, done: Job) -> None:
    with pytest.raises(SpecError, match=r"segments\.1\.frames: auto needs a model with a duration head"):
        submit({**auto(segments=[{"prompt": "a", "frames": 9}, {"prompt": "b"}]), "model": None}, settings=settings)
    plain = submit({**SPEC, "model": "shapes"}, settings=settings)
    with pytest.raises(SpecError, match=r"segments\.0\.frames: auto needs a model with .*; shapes has none"):
        plain.append([{"prompt": "c", "frames": "auto"}])


@pytest.fixture(scope="module")
def talkative(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a duration head that tells two prompts apart: 2 and 4.4 s."""
    folder = tmp_path_factory.mktemp("model") / "talkative"
    shutil.copytree(ensure(small_models, "tiny-2.5"), folder)
    engine = Engine.load(str(folder), device="cpu")
    first, second = (math.log(engine.duration(prompt)) for prompt in PROMPTS)
    head = LTX2DurationHead.from_pretrained(folder / DURATION_FOLDER)
    factor = math.log(2.2) / (second - first)
    head.mlp_out.bias.data = math.log(2) - factor * (first - head.mlp_out.bias.data)
    head.mlp_out.weight.data *= factor
    head.save_pretrained(folder / DURATION_FOLDER)
    return folder


PROMPTS = ("a boat", "rain on a window, then sun, then snow and wind and a long road")


def test_a_real_model_decides_and_a_repair_renders_the_same_bytes(
    own_settings: Settings, start_worker: Start, talkative: Path
) -> None:
    # Given a film of two lengths
    real = own_settings.model_copy(update={"engine": "ltx2.engine:Engine", "device": "cpu", "lease_s": 10.0})
    start_worker(real, "--only", "segments", "--only", "clips")
    film = {**auto(segments=[{"prompt": prompt} for prompt in PROMPTS]), "model": str(talkative)}
    job = submit(film, settings=real)
    wait_until(lambda: job.status().clips == 2, what="clips", timeout_s=120)
    jobs, blobs = job_store(real), open_blob_store(real.blobs)
    assert lengths(job) == [17, 33]
    before = {index: clip.blob_id for index, clip in jobs.clips(job.id).items()}
    # When all that segment 1 left is lost
    for blob_id in {*handoff_blobs(jobs.handoffs(job.id)[1]), before[1]}:
        blobs.drop(blob_id)
    start_worker(real, "--only", "films")
    # Then it is rendered again with the same bytes, and the film has the lengths that were decided
    made = job.wait().status().film
    assert made
    assert (made.frames, made.duration_s) == (17 + 32, 49 / 8)
    assert {index: clip.blob_id for index, clip in jobs.clips(job.id).items()} == before
