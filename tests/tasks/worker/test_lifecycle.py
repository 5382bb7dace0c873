"""Jobs through a real worker. The engine is a stand-in."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from blobstore import open_blob_store
from ltx2 import LTX2ContinuationState
from tasks.client.submit import submit
from tasks.jobs.queues import SEGMENTS, STICKY_PREFIX
from tasks.messaging.celery_app import make_app
from tasks.messaging.topology import SEGMENT_TASK
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.conftest import film_hash_of, job_store, spec

Start = Callable[..., Worker]
LAST = "nothing more is listened to"


class Messages:
    """Every message published on a queue of segments, as the server saw it."""

    def __init__(self, port: int) -> None:
        self.bodies: list[str] = []
        self._client = redis.Redis(port=port)
        self._monitor = self._client.monitor()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Messages:
        self._monitor.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.echo(LAST)  # the server tells of it after all that came before
        self._thread.join()
        self._monitor.__exit__(None, None, None)

    def _listen(self) -> None:
        for heard in self._monitor.listen():
            name, _, rest = heard["command"].partition(" ")
            queue, _, body = rest.partition(" ")
            if name == "LPUSH" and (queue == SEGMENTS or queue.startswith(STICKY_PREFIX)):
                self.bodies.append(body)
            if (name, rest) == ("ECHO", LAST):
                return


def test_a_job_that_waits_for_a_worker_can_be_looked_at(own_settings: Settings, longtake: Any) -> None:
    job = submit(spec("a"), settings=own_settings)
    assert job.summary()["segments"] == []
    found = json.loads(longtake("status", job.id, "--json", settings=own_settings).stdout)
    assert (found["state"], found["segments_committed"]) == ("queued", [])
    assert "  queued: segment 1 of 1 · waiting for a worker" in longtake("status", job.id, settings=own_settings).stdout


def test_a_job_becomes_a_film(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given / When
    job = submit(spec("a", "b", "c"), settings=module_settings).wait()
    job.save(tmp_path / "film.mp4")
    # Then
    report = json.loads((tmp_path / "film.json").read_text())
    assert report["frames"] == 17 + 8 + 8
    assert [segment["seed"] for segment in report["segments"]] == [3, 4, 5]
    assert report["segments"][-1]["handoff_s"] is None
    assert all(segment["handoff_s"] > 0 for segment in report["segments"][:-1])
    store = open_blob_store(module_settings.blobs)
    assert all(blob in store for segment in report["segments"] for blob in segment["blobs"]["handoff"])


def test_the_engine_is_told_the_next_prompt(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given / When
    first, second = (f"tell {tmp_path / name}" for name in ("first", "second"))
    submit(spec(first, second), settings=module_settings).wait()
    # Then the last segment has none
    assert json.loads((tmp_path / "first").read_text()) == second
    assert json.loads((tmp_path / "second").read_text()) is None


def test_every_message_stays_below_8_kb_whatever_a_state_brought_along(
    module_settings: Settings, worker: Worker, server: RedisProcess
) -> None:
    # Given a state from elsewhere with 100 KB of metadata
    first = submit(spec("a"), settings=module_settings).wait()
    state = first.state(0)
    state["payload"]["metadata"]["note"] = "x" * 100_000
    # When forty segments go on from it
    with Messages(server.port) as messages:
        job = submit(spec(*"abcdefghij" * 4), from_state=state, settings=module_settings).wait()
    # Then
    sizes = [len(body) for body in messages.bodies]
    assert len(sizes) == 40
    assert max(sizes) < 8192
    assert max(sizes) - min(sizes) < 64
    # and the metadata arrives whole at the end of the chain
    assert job.state(39)["payload"]["metadata"]["note"] == "x" * 100_000


def test_below_the_threshold_message_and_record_carry_the_arrays_inline(
    own_settings: Settings, own_server: RedisProcess, reference_film: str, start_worker: Start
) -> None:
    # Given another deployment whose messages carry their arrays
    inline = own_settings.model_copy(update={"inline_threshold_bytes": 2**16})
    start_worker(inline).ready()
    # When
    with Messages(own_server.port) as messages:
        job = submit(spec("a", "b", "c", "d"), settings=inline)
        film = film_hash_of(job)
    # Then
    assert film == reference_film
    assert max(len(body) for body in messages.bodies) > 8192
    for handoff in job_store(inline).handoffs(job.id):
        assert set(handoff.state["payload"]["video"]) == {"frames_b64"}
        assert set(handoff.state["payload"]["audio"]) == {"safetensors_b64"}


def test_the_record_is_right_where_a_message_differs(
    module_settings: Settings, reference_film: str, worker: Worker
) -> None:
    # Given a job whose second message claims another state
    job = submit(spec("a", "b", "c", "d"), settings=module_settings, job_id="liar")
    jobs, app = job_store(module_settings), make_app(module_settings, results=False)
    wait_until(lambda: job.status().committed >= 1)
    lie = LTX2ContinuationState(segment_index=7).to_continuation_state()
    state = {"kind": lie.kind, "payload": lie.payload}
    for index in range(4):
        app.send_task(SEGMENT_TASK, args=["liar", index, 10**6, state], queue=SEGMENTS)
    # Then
    assert film_hash_of(job) == reference_film
    assert jobs.status("liar").epoch == 0


@pytest.fixture
def blob_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("blobs"))
    yield server
    server.stop()


def test_who_goes_on_with_its_own_state_reads_nothing(
    own_settings: Settings, blob_server: RedisProcess, tmp_path: Path, start_worker: Start
) -> None:
    # Given a blob server of its own, and a worker that joins no films
    settings = own_settings.model_copy(update={"blob_url": blob_server.url})
    first = start_worker(settings, "--only", "segments", "--only", "clips").ready()

    def reads() -> int:
        # Who gets or puts a blob asks for its manifest by HGET; a new one is put in its place by RENAME.
        stats = redis.Redis(port=blob_server.port).info("commandstats")
        return int(stats["cmdstat_hget"]["calls"] - stats["cmdstat_rename"]["calls"])

    # When it renders a whole job, Then no blob was read
    job = submit(spec("a", "b", "c", "d"), settings=settings)
    wait_until(lambda: job.status().clips == 4)
    assert reads() == 0
    # When another worker goes on with a job, Then it reads the state's two blobs
    gate = tmp_path / "gate"
    other = submit(spec("a", f"wait until {gate}", seed=9), settings=settings)
    wait_until(lambda: other.status().clips == 1 and other.status().progress)
    first.stop(signal.SIGQUIT)
    start_worker(settings, "--only", "segments", "--only", "clips").ready()
    gate.touch()
    wait_until(lambda: other.status().clips == 2)
    assert reads() == 2


def test_a_cancelled_job_stops_between_two_steps(
    own_settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.3")
    start_worker(own_settings).ready()
    job = submit(spec(*"abcdef"), settings=own_settings)
    wait_until(lambda: job.status().progress)
    # When
    job.cancel()
    committed = job.status().committed
    # Then the worker is free for the next job, and nothing was committed after
    submit(spec("a"), settings=own_settings).wait()
    assert (job.status().state, job.status().committed) == ("cancelled", committed)


def test_a_forgotten_job_leaves_no_pin(module_settings: Settings, worker: Worker) -> None:
    # Given
    job = submit(spec("a", "b"), settings=module_settings).wait()
    store = open_blob_store(module_settings.blobs)
    assert store.pins(job.id)
    # When
    job.forget()
    # Then
    assert not store.pins(job.id)
    assert not job.exists()


def test_sigquit_lays_the_segment_down_and_another_worker_takes_it_up(
    own_settings: Settings, reference_film: str, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.2")
    # Given a lease much longer than the test
    patient = own_settings.model_copy(update={"lease_s": 600.0})
    first = start_worker(patient).ready()
    job = submit(spec("a", "b", "c", "d"), settings=patient)
    wait_until(lambda: job.status().committed == 1 and job.status().progress)
    # When
    first.stop(signal.SIGQUIT)
    start_worker(patient).ready()
    # Then
    assert film_hash_of(job) == reference_film


def test_a_job_is_rendered_with_its_own_loras(module_settings: Settings, worker: Worker) -> None:
    # Given jobs that differ in their LoRAs alone, in turn on one worker
    wanted = ([], [{"path": "owner/fog"}], [], [{"path": "owner/fog", "weight": 0.5}])
    jobs = [submit(spec("a", loras=loras), settings=module_settings) for loras in wanted]
    # When
    films = [film_hash_of(job) for job in jobs]
    # Then
    assert films[0] == films[2]
    assert len(set(films)) == 3
