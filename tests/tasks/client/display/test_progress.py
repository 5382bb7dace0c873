"""Progress display: status text, forecast, output with and without a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tasks.client.display.progress import Forecast, ProgressDisplay, clock, describe, share_done
from tasks.jobs.records import JobStatus, Progress
from tasks.jobs.units import JobState


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
    ("given", "text"),
    [
        (status("queued"), "waiting for a worker · 0 of 4 segments rendered"),
        (status(committed=1, step=5), "segment 1, step 5 of 8 · 1 of 4 segments rendered"),
        (status(committed=1), "segment 1 · 1 of 4 segments rendered"),
        (
            status(committed=1, step=5, others=(Progress(3, 1, 8, 0.1),), ahead=1, segments=17, claimed=(1, 3, 9)),
            "segment 1, step 5 of 8; segment 3, step 1 of 8; segment 9 · 2 of 17 segments rendered",
        ),
        (status(committed=4), "4 of 4 segments rendered · joining the film"),
        (
            status("awaiting approval", committed=1, takes_due=2, take_progress=(Progress(0, 5, 8, 0.1, 1),)),
            "awaiting approval of segment 0 · rendering 2 takes · step 5 of 8 · 1 of 4 segments rendered",
        ),
        (status("done", committed=4), "done"),
        (status("failed"), "failed"),
    ],
)
def test_describe(given: JobStatus, text: str) -> None:
    assert describe(given) == text


def test_the_forecast_uses_the_observed_speed() -> None:
    # Given a job with half a segment done at the first observation
    forecast = Forecast()
    assert forecast.seconds_left(status("queued"), 0.0) is None
    assert forecast.seconds_left(status(step=4), 10.0) is None
    # When one segment took 20 s
    left = forecast.seconds_left(status(committed=1, step=4), 30.0)
    # Then the remaining two and a half take 50 s
    assert left == pytest.approx(50.0)


def test_the_forecast_ignores_the_start_of_a_worker() -> None:
    # Given a resumed job whose worker needs 60 s to start
    forecast = Forecast()
    for now in (0.0, 30.0):
        assert forecast.seconds_left(status(committed=1), now) is None
    assert forecast.seconds_left(status(committed=1, step=4), 60.0) is None
    # When half a segment takes 10 s
    left = forecast.seconds_left(status(committed=2), 70.0)
    # Then the remaining two take 40 s
    assert left == pytest.approx(40.0)


def test_the_share_done_is_at_most_one() -> None:
    assert share_done(status(committed=2, step=4)) == 0.625
    assert share_done(status(committed=4, step=8)) == 1.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_each_change_is_one_line_without_a_terminal() -> None:
    # Given
    out = io.StringIO()
    display = ProgressDisplay(Console(file=out, force_terminal=False, width=80))
    # When
    display.follow([status("queued"), status("queued"), status(committed=1, step=1), status("done", committed=4)])
    # Then
    assert out.getvalue().splitlines() == [
        "waiting for a worker · 0 of 4 segments rendered",
        "segment 1, step 1 of 8 · 1 of 4 segments rendered",
        "done",
    ]


def test_a_terminal_shows_the_newest_status() -> None:
    out = io.StringIO()
    display = ProgressDisplay(Console(file=out, force_terminal=True, width=80))
    display.follow([status(committed=1, step=5), status(committed=2, step=1)])
    assert "segment 2, step 1 of 8 · 2 of 4 segments rendered" in out.getvalue()
