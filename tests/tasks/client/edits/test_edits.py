"""Jobs that users append to, close, approve and edit, with one real worker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blobstore import open_blob_store
from tasks.client.edit import edit
from tasks.client.edits.plan import EditKind
from tasks.client.films.output import FilmOutput
from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.embedded.render import check_inputs
from tasks.errors import JobStateError, LongtakeError, RoomError, SpecError
from tasks.settings import Settings
from tasks.spec.loader import check_spec, parse_spec
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.client.edits.test_fork import claims_of, with_seeds
from tests.tasks.conftest import film_hash_of, job_store, spec

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def deployment(module_settings: Settings, worker: Worker) -> Settings:
    return module_settings


def wait_for(job: Job, state: str) -> None:
    wait_until(lambda: job.status().state == state, what=f"the job to be {state}")


def segments(*prompts: str) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in prompts]


# Append


def test_a_finished_film_is_extended_to_the_film_of_an_undisturbed_run(
    deployment: Settings, server: RedisProcess, reference_film: str, tmp_path: Path
) -> None:
    # Given a finished job, whose film a user has saved
    job = submit(spec("a", "b"), settings=deployment)
    short = film_hash_of(job)
    before = claims_of(server, job)
    # When two segments are appended, once more because the reply was lost
    for _ in range(2):
        assert job.append(segments("c", "d"), idempotency_key="two more") == range(2, 4)
    # Then the film is that of an undisturbed run, and only two segments and the film were claimed
    assert film_hash_of(job) == reference_film != short
    assert claims_of(server, job) == before + 3
    assert len(job.summary()["segments"]) == 4


def test_the_old_film_can_be_saved_until_the_next_one_is_there(deployment: Settings, tmp_path: Path) -> None:
    # Given a finished job that goes on with a segment that blocks
    job = submit(spec("a", "b"), settings=deployment).wait()
    film = job.status().film
    job.append(segments(f"wait until {tmp_path / 'go'}"))
    # When it is saved
    job.save(tmp_path / "film.mp4")
    # Then it is the old one, with the summary of its own segments
    assert job.status().film == film
    assert film
    assert (tmp_path / "film.mp4").stat().st_size == film.size
    assert [s["index"] for s in json.loads((tmp_path / "film.report.json").read_text())["segments"]] == [0, 1]
    (tmp_path / "go").touch()
    assert film_hash_of(job) != film.sha256


def test_a_spec_with_nothing_but_segments_is_appended(
    deployment: Settings, reference_film: str, tmp_path: Path
) -> None:
    job = submit(spec("a"), settings=deployment)
    (tmp_path / "more.yaml").write_text("segments: [{prompt: b}, {prompt: c}]")
    assert job.append(tmp_path / "more.yaml") == range(1, 3)
    assert job.append({**spec("d"), "title": "another"}) == range(3, 4)
    assert film_hash_of(job) == reference_film


def test_an_appended_scene_fades_from_the_last_one(deployment: Settings, tmp_path: Path) -> None:
    # Given a finished job
    job = submit(spec("a", frames=25), settings=deployment).wait()
    fade = {"prompt": "b", "transition": "fade", "fade": 0.25}
    # When a scene is appended that fades from its last one, as a list or in a file
    assert job.append([fade]) == range(1, 2)
    (tmp_path / "more.yaml").write_text(f"segments: [{json.dumps(fade)}]")
    assert job.append(tmp_path / "more.yaml") == range(2, 3)
    # Then the film is that of the whole spec
    whole = {**spec("a", frames=25), "segments": [{"prompt": "a"}, fade, fade]}
    assert film_hash_of(job) == film_hash_of(submit(whole, settings=deployment))
    # And an open job without a segment has nothing to fade from
    empty = submit({**spec(frames=25), "segments": "open"}, settings=deployment)
    with pytest.raises(SpecError, match="the first segment has no scene before it to fade from"):
        empty.append([fade])
    empty.cancel()


def test_a_job_that_continues_a_state_starts_without_a_cut(deployment: Settings) -> None:
    # Given a state, and an open job without a segment that continues it
    state = submit(spec("a"), settings=deployment).wait().state(0)
    empty = submit({**spec(), "segments": "open"}, from_state=state, settings=deployment)
    cut = {"prompt": "b", "transition": "cut"}
    refusal = r"segments\.0\.transition: a job that continues a state cannot start with a cut"
    # When a cut is appended to it, or submitted with the state, Then that is refused
    with pytest.raises(SpecError, match=refusal):
        empty.append([cut])
    with pytest.raises(SpecError, match=refusal):
        submit({**spec(), "segments": [cut]}, from_state=state, settings=deployment)
    empty.cancel()


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ([], "there is none, so there is nothing to append|must have at least one"),
        ([{"prompt": " "}], r"segments\.0\.prompt: must not be blank"),
        ({"width": 96, "segments": [{"prompt": "a"}]}, "width: must be that of job .*, to which .*: 96 here, 64 there"),
        ({"model": "tiny-2.5", "segments": [{"prompt": "a"}]}, "model: must be that of job"),
        ({"seed": 4, "segments": [{"prompt": "a"}]}, "seed: must be that of job .*: 4 here, 3 there"),
        ({"segments": "open"}, "there is none, so there is nothing to append"),
        ([{"prompt": "b", "transition": "fade", "fade": 3}], r"segments\.0\.fade: a dissolve of 72 frames is too long"),
    ],
)
def test_what_does_not_fit_is_not_appended(settings: Settings, added: Any, words: str) -> None:
    job = submit(spec("a"), settings=settings)
    with pytest.raises(SpecError, match=words):
        job.append(added)
    assert job.status().segments == 1


def test_a_job_that_lost_blobs_or_ended_badly_is_to_be_forked(deployment: Settings) -> None:
    # Given a finished job that lost the latents of segment 1
    job = submit(spec("a", "b", "c"), settings=deployment).wait()
    open_blob_store(deployment.blobs).drop(str(job_store(deployment).handoffs(job.id)[1].latents))
    # When / Then
    with pytest.raises(JobStateError, match=r"blobs of segment 1 of job .* are missing: fork it after segment 0"):
        job.append(segments("d"))
    assert job.status().state == "done"
    failed = submit(spec("a", "fail"), settings=deployment.model_copy(update={"max_attempts": 1}))
    wait_for(failed, "failed")
    with pytest.raises(JobStateError, match="is failed, so nothing can be appended: fork it after segment 0, or retry"):
        failed.append(segments("d"))


def test_segments_without_room_are_refused_with_the_figures(settings: Settings) -> None:
    limited = settings.model_copy(update={"blob_budget_bytes": 6_000_000})
    job = submit(spec("a"), settings=limited)
    with pytest.raises(
        RoomError, match=r"need about [\d,]+ more bytes of blobs, and [\d,]+ of the 6,000,000 of LONGTAKE"
    ):
        job.append(segments(*"bcdefghijk"))
    assert job.status().segments == 1


# Open


def test_an_open_film_is_steered_while_it_is_rendered(deployment: Settings, reference_film: str, longtake: Run) -> None:
    # Given an open job without a segment
    wanted = {**spec(), "segments": "open"}
    job = submit(wanted, settings=deployment)
    wait_for(job, "open")
    assert job.waiting() is None
    # When segments are appended one by one, also after it waited
    job.append(segments("a"))
    wait_for(job, "open")
    assert (
        "open: waits for segments · 1 of 1 segment rendered" in longtake("status", job.id, settings=deployment).stdout
    )
    assert any(line.split()[1] == "open" for line in longtake("list", settings=deployment).stdout.splitlines()[1:])
    assert [status.job_id for status in list_jobs(settings=deployment, states=["open"])] == [job.id]
    shown = json.loads(longtake("status", job.id, "--json", settings=deployment).stdout)
    assert (shown["state"], shown["open"]) == ("open", True)
    job.append(segments("b", "c"))
    job.append(segments("d"))
    # And it is closed, Then its film is that of an undisturbed run
    ended = longtake("close", job.id, settings=deployment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"job {job.id} is closed: its film is joined once segments 0 to 3 are rendered\n"
    assert film_hash_of(job) == reference_film
    again = longtake("close", job.id, settings=deployment)
    assert (again.returncode, again.stderr) == (1, f"longtake: job {job.id} is not open\n")


def test_a_prompt_is_replaced_while_the_segment_before_is_rendered(deployment: Settings, tmp_path: Path) -> None:
    # Given a job whose first segment is in the engine
    job = submit(spec(f"wait until {tmp_path / 'go'}", "b", f"tell {tmp_path / 'told'}"), settings=deployment)
    wait_until(lambda: job.status().state == "running", what="the first segment")
    # When the prompts of the others are replaced
    job.replace_prompt(1, f"tell {tmp_path / 'told'}")
    job.replace_prompt(2, "another end")
    with pytest.raises(JobStateError, match=r"a worker renders segment 0 of job .*; fork the job to change it"):
        job.replace_prompt(0, "too late")
    with pytest.raises(JobStateError, match="has no segment 3"):
        job.replace_prompt(3, "nothing")
    with pytest.raises(SpecError, match="must not be blank"):
        job.replace_prompt(1, " ")
    (tmp_path / "go").touch()
    # Then they are what is rendered, and what the engine is told about the next one
    job.wait()
    assert json.loads((tmp_path / "told").read_text()) == "another end"
    assert [segment["prompt"] for segment in job.summary()["segments"]][2] == "another end"
    with pytest.raises(JobStateError, match=r"segment 1 of job .* is rendered; fork the job to change it"):
        job.replace_prompt(1, "too late")


# Approval


def test_a_job_is_approved_segment_by_segment(deployment: Settings, reference_film: str, longtake: Run) -> None:
    # Given
    job = submit(spec("a", "b", "c", "d", approve=True), settings=deployment)
    # When it waits for the approval of its first segment
    wait_for(job, "awaiting approval")
    shown = longtake("status", job.id, settings=deployment).stdout
    assert "awaiting approval of segment 0 · 1 of 4 segments rendered" in shown
    assert job_store(deployment).survey(job.id) == []
    # And its segments are approved, the last one, too
    job.approve()
    for committed, approved in ((2, "segments 0 to 1"), (3, "segments 0 to 2")):
        wait_until(lambda count=committed: job.status().committed == count, what=f"{committed} segments")
        said = longtake("approve", job.id, settings=deployment).stdout
        assert said == f"job {job.id}: {approved} approved\n"
    wait_until(lambda: job.status().clips == 4, what="the last clip")
    assert (job.status().state, job.status().film) == ("awaiting approval", None)
    job.approve(3)
    # Then
    assert film_hash_of(job) == reference_film
    with pytest.raises(JobStateError, match="is done; it waits for no approval"):
        job.approve()


def test_all_segments_are_approved_at_once(deployment: Settings, reference_film: str, longtake: Run) -> None:
    job = submit(spec("a", "b", "c", "d", approve=True), settings=deployment)
    wait_for(job, "awaiting approval")
    said = longtake("approve", job.id, "--all", settings=deployment).stdout
    assert said == f"job {job.id}: all segments approved\n"
    assert film_hash_of(job) == reference_film


# Edit


def test_an_edit_renders_again_only_what_changed(
    deployment: Settings, server: RedisProcess, reference_film: str, longtake: Run, tmp_path: Path
) -> None:
    # Given a finished job that differs from the reference film in its last two segments, and a spec of that
    job = submit(with_seeds(3, 4, 70, 71), settings=deployment).wait()
    wanted = with_seeds(3, 4, 5, 6)
    (tmp_path / "film.json").write_text(json.dumps(wanted))
    # When it is only planned, Then nothing is done
    before = len(list_jobs(settings=deployment))
    said = longtake("edit", job.id, "film.json", "--dry-run", settings=deployment)
    assert (said.returncode, said.stdout) == (0, "")
    assert said.stderr.splitlines() == [
        f"segments 0 to 1 of job {job.id}: kept",
        "segment 2: seed changed, rendered again",
        "segment 3: seed changed, rendered again",
        f"a new job: a fork of job {job.id} after segment 1",
    ]
    assert len(list_jobs(settings=deployment)) == before
    # When it is carried out
    made = longtake("edit", job.id, "film.json", settings=deployment)
    fork = Job(made.stdout.strip(), settings=deployment)
    # Then two segments and the film were claimed
    assert film_hash_of(fork) == reference_film
    assert claims_of(server, fork) == 3
    # When the film becomes shorter, Then only the film is
    shorter = edit(fork, with_seeds(3, 4, 5))
    film_hash_of(shorter)
    assert claims_of(server, shorter) == 1
    # When it is the same, Then nothing is
    assert edit(fork, wanted) is fork
    assert claims_of(server, fork) == 3
    # When everything changes, Then it is a new job, and one with other seeds at its end is the same job
    other = edit(fork, {**wanted, "width": 96})
    assert claims_of(server, fork) == 3
    assert other.id != fork.id
    assert film_hash_of(other) != reference_film


def test_an_edit_in_place_changes_what_no_worker_has_begun(
    deployment: Settings, reference_film: str, tmp_path: Path
) -> None:
    # Given a job that waits after its first segment
    job = submit(spec("a", "x", approve=True), settings=deployment)
    wait_for(job, "awaiting approval")
    # When it becomes the reference film: with other seeds that are written out, and two more segments
    wanted = {**with_seeds(3, 4, 5, 6), "seed": 1000}
    plan = job.plan_edit(wanted)
    assert plan.kind == EditKind.IN_PLACE
    assert edit(job, wanted, plan=plan) is job
    # Then it says so when it is repeated with the same plan, and does nothing when it is planned again
    with pytest.raises(
        JobStateError, match="was changed meanwhile: what is appended would begin with segment 4; try again"
    ):
        edit(job, wanted, plan=plan)
    assert edit(job, wanted) is job
    job.approve(all=True)
    assert film_hash_of(job) == reference_film


# Specs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("segments: open", (0, True, False)),
        ('{"segments": "open", "approve": true}', (0, True, True)),
        ("open: true\nsegments: [{prompt: a}]", (1, True, False)),
        ("open: true\nsegments: []", (0, True, False)),
        ("segments: [{prompt: a}]\napprove: false", (1, False, False)),
    ],
)
def test_a_spec_is_open_or_asks_for_approval(text: str, found: tuple[int, bool, bool]) -> None:
    wanted = parse_spec(text)
    assert (len(wanted.segments), wanted.open, wanted.approve) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("segments: []", "segments: must have at least one, or be `open`"),
        ("segments: closed", "segments"),
        ("segments: open\nopen: false", "segments: must have at least one"),
        ("segments: [{prompt: a}]\nopen: 1", "open"),
        ("segments: [{prompt: a}]\napprove: yes", "approve"),
        ("segments: [{prompt: a}]\nopne: true", "did you mean open"),
    ],
)
def test_an_invalid_key_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_spec(text)


@pytest.mark.parametrize("name", ["open", "approve"])
def test_a_render_waits_for_nobody(name: str, tmp_path: Path, settings: Settings) -> None:
    wanted = check_spec({**spec("a"), name: True})
    output = FilmOutput.of(tmp_path / "film.mp4")
    with pytest.raises(LongtakeError, match=f"{name}: `longtake render` waits for nobody; submit the job"):
        check_inputs(wanted, output, inputs=[], state=None, report_folder=None, settings=settings)


@pytest.mark.parametrize("wanted", [{"segments": "open"}, {"open": True, "segments": [{"prompt": "a"}]}])
def test_a_dry_run_says_that_a_job_is_open(
    wanted: dict[str, Any], longtake: Run, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "film.json").write_text(json.dumps(wanted))
    said = longtake("submit", "film.json", "--dry-run", settings=settings)
    assert said.returncode == 0
    assert "now, more are appended later" in said.stderr
