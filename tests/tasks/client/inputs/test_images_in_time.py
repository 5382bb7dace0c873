"""Images at times of a film, and at the beginnings and ends of segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blobstore import blob_id_of, open_blob_store
from ltx2.timeline import exact, exact_seconds
from tasks.client.edit import edit
from tasks.client.inputs.reading import read_inputs
from tasks.client.inputs.start_image import read_images
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobStateError, SpecError
from tasks.field_errors import FieldError
from tasks.jobs.units import JobState
from tasks.maintenance.admission import estimate_bytes
from tasks.settings import Settings
from tasks.spec.images import placed
from tasks.spec.loader import check_spec, load_spec
from tests.conftest import Worker, wait_until
from tests.ltx2.media.sources.videos import frames_in
from tests.tasks.conftest import job_store, spec

GREY = 240


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """An image of one bright grey."""
    path = tmp_path / "gate.png"
    Image.new("RGB", (64, 32), (GREY, GREY, GREY)).save(path)
    return path


def frames_of(*, video_frames: int = 0, **changes: Any) -> list[dict[int, str]]:
    """The placed images of a spec, by segment and new frame."""
    wanted = placed(check_spec({**spec(), **changes}), continues=False, video_frames=video_frames)
    assert wanted.images == ()
    return [{image.frame: image.path for image in segment.images or ()} for segment in wanted.segments]


def test_an_image_at_a_time_is_shown_by_the_frame_on_screen_then() -> None:
    # Given 17 frames, 8 more, and a scene of 17 that dissolves over 4 of them, at 24 per second
    segments = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "transition": "fade", "fade": 0.17}]
    for frame, (segment, number) in {
        0: (0, 0), 16: (0, 16), 17: (1, 0), 20: (1, 3), 21: (2, 0), 24: (2, 3), 37: (2, 16),
    }.items():  # fmt: skip
        for at in (frame / 24, (frame + 0.99) / 24):
            found = frames_of(segments=segments, images=[{"at": at, "path": "gate.png"}])
            assert found == [{number: "gate.png"} if i == segment else {} for i in range(3)], frame


LENGTHS = st.lists(st.sampled_from([17, 25, 41]), min_size=1, max_size=9)


@given(st.sampled_from([24, 23.976, 29.97, 60]), LENGTHS, st.data())
def test_every_frame_of_a_film_can_show_an_image(fps: float, lengths: list[int], data: st.DataObject) -> None:
    # Given a film of unequal segments, and one of its frames
    segments = [{"prompt": "a", "frames": frames} for frames in lengths]
    timings = check_spec({"fps": fps, "segments": segments}).plan()
    frame = data.draw(st.integers(0, sum(timing.new_frames for timing in timings) - 1))
    # When an image is placed where it begins, as a decimal number
    at = float(exact_seconds(float(frame / exact(fps))))
    at = at if exact_seconds(at) * exact(fps) >= frame else at + 1e-4
    found = frames_of(fps=fps, frames=121, segments=segments, images=[{"at": at, "path": "a"}])
    # Then the segment that has the frame shows it there, and never in what it repeats
    [(index, number)] = [(i, n) for i, images in enumerate(found) for n in images]
    assert timings[index].first_frame + number == frame
    assert number < timings[index].new_frames


def test_beginnings_and_ends_of_segments() -> None:
    segments = [
        {"prompt": "a", "image": "first", "end_image": "last"},
        {"prompt": "b", "image": "new", "end_image": "end", "repeat": 2, "images": [{"frame": 3, "path": "third"}]},
    ]
    assert frames_of(segments=segments) == [{0: "first", 16: "last"}, {0: "new", 3: "third"}, {7: "end"}]
    # of a job that continues a state, the first segment repeats frames, too
    wanted = placed(check_spec({**spec(), "segments": segments}), continues=True)
    assert [image.frame for image in wanted.segments[0].images or ()] == [0, 7]


def test_the_film_of_an_extension_begins_in_the_video() -> None:
    # Given an extension whose first 9 frames, of 17 and 8 more, are the video's, too
    segments = [{"prompt": "a", "image": "first"}, {"prompt": "b"}]
    extended: dict[str, Any] = {"extend": "a.mp4", "video_frames": 9, "segments": segments}
    found = frames_of(**extended, images=[{"at": 16 / 24, "path": "last"}])
    # Then frames are counted from the film's start, and in segments from the first new one
    assert found == [{0: "first", 7: "last"}, {}]
    assert frames_of(**extended, images=[{"at": 24 / 24, "path": "end"}])[1] == {7: "end"}
    with pytest.raises(FieldError, match=r"0.3 s is in the video .* first 0.375 s"):
        frames_of(**extended, images=[{"at": 0.3, "path": "gate.png"}])
    with pytest.raises(FieldError, match=r"1.05 s is not in the film, which has 1.042 s"):
        frames_of(**extended, images=[{"at": 1.05, "path": "gate.png"}])
    # And neither do an open job, nor what it extends, have segments yet that could show one
    for no_segments, where in (({}, "not in the film, which has 0.000 s"), (extended, "in the video .* first 0.375 s")):
        with pytest.raises(FieldError, match=where):
            frames_of(**{**no_segments, "segments": "open"}, images=[{"at": 0.3, "path": "gate.png"}])


INVALID = {
    "images: [{at: 0.75,\npath: a}]\n": ":1: images.0.at: 0.75 s is not in the film, which has 0.708 s",
    "images: [{at: 0, path: a},\n{at: 0.01, path: b}]\n": ":2: images.1.at: frame 0 of segment 0 has another image",
    "image: a\nimages: [{at: 0, path: b}]\n": ":2: images.0.at: frame 0 of segment 0 has another image already",
}
INVALID_SEGMENTS = {
    "images: [{frame: 1, path: a}, {frame: 17,\npath: b}]": ":1: segments.0.images.1.frame: 17 is none of the 17 new",
    "image: a,\nimages: [{frame: 0, path: b}]": ":2: segments.0.images.0.path: frame 0 of segment 0 has another image",
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{head}frames: 17\nsegments: [{{prompt: a}}]", what) for head, what in INVALID.items()),
        *((f"segments: [{{prompt: a, {own}, frames: 17}}]", what) for own, what in INVALID_SEGMENTS.items()),
    ],
)
def test_an_image_that_cannot_be_shown_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    wanted = load_spec(tmp_path / "job.yaml")
    with pytest.raises(FieldError) as error:
        placed(wanted, continues=False)
    place = wanted.source.place(*error.value.location)
    assert f"{place}: {error.value}".startswith(f"{tmp_path}/job.yaml{message}")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"at": -1, "path": "a"}], "spec: images.0.at: must be at least 0, not -1"),
        ([{"at": 1, "path": "a", "strength": 0.5}], "spec: images.0.strength: 0.5 is not supported: an image is shown"),
        ([{"at": 1}], "spec: images.0.path: missing"),
        ([{"at": 1, "pth": "a", "path": "a"}], "spec: images.0.pth: unknown key; did you mean path?"),
        ([{"at": 0, "path": "a"}] * 257, "spec: images: must have at most 256 entries, not 257"),
    ],
)
def test_an_invalid_image_is_refused(images: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_spec({**spec("a"), "images": images})


def test_paths_are_relative_to_the_spec_and_each_file_is_read_once(tmp_path: Path, gate: Path) -> None:
    # Given one image at three places, one of them left out, and a missing one
    text = "images: [{at: 0.1, path: gate.png}, {at: 9, path: gate.png, strength: 0}]\nwidth: 64\nheight: 32\n"
    (tmp_path / "job.yaml").write_text(f"{text}segments:\n  - prompt: a\n    end_image: gate.png\n")
    wanted = load_spec(tmp_path / "job.yaml")
    assert list(read_images(wanted)) == [str(gate)]
    without = wanted.model_copy(update={"images": (), "segments": check_spec(spec("a")).segments})
    assert estimate_bytes(wanted) - estimate_bytes(without) == pytest.approx(64 * 32 * 3.1, abs=1)
    (tmp_path / "job.yaml").write_text(f"{text}segments:\n  - prompt: a\n    end_image: wall.png\n")
    with pytest.raises(SpecError, match=r"job\.yaml:6: segments\.0\.end_image: .*wall\.png: No such file"):
        read_images(load_spec(tmp_path / "job.yaml"))


def test_all_files_that_are_missing_are_named_at_once(tmp_path: Path, gate: Path) -> None:
    # Given eleven images that are missing, one of them named twice, one that is there, and missing sound
    at = [f"  - {{at: 0.{number}, path: wall{number % 9}.png}}" for number in range(1, 10)]
    text = ["width: 64", "height: 32", "image: gate.png", "images:", *at, "audio: song.mp3", "segments:"]
    lines = [*text, "  - {prompt: a, end_image: wall1.png}", "  - {prompt: b, image: ., end_image: far.png}"]
    (tmp_path / "job.yaml").write_text("\n".join(lines))
    # When
    with pytest.raises(SpecError) as caught:
        read_inputs(load_spec(tmp_path / "job.yaml"))
    # Then
    found = str(caught.value).splitlines()
    name, missing = tmp_path / "job.yaml", "No such file or directory"
    walls = [f"{name}:{4 + n}: images.{n - 1}.path: {tmp_path}/wall{n % 9}.png: {missing}" for n in range(1, 10)]
    assert found == [*walls, f"{name}:14: audio: {tmp_path}/song.mp3: {missing}", f"{name}: and 2 more problems"]


def test_the_film_shows_each_image_at_its_frame(module_settings: Settings, worker: Worker, gate: Path) -> None:
    # Given an image a second in, in the second segment, at the end of the third, and at the beginning of the fourth
    segments = [{"prompt": prompt} for prompt in "abcd"]
    segments[2]["end_image"] = segments[3]["image"] = str(gate)
    wanted = {**spec(), "images": [{"at": 1, "path": str(gate)}], "segments": segments, "fps": 20}
    # When
    job = submit(wanted, settings=module_settings).wait()
    # Then those frames show it, and no other does
    assert shades_of(job, module_settings) == [20, 32, 33]
    # And the record has its blob, which the job pins
    specs = job_store(module_settings).contents(job.id).segments
    shown = {image.path for segment in specs for image in segment.images or ()}
    assert shown == {blob_id_of(read_images(check_spec(wanted))[str(gate)])}
    assert job.id in open_blob_store(module_settings.blobs).owners()
    # And a fork shows others from where it goes on
    fork = job.fork(1, {**wanted, "segments": [*segments[:3], {"prompt": "x"}]}).wait()
    assert shades_of(fork, module_settings) == [20, 32]


def test_segments_with_images_are_appended_to_a_job_and_changed_in_it(
    module_settings: Settings, worker: Worker, gate: Path
) -> None:
    # Given a job that is done
    job = submit({**spec("a", "b"), "fps": 20}, settings=module_settings).wait()
    # When
    job.append([{"prompt": "c", "end_image": str(gate)}, {"prompt": "d", "images": [{"frame": 2, "path": str(gate)}]}])
    # Then the frames of the new segments show them
    assert shades_of(job.wait(), module_settings) == [32, 35]
    # When a spec of the whole film with an image at a time adds another segment
    wanted = job_store(module_settings).contents(job.id)
    segments = [{"prompt": prompt} for prompt in "abcde"]
    segments[2]["end_image"], segments[3]["images"] = str(gate), [{"frame": 2, "path": str(gate)}]
    later = {**spec(), "fps": 20, "segments": segments, "images": [{"at": 2.1, "path": str(gate)}]}
    assert edit(job, later).id == job.id
    # Then it is shown, too
    assert shades_of(job.wait(), module_settings) == [32, 35, 42]
    assert len(job_store(module_settings).contents(job.id).segments) == len(wanted.segments) + 1
    # When a segment that nobody has begun is changed
    steered = submit({**spec("a", "b"), "fps": 20, "approve": True}, settings=module_settings)
    wait_until(lambda: steered.status().state == JobState.AWAITING_APPROVAL, what="the first segment")
    changed = {**spec("a", "b"), "fps": 20, "approve": True}
    changed["segments"][1]["image"] = str(gate)
    assert edit(steered, changed).id == steered.id
    steered.approve(all=True)
    assert shades_of(steered.wait(), module_settings) == [17]


def test_images_at_times_of_the_film_are_shown_by_segments_that_are_appended(
    module_settings: Settings, worker: Worker, gate: Path, tmp_path: Path
) -> None:
    # Given a film of 17 frames and 8 more
    job = submit({**spec("a", "b"), "fps": 20}, settings=module_settings).wait()
    # When two segments are appended, with images at the first and the last of their 16 frames, twice because the reply
    # was lost
    more = tmp_path / "more.yaml"
    more.write_text(
        f"images: [{{at: 1.25, path: {gate}}},\n{{at: 2, path: {gate}}}]\nsegments: [{{prompt: c}}, {{prompt: d}}]"
    )
    for _ in range(2):
        assert job.append(more, idempotency_key="two more") == range(2, 4)
    # Then the film shows them there
    assert shades_of(job.wait(), module_settings) == [25, 40]
    # And one in a segment that is rendered is refused, also in a fork, unless that segment shows it there
    with pytest.raises(SpecError, match=f"{more}:1: images.0.at: 1.25 s is frame 0 of segment 2"):
        job.append(more)
    with pytest.raises(SpecError, match=r"images.0.at: 1 s is frame 3 of segment 1, .* segment 2 begins at 1.250 s"):
        job.fork(1, {**spec(*"abcd"), "fps": 20, "images": [{"at": 1, "path": str(gate)}]})
    other = {**spec(*"abcd"), "fps": 20, "images": [{"at": at, "path": str(gate)} for at in (1.25, 1.8)]}
    assert shades_of(job.fork(2, other).wait(), module_settings) == [25, 36]


def test_an_open_job_that_starts_from_an_image_has_no_other_at_its_first_frame(
    module_settings: Settings, gate: Path
) -> None:
    # Given
    job = submit({**spec(open=True), "image": str(gate)}, settings=module_settings)
    # When / Then
    for added in ({"images": [{"at": 0, "path": str(gate)}]}, {"segments": [{"prompt": "a", "image": str(gate)}]}):
        with pytest.raises(SpecError, match=r"segments.0: frame 0 of segment 0 shows the image that the job starts"):
            job.append({"segments": [{"prompt": "a"}], **added})
    assert job.append({"segments": [{"prompt": "a"}], "images": [{"at": 0.1, "path": str(gate)}]}) == range(1)


def test_times_in_a_fork_count_with_the_lengths_of_the_shared_segments(
    module_settings: Settings, worker: Worker, gate: Path
) -> None:
    # Given a film whose first segment is longer than in the spec of a fork
    wanted = {**spec("a", "b"), "fps": 20}
    wanted["segments"][0]["frames"] = 25
    job = submit(wanted, settings=module_settings).wait()
    # When
    fork = job.fork(0, {**spec("a", "x"), "fps": 20, "images": [{"at": 1.3, "path": str(gate)}]})
    # Then
    assert shades_of(fork.wait(), module_settings) == [26]


def test_a_take_leaves_out_images_in_the_end_that_it_leads_into(
    module_settings: Settings, worker: Worker, gate: Path
) -> None:
    # Given a segment that shows images in the middle and at its end, and one that continues it
    at = {"images": [{"frame": 10, "path": str(gate)}], "end_image": str(gate)}
    job = submit(
        {**spec(), "frames": 25, "segments": [{"prompt": "a", **at}, {"prompt": "b"}]}, settings=module_settings
    )
    # When it is retaken
    job.wait().retake(0, seed=9)
    # Then the take shows the first, and the end is that of before
    assert [take.reason for take in job.wait().takes()] == [None, None]
    job.choose(0, 1)
    assert shades_of(job.wait(), module_settings) == [10]
    # And a first segment of 9 frames with an image of its own has nothing left to render before that end
    short = {**spec("a", "b"), "frames": 9, "overlap": 1, "image": str(gate)}
    with pytest.raises(JobStateError, match=r"segment 0 of 9 frames .* too short .* it would need 17 frames"):
        submit(short, settings=module_settings).wait().retake(0)


def shades_of(job: Job, settings: Settings) -> list[int]:
    """The frames of a film that show the image."""
    film = job.status().film
    assert film
    frames = frames_in(open_blob_store(settings.blobs).get(film.blob_id))
    return [number for number, frame in enumerate(frames) if np.mean(frame) > GREY - 10]
