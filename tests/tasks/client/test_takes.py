"""Takes on a real worker: rendered side by side, chosen, undone; every other clip keeps its bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx2.state.arrays import decode_latents
from tasks.cli.command import main
from tasks.client.display.job_text import lines_of
from tasks.client.display.progress import describe
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.client.takes import TakeState
from tasks.deployment import Deployment
from tasks.errors import JobStateError, SpecError
from tasks.jobs.state_wire import state_blobs
from tasks.jobs.units import JobState
from tasks.maintenance.doctor import examine
from tasks.settings import Settings
from tasks.worker.segments.renderings import SEED_STEP
from tests.conftest import Worker, environment, wait_until
from tests.tasks.conftest import film_hash_of, spec


@pytest.fixture
def job(module_settings: Settings, worker: Worker) -> Job:
    """A job of four segments that is done."""
    return submit(spec("a", "b", "c", "d", frames=25), settings=module_settings).wait()


def clips_of(job: Job) -> dict[int, str]:
    return {index: clip.blob_id for index, clip in job._deployment.jobs.clips(job.id).items()}


def latents_of(job: Job, segment: int, take: int) -> tuple:
    """Picture and sound latents of a take."""
    deployment = job._deployment
    original = deployment.jobs.handoff(job.id, segment)
    assert original
    latents = deployment.jobs.takes(job.id).handoff(original, take).latents
    return decode_latents(deployment.blobs.get(str(latents)))


def test_takes_are_rendered_listed_chosen_and_undone(job: Job, tmp_path: Path) -> None:
    film, before = film_hash_of(job), clips_of(job)
    # When two takes of a middle segment are asked for
    assert job.retake(1, prompt="another", takes=2) == [1, 2]
    job.wait()
    # Then they are there, with seeds of their own, and the film is as before
    takes = job.takes()
    assert [(take.take, take.state, take.shown, take.prompt) for take in takes] == [
        (0, TakeState.RENDERED, True, "b"),
        (1, TakeState.RENDERED, False, "another"),
        (2, TakeState.RENDERED, False, "another"),
    ]
    assert len({take.seed for take in takes}) == 3
    assert all(take.leads_into and take.clip for take in takes)
    assert (film_hash_of(job), clips_of(job)) == (film, before)
    # And each ends as the original does, where the next segment begins
    (video, sound), (new_video, new_sound) = latents_of(job, 1, 0), latents_of(job, 1, 2)
    assert (new_video[:, :, -1] == video[:, :, -1]).all()
    assert (new_sound[:, :, -10:] == sound[:, :, -10:]).all()
    assert (new_video[:, :, 0] != video[:, :, 0]).any()
    # When one is chosen
    job.choose(1, 2)
    job.wait()
    # Then the film is another one, and every other clip has its bytes
    after = clips_of(job)
    assert film_hash_of(job) != film
    assert [index for index in before if before[index] != after[index]] == [1]
    assert job.save_clip(1, tmp_path / "shown.mp4").read_bytes() == job._deployment.blobs.get(after[1])
    assert job.save_clip(1, tmp_path / "first.mp4", take=0).read_bytes() == job._deployment.blobs.get(before[1])
    arguments = ["save", job.id, "--segment", "1", "-o", str(tmp_path / "cli.mp4")]
    said = CliRunner().invoke(main, arguments, env=environment(job._deployment.settings)).stderr
    assert said == f"{tmp_path / 'cli.mp4'}  segment 1  {(tmp_path / 'cli.mp4').stat().st_size:,} bytes\n"
    [summary] = [entry for entry in job.summary()["segments"] if entry["index"] == 1]
    assert (summary["prompt"], summary["seed"], summary["take"]) == ("another", job.takes()[2].seed, 2)
    # When the first is chosen again
    job.choose(1, 0)
    job.wait()
    # Then everything is as it was
    assert (film_hash_of(job), clips_of(job)) == (film, before)


def test_the_old_film_stays_until_the_new_one_is_done(job: Job, tmp_path: Path) -> None:
    film = film_hash_of(job)
    job.retake(3)
    job.wait()
    deployment = job._deployment
    deployment.jobs.choose(job.id, 3, 1)
    status = job.status()
    assert status.film
    assert status.film.sha256 == film
    assert job.save(tmp_path / "film.mp4").exists()
    deployment.publisher.publish_due(job.id)
    assert film_hash_of(job) != film


def test_the_step_of_a_take_is_shown_while_a_worker_renders_it(job: Job, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job.retake(1, last=2, prompt=f"wait until {go}", seed=5)
    wait_until(lambda: job.takes()[1].progress, what="a step of the take")
    assert "  take 1 of segments 1 to 2: segment 1, step 1 of 4" in lines_of(job, job._deployment.jobs.workers())
    assert describe(job.status()) == "rendering 1 take · step 1 of 4"
    shown = CliRunner().invoke(main, ["takes", job.id], env=environment(job._deployment.settings)).output
    assert (
        f"segments 1 to 2  take 1  due       seed 5  wait until {go}\n    rendering segment 1: step 1 of 4\n" in shown
    )
    go.touch()
    job.wait()
    assert job.takes()[1].progress is None


def test_a_take_that_fails_leaves_the_job_done(job: Job) -> None:
    film = film_hash_of(job)
    job.retake(1, prompt="nan")
    assert job.wait().status().state == JobState.DONE
    failed = job.takes()[1]
    assert failed.state == TakeState.FAILED
    assert failed.reason == "NotFiniteError: segment 1: the pixels are not finite"
    assert film_hash_of(job) == film
    with pytest.raises(JobStateError, match=r"take 1 of segment 1 .* is not rendered"):
        job.choose(1, 1)
    # And `longtake status` and `longtake doctor` say so
    assert f"  take 1 of segment 1 failed: {failed.reason}" in lines_of(job, job._deployment.jobs.workers())
    warnings = [finding.problem for finding in examine(job._deployment.settings).findings]
    assert f"take 1 of segment 1 of job {job.id} has failed: {failed.reason}" in warnings
    with pytest.raises(JobStateError, match="has no clip"):
        job.clip(1, take=1)


def test_a_take_whose_process_dies_fails_alone(module_settings: Settings, job: Job) -> None:
    job.retake(0, prompt="die")
    assert job.wait().status().state == JobState.DONE
    assert "its process died" in str(job.takes()[1].reason)


def test_a_fork_behind_a_retaken_segment_continues_the_take_that_is_shown(job: Job) -> None:
    job.retake(1, seed=11)
    job.wait()
    job.choose(1, 1)
    job.wait()
    assert job.retake(3, seed=12) == [1]
    last = job.wait().state(3)
    job.choose(3, 1)
    # Then the state after the last segment is that of the take, and the one before a continuation stays
    job.wait()
    assert job.state(3) != last
    # When
    fork = job.fork(1).wait()
    # Then
    jobs = job._deployment.jobs
    assert clips_of(fork)[0] == clips_of(job)[0]
    later = jobs.handoff(fork.id, 2)
    assert later
    assert later.from_take == 1
    assert fork.takes()[1].shown
    # And the original no longer leads into it
    assert [take.leads_into for take in fork.takes()] == [False, True]
    # When the other job is gone
    job.forget()
    # Then a lost clip of the fork is still made again
    assert film_hash_of(fork)


def test_a_cascade_is_a_new_job_and_the_old_film_stays(job: Job) -> None:
    film = film_hash_of(job)
    made = job.cascade(2, prompt="striped").wait()
    assert [clips_of(made)[i] == clips_of(job)[i] for i in range(4)][:2] == [True, True]
    assert made.summary()["segments"][2]["prompt"] == "striped"
    assert film_hash_of(job) == film
    everything = job.cascade(0, seed=99).wait()
    assert film_hash_of(everything) != film


def test_lost_blobs_of_a_take_are_made_again(job: Job, module_settings: Settings) -> None:
    # Given a chosen take
    job.retake(1, seed=5)
    job.wait()
    job.choose(1, 1)
    film = film_hash_of(job)
    with Deployment(module_settings) as deployment:
        made = deployment.jobs.takes(job.id).takes[1, 1].made
        assert made
        # When its latents, its clip and the film are lost
        for blob_id in (str(made.latents), clips_of(job)[1], str(job.status().film.blob_id)):  # type: ignore[union-attr]
            deployment.blobs.drop(blob_id)
    job.retry()
    # Then the film is made again, with the same bytes
    assert film_hash_of(job) == film


@pytest.mark.parametrize(
    ("wanted", "others"), [({"best_of": 3}, [0, 2]), ({"retry_joins": 2}, [0, 2])], ids=["best of", "retried"]
)
def test_the_best_of_several_renderings_is_repaired_as_it_was(
    module_settings: Settings, worker: Worker, wanted: dict[str, int], others: list[int]
) -> None:
    # Given a segment whose second rendering of three joins best
    job = submit(spec("a", "b", "c", frames=25, **wanted), settings=module_settings).wait()
    film, seeds = film_hash_of(job), [segment["seed"] for segment in job.summary()["segments"]]
    assert seeds == [3, 4 + SEED_STEP, 5]
    with Deployment(module_settings) as deployment:
        # When all of it is lost
        made = deployment.jobs.handoff(job.id, 1)
        assert made
        for blob_id in (str(made.latents), clips_of(job)[1], str(job.status().film.blob_id)):  # type: ignore[union-attr]
            deployment.blobs.drop(blob_id)
    job.retry()
    # Then the same one is rendered again, and the film has its bytes
    assert film_hash_of(job) == film
    assert [segment["seed"] for segment in job.summary()["segments"]] == seeds
    # And the renderings that were not chosen are takes, with a join that is worse
    listed = job.takes()
    takes = [take for take in listed if take.segment == 1]
    assert [take.seed for take in takes] == [seeds[1], *(4 + SEED_STEP * number for number in others)]
    assert all(take.clip and take.join is not None and take.join >= takes[0].join for take in takes)  # type: ignore[operator]
    assert [take.leads_into for take in takes] == [True, *(False for _ in others)]
    # And one of the last segment can be shown, and be rendered again if it is lost
    last = max(take.take for take in listed if take.segment == 2)
    if last:
        job.choose(2, last)
        shown = film_hash_of(job)
        assert shown != film
        with Deployment(module_settings) as deployment:
            made = deployment.jobs.takes(job.id).takes[2, last].made
            assert made
            for blob_id in (str(made.latents), clips_of(job)[2], str(job.status().film.blob_id)):  # type: ignore[union-attr]
                deployment.blobs.drop(blob_id)
        job.retry()
        assert film_hash_of(job) == shown
    # And a new take of a segment is another one
    [number] = job.retake(1)
    job.wait()
    assert [take.seed for take in job.takes() if take.segment == 1][-1] == 4 + 1_000_003 * number


def test_a_segment_too_short_for_a_pinned_end_is_refused(module_settings: Settings, worker: Worker) -> None:
    job = submit(spec("a", "b", "c"), settings=module_settings).wait()
    with pytest.raises(JobStateError, match=r"segment 1 of 17 frames .* is too short .* need 25 frames"):
        job.retake(1)
    assert job.retake(2) == [1]
    job.wait()


def test_a_kept_job_says_so(job: Job) -> None:
    job.keep()
    assert (job.status().kept, job.status().kept_until) == (True, None)
    job.keep(3600)
    assert (job.status().kept_until or 0) > job.status().created_at + 3500
    job.unkeep()
    assert not job.status().kept


def test_what_cannot_be_asked_for(job: Job) -> None:
    for wrong in ({"prompt": " "}, {"seed": -1}, {"takes": 0}, {"takes": 17}, {"last": -1}):
        with pytest.raises(SpecError):
            job.retake(0, **wrong)
    for call in (
        lambda: job.retake(4),
        lambda: job.retake(2, last=4),
        lambda: job.choose(0, 1),
        lambda: job.clip(9),
        lambda: job.cascade(7),
    ):
        with pytest.raises(JobStateError):
            call()
    assert job.takes() == []


def test_several_segments_are_rendered_as_one_take_and_chosen_whole(job: Job) -> None:
    film, before = film_hash_of(job), clips_of(job)
    # When
    assert job.retake(1, last=2, prompt="another") == [1]
    job.wait()
    # Then it is listed once, with the prompt in both segments and its end where the next segment begins
    original, take = job.takes()
    assert (take.segment, take.last, take.state, take.leads_into) == (1, 2, TakeState.RENDERED, True)
    assert (original.take, original.last, film_hash_of(job)) == (0, 1, film)
    (video, sound), (new_video, new_sound) = latents_of(job, 2, 0), latents_of(job, 2, 1)
    assert (new_video[:, :, -1] == video[:, :, -1]).all()
    assert (new_sound[:, :, -10:] == sound[:, :, -10:]).all()
    free, _ = latents_of(job, 1, 1)
    assert (free[:, :, -1] != latents_of(job, 1, 0)[0][:, :, -1]).any()
    # And its second segment continues its first one
    jobs = job._deployment.jobs
    first, second = (jobs.takes(job.id).takes[segment, 1].made for segment in (1, 2))
    assert first
    assert second
    assert (first.from_take, second.from_take, second.pinned_to) == (0, 1, 0)
    # When it is chosen by any of its segments
    job.choose(2, 1)
    job.wait()
    # Then
    after = clips_of(job)
    assert [index for index in before if before[index] != after[index]] == [1, 2]
    assert [entry.get("take") for entry in job.summary()["segments"]] == [None, 1, 1, None]
    assert [entry["prompt"] for entry in job.summary()["segments"]] == ["a", "another", "another", "d"]
    shown = film_hash_of(job)
    # And all of its blobs can be lost
    for made in (first, second):
        job._deployment.blobs.drop(str(made.latents))
        for blob_id in state_blobs(made.state):
            job._deployment.blobs.drop(blob_id)
    for blob_id in (after[1], after[2], str(job.status().film.blob_id)):  # type: ignore[union-attr]
        job._deployment.blobs.drop(blob_id)
    job.retry()
    assert film_hash_of(job) == shown
    # When a fork ends within it
    fork = job.fork(1).wait()
    # Then it goes on from what is shown
    later = jobs.handoff(fork.id, 2)
    assert later
    assert (later.from_take, clips_of(fork)[1], [take.last for take in fork.takes()]) == (1, after[1], [1, 1])

    # When it is chosen away as a whole
    def choose(segments: str, take: str) -> str:
        arguments = ["choose", job.id, "--segment", segments, "--take", take]
        result = CliRunner().invoke(main, arguments, env=environment(job._deployment.settings))
        return result.output.partition("Next")[0]

    assert choose("2-3", "1") == f"longtake: take 1 of job {job.id} is of segments 1 to 2, not of segments 2 to 3\n"
    assert choose("0-3", "2") == f"longtake: there is no take 2 of segments 0 to 3 of job {job.id}\n"
    assert choose("1-2", "1") == "take 1 of segments 1 to 2 is shown already\n"
    assert choose("1-2", "0") == "take 0 of segments 1 to 2 is chosen\n"
    job.wait()
    assert (film_hash_of(job), clips_of(job)) == (film, before)


def test_a_take_of_several_segments_that_fails_in_one_is_not_there(job: Job) -> None:
    job.retake(2, last=3, prompt="nan")
    assert job.wait().status().state == JobState.DONE
    [_, failed] = job.takes()
    assert (failed.state, failed.last, failed.reason) == (
        TakeState.FAILED,
        3,
        "NotFiniteError: segment 2: the pixels are not finite",
    )
    assert f"  take 1 of segments 2 to 3 failed: {failed.reason}" in lines_of(job, job._deployment.jobs.workers())
    warnings = [one.problem for one in examine(job._deployment.settings).findings if job.id in one.problem]
    assert warnings == [f"take 1 of segments 2 to 3 of job {job.id} has failed: {failed.reason}"]


def test_a_fade_dissolves_from_the_take_that_is_shown(module_settings: Settings, worker: Worker) -> None:
    # Given a film of two scenes, with a dissolve between them
    wanted = spec("a", "b", "c", frames=25)
    wanted["segments"][1] |= {"transition": "fade", "fade": 0.2}
    job = submit(wanted, settings=module_settings).wait()
    film, before = film_hash_of(job), clips_of(job)
    # When another take of the segment before is chosen
    job.retake(0)
    job.wait().choose(0, 1)
    shown = film_hash_of(job)
    # Then the clip of the new scene is made again, too, and no other one
    after = clips_of(job)
    assert [index for index in before if before[index] != after[index]] == [0, 1]
    # And with lost blobs it comes out the same
    made = job._deployment.jobs.takes(job.id).takes[0, 1].made
    assert made
    for blob_id in (after[1], str(made.latents), str(job.status().film.blob_id)):  # type: ignore[union-attr]
        job._deployment.blobs.drop(blob_id)
    job.retry()
    assert (film_hash_of(job), clips_of(job)) == (shown, after)
    # When the first take is chosen again
    job.choose(0, 0)
    # Then everything is as it was
    assert (film_hash_of(job), clips_of(job)) == (film, before)
