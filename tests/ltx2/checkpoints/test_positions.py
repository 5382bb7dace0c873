"""The longest segment of a model."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from ltx2.checkpoints.positions import positions_s, problem_with_length
from ltx2.engine import Engine
from ltx2.errors import RequestError
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, first_timing


def test_an_engine_rejects_a_segment_longer_than_its_positions(engine: Engine) -> None:
    timing = first_timing(SegmentShape(489, Fraction(24)))
    with pytest.raises(
        RequestError, match=r"^frames: 489 at 24 per second are 20\.4 s; LTX-2 has positions up to 20 s"
    ):
        engine.run(SegmentRequest("a boat", 3, 96, 64, timing))


def test_positions_are_those_of_the_config_and_otherwise_those_of_ltx_2(models: dict[str, Path]) -> None:
    names = {"shapes": 4, str(models["tiny"]): 20, "tiny": 20, "owner/name": 20, "/no/such": 20}
    assert {name: positions_s(name) for name in names} == names
    assert problem_with_length(1017, Fraction(24), 4) is None
