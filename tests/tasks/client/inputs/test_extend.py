"""Jobs that extend a video, with the stand-in engine."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blobstore import InMemoryBlobStore, open_blob_store
from ltx2.media.clip import read_clip
from ltx2.media.crossfade import crossfaded
from ltx2.media.sources.excerpts import Wanted, decode_ending
from ltx2.media.sources.extension import wanted_of
from ltx2.media.sources.pictures import Fit
from ltx2.state.arrays import decode_latents
from ltx2.timeline import SegmentShape, film_frames, first_timing
from tasks.client.inputs.reading import with_input_ids
from tasks.client.inputs.video import state_from_video
from tasks.client.submissions.state_files import start_handoff
from tasks.client.submit import submit
from tasks.errors import JobFailedError, JobStateError, SpecError
from tasks.jobs import state_wire
from tasks.settings import Settings
from tasks.spec.loader import check_spec, load_spec, parse_spec
from tests.conftest import Worker
from tests.ltx2.media.sources.videos import frames_in, numbered, numbers, video
from tests.tasks.client.conftest import COUNT
from tests.tasks.conftest import film_hash_of, job_store, spec

FRAMES, OVERLAP = 17, 9
SHAPE = SegmentShape(FRAMES, Fraction(24), OVERLAP)


def ending_of(clip: Path) -> Any:
    wanted: Wanted = wanted_of(check_spec(spec("a")).shape, 64, 32, Fit.CROP)
    with clip.open("rb") as file:
        return decode_ending(file, wanted)


def test_the_film_begins_with_the_videos_frames_and_goes_on(
    module_settings: Settings, worker: Worker, clip: Path
) -> None:
    # Given a job of two segments that extends a video
    job = submit(spec("a", "b", extend=str(clip)), settings=module_settings)
    # When
    status = job.wait().status()
    # Then the film shows all frames of the first segment, and the new ones of the second
    assert status.film
    assert status.film.frames == FRAMES + FRAMES - OVERLAP
    store, jobs = open_blob_store(module_settings.blobs), job_store(module_settings)
    head, start = jobs.head(job.id), jobs.handoff(job.id, -1)
    assert start is not None
    # And what it starts from is in blobs of the job: its path is not stored
    assert str(head.extend).startswith("sha256:")
    assert job.id in store.owners()
    tail = state_wire.decode(start.state, store).video_frames
    assert np.array_equal(tail or [], ending_of(clip).frames)
    # And its first frames change from the video's to the segment's own
    first = read_clip(store.get(jobs.clips(job.id)[0].blob_id))
    own = np.zeros((FRAMES, 32, 64, 3), np.uint8)
    handoff = jobs.handoff(job.id, 0)
    assert handoff is not None
    latents = decode_latents(store.get(str(handoff.latents)))
    own[:] = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None] + np.uint8(int(latents[0][0, 3, 0, 0, 0] * 200))
    expected = crossfaded(np.stack(tail or []), own[:OVERLAP])
    assert len(first.frames) == FRAMES
    assert np.abs(first.frames[:OVERLAP].astype(int) - expected).mean() < 2
    # And the segment pinned the sound that was encoded from the video's
    state = state_wire.decode(start.state, store)
    assert float(first.picture_start) == pytest.approx(state.video_position_offset_sec)


def test_the_film_begins_with_the_whole_video(
    module_settings: Settings, worker: Worker, clip: Path, tmp_path: Path
) -> None:
    # Given a job whose film begins with the video that it extends
    wanted = spec("a", "b", extend=str(clip), include_video=True)
    job = submit(wanted, settings=module_settings)
    # When
    film = job.wait().status().film
    # Then the film has all of the video, and then what it has without it
    new = FRAMES + FRAMES - OVERLAP - OVERLAP
    assert film
    assert (film.frames, film.segments) == (COUNT + new, 2)
    store, jobs = open_blob_store(module_settings.blobs), job_store(module_settings)
    timings = jobs.timings(job.id)
    assert [timing.first_frame for timing in timings] == [COUNT - OVERLAP, COUNT - OVERLAP + FRAMES]
    whole = frames_in(store.get(film.blob_id))
    assert numbers(whole[: COUNT - OVERLAP]) == list(range(COUNT - OVERLAP))
    other = submit({**wanted, "include_video": False}, settings=module_settings).wait().status().film
    assert other
    assert np.array_equal(whole[COUNT - OVERLAP :], frames_in(store.get(other.blob_id)))
    # And the job keeps the clips of the video, also for forks
    start = jobs.handoff(job.id, -1)
    assert start is not None
    assert set(start.source_clips) <= store.pins(job.id)
    assert film_hash_of(job.fork(after=0, spec=wanted)) == film.sha256
    with pytest.raises(SpecError, match="include_video: must be that of job"):
        job.fork(after=0, spec={**wanted, "include_video": False})
    # And it can be appended to, without the video being read as a whole again
    assert job.append({**spec("c"), "extend": str(clip)}) == range(2, 3)
    assert job.wait().status().film.frames == film.frames + FRAMES - OVERLAP  # type: ignore[union-attr]
    # And its report is about the segments
    assert job.write_report(tmp_path) is not None
    seams = json.loads((tmp_path / "seams.json").read_text())["seams"]
    assert [seam["frame"] for seam in seams] == [FRAMES, FRAMES + FRAMES - OVERLAP]


def test_a_take_of_the_first_segment_stays_behind_the_video(
    module_settings: Settings, worker: Worker, clip: Path
) -> None:
    # Given a film that begins with a video, whose second segment dissolves over 3 frames
    segments = [{"prompt": "a", "frames": 33}, {"prompt": "b", "transition": "fade", "fade": 0.125}]
    wanted = {**spec(), "extend": str(clip), "include_video": True, "segments": segments}
    job = submit(wanted, settings=module_settings).wait()
    film = job.status().film
    assert film
    assert film.frames == COUNT - OVERLAP + 33 + FRAMES - 3
    # When the film shows another take of the first one
    [take] = job.retake(0, prompt="x")
    job.wait().choose(0, take)
    again = job.wait().status().film
    # Then it begins with the same frames
    assert again
    assert (again.frames, again.sha256 == film.sha256) == (film.frames, False)
    shown = frames_in(open_blob_store(module_settings.blobs).get(again.blob_id))
    assert numbers(shown[: COUNT - OVERLAP]) == list(range(COUNT - OVERLAP))


def test_lost_blobs_are_made_again_with_the_same_bytes(module_settings: Settings, worker: Worker, clip: Path) -> None:
    # Given a film
    job = submit(spec("a", "b", extend=str(clip)), settings=module_settings)
    film = film_hash_of(job)
    jobs, store = job_store(module_settings), open_blob_store(module_settings.blobs)
    handoff = jobs.handoff(job.id, 0)
    assert handoff is not None
    # When its first segment and its clip are lost
    for blob_id in (jobs.clips(job.id)[0].blob_id, str(handoff.latents), job.status().film.blob_id):  # type: ignore[union-attr]
        store.drop(blob_id)
    job.retry()
    # Then
    assert film_hash_of(job) == film
    assert jobs.handoff(job.id, 0).latents == handoff.latents  # type: ignore[union-attr]


def test_a_fork_shares_what_the_job_starts_from(module_settings: Settings, worker: Worker, clip: Path) -> None:
    wanted = spec("a", "b", "c", extend=str(clip))
    job = submit(wanted, settings=module_settings).wait()
    fork = job.fork(after=0, spec=wanted)
    assert film_hash_of(fork) == film_hash_of(job)
    with pytest.raises(SpecError, match=r"extend: .*it is another video"):
        job.fork(after=0, spec=spec("a", "b", "c", extend=str(clip), fit="pad") | {"extend": None})
    # And a take of its first segment repeats the video's frames as well, which leaves too few
    with pytest.raises(JobStateError, match="of 17 frames with an overlap of 9 is too short"):
        job.retake(0)


def test_segments_of_an_extension_have_lengths_of_their_own(
    module_settings: Settings, worker: Worker, clip: Path, tmp_path: Path
) -> None:
    # Given a first segment of 25 frames that repeats 17 of the video, and a scene of 17 that dissolves over 3
    segments = [
        {"prompt": "a", "frames": 25, "overlap": 17, "end_image": str(clip)},
        {"prompt": "b", "transition": "fade", "fade": 0.125},
    ]
    wanted = {**spec(), "extend": str(clip), "segments": segments}
    # When
    job = submit(wanted, settings=module_settings).wait()
    # Then
    film, jobs = job.status().film, job_store(module_settings)
    assert film
    assert film.frames == 25 + 17 - 3 == film_frames(check_spec(wanted).plan())
    assert [timing.first_frame for timing in jobs.timings(job.id)] == [0, 22]
    assert [image.frame for image in jobs.contents(job.id).segments[0].images or ()] == [7]
    # And a take of its first segment takes its place
    [take] = job.retake(0, prompt="x")
    job.wait().choose(0, take)
    retaken = job.wait().status().film
    assert retaken
    assert (retaken.frames, retaken.sha256 == film.sha256) == (film.frames, False)
    # And a spec that names the video can append to it, whatever the lengths of what it appends
    assert job.append({**spec("c"), "extend": str(clip)}) == range(2, 3)
    other = tmp_path / "other.mp4"
    other.write_bytes(video(numbered(COUNT)[3:]))
    with pytest.raises(SpecError, match=r"extend: .*it is another video"):
        job.append({**spec("c"), "extend": str(other)})
    job.wait()
    # And a dissolve is at most half of the new frames
    with pytest.raises(SpecError, match=r"segments.1.fade: a dissolve of 5 frames is too long: it may have 4"):
        check_spec({**wanted, "segments": [segments[0], {**segments[1], "fade": 0.2}]})


def test_the_id_names_pictures_and_sound(tmp_path: Path) -> None:
    # Given two silent videos, and the same one twice
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path, first in zip(paths, (0, 5, 0), strict=True):
        path.write_bytes(video(numbered(COUNT)[first : first + 20]))
    # When / Then
    ids = [with_input_ids(check_spec(spec("a", extend=str(path)))).extend for path in paths]
    assert ids[0] == ids[2] != ids[1]


def test_a_path_is_relative_to_the_specs_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("extend: a.mp4\nsegments: [{prompt: a}]")
    assert load_spec(tmp_path / "job.yaml").extend == str(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extend: a.mp4\nimage: b.png\nsegments: [{prompt: a}]", "spec:2: image: a job that extends a video starts"),
        ("extend: a.mp4\naudio: b.wav\nsegments: [{prompt: a}]", "spec:2: audio: a job that extends a video goes on"),
        ("extend: a.mp4\nsegments: [{prompt: a, transition: cut}]", "spec:1: extend: .* cannot start with a cut"),
        ("extend: a.mp4\nfit: squeeze\nsegments: [{prompt: a}]", "spec:2: fit: "),
        ("extend: 3\nsegments: [{prompt: a}]", "spec:1: extend: "),
    ],
)
def test_what_does_not_go_together_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(text)


def test_a_file_that_is_no_video_is_refused_where_it_is_submitted(
    module_settings: Settings, tmp_path: Path, clip: Path
) -> None:
    text = tmp_path / "list.mp4"
    text.write_text("#EXTM3U\n/etc/passwd\n")
    for path, message in (
        (tmp_path / "none.mp4", "No such file"),
        (text, "not an MP4, MOV, WebM or MKV file"),
        (Path("/dev/zero"), "not a regular file"),
    ):
        with pytest.raises(SpecError, match=f"extend: .*{path.name}: {message}"):
            submit(spec("a", extend=str(path)), settings=module_settings)
    with pytest.raises(SpecError, match=r"extend: .*continues a state"):
        submit(spec("a", extend=str(clip)), from_state={"kind": "x"}, settings=module_settings)


def test_a_state_is_made_from_a_video_on_this_machine(module_settings: Settings, clip: Path) -> None:
    # Given a spec for a small model
    settings = module_settings.model_copy(update={"engine": "ltx2.engine:Engine", "model": "shapes", "device": "cpu"})
    wanted = check_spec(spec("a", "b"))
    # When
    given = state_from_video(clip, wanted, settings)
    # Then it is a state that a job of this spec continues
    blobs = InMemoryBlobStore()
    state = state_wire.decode(start_handoff(given, wanted, blobs, blobs, settings).state, blobs)
    assert state.audio_latents is not None
    assert state.audio_latents.shape[2] == state.audio_conditioning_num_frames == first_timing(SHAPE).next_pinned


def test_times_of_images_count_from_the_start_of_the_film(clip: Path) -> None:
    # Given an image at the first new frame, which comes after the whole video
    wanted = spec("a", extend=str(clip), include_video=True, images=[{"at": COUNT / 24, "path": str(clip)}])
    # When / Then
    [image] = with_input_ids(check_spec(wanted)).segments[0].images or ()
    assert image.frame == 0
    with pytest.raises(SpecError, match="include_video: there is no video; name one in `extend`"):
        with_input_ids(check_spec(spec("a", include_video=True)))


def test_a_lost_clip_of_the_video_fails_the_job_by_name(module_settings: Settings, worker: Worker, clip: Path) -> None:
    # Given a film that begins with a video
    job = submit(spec("a", extend=str(clip), include_video=True), settings=module_settings).wait()
    store, start = open_blob_store(module_settings.blobs), job_store(module_settings).handoff(job.id, -1)
    film = job.status().film
    assert start is not None
    assert film
    # When the film and a clip of the video are lost
    for blob_id in (film.blob_id, start.source_clips[0]):
        store.drop(blob_id)
    job.retry()
    # Then
    with pytest.raises(JobFailedError, match="what the job starts from was lost"):
        job.wait()
