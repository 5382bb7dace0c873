"""Events of jobs on a real Redis: one for each change, replayed from any of them, and gone with the job."""

from __future__ import annotations

import threading

import pytest
import redis

from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, Event, EventReader
from tasks.jobs.keys import EVENTS, job_keys
from tasks.jobs.records import ClipRecord, Progress
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.settings import Settings
from tests.tasks.jobs.protocol import FILM, JOB, claim, claim_unit, commit, commit_all, create, handoff


@pytest.fixture
def events(client: redis.Redis) -> EventReader:
    return EventReader(client)


def told(events: list[Event]) -> list[tuple[str, dict[str, object]]]:
    return [(str(event.kind), dict(event.data)) for event in events]


def test_every_change_of_a_job_is_an_event(jobs: JobStore, events: EventReader) -> None:
    # Given
    create(jobs)
    # When its film is made
    held = claim(jobs, 0, worker="w1")
    jobs.renew(held, progress=Progress(0, 1, 8, 0.5))
    jobs.commit_clip(commit(jobs, held), ClipRecord(0, "sha256:c", 1, 1))
    jobs.pause(JOB)
    jobs.resume(JOB)
    jobs.commit_clip(commit(jobs, claim(jobs, 1)), ClipRecord(1, "sha256:c", 1, 1))
    jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)
    # Then
    expected = [
        ("accepted", {"title": "harbour", "segments": 2}),
        ("queued", {"jobs_ahead": 0}),
        ("loading", {"segment": 0, "worker": ""}),
        ("step", {"segment": 0, "step": 1, "steps": 8, "step_s": 0.5}),
        ("segment", {"segment": 0}),
        ("clip", {"segment": 0}),
        ("paused", {}),
        ("resumed", {}),
        ("loading", {"segment": 1, "worker": ""}),
        ("segment", {"segment": 1}),
        ("clip", {"segment": 1}),
        ("done", {}),
    ]
    assert told(events.after(BEGINNING, job_id=JOB)) == expected
    assert told(events.after(BEGINNING)) == expected
    # And both streams name the same events
    ids = [event.id for event in events.after(BEGINNING, job_id=JOB)]
    assert [(event.job_id, event.id_in_job) for event in events.after(BEGINNING)] == [(JOB, id_) for id_ in ids]


def test_a_repeated_request_is_one_event(jobs: JobStore, events: EventReader) -> None:
    # Given
    create(jobs)
    held = claim(jobs, 0)
    # When replies are lost, and the same is asked again
    clip = commit(jobs, held)
    commit(jobs, held)
    for _ in range(2):
        jobs.commit_clip(clip, ClipRecord(0, "sha256:c", 1, 1))
        jobs.pause(JOB, request="the same")
    # Then
    kinds = [event.kind for event in events.after(BEGINNING, job_id=JOB)]
    assert kinds == ["accepted", "queued", "loading", "segment", "clip", "paused"]


def test_a_job_that_ends_says_why(jobs: JobStore, events: EventReader) -> None:
    # Given two jobs
    create(jobs)
    create(jobs, job="other")
    # When one fails in a segment, the other is cancelled
    held = claim(jobs, 0)
    jobs.release(held, "no memory", final=True)
    jobs.stop("other", JobState.CANCELLED, "cancelled by user")
    # Then
    assert told(events.after(BEGINNING, job_id=JOB))[-1] == ("failed", {"reason": "no memory", "segment": 0})
    assert told(events.after(BEGINNING, job_id="other"))[-1] == ("cancelled", {"reason": "cancelled by user"})
    assert [event.data.get("jobs_ahead") for event in events.after(BEGINNING) if event.kind == "queued"] == [0, 1]


def test_a_repair_of_other_bytes_is_told(jobs: JobStore, events: EventReader) -> None:
    # Given
    create(jobs)
    commit_all(jobs, 1)
    jobs.report_lost(claim(jobs, 1), WorkUnit.repair(0))
    # When
    repaired = handoff(0, seed=7)
    jobs.commit_repair(claim_unit(jobs, WorkUnit.repair(0)), repaired, changed=True, clip_lost=False)
    # Then
    assert told(events.after(BEGINNING, job_id=JOB))[-1] == ("rewound", {"segment": 0, "epoch": 2})


def test_events_are_replayed_from_any_of_them(jobs: JobStore, events: EventReader) -> None:
    # Given
    create(jobs)
    commit_all(jobs, 2)
    # When they are read in pages
    everything = events.after(BEGINNING, job_id=JOB)
    page = events.after(everything[2].id, job_id=JOB, count=2)
    # Then
    assert page == everything[3:5]
    assert events.after(everything[-1].id, job_id=JOB) == []
    assert events.after(events.newest_id()) == []
    assert [event.at for event in everything] == sorted(event.at for event in everything)


def test_a_reader_that_waits_gets_the_next_event(jobs: JobStore, events: EventReader, settings: Settings) -> None:
    # Given a reader that waits for the next event
    create(jobs)
    found: list[Event] = []
    waiting = EventReader(connect(settings.redis_url))
    last = events.newest_id()
    reader = threading.Thread(target=lambda: found.extend(waiting.after(last, wait_s=20)))
    reader.start()
    # When
    jobs.pause(JOB)
    # Then
    reader.join(20)
    assert told(found) == [("paused", {})]


def test_events_go_with_their_job(jobs: JobStore, events: EventReader, client: redis.Redis) -> None:
    # Given
    create(jobs)
    jobs.stop(JOB, JobState.CANCELLED, "no more")
    # When
    jobs.delete(JOB)
    # Then
    assert not client.exists(*job_keys(JOB, "events"))
    assert events.after(BEGINNING, job_id=JOB) == []


def test_events_that_cannot_be_read_are_skipped(events: EventReader, client: redis.Redis) -> None:
    # Given entries of a later version, and damaged ones
    for entry in (
        {"job": JOB, "kind": "dreaming", "data": "{}"},
        {"kind": "done"},
        {"job": JOB, "id": "1-1", "kind": "done", "data": "{"},
    ):
        client.xadd(EVENTS, entry)
    client.xadd(EVENTS, {"job": JOB, "id": "1-1", "kind": "done", "data": "{}"})
    # Then
    assert told(events.after(BEGINNING)) == [("done", {})]


@pytest.mark.parametrize("event_id", ["", "$", "-1", "1-", "1-2-3", "x", "9" * 20])
def test_other_texts_are_no_event_ids(events: EventReader, event_id: str) -> None:
    with pytest.raises(ValueError, match="not the id of an event"):
        events.after(event_id)
