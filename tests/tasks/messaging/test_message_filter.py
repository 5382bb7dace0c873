"""The message filter: an invalid message is logged, and the worker continues."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch

from blobstore import InMemoryBlobStore
from ltx2 import LTX2ContinuationState
from tasks.client.submit import submit
from tasks.errors import MessageError
from tasks.jobs import state_wire
from tasks.jobs.queues import CLIPS, FILMS, QUEUES, SEGMENTS, STICKY_PREFIX, Priority, list_key
from tasks.messaging.celery_app import make_app
from tasks.messaging.schema import check_entry
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK, TAKE_TASK
from tasks.messaging.transport import AMQP, Channel, SentinelChannel
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.ltx2.state.test_hostile import PAYLOADS, deep
from tests.tasks.conftest import film_hash_of, job_store, spec
from tests.tasks.messaging.hostile import BODIES, BROADCASTS, ENVELOPES, NOT_MESSAGES, OTHER_QUEUES, as_bytes
from tests.tasks.messaging.wire import changed, encoded, message


class WorkerWatch:
    """The log of a worker since the start of a test, and checks that it still works."""

    def __init__(self, module_settings: Settings, worker: Worker, queues: redis.Redis) -> None:
        self.queues = queues
        self._settings = module_settings
        self._worker = worker
        self._log_start = len(worker.text())

    def problems(self) -> list[str]:
        """The log lines that are not INFO, tracebacks included."""
        return [line for line in self._worker.text()[self._log_start :].splitlines() if ": INFO/" not in line]

    def check_alive(self) -> None:
        """Check that the worker renders a new job, and that no message is left."""
        submit(spec("a"), settings=self._settings).wait()
        assert self._worker.process.poll() is None
        wait_until(lambda: not self.queues.hlen("unacked"), what="the last acknowledgement")
        assert [self.queues.llen(queue) for queue in QUEUES] == [0, 0, 0]

    def check_refused(self, *refusals: Sequence[str]) -> None:
        """Check that the worker is alive, and that its log has a line with these words for each refusal, in order."""
        wait_until(lambda: len(self.problems()) >= len(refusals), what=f"{len(refusals)} refusals")
        self.check_alive()
        for line, words in zip(self.problems(), refusals, strict=True):
            assert len(line) < 500
            for word in ("is refused: ", "Error: ", *words):
                assert word in line


@pytest.fixture
def watch(module_settings: Settings, worker: Worker, server: RedisProcess) -> Iterator[WorkerWatch]:
    with redis.Redis(port=server.port) as queues:
        yield WorkerWatch(module_settings, worker, queues)


def test_valid_messages_pass_the_filter(watch: WorkerWatch) -> None:
    # Given messages of each kind for a job that does not exist
    for entry in (
        message("nojob", 0, 1, {"kind": "ltx2.v1", "payload": {}}),
        message("nojob", 99_999, 2**53 - 1, None),
        message("nojob", 3, 1, task=CLIP_TASK, queue=CLIPS),
        message("nojob", 3, 2, 1, task=TAKE_TASK, queue=SEGMENTS),
        message("nojob", 1, task=FILM_TASK, queue=FILMS),
        changed(message(), ("headers", "traceparent"), "00-1-2-01"),
    ):
        queue = entry["properties"]["delivery_info"]["routing_key"]
        # When
        watch.queues.lpush(queue, json.dumps(entry))
    # Then
    watch.check_alive()
    assert watch.problems() == []


@pytest.mark.parametrize("queue", QUEUES)
def test_an_entry_that_is_not_a_message_is_refused(watch: WorkerWatch, queue: str) -> None:
    watch.queues.lpush(queue, *(entry for entry, _ in NOT_MESSAGES))
    watch.check_refused(*((f"on {queue} is refused", words) for _, words in NOT_MESSAGES))


def test_an_invalid_entry_of_high_priority_is_refused(watch: WorkerWatch) -> None:
    watch.queues.lpush(list_key(SEGMENTS, Priority.HIGH), b"garbage")
    watch.check_refused([f"on {SEGMENTS} is refused"])


def test_invalid_envelopes_are_refused(watch: WorkerWatch) -> None:
    watch.queues.lpush(SEGMENTS, *(json.dumps(changed(message(), path, value)) for path, value in ENVELOPES))
    watch.check_refused(*(["nested" if path[-1] == "traceparent" else path[0]] for path, _ in ENVELOPES))


def test_invalid_arguments_are_refused(watch: WorkerWatch) -> None:
    watch.queues.lpush(SEGMENTS, *(json.dumps(changed(message(), ("body",), encoded(body))) for body, _ in BODIES))
    watch.check_refused(*([words] for _, words in BODIES))


@pytest.mark.parametrize("queue", QUEUES)
def test_invalid_messages_are_refused_on_each_queue(watch: WorkerWatch, queue: str) -> None:
    entries = [message(*arguments, task=task, queue=queue) for name, task, arguments in OTHER_QUEUES if name == queue]
    watch.queues.lpush(queue, *map(json.dumps, entries))
    watch.check_refused(*([f"on {queue} is refused"] for _ in entries))


class TouchOnUnpickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "pickle", "application/json"])
def test_a_pickle_is_never_loaded(watch: WorkerWatch, tmp_path: Path, content_type: str) -> None:
    # Given a pickle that creates a file when it is loaded
    unpickled = tmp_path / "unpickled"
    data = pickle.dumps(TouchOnUnpickle(unpickled))
    pickle.loads(data)
    unpickled.unlink()
    entry = changed(message(), ("body",), base64.b64encode(data).decode())
    entry |= {"content-type": content_type, "content-encoding": "binary"}
    # When
    watch.queues.lpush(SEGMENTS, json.dumps(entry))
    watch.queues.lpush(FILMS, data)
    # Then
    watch.check_alive()
    assert len(watch.problems()) == 2
    assert not unpickled.exists()


def test_a_worker_survives_invalid_commands_and_events(watch: WorkerWatch) -> None:
    for channel, data in BROADCASTS:
        assert watch.queues.publish(channel, as_bytes(data)) == 1
    watch.check_refused(*([f"on {channel} is refused"] for channel, _ in BROADCASTS))


def is_json_serializable(payload: Any) -> bool:
    try:
        return bool(json.dumps(payload))
    except (TypeError, ValueError, RecursionError):
        return False


def test_hostile_states_in_messages_do_not_change_the_films(
    own_settings: Settings,
    own_server: RedisProcess,
    module_settings: Settings,
    worker: Worker,
    start_worker: Callable[..., Worker],
) -> None:
    # Given jobs that continue from a state, and their messages replaced by ones with every fourth hostile state
    payloads = [payload for payload, _ in PAYLOADS if is_json_serializable(payload)]
    hostile: list[Any] = [{"kind": "ltx2.v1", "payload": payload} for payload in payloads[::4]]
    hostile += [{}, {"kind": 7}, deep(90), {"payload": {"__type__": "datetime", "__value__": "2000-01-01"}}]
    state = submit(spec("a", "b", "c"), settings=module_settings).wait().state(2)
    jobs = [submit(spec("b"), from_state=state, settings=own_settings) for _ in hostile]
    client = redis.Redis(port=own_server.port)
    assert client.delete(SEGMENTS) == 1
    for job, hostile_state in zip(jobs, hostile, strict=True):
        client.lpush(SEGMENTS, json.dumps(message(job.id, 0, 1, hostile_state)))
    reference = submit(spec("b"), from_state=state, settings=own_settings)
    # When a worker receives them
    new_worker = start_worker(own_settings, "--loglevel", "WARNING")
    # Then every film is rendered from the job record's state, at the first attempt
    assert len(hostile) > 20
    assert {film_hash_of(job) for job in jobs} == {film_hash_of(reference)}
    assert "refused" not in new_worker.text()
    assert "ERROR" not in new_worker.text()
    assert [handoff.fence for job in jobs for handoff in job_store(own_settings).handoffs(job.id)] == [1] * len(jobs)


@pytest.mark.parametrize(
    "note",
    [{"__type__": "uuid", "__value__": "0" * 32}, {"__type__": "evil", "__value__": 1}, deep(99)],
    ids=["uuid", "evil", "deep"],
)
def test_metadata_that_a_message_cannot_carry_is_preserved(
    module_settings: Settings, worker: Worker, note: Any
) -> None:
    # Given a state whose metadata looks like a type that kombu encodes, or is deeply nested
    state = submit(spec("a"), settings=module_settings).wait().state(0)
    state["payload"]["metadata"]["note"] = note
    # When
    job = submit(spec("a", "b"), from_state=state, settings=module_settings).wait()
    # Then
    assert job.state(1)["payload"]["metadata"]["note"] == note


def test_the_largest_inline_state_passes_the_filter(own_settings: Settings, own_server: RedisProcess) -> None:
    # Given frames, sound and metadata just below the largest threshold; the frames are noise, which does not compress
    threshold = 64 * 1024
    random = np.random.default_rng(7)
    state = LTX2ContinuationState(
        video_frames=list(random.integers(0, 256, (1, 128, 160, 3), np.uint8)),
        audio_latents=torch.zeros(1, 8, (threshold - 100) // (8 * 16 * 4), 16),
        metadata={"note": "\u00e9" * (threshold // 6 - 100)},
    )
    blobs = InMemoryBlobStore()
    envelope = state_wire.encode(state, blobs, inline_threshold_bytes=threshold)
    assert state_wire.state_blobs(envelope) == []
    # When
    make_app(own_settings, results=False).send_task(SEGMENT_TASK, args=["nojob", 0, 1, envelope], queue=SEGMENTS)
    [entry] = redis.Redis(port=own_server.port).lrange(SEGMENTS, 0, -1)
    # Then
    assert len(entry) > 280 * 1024
    check_entry(entry, SEGMENTS)


def test_every_connection_of_the_app_uses_the_filter() -> None:
    for url, channel in (
        ("redis://h/0", Channel),
        ("rediss://h/0", Channel),
        ("unix:///tmp/r.sock", Channel),
        ("sentinel://a,b/0?master_name=m", SentinelChannel),
    ):
        app = make_app(Settings(redis_url=url))
        assert isinstance(app.amqp, AMQP)
        with app.pool.acquire() as pooled:
            for connection in (app.connection_for_read(), app.connection_for_write().clone(), pooled):
                assert connection.transport.Channel is channel


def test_a_message_on_an_unknown_queue_is_refused() -> None:
    # Remote control can make a worker consume any queue.
    with pytest.raises(MessageError, match="there is no queue 'evil' here"):
        check_entry(json.dumps(message(queue="evil")).encode(), "evil")


def test_a_sticky_queue_accepts_only_segments_addressed_to_it() -> None:
    sticky = f"{STICKY_PREFIX}gpu-0@here"
    check_entry(json.dumps(message(queue=sticky)).encode(), sticky)
    with pytest.raises(MessageError, match=r"there is no task 'longtake\.film' on queue segments@gpu-0@here"):
        check_entry(json.dumps(message("nojob", 1, task=FILM_TASK, queue=sticky)).encode(), sticky)
    with pytest.raises(MessageError, match=r"properties\.delivery_info: must be that of queue segments@gpu-0@here"):
        check_entry(json.dumps(message()).encode(), sticky)
