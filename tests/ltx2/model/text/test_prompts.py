from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTX2ConditionPipeline
from torch import nn
from transformers import GemmaTokenizer

from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.text.prompts import PromptEncoder
from ltx2.model.text.text_encoder import EncodedPrompt
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.sampling import NO_GUIDANCE
from ltx2.timeline import SegmentShape, first_timing, next_timing
from tests.ltx2.outputs import same
from tests.ltx2.rendering import render

FIRST = first_timing(SegmentShape(17, Fraction(24)))
GUIDED = NO_GUIDANCE | {"guidance_scale": 3.0, "audio_guidance_scale": 7.0, "negative_prompt": "fog"}
ALL_GUIDANCE = GUIDED | {"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1], "modality_scale": 3.0}


class MaskingEncoder(PromptEncoder):
    """Adds the mask of ones that the encoder leaves out."""

    def encode(self, text: str) -> EncodedPrompt:
        encoded = super().encode(text)
        assert encoded.mask is None
        return dataclasses.replace(encoded, mask=torch.ones(encoded.video.shape[:2], dtype=torch.int64))


def two_segments(engine: Engine, *, next_prompt: str | None) -> tuple[SegmentOutput, SegmentOutput]:
    """Render a segment while `next_prompt` is encoded, and a continuation whose prompt is "gulls"."""
    first = engine.run(SegmentRequest("a boat", 3, 96, 64, FIRST), next_prompt=next_prompt)
    return first, engine.run(SegmentRequest("gulls", 4, 96, 64, next_timing(FIRST)), first.state)


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Collect the keyword arguments and the thread name of every call of `module`."""
    seen: list[dict[str, Any]] = []

    def record(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs | {"thread": threading.current_thread().name})

    hook = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def failing(module: nn.Module, error: Exception, *, after: int = 0) -> Iterator[None]:
    """Let the first `after` calls of `module` pass, and fail all others."""
    count = 0

    def fail(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise error

    hook = module.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def pipeline(engine: Engine) -> LongtakePipeline:
    return engine.pipeline


@pytest.fixture
def stock(pipeline: LongtakePipeline) -> LTX2ConditionPipeline:
    """The stock pipeline with the same weights."""
    stock = LTX2ConditionPipeline(**pipeline.components)
    stock.set_progress_bar_config(disable=True)
    return stock


@pytest.fixture
def fresh(engine: Engine) -> Engine:
    """An engine that has encoded no prompt yet."""
    return Engine(engine.pipeline)


@pytest.mark.parametrize("guidance", [NO_GUIDANCE, GUIDED, ALL_GUIDANCE], ids=["unguided", "guided", "all guidance"])
def test_cached_prompts_render_like_the_stock_pipeline(
    pipeline: LongtakePipeline, stock: LTX2ConditionPipeline, guidance: dict[str, Any]
) -> None:
    # Given an encoder that keeps its masks
    prompts = MaskingEncoder(pipeline)

    # When prompts are used for the first time, again, and in another order
    for prompt in ("a boat", "fog", "fog", "a boat"):
        ours, theirs = render(pipeline, prompt, prompts=prompts, **guidance), render(stock, prompt, **guidance)

        # Then every bit equals that of the stock pipeline
        assert all(torch.equal(value, right) for value, right in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("guidance", [NO_GUIDANCE, GUIDED, ALL_GUIDANCE], ids=["unguided", "guided", "all guidance"])
def test_leaving_out_a_mask_that_hides_nothing_changes_nothing(
    pipeline: LongtakePipeline, stock: LTX2ConditionPipeline, guidance: dict[str, Any]
) -> None:
    # Given the attention inputs of the stock pipeline
    block = pipeline.transformer.transformer_blocks[0]
    with calls_of(block.attn2) as theirs, calls_of(block.audio_attn2) as theirs_audio:
        expected = render(stock, **guidance)

    # When our encoder encodes the prompts
    with calls_of(block.attn2) as ours, calls_of(block.audio_attn2) as ours_audio:
        latents = render(pipeline, prompts=PromptEncoder(pipeline), **guidance)

    # Then the embeddings are the same, our mask is None where the stock mask adds 0, and the output is the same
    for call, right in zip(ours[:1] + ours_audio[:1], theirs[:1] + theirs_audio[:1], strict=True):
        assert torch.equal(call["encoder_hidden_states"], right["encoder_hidden_states"])
    assert {call["attention_mask"] for call in ours + ours_audio} == {None}
    assert not any(call["attention_mask"].any() for call in theirs + theirs_audio)
    for value, right in zip(latents, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adds_it", [True, False])
def test_the_model_is_given_exactly_one_bos(engines: dict[str, Engine], tmp_path: Path, adds_it: bool) -> None:
    # Given tokenizers that put it in front, and that do not, as Gemma 4's
    pipeline = engines["tiny-2.5"].pipeline
    pipeline.tokenizer.save_pretrained(tmp_path)
    if not adds_it:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    tokenizer = GemmaTokenizer.from_pretrained(tmp_path)
    assert (tokenizer("a boat").input_ids[0] == tokenizer.bos_token_id) == adds_it
    changed = LongtakePipeline(**pipeline.components | {"tokenizer": tokenizer})
    right = pipeline.tokenizer("a boat").input_ids
    long = "a boat leaves the harbour " * 500
    for text, expected in (
        ("a boat", right),
        (" <bos> <bos>a boat ", right),
        ("", right[:1]),
        (long, pipeline.tokenizer(long.strip()).input_ids[:1024]),
    ):
        # When
        with calls_of(pipeline.text_encoder) as seen:
            PromptEncoder(changed).encode(text)
        # Then it is in front of the prompt, which is cut at its end
        valid = seen[0]["input_ids"][seen[0]["attention_mask"] == 1]
        assert valid.tolist() == expected


def test_a_text_is_encoded_once_and_the_least_recently_used_is_evicted(
    pipeline: LongtakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an encoder that keeps two prompts
    monkeypatch.setattr("ltx2.model.text.prompts.KEPT", 2)
    prompts = PromptEncoder(pipeline)

    def encodes(text: str) -> bool:
        with calls_of(pipeline.text_encoder) as seen:
            prompts.encode(text)
        return bool(seen)

    # When / Then a prompt is encoded when it is new, and again after two others were used
    assert [encodes(text) for text in "aabbacab"] == [True, False, True, False, False, True, False, True]


def test_the_components_are_complete_during_a_call_and_after_a_failure(
    pipeline: LongtakePipeline, stock: LTX2ConditionPipeline
) -> None:
    # Given a call that records the components after a step, and then fails
    seen, hooks = [], dict(pipeline.transformer._forward_pre_hooks)

    def fail(*_: Any) -> dict[str, Any]:
        seen.append(pipeline.components)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        render(pipeline, prompts=PromptEncoder(pipeline), callback_on_step_end=fail)

    # Then all components are there, as offloading needs them, and the next call is not affected
    assert seen == [stock.components]
    assert pipeline.components == stock.components
    assert dict(pipeline.transformer._forward_pre_hooks) == hooks
    expected = render(stock, "fog")
    assert all(torch.equal(value, right) for value, right in zip(render(pipeline, "fog"), expected, strict=True))


def test_a_failure_just_before_the_connectors_run_leaves_them_in_place(
    pipeline: LongtakePipeline, stock: LTX2ConditionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a cached prompt, and a pipeline that lacks an argument for the connectors
    prompts = PromptEncoder(pipeline)
    prompts.encode("a boat")
    monkeypatch.delattr(pipeline, "tokenizer_padding_side")

    # When / Then
    with pytest.raises(AttributeError, match="tokenizer_padding_side"):
        render(pipeline, prompts=prompts)
    assert pipeline.components == stock.components


def test_the_next_prompt_is_encoded_during_the_segment_before(fresh: Engine) -> None:
    # Given the output when the next prompt is not known
    expected = two_segments(Engine(fresh.pipeline), next_prompt=None)

    # When it is known
    with calls_of(fresh.pipeline.text_encoder) as seen:
        fresh.run(SegmentRequest("a boat", 3, 96, 64, FIRST), next_prompt="gulls")
        assert len(seen) == 2
        outputs = two_segments(fresh, next_prompt="gulls")

    # Then no prompt is encoded again, and every byte is the same
    assert len(seen) == 2
    assert all(same(one, other) for one, other in zip(outputs, expected, strict=True))


def test_encoding_ahead_can_be_turned_off(fresh: Engine) -> None:
    engine = Engine(fresh.pipeline, encode_ahead=False)
    with calls_of(fresh.pipeline.text_encoder) as seen:
        engine.run(SegmentRequest("a boat", 3, 96, 64, FIRST), next_prompt="gulls")
    assert len(seen) == 1


def test_an_error_while_encoding_ahead_is_logged_and_harmless(fresh: Engine, caplog: pytest.LogCaptureFixture) -> None:
    # Given
    expected = two_segments(Engine(fresh.pipeline), next_prompt=None)
    request = SegmentRequest("a boat", 3, 96, 64, FIRST)

    # When the next prompt cannot be encoded during the first segment
    with failing(fresh.pipeline.text_encoder, torch.OutOfMemoryError("no room"), after=1):
        first = fresh.run(request, next_prompt="gulls")

    # Then that is logged, and both segments are as expected
    assert [record.getMessage() for record in caplog.records] == [
        "there was no memory to encode a prompt ahead; it is encoded when its segment begins"
    ]
    assert same(first, expected[0])
    assert same(two_segments(fresh, next_prompt=None)[1], expected[1])


def test_an_error_while_encoding_the_current_prompt_is_raised(fresh: Engine) -> None:
    request = SegmentRequest("a boat", 3, 96, 64, FIRST)
    with (
        failing(fresh.pipeline.connectors, torch.OutOfMemoryError("no room")),
        pytest.raises(EngineMemoryError, match="segment 0: no room"),
    ):
        fresh.run(request)
    assert fresh.run(request).frames.shape == (17, 64, 96, 3)


def test_a_prompt_encoded_while_a_call_skips_the_connectors_is_not_affected(engine: Engine) -> None:
    # Given a prompt's embeddings, and a call that is about to replace the connectors by another prompt's embeddings
    pipeline = engine.pipeline
    right, other = PromptEncoder(pipeline).encode("gulls"), PromptEncoder(pipeline).encode("a boat")
    encoder, connectors = PromptEncoder(pipeline), pipeline.connectors
    pipeline._skip_connectors(other.video, other.audio, torch.ones(1, 1))
    # When the prompt is encoded at that moment
    try:
        found = encoder.encode("gulls")
    finally:
        pipeline._set_connectors(connectors)
    # Then
    assert torch.equal(found.video, right.video)
    assert torch.equal(found.audio, right.audio)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_on_cuda_a_second_thread_encodes_during_the_steps(models: dict[str, Path], name: str, precision: str) -> None:
    # Given
    engine = Engine.load(str(models[name]), device="cuda", precision=precision)
    expected = two_segments(engine, next_prompt=None)
    for _ in range(5):
        # When
        fresh = Engine(engine.pipeline)
        with calls_of(fresh.pipeline.text_encoder) as seen:
            outputs = two_segments(fresh, next_prompt="gulls")
        # Then
        assert [call["thread"] == threading.current_thread().name for call in seen] == [True, False]
        assert all(same(one, other) for one, other in zip(outputs, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_on_cuda_an_error_of_the_second_thread_is_logged_and_harmless(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    # Given
    engine = Engine.load(str(models["tiny"]), device="cuda", precision="bf16")
    expected = two_segments(engine, next_prompt=None)
    fresh = Engine(engine.pipeline)
    # When
    with failing(fresh.pipeline.text_encoder, torch.OutOfMemoryError("no room"), after=1):
        first = fresh.run(SegmentRequest("a boat", 3, 96, 64, FIRST), next_prompt="gulls")
    # Then
    assert "there was no memory to encode a prompt ahead" in caplog.text
    assert same(first, expected[0])
    assert same(two_segments(fresh, next_prompt=None)[1], expected[1])


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_on_cuda_an_evicted_prompt_is_not_overwritten_while_it_is_in_use(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an encoder that keeps one prompt, so that a prepared one is evicted while it is in use
    monkeypatch.setattr("ltx2.model.text.prompts.KEPT", 1)
    engine = Engine.load(str(models["tiny"]), device="cuda", precision="bf16")
    expected = two_segments(engine, next_prompt=None)
    # When another prompt is encoded during each segment
    for number in range(5):
        first = engine.run(SegmentRequest("a boat", 3, 96, 64, FIRST), next_prompt="gulls")
        request = SegmentRequest("gulls", 4, 96, 64, next_timing(FIRST))
        second = engine.run(request, first.state, next_prompt=f"fog {number}")
        # Then
        assert same(first, expected[0])
        assert same(second, expected[1])
