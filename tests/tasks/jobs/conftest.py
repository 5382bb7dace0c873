"""A client of the Redis of job records."""

from __future__ import annotations

import pytest
import redis

from tasks.jobs.connection import connect
from tasks.settings import Settings


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)
