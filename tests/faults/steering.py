"""Jobs that a user steers while they render: appended to, open, approved, forked. Their films are as of plain jobs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import redis

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobStateError, ServerError
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tests.faults.harness import Harness
from tests.tasks.conftest import spec


class Way(StrEnum):
    """How a job gets its segments."""

    PLAIN = "plain"
    APPENDED = "appended"
    OPEN = "open"
    APPROVED = "approved"
    OPEN_AND_APPROVED = "open and approved"
    FORKED = "forked"
    WITH_PARTS = "with parts"


@dataclass
class Steered:
    """A job that its user steers to a film of `length` segments. shared: how many it shares with another one."""

    settings: Settings
    job: Job
    way: Way
    length: int
    shared: int = 0

    @classmethod
    def begin(cls, harness: Harness, way: Way, length: int, source: Steered | None = None) -> Self:
        """Submit a job, or fork `source` if it has a committed segment."""
        if way == Way.FORKED:
            if source is not None and 0 < source.job.status().committed < length:
                with suppress(JobStateError):  # a blob of it is damaged
                    forked = source.job.fork(0, spec(*_prompts(0, length)))
                    return cls(harness.settings, forked, way, length, shared=1)
            way = Way.PLAIN
        first = dict.fromkeys((Way.PLAIN, Way.APPROVED, Way.WITH_PARTS), length) | {Way.APPENDED: 1}
        wanted = spec_with_parts(length) if way == Way.WITH_PARTS else spec(*_prompts(0, first.get(way, 0)))
        wanted["open"] = way in (Way.OPEN, Way.OPEN_AND_APPROVED)
        wanted["approve"] = way in (Way.APPROVED, Way.OPEN_AND_APPROVED)
        return cls(harness.settings, submit(wanted, settings=harness.settings), way, length)

    def step(self) -> bool:
        """Do what the job waits for, if anything; returns whether it has its film. An outage is no harm."""
        with suppress(ServerError, redis.RedisError):
            status = self.job.status()
            if status.state in (JobState.FAILED, JobState.CANCELLED):
                raise AssertionError(f"{status.state}: {status.reason}")
            if status.segments < self.length:
                count = min(2, self.length - status.segments)
                prompts = [{"prompt": prompt} for prompt in _prompts(status.segments, count)]
                self._append(prompts, f"from {status.segments}", is_done=status.state == JobState.DONE)
            elif status.state == JobState.AWAITING_APPROVAL:
                self.job.approve(status.committed - 1)
            elif status.open:
                with suppress(JobStateError):  # the reply to the last request was lost
                    self.job.close_end()
            return status.state == JobState.DONE and status.segments == self.length
        return False

    def _append(self, prompts: list[dict[str, str]], key: str, *, is_done: bool) -> None:
        try:
            self.job.append(prompts, idempotency_key=key)
        except JobStateError as error:
            if not (is_done and "are missing: submit it again" in str(error)):
                raise
            # the blobs of an ended job were lost, which nothing repairs
            self.job = submit(spec(*_prompts(0, self.length)), settings=self.settings)


def spec_with_parts(length: int) -> dict[str, Any]:
    """The spec of a film whose second segment, and every second one after it, begins a part."""
    wanted = spec(*_prompts(0, length))
    for segment in wanted["segments"][1::2]:
        segment["transition"] = "cut"
    return wanted


def _prompts(first: int, count: int) -> list[str]:
    return [str(index) for index in range(first, first + count)]
