"""The engine slot: one loaded engine, for one model and its LoRAs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.utils import counters

from ltx2.engine import Engine
from ltx2.errors import DeviceError, UnsupportedModelError
from ltx2.request import PlacedImage, SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tasks.errors import HostFaultError, SpecError
from tasks.settings import Settings
from tasks.spec.head import LoraSpec
from tasks.worker.engines import EngineSlot
from tests.conftest import STAND_IN
from tests.stand_in import StandInEngine

FOG = LoraSpec(path="owner/fog", weight=0.5)
RAIN = LoraSpec(path="owner/rain")


SlotOf = Callable[..., EngineSlot]


@pytest.fixture
def slot_of(home: Path) -> SlotOf:
    """Make a slot for a worker with these settings, which finds the small models that all tests share."""
    return lambda **settings: EngineSlot(Settings(home=home, **settings))


def loras_of(engine: Any) -> list[LoraSpec]:
    return [LoraSpec(path=lora.path, weight=lora.weight) for lora in engine.loras]


class RefusingEngine:
    """An engine whose models have three heads."""

    @classmethod
    def load(cls, *_: Any, **__: Any) -> Any:
        raise DeviceError("gpus", "2, but this model has 3 heads")


def test_a_model_that_so_many_gpus_cannot_share_is_no_fault_of_the_host(slot_of: SlotOf) -> None:
    slot = slot_of(engine=f"{__name__}:RefusingEngine", model="tiny")
    with pytest.raises(HostFaultError, match="LONGTAKE_GPUS: gpus is 2, but this model has 3 heads"):
        slot.engine("tiny")
    with pytest.raises(DeviceError, match="gpus is 2"):
        slot.engine("tiny-2.0")


class AloneEngine:
    """An engine that renders in one process."""

    @classmethod
    def load(cls, model: str, *, device: str = "cpu", loras: Any = ()) -> Any:
        raise AssertionError("it is not loaded")


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (f"{__name__}:AloneEngine", "LONGTAKE_GPUS is 2, but the engine .*:AloneEngine cannot share a segment"),
        (f"{__name__}:Missing", "LONGTAKE_ENGINE=.*:Missing: module .* has no attribute 'Missing'"),
    ],
)
def test_an_engine_that_cannot_be_used_is_a_fault_of_the_host(slot_of: SlotOf, engine: str, problem: str) -> None:
    slot = slot_of(engine=engine, model="tiny", device="cpu", gpus="2")
    for model in ("tiny", "tiny-2.0"):
        with pytest.raises(HostFaultError, match=f"^{problem}"):
            slot.engine(model)


def test_an_engine_is_kept_until_the_model_changes(slot_of: SlotOf) -> None:
    # Given
    slot = slot_of(engine=STAND_IN)
    plain = slot.engine("tiny")
    assert slot.engine("tiny", []) is plain
    # When the LoRAs, their order or a strength change, Then the engine is changed
    stronger = RAIN.model_copy(update={"weight": 0.9})
    for loras in ([FOG], [FOG, RAIN], [RAIN, FOG], [RAIN], [stronger], []):
        assert slot.engine("tiny", loras) is plain
        assert loras_of(plain) == loras
    # When the model changes, Then another engine is loaded
    other = slot.engine("tiny-2.0", [RAIN])
    assert other is not plain
    assert loras_of(other) == [RAIN]


def test_a_replaced_lora_file_is_read_again(slot_of: SlotOf, tmp_path: Path) -> None:
    # Given
    file = tmp_path / "rain.safetensors"
    save_file({"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.ones(2, 1)}, file)
    slot = slot_of(engine=STAND_IN)
    engine: Any = slot.engine("tiny", [LoraSpec(path=str(file))])
    engine.loras = ["as before"]
    slot.engine("tiny", [LoraSpec(path=str(file))])
    assert engine.loras == ["as before"]
    # When
    save_file({"a.lora_A.weight": torch.ones(3, 2), "a.lora_B.weight": torch.ones(2, 3)}, file)
    # Then
    assert slot.engine("tiny", [LoraSpec(path=str(file))]) is engine
    assert engine.loras != ["as before"]


def test_an_engine_that_cannot_change_its_loras_is_loaded_again(
    slot_of: SlotOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    slot = slot_of(engine=STAND_IN, model="tiny")
    plain = slot.engine("tiny")
    # When it cannot, Then another one is loaded
    monkeypatch.setattr(StandInEngine, "set_loras", lambda *_: False)
    foggy = slot.engine("tiny", [FOG])
    assert foggy is not plain
    assert loras_of(foggy) == [FOG]

    # When it fails, Then its weights are unknown, and even the same LoRAs are set again
    def fail(*_: object) -> bool:
        raise UnsupportedModelError("not finite")

    monkeypatch.setattr(StandInEngine, "set_loras", fail)
    for loras in ([RAIN], [FOG]):
        with pytest.raises(UnsupportedModelError):
            slot.engine("tiny", loras)
    with pytest.raises(HostFaultError, match="model tiny cannot be loaded"):
        slot.engine("tiny")


@pytest.mark.parametrize("compiler", ["off", "eager"])
def test_the_old_model_is_freed_before_another_is_loaded(
    slot_of: SlotOf, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    # Given a model that has rendered
    slot = slot_of(device="cpu", compiler=compiler, model="tiny")
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


def test_decoding_reuses_the_loaded_model_with_any_loras(slot_of: SlotOf) -> None:
    # Given
    slot = slot_of(engine=STAND_IN)
    foggy = slot.engine("tiny", [FOG])
    # When / Then
    assert slot.decoder("tiny") is foggy
    assert slot.decoder("tiny-2.0") is slot.engine("tiny-2.0")


def test_a_spec_that_is_not_distilled_gets_the_full_weights_if_there_are_any(
    slot_of: SlotOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    loaded: list[str] = []
    load = StandInEngine.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        StandInEngine, "load", classmethod(lambda kind, model, **_: loaded.append(model) or load(kind, model))
    )
    slot = slot_of(engine=STAND_IN)
    # When
    full = slot.engine("tiny-2.5", distilled=False)
    assert slot.engine("tiny-2.5#full") is full
    assert slot.decoder("tiny-2.5") is full
    for distilled in (None, True):
        slot.engine("tiny-2.5", distilled=distilled)
    slot.engine("tiny", distilled=False)
    # Then
    assert loaded == ["tiny-2.5#full", "tiny-2.5", "tiny"]


def test_another_text_encoder_is_another_model(slot_of: SlotOf) -> None:
    # Given
    slot = slot_of(engine=STAND_IN, model="tiny", model_folders="/models")
    plain = slot.engine("tiny")
    # When / Then
    other = slot.engine("tiny", text_encoder="owner/name")
    assert other is not plain
    assert slot.engine("tiny", [FOG], text_encoder="owner/name") is slot.decoder("tiny", text_encoder="owner/name")
    assert slot.decoder("tiny") is not other
    # and it must be in the folders that specs may name
    with pytest.raises(SpecError, match=r"text_encoder: '/etc/gemma' is not in a folder"):
        slot.engine("tiny", text_encoder="/etc/gemma")


def test_a_lora_outside_the_model_folders_is_rejected(slot_of: SlotOf) -> None:
    slot = slot_of(engine=STAND_IN, model_folders="/models")
    with pytest.raises(SpecError, match=r"loras\.0\.path: '/etc/a\.safetensors' is not in a folder"):
        slot.engine("tiny", [LoraSpec(path="/etc/a.safetensors")])


def test_warm_up_compiles_for_the_sizes_of_the_warm_setting(slot_of: SlotOf) -> None:
    # Given
    torch._dynamo.reset()
    counters.clear()
    slot = slot_of(device="cpu", model="tiny", compiler="eager", warm="96x64x17@23.976+1")
    # When
    slot.warm_up()
    # Then two block shapes, two more with an image, and one decoder are compiled
    assert counters["stats"]["unique_graphs"] == 5
    # And a segment of that size compiles nothing, with an image or without
    timing, black = first_timing(SegmentShape(17, exact(23.976))), np.zeros((64, 96, 3), np.uint8)
    for images in ((), (PlacedImage(8, black),)):
        slot.engine("tiny").run(SegmentRequest("a boat", 1, 96, 64, timing, images=images))
    assert counters["stats"]["unique_graphs"] == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "cuda"}, r"^LONGTAKE_DEVICE: device is 'cuda', but torch .* finds no CUDA device here$"),
        ({"device": "cuda:3"}, "^LONGTAKE_DEVICE: device is 'cuda:3', but torch"),
        ({"precision": "fp8"}, "^LONGTAKE_PRECISION: precision is fp8, which needs a GPU, but the device is cpu$"),
        ({"attention": "fp8"}, "^LONGTAKE_ATTENTION: attention is fp8, which needs a GPU, but the device is cpu$"),
    ],
)
def test_what_this_host_lacks_is_its_fault(slot_of: SlotOf, setting: dict[str, Any], message: str) -> None:
    # Given the settings of a worker, also for a job with a model of its own
    slot = slot_of(**{"model": "tiny", **setting})
    for model in ("tiny", "tiny-2.0"):
        # When / Then
        with pytest.raises(HostFaultError, match=message):
            slot.engine(model)
