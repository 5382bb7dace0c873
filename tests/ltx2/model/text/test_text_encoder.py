from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch

from benchmarks.memory import USABLE_GIB
from ltx2.acceleration.int8 import Int8Linear
from ltx2.checkpoints.reports.cards import CARDS, Card
from ltx2.engine import Engine
from ltx2.model.text.prompts import PromptEncoder
from ltx2.model.text.text_encoder import EncodedPrompt, TextEncoder, TextEncoderMode, text_encoder_mode, weights_of
from ltx2.request import SegmentRequest
from tests.ltx2.model.text.test_prompts import FIRST, calls_of

CUDA = torch.device("cuda")
GIB = 2**30
BF16, FP8 = 67 * GIB, 54.5 * GIB  # all weights of LTX-2.3 and its text encoder


@pytest.mark.parametrize(
    ("card_gib", "weights", "offload", "mode"),
    [
        (140, BF16, "none", "gpu"),
        (140, BF16, "model", "offload"),
        (140, BF16, "sequential", "offload"),
        (8, 0.1 * GIB, "none", "gpu"),
    ],
)
def test_auto_depends_on_the_total_memory_of_the_card(
    monkeypatch: pytest.MonkeyPatch, card_gib: float, weights: float, offload: str, mode: str
) -> None:
    monkeypatch.setattr("ltx2.model.text.text_encoder.total_memory", lambda _: card_gib * GIB)
    assert text_encoder_mode("auto", CUDA, offload=offload, weights=int(weights)) == mode


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_auto_means_what_the_table_of_cards_says(monkeypatch: pytest.MonkeyPatch, card: Card) -> None:
    # Given the memory that the rows of the table were measured with
    memory = USABLE_GIB[card.memory_gb]
    monkeypatch.setattr("ltx2.model.text.text_encoder.total_memory", lambda _: memory * GIB)
    # When
    weights = FP8 if card.setting("PRECISION", "bf16") == "fp8" else BF16
    mode = text_encoder_mode("auto", CUDA, offload=card.setting("OFFLOAD", "none"), weights=int(weights))
    # Then
    assert mode == card.text_encoder
    assert card.peak_gib <= memory


@pytest.mark.parametrize("name", list(TextEncoderMode))
def test_a_mode_that_is_named_is_used_on_every_card(name: TextEncoderMode) -> None:
    for offload in ("none", "model", "sequential"):
        assert text_encoder_mode(name, CUDA, offload=offload, weights=0) == name


@pytest.mark.parametrize(("name", "mode"), [("auto", "cpu"), ("gpu", "cpu"), ("offload", "cpu"), ("8bit", "8bit")])
def test_without_a_gpu_prompts_are_encoded_by_the_cpu(name: str, mode: str) -> None:
    assert text_encoder_mode(name, torch.device("cpu"), offload="none", weights=0) == mode


def test_the_mode_is_part_of_what_a_segment_was_made_with(engine: Engine) -> None:
    output = engine.run(SegmentRequest("a boat", 3, 96, 64, FIRST))
    assert output.made_with == {"precision": "fp32", "offload": "none", "text_encoder": "cpu", "attention": "bf16"}


@pytest.mark.parametrize("name", ["tiny", "tiny-2.5"])
def test_8bit_takes_less_memory_and_changes_a_prompt_a_little(
    models: dict[str, Path], engines: dict[str, Engine], name: str
) -> None:
    # When
    engine = Engine.load(str(models[name]), device="cpu", text_encoder="8bit")
    # Then
    layers = engine.pipeline.text_encoder.language_model.layers
    assert any(isinstance(layer, Int8Linear) for layer in layers.modules())
    assert weights_of(engine.pipeline) < weights_of(engines[name].pipeline)
    ours, right = (one.prompts.encode("a boat leaves the harbour").video for one in (engine, engines[name]))
    assert 0 < float((ours - right).norm() / right.norm()) < 0.1
    output = engine.run(SegmentRequest("a boat", 3, 96, 64, FIRST))
    assert output.made_with["text_encoder"] == "8bit"


def test_a_text_encoder_need_not_be_part_of_the_pipeline(models: dict[str, Path], engines: dict[str, Engine]) -> None:
    # Given an engine whose pipeline has no text encoder, as where it is kept in main memory
    engine = Engine.load(str(models["tiny"]), device="cpu")
    encoder, pipeline, variant = engine.prompts.text_encoder, engine.pipeline, engine.variant
    pipeline.text_encoder = pipeline.connectors = None
    apart = Engine(pipeline, variant=variant, text_encoder=encoder)
    # When
    request = SegmentRequest("a boat", 3, 96, 64, FIRST)
    ours, right = apart.run(request, next_prompt="gulls"), engines["tiny"].run(request)
    # Then
    assert (ours.frames == right.frames).all()
    assert pipeline.connectors is None


class SlowEncoder(TextEncoder):
    """Encodes nothing until it may."""

    def __init__(self, mode: TextEncoderMode) -> None:
        super().__init__(None, None, None, torch.device("cpu"), mode)
        self.may = threading.Event()

    def encode(self, text: str, device: torch.device) -> EncodedPrompt:
        self.may.wait(60)
        return EncodedPrompt(torch.zeros(1), torch.zeros(1), None)


def test_a_segment_does_not_wait_until_the_cpu_has_encoded_the_next_prompt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given the text encoder in main memory of a machine with a GPU
    slow = SlowEncoder(TextEncoderMode.CPU)
    prompts = PromptEncoder(engine.pipeline, slow)
    monkeypatch.setattr(prompts, "_in_background", True)
    # When the next prompt is still being encoded at the end of a segment
    prompts.prepare("gulls")
    prompts.end_segment()
    # Then the segment ends, and the next one waits and says so
    monkeypatch.setattr("ltx2.model.text.prompts.LONG_WAIT_S", -1)
    threading.Timer(0.01, slow.may.set).start()
    assert torch.equal(prompts.encode("gulls").video, torch.zeros(1))
    [record] = caplog.records
    assert re.fullmatch(r"a segment waited \d+ s for its prompt; text encoder: cpu", record.getMessage())
    # And in other modes the device is free at the end of a segment
    fast = SlowEncoder(TextEncoderMode.OFFLOAD)
    fast.may.set()
    prompts = PromptEncoder(engine.pipeline, fast)
    monkeypatch.setattr(prompts, "_in_background", True)
    prompts.prepare("gulls")
    prompts.end_segment()
    assert prompts._pending is None


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
@pytest.mark.parametrize("name", ["tiny", "tiny-2.5"])
def test_on_cuda_a_streamed_text_encoder_renders_the_same_bytes(
    models: dict[str, Path], name: str, offload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given small layers that are worth streaming, as real ones are
    monkeypatch.setattr("ltx2.model.text.streaming.LARGE", 1024)
    request = SegmentRequest("a boat", 3, 96, 64, FIRST)
    seen, outputs = {}, {}
    for mode in TextEncoderMode:
        # When
        settings = {"device": "cuda", "precision": "bf16", "offload": offload, "compiler": "eager"}
        engine = Engine.load(str(models[name]), text_encoder=mode, **settings)
        encoder = engine.prompts.text_encoder
        with calls_of(encoder.connectors) as calls:
            engine.run(request, next_prompt="gulls")
            outputs[mode] = engine.run(SegmentRequest("gulls", 3, 96, 64, FIRST))
        seen[mode] = [call["thread"] == threading.current_thread().name for call in calls]
        assert outputs[mode].made_with["text_encoder"] == mode
    # Then
    one, other = outputs[TextEncoderMode.GPU], outputs[TextEncoderMode.OFFLOAD]
    assert (one.frames == other.frames).all()
    assert (one.sound == other.sound).all()
    # And the next prompt is encoded in the background, if no other weights move and blocks are compiled
    if offload != "sequential":
        assert seen[TextEncoderMode.OFFLOAD] == seen[TextEncoderMode.CPU] == [True, False]
    assert seen[TextEncoderMode.GPU] == ([True, False] if offload == "none" else [True, True])
