"""The clock of ranks that watch each other."""

from __future__ import annotations

from ltx2.group.running_clock import RunningClock


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    # Given a clock that is read every second, and then not for an hour
    readings = iter([100.0, 101.0, 102.0, 3702.0, 3703.0])
    clock = RunningClock(2.0, lambda: next(readings))
    # When / Then
    assert [clock.now() for _ in range(4)] == [1, 2, 4, 5]
