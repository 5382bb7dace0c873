"""Forks: jobs that share the first segments of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from blobstore import BlobStoreUnavailableError, ManagedBlobStore, RedisBlobStore, open_blob_store
from tasks.client.edits.losses import Loss, first_loss
from tasks.client.job import Job
from tasks.client.submissions import submission
from tasks.client.submit import collect_garbage, submit
from tasks.errors import JobNotFoundError, JobStateError, LongtakeError, RoomError, SpecError
from tasks.jobs.committed import Committed, Take, Takes
from tasks.jobs.connection import connect
from tasks.jobs.keys import is_submission, job_keys
from tasks.jobs.queues import CLIPS, SEGMENTS
from tasks.jobs.records import ClipRecord, Handoff
from tasks.jobs.state_wire import handoff_blobs
from tasks.jobs.store import JobStore
from tasks.jobs.units import START_INDEX, WorkUnit
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import RedisProcess, Worker
from tests.tasks.conftest import film_hash_of, job_store, spec
from tests.tasks.jobs import protocol


def with_seeds(*seeds: int, **changes: Any) -> dict[str, Any]:
    """A spec with these seeds; with 3, 4, 5, 6 its film is the reference film."""
    wanted = spec(*("abcd"[: len(seeds)]), **changes)
    return {**wanted, "segments": [{**s, "seed": seed} for s, seed in zip(wanted["segments"], seeds, strict=True)]}


def count_puts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The bytes that this process puts from now on."""
    puts: list[object] = []
    monkeypatch.setattr(RedisBlobStore, "put", lambda *arguments, **_: puts.append(arguments))
    return puts


def stored_blobs(server: RedisProcess) -> set[bytes]:
    with redis.Redis(port=server.port) as client:
        return set(client.scan_iter("longtake:blob:*"))


def claims_of(server: RedisProcess, job: Job) -> int:
    """How many claims of the job were granted, ever."""
    with redis.Redis(port=server.port) as client:
        return int(client.hget(job_keys(job.id, "record")[0], "fence") or 0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source(module_settings: Settings, worker: Worker) -> Job:
    """A finished job whose first two segments are those of the reference film."""
    return submit(with_seeds(3, 4, 70, 71), settings=module_settings).wait()


def test_a_fork_renders_only_what_follows(
    source: Job, server: RedisProcess, reference_film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a spec whose seed says nothing about the shared segments
    puts = count_puts(monkeypatch)
    # When
    job = source.fork(1, with_seeds(8, 9, 5, 6, seed=1000))
    # Then nothing was put, two segments and the film were claimed, and the film is that of an undisturbed run
    assert film_hash_of(job) == reference_film != film_hash_of(source)
    assert puts == []
    assert claims_of(server, job) == 3
    shared, own = source.summary()["segments"], job.summary()["segments"]
    assert own[:2] == [{**segment, "handoff_s": own[i]["handoff_s"]} for i, segment in enumerate(shared[:2])]
    # When it is forked without a spec, Then the rest of it is rendered
    again = job.fork(2)
    assert film_hash_of(again) == reference_film
    assert claims_of(server, again) == 2
    assert again.summary()["segments"][3]["seed"] == 6


def test_a_fork_begins_with_a_cut(source: Job, module_settings: Settings) -> None:
    # Given a whole film with a cut
    wanted = with_seeds(3, 4, 5)
    wanted["segments"][2]["transition"] = "cut"
    whole = submit(wanted, settings=module_settings)
    # When / Then
    assert film_hash_of(source.fork(1, wanted)) == film_hash_of(whole)


def test_a_fork_without_a_spec_is_rendered_in_order_if_its_job_was(
    module_settings: Settings, server: RedisProcess, worker: Worker
) -> None:
    # Given films with a cut behind their second segment
    wanted = with_seeds(3, 4, 5)
    wanted["segments"][2]["transition"] = "cut"
    whole, parts = (submit(wanted | {"parallel": way}, settings=module_settings).wait() for way in (False, True))
    # When
    forks = [whole.fork(0), whole.cascade(1), parts.fork(0)]
    # Then
    with redis.Redis(port=server.port) as client:
        ways = [client.hexists(job_keys(fork.id, "record")[0], "next_part") for fork in forks]
        heads = [client.hget(job_keys(job.id, "spec")[0], "job") or b"" for job in (whole, parts)]
    assert ways == [False, False, True]
    assert [b"parallel" in head for head in heads] == [True, False]
    # And each knows where it is from; one that shares nothing is no fork
    origins = [str(fork.status().fork_of) for fork in (*forks, whole.cascade(0))]
    assert origins == [*(f"fork of {job.id} after segment 0" for job in (whole, whole, parts)), "None"]


@pytest.mark.parametrize(
    ("after", "changes", "words"),
    [
        (4, {}, "cannot be forked after segment 4: up to there, segments 0 to 3 are rendered"),
        (-1, {}, "cannot be forked after segment -1"),
        (3, {}, "there is none after segment 3, so there is nothing to render"),
        (1, {"width": 96}, "width: must be that of job .*: 96 here, 64 there"),
        (1, {"height": 64}, "height: "),
        (1, {"frames": 25}, "frames: "),
        (1, {"fps": 25}, "fps: "),
        (1, {"overlap": 1}, "overlap: "),
        (1, {"steps": 9}, "steps: "),
        (1, {"model": "tiny"}, "model: "),
        (1, {"width": 96, "negative_prompt": "rain"}, "width: .*\n.*negative_prompt: "),
        (1, {"segments": [{"prompt": "a"}]}, "there is none after segment 1"),
        (1, {"segments": []}, "segments"),
    ],
)
def test_a_fork_that_cannot_be_made_is_refused(source: Job, after: int, changes: dict[str, Any], words: str) -> None:
    before = source._deployment.jobs.active()
    with pytest.raises(LongtakeError, match=words):
        source.fork(after, {**with_seeds(3, 4, 5, 6), **changes})
    assert source._deployment.jobs.active() == before


def test_a_fork_with_another_image_is_refused(source: Job, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 32)).save(tmp_path / "boat.png")
    with pytest.raises(SpecError, match=r"image: must be that of job \w+, .*: it is another image"):
        source.fork(1, with_seeds(3, 4, 5, image=str(tmp_path / "boat.png")))
    with pytest.raises(JobNotFoundError):
        Job("unknown", settings=source._deployment.settings).fork(0)


def test_a_fork_outlives_its_source_and_is_repaired(
    own_settings: Settings,
    own_server: RedisProcess,
    reference_film: str,
    start_worker: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a finished job, no worker, and a lost clip of a shared segment
    worker = start_worker(own_settings).ready()
    source = submit(spec("a", "b", "x"), settings=own_settings).wait()
    worker.stop()
    blobs, jobs = open_blob_store(own_settings.blobs), job_store(own_settings)
    clips = jobs.clips(source.id)
    blobs.drop(clips[1].blob_id)
    before = stored_blobs(own_server)
    # When it is forked
    with monkeypatch.context() as patched:
        puts = count_puts(patched)
        job = source.fork(1, with_seeds(0, 0, 5, 6, seed=1000))
    # Then no blob was put, all that is shared is pinned, and the missing clip is due with the next segment
    assert puts == []
    assert stored_blobs(own_server) == before
    handoffs = jobs.handoffs(job.id)
    needed = {blob_id for handoff in handoffs for blob_id in handoff_blobs(handoff)}
    assert blobs.pins(job.id) == needed | {clips[0].blob_id}
    assert {need.unit for need in jobs.survey(job.id)} == {WorkUnit.segment(2), WorkUnit.clip(1)}
    # When its source goes with all that only it needs, and a state, latents and a clip are lost
    source.forget()
    collect_garbage(dry_run=False, grace_s=0, settings=own_settings)
    assert blobs.pins(job.id) == needed | {clips[0].blob_id}
    for lost in (clips[0].blob_id, str(handoffs[0].latents), handoff_blobs(handoffs[1])[0]):
        blobs.drop(lost)
    start_worker(own_settings)
    # Then shared segments are repaired from their prompts and seeds, and the film is that of an undisturbed run
    assert film_hash_of(job) == reference_film
    assert job.status().epoch > 0


@pytest.fixture
def reconciler(jobs: JobStore, settings: Settings) -> Iterator[Reconciler]:
    publisher = Publisher(make_app(settings, results=False), jobs)
    yield Reconciler(connect(settings.redis_url), jobs, open_blob_store(settings.blobs), publisher, settings)
    publisher.close()


def committed_job(jobs: JobStore, blobs: ManagedBlobStore) -> Job:
    """A running job of three segments that starts from two blobs; two are committed, and the first one has a clip."""
    image, audio = (blobs.put(data, owner=protocol.JOB) for data in (b"image", b"audio"))
    start = Handoff(START_INDEX, {"kind": "ltx2.v1", "payload": {"audio": {"blob_id": audio}}})
    wanted = check_spec({"image": image, "segments": [{"prompt": prompt} for prompt in "abc"]})
    jobs.create(protocol.JOB, wanted, model="tiny", committed=Committed(start))
    assert jobs.admit(None).outcome == "admitted"
    for index in range(2):
        latents = blobs.put(b"latents %d" % index, owner=protocol.JOB)
        clip = protocol.commit(jobs, protocol.claim(jobs, index), protocol.handoff(index, latents=latents))
        if index == 0:
            jobs.commit_clip(clip, ClipRecord(0, blobs.put(b"clip", owner=protocol.JOB), 1, 1))
    blobs.pin(blobs.pins(protocol.JOB), protocol.JOB)
    return Job(protocol.JOB)


def test_a_fork_whose_client_dies_is_completed_although_its_source_is_gone(
    settings: Settings,
    jobs: JobStore,
    reconciler: Reconciler,
    shared_redis: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a client that dies between the record of a fork and its pins
    blobs = open_blob_store(settings.blobs)
    committed_job(jobs, blobs)
    owners: list[str] = []
    ends: list[float] = []

    def die(*_: Any) -> None:
        owners.extend(blobs.owners())
        with redis.Redis(port=shared_redis.port) as client:
            for owner in filter(is_submission, owners):
                ends.extend(end for _, end in client.zrange(f"longtake:owner:{owner}", 0, -1, withscores=True))
        raise BlobStoreUnavailableError("the client dies")

    with monkeypatch.context() as patched:
        patched.setattr(submission, "complete_submission", die)
        job = Job(protocol.JOB, settings=settings).fork(1)
    # Then only its submission pins what it shares, and not for ever
    assert sorted(map(is_submission, owners)) == [False, True]
    assert len(ends) == 5
    assert max(ends) < float("inf")
    assert (blobs.pins(job.id), job.status().admitted) == (set(), False)
    # When its source goes, and the reconciler runs
    source = Job(protocol.JOB, settings=settings)
    source.cancel()
    source.forget()
    blobs.collect(grace_s=0)
    reconciler.reconcile()
    # Then the fork has its pins, and messages about the next segment and the missing clip
    assert len(blobs.pins(job.id)) == 5
    assert jobs.handoff(job.id, START_INDEX) is not None
    assert all(blob_id in blobs for blob_id in blobs.pins(job.id))
    assert list(blobs.owners()) == [job.id]
    assert (job.status().admitted, job.status().committed, job.status().clips) == (True, 2, 1)
    with redis.Redis(port=shared_redis.port) as client:
        assert (client.llen(SEGMENTS), client.llen(CLIPS)) == (1, 1)


def test_a_fork_of_lost_segments_is_refused_and_pins_nothing(settings: Settings, jobs: JobStore) -> None:
    # Given a job that lost the latents of segment 1
    blobs = open_blob_store(settings.blobs)
    committed_job(jobs, blobs)
    job = Job(protocol.JOB, settings=settings)
    blobs.drop(str(jobs.handoffs(job.id)[1].latents))
    # When / Then
    with pytest.raises(JobStateError, match=r"segment 1 of job \w+ are missing: fork it after segment 0"):
        job.fork(1)
    assert list(blobs.owners()) == [job.id]
    assert job.fork(0).status().committed == 1
    # And what else may be lost is named, too, with what can be shared without it
    whole, gone = jobs.contents(job.id), blobs.put(b"gone", mime="image/png")
    blobs.drop(gone)
    lost = replace(jobs.handoffs(job.id)[0], latents=gone)
    takes = Takes({(0, 2): Take(0, 2, made=lost)}, {0: 2})
    for source, what in (
        (replace(whole, head=whole.head.model_copy(update={"image": gone})), "blobs of `image`"),
        (replace(whole, committed=replace(whole.committed, start=lost)), "blobs of the state before segment 0"),
        (replace(whole, committed=replace(whole.committed, takes=takes)), "blobs of take 2 of segment 0"),
    ):
        assert first_loss(blobs, source, 1) == Loss(what, 0)
    # When a fork needs more than the budget, Then it is refused, too: it may outlive its source, so all of it counts
    small = Job(job.id, settings=settings.model_copy(update={"blob_budget_bytes": 1000}))
    with pytest.raises(RoomError):
        small.fork(0)
