"""A client of the Redis of job records, and a job in it."""

from __future__ import annotations

import pytest
import redis

from tasks.jobs.connection import connect
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.tasks.jobs.take_steps import done_job


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.fixture
def done(jobs: JobStore) -> JobStore:
    """A job of three segments, each a continuation, that is done."""
    return done_job(jobs, 3)
