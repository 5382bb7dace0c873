"""The engine that a worker holds: one at a time, for one model with its LoRAs."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from ltx2.engine import Engine
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tasks.errors import SpecError
from tasks.settings import Settings
from tasks.spec.schema import LoraSpec
from tasks.worker.engines import EngineSlot
from tests.conftest import STAND_IN

FOG = LoraSpec(path="owner/fog", weight=0.5)
RAIN = LoraSpec(path="owner/rain")


def test_an_engine_is_kept_until_another_model_or_other_loras_are_asked_for() -> None:
    slot = EngineSlot(Settings(engine=STAND_IN))
    plain = slot.engine("tiny")
    assert slot.engine("tiny", []) is plain
    # When LoRAs, their order, a weight or the model change, then there is another engine
    wanted = [("tiny", [FOG]), ("tiny", [FOG, RAIN]), ("tiny", [RAIN, FOG]), ("tiny", [RAIN]), ("tiny-2.0", [RAIN])]
    wanted.append(("tiny-2.0", [RAIN.model_copy(update={"weight": 0.9})]))
    engines = [plain]
    for model, loras in wanted:
        engine = slot.engine(model, loras)
        assert slot.engine(model, list(loras)) is engine
        assert [(lora.path, lora.weight) for lora in engine.loras] == [(lora.path, lora.weight) for lora in loras]  # type: ignore[attr-defined]
        engines.append(engine)
    assert len({id(engine) for engine in engines}) == len(engines)


@pytest.mark.parametrize("compiler", ["off", "eager"])
def test_the_old_model_is_gone_before_another_is_loaded(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    # Given a model that has rendered
    slot = EngineSlot(Settings(device="cpu", compiler=compiler, model="tiny"))
    slot.warm_up()
    engine: Any = slot.engine("tiny")
    engine.run(SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24)))))
    old = weakref.ref(engine.pipeline.transformer.transformer_blocks[0].scale_shift_table)
    del engine
    # When another one is loaded
    load, left = Engine.load.__func__, []  # type: ignore[attr-defined]

    def look(kind: type[Engine], *args: Any, **options: Any) -> Engine:
        left.append(old())
        return load(kind, *args, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(Engine, "load", classmethod(look))
    slot.engine("tiny-2.0")
    # Then its weights were freed before
    assert left == [None]


def test_decoding_takes_the_model_with_whatever_loras_it_has() -> None:
    # Given
    slot = EngineSlot(Settings(engine=STAND_IN))
    foggy = slot.engine("tiny", [FOG])
    # When / Then
    assert slot.decoder("tiny") is foggy
    assert slot.decoder("tiny-2.0") is slot.engine("tiny-2.0")


def test_an_engine_is_not_loaded_from_where_specs_must_not_read() -> None:
    slot = EngineSlot(Settings(engine=STAND_IN, model_folders="/models"))
    with pytest.raises(SpecError, match=r"loras\.0\.path: '/etc/a\.safetensors' is not in a folder"):
        slot.engine("tiny", [LoraSpec(path="/etc/a.safetensors")])


def test_a_worker_compiles_before_its_first_task_for_the_segments_it_is_told_of() -> None:
    # Given
    torch._dynamo.reset()
    counters.clear()
    slot = EngineSlot(Settings(device="cpu", model="tiny", compiler="eager", warm="96x64x17@23.976"))
    # When
    slot.warm_up()
    # Then the first segment of that size finds everything there: blocks of two shapes, a decoder of one
    assert counters["stats"]["unique_graphs"] == 3
    timing = first_timing(SegmentShape(17, exact(23.976)))
    slot.engine("tiny").run(SegmentRequest("a boat", 1, 96, 64, timing))
    assert counters["stats"]["unique_graphs"] == 3
