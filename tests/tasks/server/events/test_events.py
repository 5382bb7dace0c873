"""Server-sent events: every event once, replayed after a lost connection or a restart."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx2

from tasks.jobs.connection import connect
from tasks.jobs.keys import EVENTS, job_keys
from tests.conftest import RedisProcess, Worker
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.exchanges import finished, submitted

Told = tuple[str, str, dict[str, Any]]


def told(answer: httpx2.Response) -> Iterator[Told]:
    """The id, kind and data of each event."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line and "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def events_of(client: httpx2.Client, job_id: str, after: str | None = None) -> list[Told]:
    headers = {"Last-Event-ID": after} if after else {}
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(told(answer))


def test_a_job_is_followed_to_its_end(client: httpx2.Client, worker: Worker) -> None:
    # When a job is followed from its submission on
    job_id = submitted(client, spec("a", "b"))
    events = events_of(client, job_id)
    # Then the stream ends with the job, and has every change once
    kinds = [kind for _, kind, _ in events if kind not in ("step", "loading")]
    assert sorted(kinds) == sorted(["accepted", "queued", "segment", "clip", "segment", "clip", "done"])
    assert (kinds[0], kinds[-1]) == ("accepted", "done")
    assert events[0][2] | {"at": 0} == {"job": job_id, "at": 0, "title": "harbour at dawn", "segments": 2}
    # And later the same is told again, from any event on
    assert events_of(client, job_id) == events
    assert events_of(client, job_id, after=events[3][0]) == events[4:]
    # When it goes on, and is done again, Then the stream has both ends
    assert client.post(f"/jobs/{job_id}/segments", json={"segments": [{"prompt": "c"}]}).is_success
    finished(client, job_id)
    longer = events_of(client, job_id)
    assert longer[: len(events)] == events
    assert [kind for _, kind, _ in longer].count("done") == 2
    assert longer[-1][1] == "done"


def test_a_server_that_is_started_again_loses_no_event(client: httpx2.Client, worker: Worker, server: Server) -> None:
    # Given a job, and a listener to all jobs that is cut off
    with client.stream("GET", "/events") as answer:
        stream = told(answer)
        first = submitted(client, spec("a"))
        seen = list(takewhile(lambda event: event[1] != "segment", stream))
    # When the server is killed, another job is made, and a server is started
    server.stop(signal.SIGKILL)
    server.start()
    second = submitted(client, spec("b"))
    finished(client, second)
    # Then the listener gets what it missed, in order, and what follows
    with client.stream("GET", "/events", headers={"Last-Event-ID": seen[-1][0]}) as answer:
        missed = []
        for event in told(answer):
            missed.append(event)
            if event[1] == "done" and event[2]["job"] == second:
                break
    assert [kind for _, kind, data in missed if data["job"] == first and kind in ("segment", "done")] == [
        "segment",
        "done",
    ]
    assert len({event_id for event_id, _, _ in seen + missed}) == len(seen) + len(missed)


def test_a_server_that_is_stopped_cuts_streams_off_at_once(client: httpx2.Client, server: Server) -> None:
    # Given those who follow all jobs, and one
    job_id = submitted(client, spec(open=True))
    with client.stream("GET", "/events"), client.stream("GET", f"/jobs/{job_id}/events") as answer:
        stream = told(answer)
        next(stream)
        # When
        server.stop()
        # Then the streams end without the end of the job, and the server did not wait for them
        assert not {"done", "failed", "cancelled"} & {kind for _, kind, _ in stream}
    log = server.log.read_text()
    server.start()
    client.delete(f"/v1/videos/{job_id}")
    assert f"/jobs/{job_id}/events ended early: the server ends" in log
    assert "timeout graceful shutdown exceeded" not in log
    assert "Traceback" not in log


def test_other_event_ids_are_refused(client: httpx2.Client) -> None:
    answer = client.get("/events", headers={"Last-Event-ID": "$"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_streams_of_ended_jobs_end(client: httpx2.Client) -> None:
    # Given a job that has ended, and that no worker works on
    job_id = submitted(client, spec(open=True))
    client.post(f"/jobs/{job_id}/cancel")
    events = events_of(client, job_id)
    assert events[-1][1] == "cancelled"
    # When it is followed from its last event on, or from one that this stream never had
    # Then there is nothing more, and the stream ends
    assert events_of(client, job_id, after=events[-1][0]) == []
    assert events_of(client, job_id, after="9" * 19) == []
    # And a job that does not exist has none
    client.delete(f"/jobs/{job_id}")
    assert client.get(f"/jobs/{job_id}/events").status_code == 404


def test_events_of_a_newer_version_are_skipped(
    client: httpx2.Client, worker: Worker, redis_server: RedisProcess
) -> None:
    # Given events that this version does not know, and damaged ones, at the end of both streams
    job_id = submitted(client, spec("a"))
    finished(client, job_id)
    expected = events_of(client, job_id)
    with connect(redis_server.url) as redis:
        for key in (EVENTS, job_keys(job_id, "events")[0]):
            for fields in ({"kind": "newer", "data": "{}"}, {"kind": "step", "data": "[]"}, {"kind": "step"}):
                redis.xadd(key, {"job": job_id, "id": "1-1", **fields})
        redis.xadd(EVENTS, {"job": job_id, "id": "x", "kind": "step", "data": "{}"})
    # Then the others are sent, and those that follow
    assert events_of(client, job_id) == expected
    with client.stream("GET", "/events") as answer:
        second = submitted(client, spec("a"))
        assert any(data["job"] == second for _, _, data in told(answer))  # the last ones of the first job may come, too


def test_a_failed_job_that_was_retried_is_followed_to_its_new_end(
    client: httpx2.Client, worker: Worker, tmp_path: Path
) -> None:
    # Given a job that failed, and was retried
    job_id = submitted(client, spec(f"fail until {tmp_path / 'mended'}"))
    assert events_of(client, job_id)[-1][1] == "failed"
    (tmp_path / "mended").touch()
    client.post(f"/jobs/{job_id}/retry")
    # When all of its events are asked for, Then the stream goes on after the failure
    kinds = [kind for _, kind, _ in events_of(client, job_id)]
    assert kinds[-1] == "done"
    assert kinds[: kinds.index("failed")].count("attempt") == 3
    assert kinds.index("failed") < kinds.index("retried")
