"""Stages, guidance and a start image in a spec, with small real models and a real worker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image
from safetensors.torch import save_file

from ltx2.checkpoints.random import ensure
from ltx2.state.arrays import decode_latents
from ltx2.state.png import decode_png
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobFailedError, SpecError
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker
from tests.ltx2.checkpoint_files import edit
from tests.tasks.conftest import job_store, spec


@pytest.fixture(scope="module")
def tiny_settings(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    """Settings of a deployment with one worker and the model `tiny`."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    settings = Settings(redis_url=server.url, home=home, model="tiny")
    worker = Worker(settings, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield settings
    worker.end()
    server.stop()


@pytest.fixture(scope="module")
def undistilled(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A copy of the model `tiny` that counts as not distilled and has no upsampler."""
    folder = tmp_path_factory.mktemp("full") / "model"
    shutil.copytree(ensure(home / "models"), folder)
    shutil.rmtree(folder / "latent_upsampler")
    edit(folder / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True, shift_terminal=0.1)
    return folder


def small_spec(*prompts: str, **changes: Any) -> dict[str, Any]:
    return spec(*prompts, **({"width": 64, "height": 64} | changes))


def grey_image(folder: Path, shade: int) -> str:
    path = folder / f"{shade}.png"
    Image.new("RGB", (64, 64), (shade, shade, shade)).save(path)
    return str(path)


def test_two_stages_with_a_start_image(tiny_settings: Settings, tmp_path: Path) -> None:
    # When two segments are rendered in two stages, the first with a start image
    job = submit(small_spec("a boat", "gulls", stages=2, image=grey_image(tmp_path, 90)), settings=tiny_settings).wait()

    # Then the film has both, and its first latents are those of the image at full size
    film, report = job.status().film, job.summary()
    assert film is not None
    assert (film.width, film.height, film.frames) == (64, 64, 17 + 8)
    deployment = job._deployment
    latents = [
        decode_latents(deployment.blobs.get(str(h.latents)))[0] for h in job_store(tiny_settings).handoffs(job.id)
    ]
    assert [tuple(video.shape[2:]) for video in latents] == [(3, 2, 2)] * 2
    frame = decode_png(deployment.blobs.get(str(job_store(tiny_settings).head(job.id).image)))
    assert np.array_equal(latents[0][:, :, :1].numpy(), encoded(deployment.settings, frame))
    assert str(tmp_path) not in json.dumps(report)


def test_a_segment_longer_than_the_positions_of_the_default_model_is_not_queued(tiny_settings: Settings) -> None:
    with pytest.raises(
        SpecError, match=r"^spec: frames: 489 at 24 per second are 20\.4 s; LTX-2 has positions up to 20 s"
    ):
        submit(small_spec("a boat", frames=489), settings=tiny_settings)


def test_a_lost_film_of_2_5_is_rendered_again_with_the_same_bytes(tiny_settings: Settings) -> None:
    # Given a film that has new noise in each step
    job = submit(small_spec("a boat", "gulls", model="tiny-2.5"), settings=tiny_settings).wait()
    film = job.status().film
    assert film is not None
    # When it is lost, with all states, latents and clips
    blobs = redis.Redis.from_url(tiny_settings.blobs)
    for key in blobs.scan_iter("longtake:blob:*"):
        blobs.pexpireat(key, 1)  # in the past
    job.retry()
    # Then
    again = job.wait().status().film
    assert again is not None
    assert again.sha256 == film.sha256


def test_the_full_weights_of_2_5_are_rendered_if_a_spec_says_so(tiny_settings: Settings) -> None:
    films = []
    for changes in ({"model": "tiny-2.5#full"}, {"model": "tiny-2.5", "distilled": False}):
        film = submit(small_spec("a boat", steps=2, **changes), settings=tiny_settings).wait().status().film
        assert film is not None
        films.append(film.sha256)
    assert films[0] == films[1]


def test_a_clip_of_the_diffusion_decoder_is_rebuilt_with_the_same_bytes(tiny_settings: Settings) -> None:
    # Given a film whose record says what decoded its segments, and with which noise
    job = submit(small_spec("a boat", "gulls", model="tiny-2.5", decoder="diffusion"), settings=tiny_settings).wait()
    store, film = job_store(tiny_settings), job.status().film
    assert film is not None
    handoffs = store.handoffs(job.id)
    assert [(one.decoder, one.noise_seed) for one in handoffs] == [("diffusion", 20_003), ("diffusion", 20_004)]
    clips = {index: clip.blob_id for index, clip in store.clips(job.id).items()}
    # When the film and its clips are lost
    blobs = redis.Redis.from_url(tiny_settings.blobs)
    for blob_id in (film.blob_id, *clips.values()):
        for key in blobs.scan_iter(f"longtake:blob:*{blob_id.removeprefix('sha256:')}*"):
            blobs.pexpireat(key, 1)  # in the past
    job.retry()
    # Then the clips are decoded again from the latents, and no segment is rendered again
    again = job.wait().status().film
    assert again is not None
    assert again.sha256 == film.sha256
    assert {index: clip.blob_id for index, clip in store.clips(job.id).items()} == clips
    assert [one.fence for one in store.handoffs(job.id)] == [one.fence for one in handoffs]


def encoded(settings: Settings, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """Latents of one frame from the small model's VAE, in the form in which they are stored."""
    from ltx2.checkpoints.resolve import small_folder
    from ltx2.engine import Engine
    from ltx2.request import SegmentRequest
    from ltx2.timeline import SegmentShape, exact, first_timing

    engine = Engine.load(str(small_folder(settings.home / "models", "tiny")), device="cpu")
    timing = first_timing(SegmentShape(17, exact(24), 9))
    request = SegmentRequest("anything", 0, 64, 64, timing, image=frame)
    return engine.run(request).video_latents[:, :, :1].numpy()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"guidance": {"cfg": [3, 7]}}, "guidance is 3 for the picture and 7 for the sound; LTX-2.3, distilled"),
        ({"steps": 20}, "steps is 20; LTX-2.3, distilled, has a fixed schedule of 8 steps"),
        ({"negative_prompt": "fog"}, "a negative prompt changes nothing"),
    ],
)
def test_an_unsupported_request_fails_the_job_with_the_reason(
    tiny_settings: Settings, changes: dict[str, Any], reason: str
) -> None:
    job = submit(small_spec("a boat", **changes), settings=tiny_settings)
    with pytest.raises(JobFailedError, match=rf"failed at segment 0 after 1 attempt: RequestError: {reason}"):
        job.wait()


def test_two_stages_without_an_upsampler_fail_the_job(tiny_settings: Settings, undistilled: Path) -> None:
    job: Job = submit(small_spec("a boat", model=str(undistilled), stages=2, steps=2), settings=tiny_settings)
    with pytest.raises(JobFailedError, match=r"RequestError: stages is 2, but .* has no latent_upsampler"):
        job.wait()


def test_an_upsampler_and_a_lora_of_the_second_stage_are_used(
    tiny_settings: Settings, undistilled: Path, tmp_path: Path
) -> None:
    # Given a model without an upsampler, and one of its own as a single file
    upsampler = tmp_path / "x2.safetensors"
    shutil.copy(
        ensure(tiny_settings.home / "models") / "latent_upsampler/diffusion_pytorch_model.safetensors", upsampler
    )
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": torch.ones(1, 64), f"{layer}.lora_B.weight": torch.ones(64, 1)}
    save_file(factors, tmp_path / "distilled.safetensors")
    two = {"model": str(undistilled), "stages": 2, "steps": 2, "upsampler": str(upsampler)}
    # When jobs with and without the LoRA follow each other on one worker
    films = []
    for changes in ({}, {"stage2_lora": str(tmp_path / "distilled.safetensors")}, {}):
        film = submit(small_spec("a boat", "gulls", **two, **changes), settings=tiny_settings).wait().status().film
        assert film is not None
        films.append(film.sha256)
    # Then
    assert films[0] == films[2] != films[1]


def test_a_guided_film_depends_on_its_negative_prompt_and_guidance(tiny_settings: Settings, undistilled: Path) -> None:
    films = set()
    for changes in ({}, {"negative_prompt": "fog"}, {"guidance": {"stg": 0}}):
        changed = small_spec("a boat", model=str(undistilled), steps=2, **changes)
        film = submit(changed, settings=tiny_settings).wait().status().film
        assert film is not None
        films.add(film.sha256)
    assert len(films) == 3
