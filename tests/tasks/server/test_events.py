"""Server-sent events: every event once, replayed after a lost connection or a restart."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import httpx2

from tests.conftest import Worker
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.test_jobs_api import finished, submitted

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


def test_other_event_ids_are_refused(client: httpx2.Client) -> None:
    answer = client.get("/events", headers={"Last-Event-ID": "$"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")
