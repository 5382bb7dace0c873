"""Jobs whose last segment leads into a video, with the stand-in engine."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from blobstore import open_blob_store
from ltx2.media.clip import read_clip
from ltx2.media.crossfade import crossfaded_into
from ltx2.media.sources.excerpts import decode_beginning
from ltx2.media.sources.lead_in import lead_in, wanted_beginning
from ltx2.media.sources.pictures import Fit
from ltx2.state.arrays import decode_latents
from ltx2.state.png import encode_png
from tasks.cli import main
from tasks.client.display.pace import pace_in_deployment
from tasks.client.edits.plan import EditKind
from tasks.client.inputs.reading import with_input_ids
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobFailedError, JobStateError, SpecError
from tasks.jobs import state_wire
from tasks.jobs.units import VIDEO_AFTER_INDEX
from tasks.settings import Settings
from tasks.spec.loader import check_spec, parse_spec
from tests.conftest import Worker, wait_until
from tests.ltx2.media.sources.videos import frames_in, numbered, numbers, sound_in, tone, video
from tests.stand_in import StandInEngine
from tests.tasks.client.conftest import COUNT
from tests.tasks.conftest import film_hash_of, job_store, spec

FRAMES, SHARED = 25, 9
NEW = FRAMES + FRAMES - SHARED


def wanted(clip: Path, *prompts: str, **changes: Any) -> dict[str, Any]:
    return spec(*prompts, frames=FRAMES, extend=str(clip), before=True, **changes)


def film_of(job: Job, settings: Settings) -> bytes:
    film = job.wait().status().film
    assert film
    return open_blob_store(settings.blobs).get(film.blob_id)


def test_the_last_segment_is_pinned_to_the_video_and_fades_into_it(
    module_settings: Settings, worker: Worker, clip: Path
) -> None:
    # Given a job of two segments that leads into a video
    job = submit(wanted(clip, "a", "b"), settings=module_settings)
    # When
    film = job.wait().status().film
    # Then the film ends with the frames that its last segment has in common with the video
    assert film
    assert film.frames == NEW
    store, jobs = open_blob_store(module_settings.blobs), job_store(module_settings)
    with clip.open("rb") as file:
        shape = check_spec(wanted(clip, "a")).shape
        beginning = decode_beginning(file, wanted_beginning(shape, 64, 32, Fit.CROP))
    handoff, following = jobs.handoff(job.id, 1), jobs.handoff(job.id, VIDEO_AFTER_INDEX)
    assert handoff
    assert following
    # And what it leads into is in blobs of the job
    assert np.array_equal(state_wire.decode(following.state, store).video_frames or [], beginning.frames)
    assert {str(jobs.head(job.id).extend), *state_wire.handoff_blobs(following)} <= store.pins(job.id)
    # And its last latents are those of the video, of which the sound lies on its own grid
    pictures, sounds = decode_latents(store.get(str(handoff.latents)))
    assert float(pictures[0, 0, -1].mean()) == pytest.approx(float(beginning.frames[1:].mean()))
    heard = lead_in(jobs.timings(job.id)[1], beginning.sound, SHARED)
    expected = StandInEngine().encode_sound(heard.sound, heard.latents, lead=heard.lead)
    assert heard.latents == SHARED
    assert np.allclose(sounds[:, :, -SHARED:], expected, atol=1e-6)  # stored with 24 bits
    # And the end of its clip changes to the video's frames
    own, _ = StandInEngine().decode(pictures, sounds)
    shown = read_clip(store.get(jobs.clips(job.id)[1].blob_id)).frames
    assert np.abs(shown[-SHARED:].astype(int) - crossfaded_into(own, beginning.frames)[-SHARED:]).mean() < 2
    # And a repair, and a clip that is made again, have the same bytes
    for blob_id in (str(handoff.latents), jobs.clips(job.id)[1].blob_id, film.blob_id):
        store.drop(blob_id)
    job.retry()
    assert film_hash_of(job) == film.sha256
    store.drop(jobs.clips(job.id)[1].blob_id)
    store.drop(film.blob_id)
    job.retry()
    assert film_hash_of(job) == film.sha256


def test_the_film_goes_on_with_the_whole_video_and_its_sound(
    module_settings: Settings, worker: Worker, clip: Path
) -> None:
    # Given a film of a scene and another one, that leads into a video and has all of it
    segments = [{"prompt": "a"}, {"prompt": "b", "transition": "cut"}]
    given = {**wanted(clip), "include_video": True, "segments": segments}
    job = submit(given, settings=module_settings)
    # When
    film = film_of(job, module_settings)
    # Then after the segments it has every frame of the video that they do not have
    frames = frames_in(film)
    assert len(frames) == 2 * FRAMES - SHARED + COUNT
    assert numbers(frames[2 * FRAMES :]) == list(range(SHARED, COUNT))
    # And the video's sound is at its place to the sample, once it has faded in
    jobs = job_store(module_settings)
    sound, rate = sound_in(film)[0], StandInEngine.audio_rate
    assert abs(len(sound) - len(frames) / 24 * rate) <= 1024  # AAC pads its last block
    first, half = round((2 * FRAMES - SHARED) / 24 * rate), rate // 2
    played, original = sound[first + half : first + rate], tone(COUNT / 24, rate=rate)[0, half:rate]
    lags = [float(played[10:-10] @ original[10 + lag : half - 10 + lag]) for lag in range(-10, 11)]
    assert int(np.argmax(lags)) == 10
    assert np.abs(played - original).max() < 0.05
    # And a take of the last segment leads into it as well
    [take] = job.retake(1, prompt="x")
    job.wait().choose(1, take)
    retaken = frames_in(film_of(job, module_settings))
    assert len(retaken) == len(frames)
    assert numbers(retaken[2 * FRAMES :]) == list(range(SHARED, COUNT))
    store, made = open_blob_store(module_settings.blobs), jobs.takes(job.id).of(1)[0].made
    original_take = jobs.handoff(job.id, 1)
    assert made
    assert original_take
    latents = [decode_latents(store.get(str(one.latents))) for one in (original_take, made)]
    assert np.array_equal(latents[0][0][:, :, -1], latents[1][0][:, :, -1])
    assert np.array_equal(latents[0][1][:, :, -SHARED:], latents[1][1][:, :, -SHARED:])
    assert not np.array_equal(latents[0][0][:, :, 1], latents[1][0][:, :, 1])
    # And when a clip of the video is lost, the job fails by name
    following = jobs.handoff(job.id, VIDEO_AFTER_INDEX)
    shown = job.status().film
    assert following
    assert shown
    for blob_id in (following.source_clips[0], shown.blob_id):
        store.drop(blob_id)
    job.retry()
    with pytest.raises(JobFailedError, match="what the job starts from was lost"):
        job.wait()


def test_no_segment_comes_after_the_last_one(module_settings: Settings, worker: Worker, clip: Path) -> None:
    # Given a film
    job = submit(wanted(clip, "a", "b", include_video=True), settings=module_settings)
    film = film_hash_of(job)
    # When segments are added behind the last one, or a film ends with one that was not the last
    longer = wanted(clip, "a", "b", "c", include_video=True)
    with pytest.raises(JobStateError, match=r"segment 1 .* leads into a video \(`before`\).*: fork it after segment 0"):
        job.append([{"prompt": "c"}])
    with pytest.raises(JobStateError, match="leads into a video"):
        job.fork(after=1, spec=longer)
    # Then an edit renders the last one again, in a fork
    plan = job.plan_edit(longer)
    assert (plan.kind, plan.kept, list(plan.changed.values())) == (EditKind.FORK, 1, [["video after it"]])
    plan = job.plan_edit(wanted(clip, "a", include_video=True))
    assert (plan.kind, plan.kept) == (EditKind.NEW_JOB, 0)
    # And one that continues the same video instead says only that
    assert list(job.plan_edit({**longer, "before": False}).head) == ["before"]
    # And such jobs are on record for the time of the next one
    assert pace_in_deployment(module_settings, check_spec(wanted(clip, "c", include_video=True)))
    # And a fork with as many segments shares the video's clips
    assert film_hash_of(job.fork(after=0, spec=wanted(clip, "a", "b", include_video=True))) == film
    made = job.fork(after=0, spec=longer).wait().status().film
    assert made
    assert made.frames == NEW + FRAMES - SHARED - SHARED + COUNT
    with pytest.raises(SpecError, match="before: must be that of job"):
        job.fork(after=0, spec={**longer, "before": False})


def test_a_worker_that_is_killed_in_the_last_segment_changes_nothing(
    own_settings: Settings, start_worker: Callable[..., Worker], clip: Path, tmp_path: Path
) -> None:
    # Given a job whose worker is killed while it renders the last segment
    job = submit(wanted(clip, "a", f"wait until {tmp_path / 'go'}", include_video=True), settings=own_settings)
    killed = start_worker(own_settings).ready()
    wait_until(lambda: job.status().in_work and job.status().committed == 1, what="the last segment")
    killed.stop(signal.SIGKILL)
    # When another one takes over
    (tmp_path / "go").touch()
    start_worker(own_settings)
    # Then the film is that of a job that nothing happened to
    assert film_hash_of(job) == film_hash_of(submit(wanted(clip, "a", "b", include_video=True), settings=own_settings))


def test_a_dry_run_says_what_is_rendered(module_settings: Settings, clip: Path, tmp_path: Path) -> None:
    # Given a spec that continues a video
    command = CliRunner(env=module_settings.environment())
    path, whole = tmp_path / "spec.json", {"include_video": True}
    for changes, text in (({}, "1.71 s, up to the video, 41"), (whole, "1.33 s before the video, 32")):
        path.write_text(json.dumps({**wanted(clip, "a", "b", **changes), "before": False}))
        # When it is to lead into the video instead
        result = command.invoke(main, ["submit", str(path), "--before", "--dry-run"])
        # Then
        assert f": {text} frames" in result.stderr
    # And an edit of the job that does so has nothing to change
    job = submit(wanted(clip, "a", "b", include_video=True), settings=module_settings)
    result = command.invoke(main, ["edit", job.id, str(path), "--before", "--dry-run"])
    assert result.stderr.splitlines()[-1] == f"nothing is rendered: job {job.id} has this spec"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio: b.wav\nsegments: [{prompt: a}]", "spec:3: audio: a job that extends a video goes on"),
        ("segments: open", "spec:2: before: an open job has no last segment"),
        ("segments: [{prompt: a, end_image: b.png}]", "segments.0.end_image: the last segment ends with the video"),
        ("frames: 17\nsegments: [{prompt: a}, {prompt: b}]", "frames: 17 .* first 9 and last 9 .* at least 25"),
        ("overlap: 17\nsegments: [{prompt: a}, {prompt: b, frames: 33}]", "segments.1.frames: 33 .* at least 41"),
        (
            "frames: 9\noverlap: 1\nsegments: [{prompt: a, image: b.png}]",
            "frames: 9 .* first 1 and last 9 .* at least 17",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(f"extend: a.mp4\nbefore: true\n{text}")


def test_what_a_segment_cannot_lead_into_is_refused_where_it_is_submitted(clip: Path, tmp_path: Path) -> None:
    # Given
    short, picture = tmp_path / "short.mp4", tmp_path / "gate.png"
    short.write_bytes(video(numbered(8)))
    picture.write_bytes(encode_png(numbered(1)[0]))
    for changes, message in (
        ({"extend": None}, "before: there is no video"),
        ({"extend": str(short)}, r"extend: .*short.mp4: it is too short: 8 frames"),
        ({"images": [{"at": 1.0, "path": str(picture)}]}, "images.0.at: frame 24 of segment 0 shows the video"),
    ):
        # When / Then
        with pytest.raises(SpecError, match=message):
            with_input_ids(check_spec({**wanted(clip, "a"), **changes}))
    # And a job of one segment begins as any other, with an image
    given = {**wanted(clip, "a"), "image": str(picture), "images": [{"at": 0.5, "path": str(picture)}]}
    [image] = with_input_ids(check_spec(given)).segments[0].images or ()
    assert image.frame == 12
