from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor, nn

from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError, SegmentCancelledError, UnsupportedStateError
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, SegmentTiming, continued_timing, exact, first_timing, next_timing
from tests.ltx2.outputs import same

SHAPE = SegmentShape(17, Fraction(24))
FIRST = first_timing(SHAPE)
SECOND = next_timing(FIRST)


def request_of(timing: SegmentTiming = FIRST, **settings: Any) -> SegmentRequest:
    usual: dict[str, Any] = {"prompt": "a boat", "seed": 3, "width": 96, "height": 64, "timing": timing}
    return SegmentRequest(**(usual | settings))


def timing_of(state: LTX2ContinuationState) -> SegmentTiming:
    """The timing of a segment with the pinned latents and the offset of `state`."""
    offset = exact(state.video_position_offset_sec)
    pinned = state.audio_conditioning_num_frames
    return continued_timing(SHAPE, pinned=pinned, offset=offset, index=1, first_frame=SHAPE.frames)


@pytest.fixture(scope="module")
def firsts(engines: dict[str, Engine]) -> dict[Engine, SegmentOutput]:
    return {engine: engine.run(request_of()) for engine in engines.values()}


@pytest.fixture
def first(engine: Engine, firsts: dict[Engine, SegmentOutput]) -> SegmentOutput:
    """A first segment by `engine`."""
    return firsts[engine]


@pytest.fixture
def state(first: SegmentOutput) -> LTX2ContinuationState:
    """The state that the second segment continues."""
    return dataclasses.replace(first.state)


def test_a_segment_has_exactly_its_frames_and_sound(engine: Engine, first: SegmentOutput) -> None:
    # When a continuation follows
    second = engine.run(request_of(SECOND), first.state)

    # Then both have the requested frames, and (4T - 3) * 10 ms of stereo sound
    for output, timing in ((first, FIRST), (second, SECOND)):
        assert output.frames.shape == (17, 64, 96, 3)
        assert output.frames.dtype == np.uint8
        assert output.sound.shape == ((4 * timing.audio_latents - 3) * output.audio_rate // 100, 2)
        assert output.sound.dtype == np.float32
        assert output.audio_latents.shape == (1, 8, timing.audio_latents, 16)


def test_frames_vary_and_sound_is_audible_without_clipping(first: SegmentOutput) -> None:
    assert 15 < first.frames.std() < 90
    assert 0.02 < first.sound.std() < 0.4
    assert (np.abs(first.sound) == 1).mean() < 0.001


@pytest.mark.parametrize("overlap", [1, 9])
def test_the_first_video_latents_are_the_encoded_frames(engine: Engine, overlap: int) -> None:
    # Given a state with that many frames
    shape = SegmentShape(17, Fraction(24), overlap)
    start = engine.run(request_of(first_timing(shape)))

    # When it is continued
    output = engine.run(request_of(next_timing(first_timing(shape))), start.state)

    # Then the latents begin with those of these frames, neither resized nor recompressed
    pixels = torch.from_numpy(start.frames[-overlap:]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        encoded = engine.pipeline.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(output.video_latents[:, :, : encoded.shape[2]], encoded, rtol=0, atol=2e-6)


def test_the_pinned_audio_latents_are_preserved(engine: Engine, first: SegmentOutput) -> None:
    # Given a continuation that pins all latents of the segment before, and one that pins only the last of them
    second, third = SECOND, next_timing(SECOND)
    assert second.pinned == first.audio_latents.shape[2]
    assert third.pinned < second.audio_latents

    # When they are rendered, then each sound begins with the last latents of the one before
    before = first
    for timing in (second, third):
        output = engine.run(request_of(timing), before.state)
        pinned = before.audio_latents[:, :, -timing.pinned :]
        torch.testing.assert_close(output.audio_latents[:, :, : timing.pinned], pinned, rtol=0, atol=5e-7)
        before = output


def test_the_next_state_has_the_values_of_the_timing(engine: Engine, first: SegmentOutput) -> None:
    # When a segment continues a state with third-party metadata
    incoming = dataclasses.replace(first.state, metadata={"note": [1, {"x": None}]})
    output = engine.run(request_of(SECOND), incoming)

    # Then the next state has its last frames, its latents, the timing of its continuation, and the metadata
    state, third = output.state, next_timing(SECOND)
    assert state.segment_index == 1
    assert state.video_frames is not None
    assert np.array_equal(np.stack(state.video_frames), output.frames[-9:])
    assert state.audio_latents is output.audio_latents
    assert state.audio_sample_rate == output.audio_rate == engine.audio_rate
    assert state.audio_conditioning_num_frames == third.pinned
    assert exact(state.video_position_offset_sec) == third.offset
    assert (state.video_conditioning_strength, state.audio_conditioning_strength) == (1.0, 0.0)
    assert state.metadata == {"note": [1, {"x": None}], "audio_latents_space": "normalised"}
    assert incoming.metadata == {"note": [1, {"x": None}]}


def test_the_output_depends_on_the_seed_and_not_on_the_global_generator(engine: Engine, first: SegmentOutput) -> None:
    # Given a global generator with some seed
    torch.manual_seed(11)
    before = torch.get_rng_state()

    # When the same seed and another one are rendered
    again, other = engine.run(request_of()), engine.run(request_of(seed=4))

    # Then the same seed gives the same bytes, and the global generator is unchanged
    assert same(again, first)
    assert torch.equal(again.video_latents, first.video_latents)
    assert not same(other, first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_the_prompt_changes_the_output(engine: Engine, first: SegmentOutput) -> None:
    assert not same(engine.run(request_of(prompt="fog over the hill")), first)


def test_each_part_of_the_state_changes_the_output(engine: Engine, state: LTX2ContinuationState) -> None:
    # Given a continuation
    base = engine.run(request_of(timing_of(state)), state)
    assert state.video_frames is not None
    assert state.audio_latents is not None

    # When one part of its state is changed
    changes: list[dict[str, Any]] = [
        {"video_frames": [255 - frame for frame in state.video_frames]},
        {"audio_latents": -state.audio_latents},
        {"video_position_offset_sec": state.video_position_offset_sec - 0.1},
        {"audio_conditioning_num_frames": state.audio_conditioning_num_frames - 1},
        {"video_frames": None},
        {"audio_conditioning_num_frames": 0, "audio_latents": None},
    ]
    outputs = []
    for change in changes:
        changed = dataclasses.replace(state, **change)
        outputs.append(engine.run(request_of(timing_of(changed)), changed))

    # Then frames and sound are different each time
    for output, change in zip(outputs, changes, strict=True):
        assert not np.array_equal(output.frames, base.frames), change
        assert not np.array_equal(output.sound, base.sound), change


def test_denormalised_latents_are_normalised_first(engine: Engine, state: LTX2ContinuationState) -> None:
    # Given the same state from a runtime that stores latents as diffusers returns them
    assert state.audio_latents is not None
    foreign = dataclasses.replace(
        state,
        audio_latents=engine.pipeline.denormalize_audio(state.audio_latents),
        metadata={"audio_latents_space": "denormalised"},
    )

    # When / Then it renders alike, and the next state is normalised again
    output = engine.run(request_of(SECOND), foreign)
    expected = engine.run(request_of(SECOND), state)
    torch.testing.assert_close(output.audio_latents, expected.audio_latents, rtol=1e-4, atol=1e-4)
    assert output.state.metadata == {"audio_latents_space": "normalised"}


def test_half_precision_latents_are_accepted(engine: Engine, state: LTX2ContinuationState) -> None:
    assert state.audio_latents is not None
    half = state.audio_latents.bfloat16()
    output = engine.run(request_of(SECOND), dataclasses.replace(state, audio_latents=half))
    pinned = half[:, :, -SECOND.pinned :].float()
    torch.testing.assert_close(output.audio_latents[:, :, : SECOND.pinned], pinned, rtol=0, atol=5e-7)


def test_a_cut_uses_only_the_metadata_of_the_state(engine: Engine, first: SegmentOutput) -> None:
    # Given a state that a continuation cannot use
    broken = LTX2ContinuationState(video_frames_blob_id="x", metadata={"kept": 1}, segment_index=7)

    # When a segment after a cut is rendered
    output = engine.run(request_of(next_timing(FIRST, cut=True)), broken)

    # Then it is the same as a first segment
    assert same(output, first)
    assert output.state.metadata == {"kept": 1, "audio_latents_space": "normalised"}


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_the_transformer_is_called_once_per_step(engines: dict[str, Engine], name: str) -> None:
    # Given a hook that records the arguments of the transformer
    calls: list[dict[str, Any]] = []

    def record(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)

    hook = engines[name].pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)

    # When a segment is rendered
    try:
        engines[name].run(request_of())
    finally:
        hook.remove()

    # Then there is one call for each distilled noise level
    assert [float(call["sigma"]) / 1000 for call in calls] == pytest.approx(DISTILLED_SIGMA_VALUES)
    assert {call["hidden_states"].shape[0] for call in calls} == {1}


def test_progress_is_reported_after_each_step(engine: Engine, first: SegmentOutput) -> None:
    steps: list[tuple[int, int]] = []
    output = engine.run(request_of(), on_step=lambda step, of: steps.append((step, of)))
    assert steps == [(step, 8) for step in range(1, 9)]
    assert same(output, first)


def test_a_cancelled_segment_stops_at_once_and_affects_no_other(engine: Engine, first: SegmentOutput) -> None:
    # Given a continuation, and a callback that cancels it after the third step
    expected = engine.run(request_of(SECOND), first.state)
    steps: list[int] = []

    def stop(step: int, of: int) -> bool:
        steps.append(step)
        return step < 3

    # When it runs
    with pytest.raises(SegmentCancelledError, match="segment 1 was cancelled after step 3"):
        engine.run(request_of(SECOND), first.state, on_step=stop)

    # Then no step follows, and other segments are the same as before
    assert steps == [1, 2, 3]
    assert same(engine.run(request_of()), first)
    assert same(engine.run(request_of(SECOND), first.state), expected)


def test_decoding_the_stored_latents_gives_the_same_bytes(engine: Engine, first: SegmentOutput) -> None:
    frames, sound = engine.decode(first.video_latents, first.audio_latents)
    assert np.array_equal(frames, first.frames)
    assert np.array_equal(sound, first.sound)


def test_sound_is_decoded_with_deterministic_cudnn_kernels(engine: Engine, first: SegmentOutput) -> None:
    # Given
    seen, cudnn = [], torch.backends.cudnn
    # When
    with engine.pipeline.vocoder.register_forward_hook(lambda *_: seen.append((cudnn.enabled, cudnn.deterministic))):
        engine.decode(first.video_latents, first.audio_latents)
    # Then
    assert seen == [(True, True)]


def test_the_number_of_threads_changes_no_byte(engine: Engine, first: SegmentOutput) -> None:
    # Given the thread counts of machines of different sizes
    threads = torch.get_num_threads()
    try:
        for count in (1, 3, 8):
            torch.set_num_threads(count)

            # When / Then the segment is the same, and the thread count is unchanged
            assert same(engine.run(request_of()), first)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


FRAME = np.zeros((64, 96, 3), np.uint8)
LATENTS = torch.zeros(1, 8, 18, 16)


def with_nan() -> Tensor:
    latents = LATENTS.clone()
    latents[0, 0, -1, 0] = torch.nan
    return latents


def never(step: int, of: int) -> bool:
    raise AssertionError(f"step {step} of {of} ran")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_conditioning_frame_idx": 1}, "video_conditioning_frame_idx is 1; this engine supports only 0"),
        ({"video_conditioning_strength": 0.5}, "video_conditioning_strength is 0.5; this engine supports only 1.0"),
        ({"audio_conditioning_strength": 1.0}, "audio_conditioning_strength is 1.0; this engine supports only 0.0"),
        ({"video_frames": [FRAME] * 17}, "video_frames is 17 frames; .* the overlap of 9"),
        (
            {"video_frames": [FRAME] * 8 + [FRAME[:32]]},
            r"video_frames\[8\] is uint8 \(32, 96, 3\); .*\(64, 96,",
        ),
        ({"video_frames": [FRAME.astype(np.float32)] * 9}, r"video_frames\[0\] is float32"),
        ({"video_frames": None, "video_frames_blob_id": "sha256:1f"}, "video_frames_blob_id is sha256:1f"),
        ({"audio_latents": None, "audio_latents_blob_id": "sha256:2e"}, "audio_latents_blob_id is sha256:2e"),
        ({"audio_latents": None}, "audio_conditioning_num_frames is 18; .* 0 without audio_latents"),
        ({"audio_latents": LATENTS[:, :4]}, r"audio_latents is \[1, 4, 18, 16\]; .*\[1, 8, T, 16\]"),
        ({"audio_latents": LATENTS.repeat(2, 1, 1, 1)}, r"audio_latents is \[2, 8, 18, 16\]"),
        ({"audio_latents": LATENTS[0]}, r"audio_latents is \[8, 18, 16\]"),
        ({"audio_latents": LATENTS[:, :, :5]}, "audio_conditioning_num_frames is 18; .* 1..5"),
        ({"audio_latents": with_nan()}, "audio_latents is NaN or infinity"),
        ({"audio_conditioning_num_frames": 4}, "audio_conditioning_num_frames is 4; .* 18"),
        ({"video_position_offset_sec": 0.5}, "video_position_offset_sec is 0.5; .* 1/3"),
        ({"metadata": {"audio_latents_space": "raw"}}, "metadata.audio_latents_space is 'raw'"),
    ],
)
def test_an_unsupported_state_is_rejected_with_its_field(
    engines: dict[str, Engine], change: dict[str, Any], message: str
) -> None:
    # Given a state that fits the timing except for one field
    state = LTX2ContinuationState(
        video_frames=[FRAME] * 9,
        audio_latents=LATENTS,
        audio_conditioning_num_frames=SECOND.pinned,
        audio_conditioning_strength=0.0,
        video_position_offset_sec=float(SECOND.offset),
    )

    # When / Then it is rejected before the model runs
    with pytest.raises(UnsupportedStateError, match=message):
        engines["tiny"].run(request_of(SECOND), dataclasses.replace(state, **change), on_step=never)


def test_a_continuation_needs_a_state(engines: dict[str, Engine]) -> None:
    with pytest.raises(UnsupportedStateError, match="segment 1 is a continuation, but has no state"):
        engines["tiny"].run(request_of(SECOND))


@pytest.mark.parametrize("size", [{"width": 100}, {"height": 0}, {"height": -32}])
def test_sizes_must_be_multiples_of_32(size: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be a positive multiple of 32"):
        request_of(**size)


def test_running_out_of_memory_is_a_typed_error_and_affects_no_other(engine: Engine, first: SegmentOutput) -> None:
    # Given a device that runs out of memory in one forward pass
    def full(_: nn.Module, args: Any) -> None:
        hook.remove()
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    hook = engine.pipeline.transformer.register_forward_pre_hook(full)

    # When / Then the error says so, and the next attempt succeeds
    with pytest.raises(EngineMemoryError, match="segment 0: tried to allocate 20 GiB"):
        engine.run(request_of())
    assert same(engine.run(request_of()), first)


def test_a_segment_prints_nothing(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.run(request_of())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu!"}, "device is 'gpu!'"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"offload": "disk"}, "offload is 'disk'"),
        ({"text_encoder": "4bit"}, "text encoder is '4bit'; it must be one of auto, gpu, cpu, offload, 8bit"),
        ({"compiler": "gcc"}, "compiler is 'gcc'"),
    ],
)
def test_unknown_settings_are_rejected(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine.load("tiny", **settings)


def test_bfloat16_renders_and_keeps_the_prefix(models: dict[str, Any]) -> None:
    # Given a model in bfloat16, as on a GPU
    engine = Engine.load(str(models["tiny"]), device="cpu", precision="bf16")

    # When two segments are chained
    first = engine.run(request_of())
    second = engine.run(request_of(SECOND), first.state)

    # Then the prefix is as exact as in float32, and stored latents decode to the same bytes
    pinned = first.audio_latents[:, :, -SECOND.pinned :]
    torch.testing.assert_close(second.audio_latents[:, :, : SECOND.pinned], pinned, rtol=0, atol=5e-7)
    frames, sound = engine.decode(second.video_latents, second.audio_latents)
    assert np.array_equal(frames, second.frames)
    assert np.array_equal(sound, second.sound)
