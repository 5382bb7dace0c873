"""Records that are damaged: one job is flagged or failed, and the others are not affected."""

from __future__ import annotations

import msgpack
import pytest
import redis

from tasks.errors import RecordError
from tasks.jobs.connection import connect
from tasks.jobs.keys import job_keys
from tasks.jobs.records import Handoff
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, claim, commit, create

OTHER = "bbbb2222"


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("film", b"\xc1garbage"),
        ("film", b"\x80"),
        ("state", b"melted"),
        ("title", b"\xff\xfe"),
        ("segments", b"many"),
        ("cursor", None),
        ("progress", b"[1]"),
        ("progress", b"{"),
        ("format", b"two"),
    ],
)
def test_a_damaged_record_is_an_error_of_its_own_job_only(
    jobs: JobStore, client: redis.Redis, caplog: pytest.LogCaptureFixture, field: str, value: bytes | None
) -> None:
    # Given two jobs, one of them damaged
    create(jobs)
    create(jobs, job=OTHER)
    record = job_keys(JOB, "record")[0]
    if value is None:
        client.hdel(record, field)
    else:
        client.hset(record, field, value)
    # When / Then
    with pytest.raises(RecordError, match="damaged"):
        jobs.status(JOB)
    assert [status.job_id for status in jobs.statuses()] == [OTHER]
    assert "skipped in the list: " in caplog.text


def test_a_damaged_timing_of_0_1_is_a_damaged_record() -> None:
    with pytest.raises(RecordError, match="a handoff record is damaged: timing is not a mapping"):
        Handoff.unpack(msgpack.packb({"index": 0, "state": {}, "timing": 7}))


@pytest.mark.parametrize("garbage", [b"\xc1garbage", b"{", b"[]", b"null"])
def test_a_damaged_unit_does_not_stop_the_reconciling_of_other_jobs(
    jobs: JobStore, client: redis.Redis, garbage: bytes
) -> None:
    create(jobs)
    create(jobs, job=OTHER)
    commit(jobs, claim(jobs, 0))
    client.hset(job_keys(JOB, "units")[0], "segment", garbage)
    (damaged, found), (other, needs) = jobs.surveys([JOB, OTHER])
    assert (damaged, other) == (JOB, OTHER)
    assert isinstance(found, Exception)
    assert isinstance(needs, list)
    assert [need.unit.index for need in needs] == [0]
