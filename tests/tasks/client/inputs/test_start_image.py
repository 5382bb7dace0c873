"""Jobs that start from an image, with the stand-in engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blobstore import open_blob_store
from ltx2.state.png import decode_png
from tasks.client.inputs.reading import with_input_ids
from tasks.client.inputs.start_image import read_images
from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.embedded.inputs import inputs_of
from tasks.errors import JobFailedError, SpecError
from tasks.jobs.state_wire import handoff_blobs
from tasks.maintenance.admission import estimate_bytes
from tasks.settings import Settings
from tasks.spec.loader import check_spec, load_spec
from tests.conftest import Worker
from tests.ltx2.media.sources.videos import numbered, numbers, video
from tests.tasks.conftest import film_hash_of, job_store, spec


@pytest.fixture
def boat(tmp_path: Path) -> Path:
    """An image of 128x128 pixels; a frame of 64x32 shows the middle half of its rows."""
    shades = np.repeat(np.arange(128, dtype=np.uint8)[:, None, None], 128, axis=1).repeat(3, axis=2)
    path = tmp_path / "pictures" / "boat.webp"
    path.parent.mkdir()
    Image.fromarray(shades).save(path, lossless=True)
    return path


def image_of(job: Job, settings: Settings) -> str:
    return str(job_store(settings).head(job.id).image)


def test_the_first_frame_of_a_video_is_an_image_wherever_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(video(numbered(12)[5:]))
    wanted = spec("a", image=str(path), images=[{"at": 0.1, "path": str(path)}])
    wanted["segments"][0]["end_image"] = str(path)
    images = read_images(check_spec(wanted))
    assert list(images) == [str(path)]
    assert numbers(decode_png(images[str(path)])[None]) == [5]


def test_the_record_refers_to_the_image_by_blob_id(own_settings: Settings, boat: Path, tmp_path: Path) -> None:
    # Given a spec file with an image path relative to it
    (tmp_path / "job.yaml").write_text("image: pictures/boat.webp\nwidth: 64\nheight: 32\nsegments: [{prompt: a}]")
    # When it is submitted as a file and as a mapping
    job = submit(tmp_path / "job.yaml", settings=own_settings)
    same = submit({**spec("a"), "image": str(boat)}, settings=own_settings)
    # Then both records contain the id of the same blob, which both jobs own
    blob_id, store = image_of(job, own_settings), open_blob_store(own_settings.blobs)
    assert blob_id == image_of(same, own_settings)
    assert blob_id.startswith("sha256:")
    assert set(store.owners()) >= {job.id, same.id}
    # And the blob is a PNG of the job's frame size
    frame = decode_png(store.get(blob_id))
    assert frame.shape == (32, 64, 3)
    assert frame[:, 0, 0].mean() == pytest.approx(63.5, abs=0.5)
    assert int(frame[-1, 0, 0]) - int(frame[0, 0, 0]) == pytest.approx(62, abs=1)


def test_the_image_changes_the_film(module_settings: Settings, worker: Worker, boat: Path) -> None:
    # Given the film without an image
    without = film_hash_of(submit(spec("a", "b"), settings=module_settings))
    # When the job is rendered from two different images
    with_it = film_hash_of(submit(spec("a", "b", image=str(boat)), settings=module_settings))
    Image.new("RGB", (64, 32), "white").save(boat)
    with_another = film_hash_of(submit(spec("a", "b", image=str(boat)), settings=module_settings))
    # Then the three films differ
    assert len({without, with_it, with_another}) == 3


def test_a_job_that_needs_its_lost_image_fails_with_the_reason(
    module_settings: Settings, worker: Worker, boat: Path, tmp_path: Path
) -> None:
    # Given a job whose second segment failed
    job = submit(spec("a", f"fail until {tmp_path / 'repaired'}", image=str(boat)), settings=module_settings)
    with pytest.raises(JobFailedError, match="failed at segment 1"):
        job.wait()
    # And whose image and first handoff were lost
    handoff, store = job_store(module_settings).handoff(job.id, 0), open_blob_store(module_settings.blobs)
    assert handoff is not None
    for blob_id in (image_of(job, module_settings), *handoff_blobs(handoff)):
        store.drop(blob_id)
    # When it is retried by a worker that no longer caches that state
    submit(spec("c", "d", "e"), settings=module_settings).wait()
    job.retry()
    # Then it fails, and the error names the segment and the reason
    with pytest.raises(JobFailedError, match=r"failed at segment 0 .*: what the job starts from was lost"):
        job.wait()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.png", r"image: \S+/absent.png: No such file or directory"),
        ("", r"image: \S+: Is a directory"),
        ("pipe", r"image: \S+/pipe: not a regular file"),
        ("text", r"image: \S+/text: not a PNG, JPEG or WEBP"),
        ("nul\0", r"image: \S+nul\\x00: not the name of a file"),
    ],
)
def test_an_invalid_image_is_rejected_before_the_job_is_created(
    own_settings: Settings, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "text").write_text("a boat")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match=message):
        submit(spec("a", image=f"{tmp_path}/{name}"), settings=own_settings)
    assert list_jobs(settings=own_settings) == []
    assert not list(open_blob_store(own_settings.blobs).owners())


def test_an_image_and_a_state_exclude_each_other(own_settings: Settings, boat: Path) -> None:
    with pytest.raises(SpecError, match="image: a job that continues a state starts with that state's frames"):
        submit(spec("a", image=str(boat)), from_state={"kind": "ltx2.v1", "payload": {}}, settings=own_settings)


def test_a_tilde_in_an_image_path_is_expanded(tmp_path: Path, boat: Path) -> None:
    (tmp_path / "job.yaml").write_text("image: ~/boat.png\nsegments: [{prompt: a}]")
    assert load_spec(tmp_path / "job.yaml").image == str(Path.home() / "boat.png")


def test_the_render_id_depends_on_the_content_of_the_image(boat: Path) -> None:
    # Given the render id of a spec with an image
    original = check_spec(spec("a", image=str(boat)))
    before = inputs_of(with_input_ids(original), None, Settings()).job_id
    # When the file is moved, Then the id stays
    moved = boat.rename(boat.with_name("ship.webp"))
    assert inputs_of(with_input_ids(check_spec(spec("a", image=str(moved)))), None, Settings()).job_id == before
    # When the file has another content, Then the id changes
    Image.new("RGB", (64, 32), "white").save(boat)
    assert inputs_of(with_input_ids(original), None, Settings()).job_id != before


def test_the_estimate_includes_the_image() -> None:
    with_it, without = (check_spec(spec("a", **changes)) for changes in ({"image": "boat.png"}, {}))
    assert estimate_bytes(with_it) - estimate_bytes(without) == pytest.approx(64 * 32 * 3.1, abs=1)
