"""What people are told while a job runs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tasks.client.progress import Forecast, ProgressDisplay, clock, describe, share_done
from tasks.jobs.records import JobState, JobStatus, Progress


def status(state: str = "running", committed: int = 0, step: int | None = None, **changes: Any) -> JobStatus:
    values: dict[str, Any] = {
        "job_id": "a",
        "title": "t",
        "segments": 4,
        "clips": 0,
        "epoch": 0,
        "created_at": 0.0,
        "started_at": None,
        "finished_at": None,
        "reason": None,
        "failed_segment": None,
        "attempts": None,
        "film": None,
        "progress": None if step is None else Progress(committed, step, 8, 0.1),
    }
    return JobStatus(state=JobState(state), committed=committed, **{**values, **changes})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (status("queued"), "segment 1 of 4 · waiting for a worker"),
        (status(committed=1, step=5), "segment 2 of 4 · step 5 of 8"),
        (status(committed=1), "segment 2 of 4"),
        (status(committed=4), "all 4 segments rendered · joining the film"),
        (status("done", committed=4), "done"),
        (status("failed"), "failed"),
    ],
)
def test_describes_where_a_job_stands(given: JobStatus, said: str) -> None:
    assert describe(given) == said


def test_the_forecast_goes_by_what_it_has_seen() -> None:
    # Given a job that had half a segment behind it when first seen
    forecast = Forecast()
    assert forecast.seconds_left(status("queued"), 0.0) is None
    assert forecast.seconds_left(status(step=4), 10.0) is None
    # When one segment took 20 s
    left = forecast.seconds_left(status(committed=1, step=4), 30.0)
    # Then the other two and a half take 50
    assert left == pytest.approx(50.0)


def test_the_forecast_does_not_count_the_start_of_a_worker() -> None:
    # Given a job that goes on: its worker needs 60 s to start
    forecast = Forecast()
    for now in (0.0, 30.0):
        assert forecast.seconds_left(status(committed=1), now) is None
    assert forecast.seconds_left(status(committed=1, step=4), 60.0) is None
    # When half a segment takes 10 s
    left = forecast.seconds_left(status(committed=2), 70.0)
    # Then the other two take 40
    assert left == pytest.approx(40.0)


def test_the_share_is_never_more_than_all() -> None:
    assert share_done(status(committed=2, step=4)) == 0.625
    assert share_done(status(committed=4, step=8)) == 1.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_without_a_terminal_each_change_is_a_line() -> None:
    # Given
    out = io.StringIO()
    show = ProgressDisplay(Console(file=out, force_terminal=False, width=80))
    # When
    show.follow([status("queued"), status("queued"), status(committed=1, step=1), status("done", committed=4)])
    # Then
    assert out.getvalue().splitlines() == [
        "segment 1 of 4 · waiting for a worker",
        "segment 2 of 4 · step 1 of 8",
        "done",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    out = io.StringIO()
    show = ProgressDisplay(Console(file=out, force_terminal=True, width=80))
    show.follow([status(committed=1, step=5), status(committed=2, step=1)])
    assert "segment 3 of 4 · step 1 of 8" in out.getvalue()
