"""Job records equal a model of the protocol after any sequence of events."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from tasks.jobs.connection import connect
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.tasks.jobs.job_machine import ATTEMPTS, JobMachine

LONG_LEASE_S = 3600.0  # only rules expire leases
LONG_STICKY_WAIT_MS = 3_600_000  # only rules expire sticky messages
SHORT_RUN = hypothesis_settings(
    max_examples=60,
    stateful_step_count=80,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LONG_RUN = hypothesis_settings(
    SHORT_RUN,
    max_examples=int(os.environ.get("STATEFUL_EXAMPLES", "1500")),
    stateful_step_count=100,
)


def check(settings: Settings, run: hypothesis_settings) -> None:
    long_lease = settings.model_copy(update={"lease_s": LONG_LEASE_S, "max_attempts": ATTEMPTS})
    with connect(settings.redis_url) as client:
        jobs = JobStore(client, long_lease)
        jobs._sticky_wait_ms = LONG_STICKY_WAIT_MS
        run_state_machine_as_test(lambda: JobMachine(jobs, client), settings=run)


@pytest.mark.timeout(900)  # hypothesis shrinks a failure before it reports it
def test_job_records_equal_the_model(settings: Settings) -> None:
    check(settings, SHORT_RUN)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_job_records_equal_the_model_in_many_examples(settings: Settings) -> None:
    check(settings, LONG_RUN)
