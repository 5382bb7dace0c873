"""Jobs on a real worker process with a stand-in engine."""

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
END = "end of the recording"


class MessageRecorder:
    """Records the messages published on the segment queues, with MONITOR."""

    def __init__(self, port: int) -> None:
        self.bodies: list[str] = []
        self._client = redis.Redis(port=port)
        self._monitor = self._client.monitor()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> MessageRecorder:
        self._monitor.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.echo(END)  # the server reports commands in order, so this one last
        self._thread.join()
        self._monitor.__exit__(None, None, None)

    def _record(self) -> None:
        for event in self._monitor.listen():
            name, _, rest = event["command"].partition(" ")
            queue, _, body = rest.partition(" ")
            if name == "LPUSH" and (queue == SEGMENTS or queue.startswith(STICKY_PREFIX)):
                self.bodies.append(body)
            if (name, rest) == ("ECHO", END):
                return


def test_status_shows_a_job_that_waits_for_a_worker(own_settings: Settings, longtake: Any) -> None:
    job = submit(spec("a"), settings=own_settings)
    assert job.summary()["segments"] == []
    status = json.loads(longtake("status", job.id, "--json", settings=own_settings).stdout)
    assert (status["state"], status["segments_committed"]) == ("queued", [])
    shown = longtake("status", job.id, settings=own_settings).stdout
    assert "  queued: no worker is online · 0 of 1 segment rendered" in shown


def test_a_job_becomes_a_film(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given / When
    job = submit(spec("a", "b", "c"), settings=module_settings).wait()
    job.save(tmp_path / "film.mp4")
    # Then
    report = json.loads((tmp_path / "film.report.json").read_text())
    assert report["frames"] == 17 + 8 + 8
    assert [segment["seed"] for segment in report["segments"]] == [3, 4, 5]
    assert report["segments"][-1]["handoff_s"] is None
    assert all(segment["handoff_s"] > 0 for segment in report["segments"][:-1])
    store = open_blob_store(module_settings.blobs)
    assert all(blob in store for segment in report["segments"] for blob in segment["blobs"]["handoff"])


def test_the_engine_gets_the_next_prompt(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given / When
    first, second = (f"tell {tmp_path / name}" for name in ("first", "second"))
    submit(spec(first, second), settings=module_settings).wait()
    # Then the last segment gets none
    assert json.loads((tmp_path / "first").read_text()) == second
    assert json.loads((tmp_path / "second").read_text()) is None


def test_messages_stay_below_8_kb_with_large_metadata(
    module_settings: Settings, worker: Worker, server: RedisProcess
) -> None:
    # Given an imported state with 100 KB of metadata
    first = submit(spec("a"), settings=module_settings).wait()
    state = first.state(0)
    state["payload"]["metadata"]["note"] = "x" * 100_000
    # When twelve segments continue from it
    with MessageRecorder(server.port) as recorder:
        job = submit(spec(*"abcdefghijkl"), from_state=state, settings=module_settings).wait()
    # Then
    sizes = [len(body) for body in recorder.bodies]
    assert len(sizes) == 12
    assert max(sizes) < 8192
    assert max(sizes) - min(sizes) < 64
    # And the metadata is complete at the end of the chain
    assert job.state(11)["payload"]["metadata"]["note"] == "x" * 100_000


def test_arrays_below_the_threshold_are_inline_in_message_and_record(
    own_settings: Settings, own_server: RedisProcess, reference_film: str, start_worker: Start
) -> None:
    # Given a deployment with a threshold above the size of the arrays
    inline = own_settings.model_copy(update={"inline_threshold_bytes": 2**16})
    start_worker(inline).ready()
    # When
    with MessageRecorder(own_server.port) as recorder:
        job = submit(spec("a", "b", "c", "d"), settings=inline)
        film = film_hash_of(job)
    # Then
    assert film == reference_film
    assert max(len(body) for body in recorder.bodies) > 8192
    for handoff in job_store(inline).handoffs(job.id):
        assert set(handoff.state["payload"]["video"]) == {"frames_b64"}
        assert set(handoff.state["payload"]["audio"]) == {"safetensors_b64"}


def test_the_job_record_overrides_the_state_in_a_message(
    module_settings: Settings, reference_film: str, worker: Worker
) -> None:
    # Given
    job = submit(spec("a", "b", "c", "d"), settings=module_settings, job_id="conflict")
    jobs, app = job_store(module_settings), make_app(module_settings, results=False)
    wait_until(lambda: job.status().committed >= 1)
    wrong_state = LTX2ContinuationState(segment_index=7).to_continuation_state()
    state = {"kind": wrong_state.kind, "payload": wrong_state.payload}
    # When messages for each segment carry a wrong state
    for index in range(4):
        app.send_task(SEGMENT_TASK, args=["conflict", index, 10**6, state], queue=SEGMENTS)
    # Then
    assert film_hash_of(job) == reference_film
    assert jobs.status("conflict").epoch == 0


@pytest.fixture
def blob_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("blobs"))
    yield server
    server.stop()


def test_a_worker_that_continues_its_own_segment_reads_no_blobs(
    own_settings: Settings, blob_server: RedisProcess, tmp_path: Path, start_worker: Start
) -> None:
    # Given a separate blob server, and a worker that assembles no films
    settings = own_settings.model_copy(update={"blob_url": blob_server.url})
    first = start_worker(settings, "--only", "segments", "--only", "clips").ready()

    def reads() -> int:
        # Each get or put of a blob sends one HGET for its manifest; a put of a new blob also sends one RENAME.
        stats = redis.Redis(port=blob_server.port).info("commandstats")
        return int(stats["cmdstat_hget"]["calls"] - stats["cmdstat_rename"]["calls"])

    # When it renders a whole job, Then it reads no blobs, except the one with which it checked the server at its start
    at_start = reads()
    job = submit(spec("a", "b", "c", "d"), settings=settings)
    wait_until(lambda: job.status().clips == 4)
    assert reads() == at_start
    # When another worker continues a job, Then it reads the two blobs of the state
    may_finish = tmp_path / "may_finish"
    other = submit(spec("a", f"wait until {may_finish}", seed=9), settings=settings)
    wait_until(lambda: other.status().clips == 1 and other.status().progress)
    first.stop(signal.SIGQUIT)
    start_worker(settings, "--only", "segments", "--only", "clips").ready()
    may_finish.touch()
    wait_until(lambda: other.status().clips == 2)
    assert reads() == 2 * at_start + 2


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
    # Then the worker renders the next job, and commits nothing more of the cancelled one
    submit(spec("a"), settings=own_settings).wait()
    assert (job.status().state, job.status().committed) == ("cancelled", committed)


def test_forgetting_a_job_removes_its_pins(module_settings: Settings, worker: Worker) -> None:
    # Given
    job = submit(spec("a", "b"), settings=module_settings).wait()
    store = open_blob_store(module_settings.blobs)
    assert store.pins(job.id)
    # When
    job.forget()
    # Then
    assert not store.pins(job.id)
    assert not job.exists()


def test_sigquit_releases_the_segment_and_another_worker_renders_it(
    own_settings: Settings, reference_film: str, start_worker: Start, tmp_path: Path
) -> None:
    # Given a lease much longer than the test, and a worker that renders the second segment
    long_lease = own_settings.model_copy(update={"lease_s": 600.0})
    first = start_worker(long_lease).ready()
    job = submit(spec("a", f"wait until {tmp_path / 'go'}", "c", "d"), settings=long_lease)
    wait_until(lambda: job.status().committed == 1 and job.status().progress, what="the second segment")
    # When
    first.stop(signal.SIGQUIT)
    (tmp_path / "go").touch()
    start_worker(long_lease).ready()
    # Then
    assert film_hash_of(job) == reference_film


def test_each_job_is_rendered_with_its_own_loras(module_settings: Settings, worker: Worker) -> None:
    # Given jobs that differ only in their LoRAs, on one worker
    lora_lists = ([], [{"path": "owner/fog"}], [], [{"path": "owner/fog", "weight": 0.5}])
    jobs = [submit(spec("a", loras=loras), settings=module_settings) for loras in lora_lists]
    # When
    films = [film_hash_of(job) for job in jobs]
    # Then
    assert films[0] == films[2]
    assert len(set(films)) == 3
