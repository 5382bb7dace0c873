"""Jobs through real workers, and what becomes of them when something breaks. The engine is a stand-in."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from blobstore import open_blob_store
from ltx2 import LTX2ContinuationState
from tasks import handoff as states
from tasks.broker import FILMS, SEGMENT_TASK, SEGMENTS, make_app
from tasks.client import Job, submit
from tasks.config import Settings
from tasks.connection import connect
from tasks.errors import JobFailedError
from tasks.jobs import JobStore
from tests.conftest import STAND_IN, RedisProcess, Worker, wait_until

Start = Callable[..., Worker]


def spec(*prompts: str, **changes: Any) -> dict[str, Any]:
    small = {"title": "harbour at dawn", "width": 64, "height": 32, "frames": 17, "seed": 3}
    return {**small, **changes, "segments": [{"prompt": prompt} for prompt in prompts]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def here(server: RedisProcess, home: Path) -> Settings:
    return Settings(redis_url=server.url, home=home, engine=STAND_IN, lease_s=2.0, reconcile_s=0.25)


@pytest.fixture(scope="module")
def worker(here: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(here, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def undisturbed(here: Settings, worker: Worker) -> str:
    """The hash of the film of `spec("a", "b", "c", "d")` when nothing goes wrong."""
    film = submit(spec("a", "b", "c", "d"), settings=here).wait().status().film
    assert film
    return film.sha256


def film_of(job: Job) -> str:
    film = job.wait().status().film
    assert film
    return film.sha256


def job_store(settings: Settings) -> JobStore:
    return JobStore(connect(settings.redis_url), settings)


class Messages:
    """Every message published on the queue of segments, as the server saw it."""

    def __init__(self, port: int) -> None:
        self.bodies: list[str] = []
        self._monitor = redis.Redis(port=port).monitor()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Messages:
        self._monitor.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._monitor.__exit__(None, None, None)

    def _listen(self) -> None:
        while not self._end.is_set():
            if self._monitor.connection.can_read(timeout=0.1):
                command = self._monitor.next_command()["command"]
                if command.startswith("LPUSH segments "):
                    self.bodies.append(command.removeprefix("LPUSH segments "))


def test_a_job_becomes_a_film(here: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given / When
    job = submit(spec("a", "b", "c"), settings=here).wait()
    job.save(tmp_path / "film.mp4")
    # Then
    report = json.loads((tmp_path / "film.json").read_text())
    assert report["frames"] == 17 + 8 + 8
    assert [segment["seed"] for segment in report["segments"]] == [3, 4, 5]
    assert report["segments"][-1]["handoff_s"] is None
    assert all(segment["handoff_s"] > 0 for segment in report["segments"][:-1])
    store = open_blob_store(here.blobs)
    assert all(blob in store for segment in report["segments"] for blob in segment["blobs"]["handoff"])


def test_every_message_stays_below_8_kb_whatever_a_state_brought_along(
    here: Settings, worker: Worker, server: RedisProcess
) -> None:
    # Given a state from elsewhere with 100 KB of metadata
    first = submit(spec("a"), settings=here).wait()
    state = first.state(0)
    state["payload"]["metadata"]["note"] = "x" * 100_000
    # When forty segments go on from it
    with Messages(server.port) as messages:
        job = submit(spec(*"abcdefghij" * 4), from_state=state, settings=here).wait()
    # Then
    sizes = [len(body) for body in messages.bodies]
    assert len(sizes) == 40
    assert max(sizes) < 8192
    assert max(sizes) - min(sizes) < 64
    # and the metadata arrives whole at the end of the chain
    assert job.state(39)["payload"]["metadata"]["note"] == "x" * 100_000


def test_with_a_higher_threshold_the_same_job_runs_inline_and_the_record_keeps_blob_ids(
    here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path
) -> None:
    # Given another deployment whose messages carry their arrays
    server = RedisProcess(tmp_path)
    try:
        inline = here.model_copy(update={"redis_url": server.url, "inline_threshold_bytes": 2**20})
        start_worker(inline).ready()
        # When
        with Messages(server.port) as messages:
            job = submit(spec("a", "b", "c", "d"), settings=inline)
            film = film_of(job)
        # Then
        assert film == undisturbed
        assert max(len(body) for body in messages.bodies) > 8192
        for handoff in job_store(inline).handoffs(job.id):
            assert set(handoff.state["payload"]["video"]) == {"blob_id", "frame_count"}
            assert set(handoff.state["payload"]["audio"]) == {"blob_id"}
    finally:
        server.stop()


def test_the_record_is_right_where_a_message_differs(here: Settings, undisturbed: str, worker: Worker) -> None:
    # Given a job whose second message claims another state
    job = submit(spec("a", "b", "c", "d"), settings=here, job_id="liar")
    jobs, app = job_store(here), make_app(here, results=False)
    wait_until(lambda: job.status().committed >= 1)
    lie = LTX2ContinuationState(segment_index=7).to_continuation_state()
    state = {"kind": lie.kind, "payload": lie.payload}
    for index in range(4):
        app.send_task(SEGMENT_TASK, args=["liar", index, 10**6, state], queue=SEGMENTS)
    # Then
    assert film_of(job) == undisturbed
    assert jobs.status("liar").epoch == 0


def test_kill_9_of_a_worker_costs_its_segment_and_nothing_else(
    here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two workers on a deployment of their own, and a job in the hands of one
    monkeypatch.setenv("STAND_IN_STEP_S", "0.2")
    server = RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": server.url})
        first = start_worker(there).ready()
        job = submit(spec("a", "b", "c", "d"), settings=there)
        wait_until(lambda: job.status().committed == 1 and job.status().progress)
        children = psutil.Process(first.process.pid).children()
        # When
        first.process.kill()
        first.process.wait()
        start_worker(there).ready()
        # Then
        assert film_of(job) == undisturbed
        fences = [handoff.fence for handoff in job_store(there).handoffs(job.id)]
        assert fences == sorted(set(fences))
        assert not any(child.is_running() for child in children)
    finally:
        server.stop()


def test_kill_9_of_the_child_mid_segment(here: Settings, undisturbed: str, worker: Worker) -> None:
    # Given
    job = submit(spec("a", "b", "c", "d", title="child"), settings=here)
    wait_until(lambda: job.status().committed >= 1)
    # When
    for child in psutil.Process(worker.process.pid).children():
        child.kill()
    # Then
    assert film_of(job) == undisturbed


def test_sigquit_lays_the_segment_down_and_another_worker_takes_it_up(
    here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.2")
    server = RedisProcess(tmp_path)
    try:
        # Given a lease much longer than the test
        there = here.model_copy(update={"redis_url": server.url, "lease_s": 600.0})
        first = start_worker(there).ready()
        job = submit(spec("a", "b", "c", "d"), settings=there)
        wait_until(lambda: job.status().committed == 1 and job.status().progress)
        # When
        first.stop(signal.SIGQUIT)
        start_worker(there).ready()
        # Then
        assert film_of(job) == undisturbed
    finally:
        server.stop()


def test_sigterm_lets_the_segment_finish(
    here: Settings, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.2")
    server = RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": server.url})
        first = start_worker(there).ready()
        job = submit(spec("a", "b", "c", "d"), settings=there)
        wait_until(lambda: job.status().committed == 1 and job.status().progress)
        first.stop(signal.SIGTERM)
        assert job.status().committed == 2
        assert job.status().clips == 2
    finally:
        server.stop()


def test_a_lost_message_is_published_again(here: Settings, start_worker: Start, tmp_path: Path) -> None:
    # Given a job whose message a broker lost
    server = RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": server.url})
        job = submit(spec("a"), settings=there)
        assert redis.Redis(port=server.port).delete(SEGMENTS) == 1
        # When
        start_worker(there)
        # Then
        job.wait()
    finally:
        server.stop()


def test_a_lost_state_is_rendered_again(here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path) -> None:
    # Given a job that waits at segment 2, and the state before it damaged
    server = RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": server.url})
        first = start_worker(there, "--only", "segments", "--only", "clips").ready()
        job = submit(spec("a", "b", "c", "d"), settings=there)
        wait_until(lambda: job.status().clips == 4)
        first.stop()
        jobs, store = job_store(there), open_blob_store(there.blobs)
        clips = jobs.clips(job.id)
        # When a clip, its latents, and the state before it are gone
        latents = jobs.handoffs(job.id)[2].latents
        for blob in (clips[2].blob_id, latents, *states.blob_ids(jobs.handoffs(job.id)[1].state)):
            assert blob
            store.drop(blob)
        start_worker(there).ready()
        # Then segments 1 to 3 are rendered again, in a new epoch
        assert film_of(job) == undisturbed
        assert job.status().epoch == 2
    finally:
        server.stop()


def test_a_lost_clip_is_decoded_again_from_its_latents(
    here: Settings, undisturbed: str, start_worker: Start, tmp_path: Path
) -> None:
    server = RedisProcess(tmp_path)
    try:
        # Given all clips made, and the film not begun
        there = here.model_copy(update={"redis_url": server.url})
        first = start_worker(there, "--only", "segments", "--only", "clips").ready()
        job = submit(spec("a", "b", "c", "d"), settings=there)
        wait_until(lambda: job.status().clips == 4 and redis.Redis(port=server.port).llen(FILMS))
        jobs = job_store(there)
        fences = [handoff.fence for handoff in jobs.handoffs(job.id)]
        # When
        open_blob_store(there.blobs).drop(jobs.clips(job.id)[2].blob_id)
        start_worker(there, "--only", "films").ready()
        # Then
        assert film_of(job) == undisturbed
        assert [handoff.fence for handoff in jobs.handoffs(job.id)] == fences
        assert job.status().epoch == 0
        first.stop()
    finally:
        server.stop()


def test_a_segment_that_fails_ends_its_job_with_the_reason_and_the_queue_moves_on(
    here: Settings, worker: Worker
) -> None:
    # Given
    bad, good = submit(spec("a", "fail"), settings=here), submit(spec("a"), settings=here)
    # When / Then
    with pytest.raises(JobFailedError, match="segment 1 after 3 attempts: RuntimeError: the stand-in was told to fail"):
        bad.wait()
    good.wait()


def test_running_out_of_memory_is_tried_again(here: Settings, worker: Worker) -> None:
    with pytest.raises(JobFailedError, match="after 3 attempts: EngineMemoryError"):
        submit(spec("memory"), settings=here).wait()


def test_a_segment_that_kills_its_process_ends_its_job_not_the_worker(here: Settings, worker: Worker) -> None:
    # Given
    poison = submit(spec("die"), settings=here)
    # When / Then
    with pytest.raises(JobFailedError, match="segment 0 after 3 attempts: it ended its worker each time"):
        poison.wait()
    submit(spec("a"), settings=here).wait()
    assert worker.process.poll() is None


def test_a_cancelled_job_stops_between_two_steps(
    here: Settings, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.3")
    server = RedisProcess(tmp_path)
    try:
        there = here.model_copy(update={"redis_url": server.url})
        start_worker(there).ready()
        job = submit(spec(*"abcdef"), settings=there)
        wait_until(lambda: job.status().progress)
        # When
        job.cancel()
        committed = job.status().committed
        # Then the worker is free for the next job, and nothing was committed after
        submit(spec("a"), settings=there).wait()
        assert (job.status().state, job.status().committed) == ("cancelled", committed)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["../../etc", 0, 1, None],
        ["nojob", 0, 1, None],
        [None, None, None, None],
        ["nojob", "x", "y", {}],
        [{"a": 1}, 0, 1, "state"],
        ["nojob", 10**30, -5, {"kind": "ltx2.v1", "payload": {}}],
    ],
    ids=repr,
)
def test_a_malformed_message_is_refused_and_the_worker_lives(
    here: Settings, worker: Worker, arguments: list[Any]
) -> None:
    # When
    make_app(here, results=False).send_task(SEGMENT_TASK, args=arguments, queue=SEGMENTS)
    # Then
    submit(spec("a"), settings=here).wait()
    assert worker.process.poll() is None


def test_a_forgotten_job_leaves_no_pin(here: Settings, worker: Worker) -> None:
    # Given
    job = submit(spec("a", "b"), settings=here).wait()
    store = open_blob_store(here.blobs)
    assert store.pins(job.id)
    # When
    job.forget()
    # Then
    assert not store.pins(job.id)
    assert not job.exists()
