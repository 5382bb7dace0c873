"""What a dry run says."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.client.display.pace import Pace
from tasks.client.display.plan import plan_lines
from tasks.spec.loader import check_spec


@pytest.mark.parametrize(
    ("changes", "continues", "time"),
    [
        ({}, False, "about 0:40 on one worker, at 10.0 s for a segment"),
        ({"best_of": 3}, False, "about 1:20 on one worker, at 10.0 s for each of 8 renderings"),
        ({"best_of": 3, "retry_joins": 1}, True, "at least 1:40 on one worker, at 10.0 s for each of 10 renderings"),
    ],
)
def test_the_time_is_that_of_all_renderings(changes: dict[str, Any], continues: bool, time: str) -> None:
    # Given two scenes of two segments each, of which a continuation may be rendered several times
    segments = [{"prompt": "a", "transition": "cut" if index == 2 else "continue"} for index in range(4)]
    # When
    lines = plan_lines(
        check_spec({"segments": segments, **changes}), "tiny", continues=continues, pace=Pace(10.0, "job 1")
    )
    # Then
    assert lines[-1] == f"time: {time}, as for job 1"
