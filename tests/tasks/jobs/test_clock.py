"""A clock of Redis that is set forward and back: no stored time holds anything longer than its period.

The tests write the times that a clock one hour ahead would have left behind.
"""

from __future__ import annotations

import json
import time

import pytest
import redis

from blobstore import open_blob_store
from tasks.jobs.connection import RETRY_EVERY_S
from tasks.jobs.events import BEGINNING, Event, EventKind
from tasks.jobs.keys import ENDED, OUTBOX, OUTBOX_CLOCK, OUTBOX_LOCK, OUTBOX_PLACE, PULSE, RECONCILER_LOCK, job_keys
from tasks.jobs.outbox import Outbox
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, announce, claim, create, due, expire

HOUR_MS = 3_600_000
WEEK_MS = 7 * 24 * HOUR_MS
LONG_SILENCE_S, GRACE_S = 60.0, 60.0


def pulse(jobs: JobStore) -> None:
    jobs.pulse(silence_s=LONG_SILENCE_S, grace_s=GRACE_S, budget_bytes=None)


def shift_unit(client: redis.Redis, name: str, *fields: str) -> None:
    """Move times of a unit one hour ahead."""
    key = job_keys(JOB, "units")[0]
    unit = json.loads(client.hget(key, name) or "")
    client.hset(key, name, json.dumps(unit | {field: unit[field] + HOUR_MS for field in fields}))


def end_grace(client: redis.Redis) -> None:
    """Let the grace period after an outage pass."""
    client.hincrby(PULSE, "quiet_from", -int(GRACE_S * 1000))


def shift_pulse(client: redis.Redis) -> None:
    """Make the newest pulse, and the outage that it found, one hour older than now is."""
    ahead = int(client.hget(PULSE, "last") or 0) + HOUR_MS
    client.hset(PULSE, mapping={"last": ahead, "quiet_from": ahead, "quiet_ms": int(GRACE_S * 1000)})


def test_recovery_is_quiet_for_the_grace_period_only(jobs: JobStore, client: redis.Redis) -> None:
    # Given a claim whose lease ends, and a pulse from a clock one hour ahead
    create(jobs)
    pulse(jobs)
    held = claim(jobs, 0)
    jobs._lease_ms = 1
    assert jobs.renew(held)
    shift_pulse(client)
    time.sleep(0.005)
    # When the clock is back, Then no lease expires before and just after the next pulse
    assert due(jobs) == []
    pulse(jobs)
    assert due(jobs) == []
    # and after the grace period it does
    end_grace(client)
    pulse(jobs)
    assert due(jobs) == [(WorkUnit.segment(0), "expired")]


def test_a_lease_from_a_clock_ahead_does_not_last_an_hour(jobs: JobStore, client: redis.Redis) -> None:
    # Given a holder that died while the clock was one hour ahead
    create(jobs)
    claim(jobs, 0)
    shift_unit(client, "segment", "expires")
    # When / Then
    assert due(jobs) == [(WorkUnit.segment(0), "expired")]


def test_a_holder_that_lives_keeps_its_lease_when_the_clock_is_set_back(jobs: JobStore, client: redis.Redis) -> None:
    # Given
    create(jobs)
    pulse(jobs)
    held = claim(jobs, 0)
    shift_unit(client, "segment", "expires")
    shift_pulse(client)
    # When the clock is back, and the holder renews within the grace period
    pulse(jobs)
    assert due(jobs) == []
    assert jobs.renew(held)
    # Then it has its lease afterwards, too
    end_grace(client)
    assert due(jobs) == []
    expire(jobs, held)


def test_a_sticky_message_from_a_clock_ahead_does_not_wait_an_hour(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs)
    assert jobs.announce(JOB, WorkUnit.segment(0), sticky=True)
    jobs._sticky_wait_ms = HOUR_MS // 2
    assert due(jobs) == [(WorkUnit.segment(0), "unpublished")]
    shift_unit(client, "segment", "announced")
    assert due(jobs) == [(WorkUnit.segment(0), "expired")]
    assert announce(jobs, WorkUnit.segment(0))


@pytest.mark.parametrize("shift_ms", [HOUR_MS, -HOUR_MS])
def test_a_jump_of_the_clock_costs_less_than_an_outage(
    settings: Settings, jobs: JobStore, client: redis.Redis, shift_ms: int
) -> None:
    # Given a reconciler that reaches the server, and one that has just started
    publisher = Publisher(make_app(settings, results=False), jobs)
    steady, new = (Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings) for _ in range(2))
    steady._pulse()
    # When the clock jumps, Then leases are extended by the time in which holders renew them
    client.hincrby(PULSE, "last", -shift_ms)
    steady._pulse()
    assert quiet_s(client) == settings.lease_s / 3 + RETRY_EVERY_S
    # When nobody could reach the server, as far as is known, Then by a whole lease
    client.hincrby(PULSE, "last", -shift_ms)
    new._pulse()
    assert quiet_s(client) == settings.lease_s + RETRY_EVERY_S


def set_clock(client: redis.Redis, ms: int) -> None:
    """Have Redis' clock be ahead by so much from now on: every stored time is older by it."""
    client.hincrby(PULSE, "last", -ms)
    for job_id in client.zrange(ENDED, 0, -1):
        client.zincrby(ENDED, -ms, job_id)
        record = job_keys(job_id.decode(), "record")[0]
        if client.hexists(record, "kept_until"):
            client.hincrby(record, "kept_until", -ms)


def age_s(client: redis.Redis) -> float:
    """How long ago the job has ended, as the sweeper sees it."""
    return time.time() - (client.zscore(ENDED, JOB) or 0) / 1000


def test_a_clock_that_is_set_deletes_no_job_and_keeps_none_longer(
    settings: Settings, jobs: JobStore, client: redis.Redis
) -> None:
    # Given a job that ended just now, one that is kept for an hour, and a reconciler that knows the time
    publisher = Publisher(make_app(settings, results=False), jobs)
    steady, new = (Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings) for _ in range(2))
    create(jobs)
    create(jobs, job="kept")
    for job in (JOB, "kept"):
        jobs.stop(job, JobState.CANCELLED, "")
    jobs.keep("kept", 3600)
    record = job_keys("kept", "record")[0]
    steady._pulse()
    for weeks in (1.5, -1.5, -3, 3):
        # When the clock is set, forward or back
        set_clock(client, int(weeks * WEEK_MS))
        steady._sweeper.sweep()  # before anybody noticed
        steady._pulse()
        # Then the job is as old as before
        assert age_s(client) == pytest.approx(0, abs=5)
        assert int(client.hget(record, "kept_until") or 0) / 1000 == pytest.approx(time.time() + 3600, abs=5)
        steady._sweeper.sweep()
        assert jobs.exists(JOB)
    # When it is set forward in an outage, Then what the reconciler counted has passed
    set_clock(client, 3 * HOUR_MS)
    jobs.pulse(silence_s=LONG_SILENCE_S, grace_s=GRACE_S, budget_bytes=None, counted_s=3600)
    assert age_s(client) == pytest.approx(3600, abs=5)
    for job in (JOB, "kept"):
        client.zincrby(ENDED, HOUR_MS, job)
    # Given junk in the place of the gap that nobody saw
    client.hset(PULSE, "unseen", "x")
    # When it is set forward and nobody was there, it cannot be told from time that passed; when it is set back then
    set_clock(client, 30_000_000)
    new._pulse()
    set_clock(client, -30_000_000)
    steady._pulse()
    # Then the job is not older than it is
    assert age_s(client) == pytest.approx(0, abs=5)
    # When a week passes in which no worker runs, Then the job is deleted
    set_clock(client, int(1.5 * WEEK_MS))
    restarted = Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings)
    restarted._pulse()
    assert restarted._sweeper.sweep()[0] == [JOB, "kept"]


def quiet_s(client: redis.Redis) -> float:
    return pytest.approx(int(client.hget(PULSE, "quiet_ms") or 0) / 1000, abs=0.002)  # type: ignore[no-any-return]


def test_the_reconciler_lock_of_a_clock_ahead_passes_on(
    settings: Settings, jobs: JobStore, client: redis.Redis
) -> None:
    # Given the lock of a reconciler that died while the clock was one hour ahead
    client.set(RECONCILER_LOCK, "dead", px=HOUR_MS)
    publisher = Publisher(make_app(settings, results=False), jobs)
    reconciler = Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings)
    # When another asks for it, Then it ends within the period it was made for
    assert not reconciler._hold_lock()
    assert 0 < client.pttl(RECONCILER_LOCK) <= settings.reconcile_s * 3000


def test_webhooks_wait_by_the_clock_of_redis_and_not_for_its_jumps(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server whose own clock is one hour ahead
    outbox = Outbox(client, "a")
    with monkeypatch.context() as ahead:
        now = time.time()
        ahead.setattr(time, "time", lambda: now + HOUR_MS / 1000)
        outbox.add([Event("7-0", JOB, "5-0", EventKind.DONE)], "7-0")
    # When another one looks, Then the message is due
    (delivery,) = outbox.due(9)
    assert (delivery.job_id, delivery.event_id) == (JOB, "5-0")
    # Given a failed attempt, noted while the clock of Redis was one hour ahead
    outbox.note(delivery, problem="no answer", again_in_s=60)
    assert outbox.due(9) == []
    client.zincrby(OUTBOX, HOUR_MS, f"{JOB} 5-0")
    client.incrby(OUTBOX_CLOCK, HOUR_MS)
    # When it is set back, Then the message does not wait for the hour
    assert [again.attempts for again in outbox.due(9)] == [1]
    # And neither does the right to send of a server that died then
    client.set(OUTBOX_LOCK, "dead", px=HOUR_MS)
    assert not outbox.lock(30)
    assert 0 < client.pttl(OUTBOX_LOCK) <= 30_000


def test_a_damaged_webhook_is_dropped_and_the_others_are_sent(client: redis.Redis) -> None:
    outbox = Outbox(client, "a")
    outbox.add([Event("7-0", JOB, place, EventKind.DONE) for place in ("5-0", "6-0")], "7-0")
    client.hset(job_keys(JOB, "webhooks")[0], "5-0", '{"job_id": 7, "attempts": "many"}')
    client.zadd(OUTBOX, {"no event": 0, "nonsense": 0})
    client.set(OUTBOX_PLACE, b"\xff")
    assert outbox.place() == BEGINNING
    assert [delivery.event_id for delivery in outbox.due(9)] == ["6-0"]
