"""Stages, guidance and a first image as a user asks for them: the real small models, a real worker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx2.checkpoints.random import ensure
from ltx2.state.arrays import decode_latents
from ltx2.state.png import decode_png
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobFailedError
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker
from tests.ltx2.files import edit
from tests.tasks.conftest import job_store, spec


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    """A deployment with a worker that holds a small model."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    settings = Settings(redis_url=server.url, home=home, model="tiny")
    worker = Worker(settings, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield settings
    worker.stop()
    server.stop()


@pytest.fixture(scope="module")
def full_copy(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """The small model as one that is not distilled, and without its upsampler."""
    folder = tmp_path_factory.mktemp("full") / "model"
    shutil.copytree(ensure(home / "models"), folder)
    shutil.rmtree(folder / "latent_upsampler")
    edit(folder / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True, shift_terminal=0.1)
    return folder


def small(*prompts: str, **changes: Any) -> dict[str, Any]:
    return spec(*prompts, **({"width": 64, "height": 64} | changes))


def shades(folder: Path, shade: int) -> str:
    path = folder / f"{shade}.png"
    Image.new("RGB", (64, 64), (shade, shade, shade)).save(path)
    return str(path)


def test_a_film_in_two_stages_that_begins_with_an_image(real: Settings, tmp_path: Path) -> None:
    # When two segments are rendered in two stages, the first with an image
    job = submit(small("a boat", "gulls", stages=2, image=shades(tmp_path, 90)), settings=real).wait()

    # Then there is a film of both, whose first latents are those of the image, at full size
    film, report = job.status().film, job.report()
    assert film is not None
    assert (film.width, film.height, film.frames) == (64, 64, 17 + 8)
    room = job._deployment
    latents = [decode_latents(room.blobs.get(str(h.latents)))[0] for h in job_store(real).handoffs(job.id)]
    assert [tuple(video.shape[2:]) for video in latents] == [(3, 2, 2)] * 2
    frame = decode_png(room.blobs.get(str(job_store(real).head(job.id).image)))
    assert np.array_equal(latents[0][:, :, :1].numpy(), encoded(room.settings, frame))
    assert str(tmp_path) not in json.dumps(report)


def encoded(settings: Settings, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """What the small model's VAE makes of one frame, as stored latents have it."""
    from ltx2.checkpoints.resolve import small_folder
    from ltx2.engine import Engine
    from ltx2.request import SegmentRequest
    from ltx2.timeline import SegmentShape, exact, first_timing

    engine = Engine.load(str(small_folder(settings.home / "models", "tiny")), device="cpu")
    timing = first_timing(SegmentShape(17, exact(24), 9))
    request = SegmentRequest("anything", 0, 64, 64, timing, image=frame)
    return engine.run(request).video_latents[:, :, :1].numpy()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"guidance": {"cfg": [3, 7]}}, "guidance is 3 for the picture and 7 for the sound; LTX-2.3, distilled"),
        ({"steps": 20}, "steps is 20; LTX-2.3, distilled, has a fixed schedule of 8 steps"),
        ({"negative_prompt": "fog"}, "a negative prompt changes nothing"),
    ],
)
def test_what_a_model_cannot_do_ends_the_job_with_the_reason(
    real: Settings, changes: dict[str, Any], told: str
) -> None:
    job = submit(small("a boat", **changes), settings=real)
    with pytest.raises(JobFailedError, match=rf"failed at segment 0 after 1 attempt: RequestError: {told}"):
        job.wait()


def test_a_model_without_an_upsampler_ends_a_job_of_two_stages(real: Settings, full_copy: Path) -> None:
    job: Job = submit(small("a boat", model=str(full_copy), stages=2, steps=2), settings=real)
    with pytest.raises(JobFailedError, match=r"RequestError: stages is 2, but .* has no latent_upsampler"):
        job.wait()


def test_a_guided_film_depends_on_what_it_is_led_away_from(real: Settings, full_copy: Path) -> None:
    films = set()
    for changes in ({}, {"negative_prompt": "fog"}, {"guidance": {"stg": 0}}):
        asked = small("a boat", model=str(full_copy), steps=2, **changes)
        film = submit(asked, settings=real).wait().status().film
        assert film is not None
        films.add(film.sha256)
    assert len(films) == 3
