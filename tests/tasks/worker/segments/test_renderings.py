"""How often a segment is rendered to choose from, and which rendering is chosen."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, plan
from tasks.spec.head import JobHead
from tasks.worker.segments.renderings import SEED_STEP, Rendering, best

_, TIMING = plan(SegmentShape(17, fps=24), [False, False])  # type: ignore[arg-type]
STATE: Any = SimpleNamespace(video_frames=list(np.full((9, 32, 64, 3), 100, np.uint8)))


@pytest.mark.parametrize(
    ("fields", "levels", "rendered", "chosen"),
    [
        ({"best_of": 3}, [160, 130, 190], 3, 1),
        ({"best_of": 3}, [130, 130, 130], 3, 0),
        ({"best_of": 2, "retry_joins": 2}, [160, 100], 2, 1),
        ({"retry_joins": 2}, [100], 1, 0),
        ({"retry_joins": 2}, [160, 101], 2, 1),
        ({"retry_joins": 2}, [160, 190, 150], 3, 2),
    ],
)
def test_the_rendering_that_joins_best_is_chosen(
    fields: dict[str, int], levels: list[int], rendered: int, chosen: int
) -> None:
    # Given renderings whose pictures differ by so much from the end of the segment before, which has 100
    seeds: list[int] = []

    def run(request: SegmentRequest) -> Any:
        level = levels[len(seeds)]
        seeds.append(request.seed)
        return SimpleNamespace(
            frames=np.full((17, 32, 64, 3), level, np.uint8), sound=np.zeros((48_000, 2), np.float32), audio_rate=24_000
        )

    # When
    others: list[Rendering] = []
    request = SegmentRequest("a", 7, 64, 32, TIMING)
    found = best(JobHead(**fields), request, STATE, run, others.append)  # type: ignore[arg-type]
    # Then each has its own seed, and none is rendered that is not needed
    assert seeds == [7 + SEED_STEP * number for number in range(rendered)]
    assert found.request.seed == seeds[chosen]
    assert found.output.frames[0, 0, 0, 0] == levels[chosen]
    # And the others are kept, none with a better join
    assert found.join
    assert {one.request.seed for one in others} == {*seeds} - {found.request.seed}
    assert all(one.join and one.join.rank >= found.join.rank for one in others)


def test_a_clock_that_is_set_while_a_segment_is_rendered_does_not_change_its_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(request: SegmentRequest) -> Any:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 3600)

    made = Rendering.made(SegmentRequest("a", 7, 64, 32, TIMING), run)
    assert 0 <= made.ended - made.started < 60
