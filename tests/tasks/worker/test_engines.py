"""The engine slot: one loaded engine, for one model and its LoRAs."""

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


def test_an_engine_is_reused_until_the_model_or_its_loras_change() -> None:
    # Given
    slot = EngineSlot(Settings(engine=STAND_IN))
    plain = slot.engine("tiny")
    assert slot.engine("tiny", []) is plain
    # When the LoRAs, their order, a strength or the model change, Then another engine is loaded
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
def test_the_old_model_is_freed_before_another_is_loaded(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    # Given a model that has rendered
    slot = EngineSlot(Settings(device="cpu", compiler=compiler, model="tiny"))
    slot.warm_up()
    engine: Any = slot.engine("tiny")
    engine.run(SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24)))))
    old_weights = weakref.ref(engine.pipeline.transformer.transformer_blocks[0].scale_shift_table)
    del engine
    # When another one is loaded
    load, weights_at_load = Engine.load.__func__, []  # type: ignore[attr-defined]

    def recording_load(kind: type[Engine], *args: Any, **options: Any) -> Engine:
        weights_at_load.append(old_weights())
        return load(kind, *args, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(Engine, "load", classmethod(recording_load))
    slot.engine("tiny-2.0")
    # Then the old weights were already freed
    assert weights_at_load == [None]


def test_decoding_reuses_the_loaded_model_with_any_loras() -> None:
    # Given
    slot = EngineSlot(Settings(engine=STAND_IN))
    foggy = slot.engine("tiny", [FOG])
    # When / Then
    assert slot.decoder("tiny") is foggy
    assert slot.decoder("tiny-2.0") is slot.engine("tiny-2.0")


def test_a_lora_outside_the_model_folders_is_rejected() -> None:
    slot = EngineSlot(Settings(engine=STAND_IN, model_folders="/models"))
    with pytest.raises(SpecError, match=r"loras\.0\.path: '/etc/a\.safetensors' is not in a folder"):
        slot.engine("tiny", [LoraSpec(path="/etc/a.safetensors")])


def test_warm_up_compiles_for_the_sizes_of_the_warm_setting() -> None:
    # Given
    torch._dynamo.reset()
    counters.clear()
    slot = EngineSlot(Settings(device="cpu", model="tiny", compiler="eager", warm="96x64x17@23.976"))
    # When
    slot.warm_up()
    # Then two block shapes and one decoder are compiled, and a segment of that size compiles nothing
    assert counters["stats"]["unique_graphs"] == 3
    timing = first_timing(SegmentShape(17, exact(23.976)))
    slot.engine("tiny").run(SegmentRequest("a boat", 1, 96, 64, timing))
    assert counters["stats"]["unique_graphs"] == 3
