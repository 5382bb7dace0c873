"""Lists of jobs: order, states, limits, pages, and the command's output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tasks.client.job import Job, find_job
from tasks.client.submit import iterate_jobs, list_jobs, submit
from tasks.errors import UnreachableError
from tasks.jobs import reader
from tasks.jobs.keys import job_keys
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tests.conftest import RedisProcess, free_port
from tests.tasks.conftest import spec

PAGE = 3
HASHES = 2
"""That are read of each job: its record, and its units."""


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "JOBS_PER_PAGE", PAGE)


@pytest.fixture
def submitted(settings: Settings, jobs: JobStore) -> list[Job]:
    """Ten jobs, oldest first: every third is cancelled, the last one is paused."""
    made = [submit(spec("a", title=f"film {number}"), settings=settings) for number in range(10)]
    for job in made[::3]:
        job.cancel()
    jobs.stop(made[1].id, JobState.FAILED, "a bad prompt")
    made[8].pause()
    return made


def ids(settings: Settings, **options: Any) -> list[str]:
    return [status.job_id for status in list_jobs(settings=settings, **options)]


def test_lists_are_oldest_first_and_limited_ones_newest_first(settings: Settings, submitted: list[Job]) -> None:
    every = [job.id for job in submitted]
    assert ids(settings) == every
    assert ids(settings, limit=4) == every[:-5:-1]
    assert ids(settings, limit=99) == every[::-1]
    assert ids(settings, states=["cancelled"]) == every[::3]
    assert ids(settings, states=[JobState.FAILED, JobState.PAUSED]) == [every[1], every[8]]
    assert ids(settings, states=["queued"], limit=2) == [every[7], every[5]]
    assert ids(settings, states=["queued", "paused"]) == [every[number] for number in (2, 4, 5, 7, 8)]
    assert ids(settings, states=["done"]) == []


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"states": ["melted"]}])
def test_an_impossible_list_is_refused(settings: Settings, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"limit|melted"):
        list_jobs(settings=settings, **options)


def test_redis_that_is_down_is_a_typed_error(settings: Settings) -> None:
    # Given
    down = settings.model_copy(update={"redis_url": f"redis://me:secret@127.0.0.1:{free_port()}/0", "blob_url": None})
    # When / Then
    calls: list[Callable[[], object]] = [
        lambda: list_jobs(settings=down),
        lambda: Job("a", settings=down).status(),
        lambda: find_job("a", settings=down),
        lambda: submit(spec("a"), settings=down),
    ]
    with ThreadPoolExecutor() as threads:  # each waits a little for the server
        answers = [threads.submit(call) for call in calls]
    for answer in answers:
        with pytest.raises(
            UnreachableError, match=r"^Redis at redis://127\S+ cannot be reached: Connection refused; start"
        ):
            answer.result()


def test_one_page_is_read_at_a_time_and_in_one_round_trip(
    settings: Settings, submitted: list[Job], shared_redis: RedisProcess
) -> None:
    # Given
    client = redis.Redis(port=shared_redis.port)

    def reads() -> int:
        return int(client.info("commandstats")["cmdstat_hgetall"]["calls"])

    def transactions() -> int:
        return int(client.info("commandstats").get("cmdstat_multi", {"calls": 0})["calls"])

    before, before_multi = reads(), transactions()
    # When the first page is used up, Then the second one is not read yet
    listing = iterate_jobs(settings=settings)
    for _ in range(PAGE):
        next(listing)
    assert reads() - before == HASHES * PAGE
    # And a job that is deleted meanwhile is left out
    submitted[6].forget()
    before = reads()
    assert [status.job_id for status in listing] == [job.id for job in submitted[3:] if job is not submitted[6]]
    assert reads() - before == HASHES * (len(submitted) - PAGE)
    assert transactions() - before_multi == 1  # that of `forget`


def test_what_follows_a_job_is_read_alone(settings: Settings, submitted: list[Job], jobs: JobStore) -> None:
    every = [job.id for job in submitted]

    def after(job_id: str, *states: JobState, newest_first: bool = True) -> list[str]:
        found = jobs.statuses(states, newest_first=newest_first, after=job_id)
        return [status.job_id for status in found]

    assert after(every[3]) == every[2::-1]
    assert after(every[7], newest_first=False) == every[8:]
    assert after(every[0]) == after("gone") == []
    # Also if it is in another state itself
    assert after(every[6], JobState.QUEUED) == [every[5], every[4], every[2]]
    assert after(every[4], JobState.CANCELLED) == [every[3], every[0]]
    # And what is before it is not read
    before = int(jobs._redis.info("commandstats")["cmdstat_hgetall"]["calls"])
    after(every[2])
    assert int(jobs._redis.info("commandstats")["cmdstat_hgetall"]["calls"]) - before == HASHES * 2


def test_a_record_of_another_type_is_left_out(
    settings: Settings, submitted: list[Job], shared_redis: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis(port=shared_redis.port)
    for job, name in ((submitted[0], "record"), (submitted[2], "clips")):
        client.delete(key := job_keys(job.id, name)[0])
        client.set(key, "x")
    assert ids(settings) == [job.id for job in submitted if job not in (submitted[0], submitted[2])]
    assert caplog.text.count("is damaged") == 2


def test_the_command(
    settings: Settings, submitted: list[Job], longtake: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # As text
    lines = longtake("list", "--state", "failed", "--state", "paused", settings=settings).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["job", "state", "segments"],
        [submitted[1].id, "failed", "0/1"],
        [submitted[8].id, "paused", "0/1"],
    ]
    assert lines[1].endswith("film 1")
    # As JSON
    text = longtake("list", "--json", "--limit", "2", settings=settings).stdout
    found = [json.loads(line) for line in text.splitlines()]
    assert [(job["job_id"], job["state"]) for job in found] == [
        (submitted[9].id, "cancelled"),
        (submitted[8].id, "paused"),
    ]
    shown = json.loads(longtake("status", submitted[9].id, "--json", settings=settings).stdout)
    assert set(shown) - set(found[0]) == {"segments_committed", "workers"}
    assert found[0] == {name: shown[name] for name in found[0]}
    # And a state that does not exist
    refused = longtake("list", "--state", "melted", settings=settings)
    assert refused.returncode == 2
    assert "'melted' is not one of 'queued', 'running'" in refused.stderr
