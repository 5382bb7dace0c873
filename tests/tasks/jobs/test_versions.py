"""Format versions of job records: newer minor versions are read, newer major versions are refused untouched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis

from blobstore.stored_format import FORMAT, FORMAT_OF_JOBS
from tasks.errors import VersionError
from tasks.jobs.keys import job_keys
from tasks.jobs.results import Claim
from tasks.jobs.scripts import FOLDER
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.spec.loader import check_spec
from tests.tasks.jobs.protocol import JOB, announce, claim, commit, commit_all, create, handoff

PLACES = ["record", "unit", "spec", "segment", "following", "handoff"]
PART_OF_JOB = {"record", "unit"}


def change(client: redis.Redis, place: str, changes: dict[str, Any]) -> None:
    """Change what segment 1 of the job reads, as another longtake would have written it."""
    record, units, spec, handoffs = job_keys(JOB, "record", "units", "spec", "handoffs")
    if place == "record":
        client.hset(record, mapping=changes)
    elif place == "unit":
        unit = json.loads(client.hget(units, "segment") or "")
        client.hset(units, "segment", json.dumps(unit | changes))
    else:
        keys = {"spec": (spec, "job"), "segment": (spec, "1"), "following": (spec, "2"), "handoff": (handoffs, "0")}
        key, field = keys[place]
        client.hset(key, field, msgpack.packb(msgpack.unpackb(client.hget(key, field)) | changes))


def dump(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter("*")}


@pytest.fixture
def ticket(jobs: JobStore) -> int:
    """The ticket of a message about segment 1 of 3."""
    create(jobs, 3)
    commit(jobs, claim(jobs, 0))
    return announce(jobs, WorkUnit.segment(1))


@pytest.mark.parametrize("place", PLACES)
def test_a_newer_minor_version_is_read_and_its_keys_are_ignored(
    jobs: JobStore, client: redis.Redis, ticket: int, place: str
) -> None:
    change(client, place, {"format": "0.9", "colour": "red"})
    held = jobs.claim(JOB, WorkUnit.segment(1), ticket, "w")
    assert isinstance(held, Claim)
    assert held.segment
    assert (held.head.title, held.segment.prompt, held.next_prompt) == ("harbour", "1", "2")
    assert held.previous == handoff(0)
    assert jobs.commit_segment(held, handoff(1))


@pytest.mark.parametrize("place", PLACES)
def test_a_newer_major_version_is_refused_and_nothing_is_written(
    jobs: JobStore, client: redis.Redis, ticket: int, place: str
) -> None:
    # Given
    change(client, place, {"format": "2.0"})
    before = dump(client)
    # When its message comes
    with pytest.raises(VersionError, match="written by a newer longtake; upgrade this worker"):
        jobs.claim(JOB, WorkUnit.segment(1), ticket, "w")
    # Then there is no lease, no attempt and no trace of the message
    assert dump(client) == before


@pytest.mark.parametrize("place", sorted(PART_OF_JOB))
def test_a_reconciler_leaves_a_newer_job_alone(jobs: JobStore, client: redis.Redis, ticket: int, place: str) -> None:
    change(client, place, {"format": "2.0"})
    before = dump(client)
    with pytest.raises(VersionError):
        jobs.survey(JOB)
    [(job_id, found)] = jobs.surveys([JOB])
    assert job_id == JOB
    assert isinstance(found, VersionError)
    assert dump(client) == before


CALLS: dict[str, Callable[[JobStore], Any]] = {
    "status": lambda jobs: jobs.status(JOB),
    "pause": lambda jobs: jobs.pause(JOB),
    "resume": lambda jobs: jobs.resume(JOB),
    "stop": lambda jobs: jobs.stop(JOB, JobState.CANCELLED, ""),
    "revive": lambda jobs: jobs.revive(JOB, JobState.FAILED),
    "delete": lambda jobs: jobs.delete(JOB),
    "announce": lambda jobs: jobs.announce(JOB, WorkUnit.segment(1)),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_call_changes_a_newer_job(jobs: JobStore, client: redis.Redis, ticket: int, call: str) -> None:
    change(client, "record", {"format": "2.0"})
    before = dump(client)
    with pytest.raises(VersionError):
        CALLS[call](jobs)
    assert dump(client) == before


def test_a_newer_job_is_not_in_the_list_and_others_are(
    jobs: JobStore, client: redis.Redis, ticket: int, caplog: pytest.LogCaptureFixture
) -> None:
    create(jobs, job="bbbb2222")
    change(client, "record", {"format": "2.0"})
    assert [status.job_id for status in jobs.statuses()] == ["bbbb2222"]
    assert f"job {JOB}: written by a newer longtake" in caplog.text


def test_a_newer_job_waits_for_room_and_blocks_nobody(jobs: JobStore, client: redis.Redis) -> None:
    # Given a job of a newer major version at the head of the line
    for job_id in (JOB, "bbbb2222"):
        jobs.create(job_id, check_spec({"segments": [{"prompt": "a"}]}), model="tiny")
    change(client, "record", {"format": "2.0"})
    # When / Then
    assert jobs.admit(None).job_id == "bbbb2222"
    assert jobs.admit(None).outcome == "wait"
    assert client.hget(job_keys(JOB, "record")[0], "admitted") is None


def test_everything_written_carries_the_version(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs)
    commit_all(jobs, 1)
    record, units, spec, handoffs, clips = job_keys(JOB, "record", "units", "spec", "handoffs", "clips")
    assert client.hget(record, "format") == FORMAT.encode()
    packed = [*client.hvals(spec), *client.hvals(handoffs), *client.hvals(clips)]
    assert [msgpack.unpackb(value)["format"] for value in packed] == [FORMAT] * 5
    assert [json.loads(unit)["format"] for unit in client.hvals(units)] == [FORMAT]


@pytest.mark.parametrize("field", ["extend", "audio"])
def test_workers_of_an_earlier_version_leave_jobs_with_video_or_sound_alone(
    jobs: JobStore, client: redis.Redis, field: str
) -> None:
    jobs.create(JOB, check_spec({field: "sha256:0", "segments": [{"prompt": "a"}]}), model="tiny")
    assert client.hget(job_keys(JOB, "record")[0], "format") == FORMAT_OF_JOBS.encode()


def test_scripts_and_python_name_the_same_version() -> None:
    prelude = (FOLDER / "prelude.lua").read_text()
    assert f"local FORMAT = '{FORMAT}'" in prelude
    assert f"local FORMAT_OF_JOBS = '{FORMAT_OF_JOBS}'" in prelude
