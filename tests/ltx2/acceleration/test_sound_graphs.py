"""Sound that is decoded as CUDA graphs. On a CPU, what would be captured is computed again at each call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from torch import Tensor

from ltx2.acceleration.cuda_graphs import Capture, CudaGraphs
from ltx2.engine import Engine
from ltx2.model.codecs.sound_decoder import decode_sound
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing

FIRST = first_timing(SegmentShape(25, exact(24)))
REQUESTS = [SegmentRequest("a boat leaves", 7, 96, 64, FIRST), SegmentRequest("gulls", 8, 96, 64, next_timing(FIRST))]


def segments(engine: Engine) -> list[SegmentOutput]:
    """Two segments, the second continuing the first."""
    first = engine.run(REQUESTS[0])
    return [first, engine.run(REQUESTS[1], first.state)]


def test_both_shapes_of_a_job_are_captured_at_warm_up_and_have_the_bytes_of_launching(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    engine, captures = engines["tiny"], list[Callable[[], Any]]()

    def capture(compute: Callable[[], Any]) -> Callable[[], Any]:
        captures.append(compute)
        return compute

    launched = segments(engine)
    monkeypatch.setattr(engine, "_decode_sound", CudaGraphs(engine._decode_sound, [], capture))
    monkeypatch.setattr(engine, "_warm", set())
    # When
    engine.warm_up(REQUESTS[0])
    warmed_up = len(captures)
    replayed = [*segments(engine), *segments(engine)]
    # Then
    assert warmed_up == len(captures) == 2
    for one, other in zip(replayed, launched * 2, strict=True):
        assert np.array_equal(one.sound, other.sound)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_graphs_of_full_size_give_the_bytes_of_launching_while_a_prompt_is_encoded(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    # Given an audio VAE and a vocoder of full size, and a thread that uses the GPU
    engine = Engine.load(str(models["tiny"]), device="cuda", precision="fp32")
    pipeline, random = engine.pipeline, torch.Generator("cuda").manual_seed(1)
    with torch.device("cuda"):
        pipeline.audio_vae, pipeline.vocoder = AutoencoderKLLTX2Audio().eval(), LTX2VocoderWithBWE().eval()
        for basis in pipeline.vocoder.mel_stft.buffers():
            basis.normal_(generator=random)
        sounds = [torch.randn(1, 8, count, 16, generator=random) for count in (126, 136)]
    rate = pipeline.vocoder.config.output_sampling_rate
    weights = pipeline.vocoder.parameters()
    graphs = CudaGraphs(lambda latents: decode_sound(pipeline, rate, latents), weights, Capture(optional=True))
    encoded, done = list[Tensor](), threading.Event()

    def encode() -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            while not done.is_set():
                encoded.append(engine.prompts.text_encoder.encode("a boat leaves", torch.device("cuda")).video)

    # When
    with torch.inference_mode():
        launched = [decode_sound(pipeline, rate, latents).values.cpu() for latents in sounds]
        before = torch.cuda.memory_reserved()
        other = threading.Thread(target=encode)
        other.start()
        try:
            replayed = [graphs(latents).values.cpu() for latents in (*sounds, *sounds)]
        finally:
            done.set()
            other.join()
    # Then
    torch.cuda.empty_cache()
    print(f"two graphs hold {(torch.cuda.memory_reserved() - before) / 2**20:.0f} MiB")
    assert "cannot be a CUDA graph" not in caplog.text
    assert len(encoded) > 1
    assert float(launched[0].std()) > 0
    for one, right in zip(replayed, launched * 2, strict=True):
        assert torch.equal(one, right)
    assert torch.cuda.memory_reserved() - before < 2**31


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_an_engine_decodes_the_sound_of_its_segments_with_graphs(models: dict[str, Path]) -> None:
    # Given
    engine = Engine.load(str(models["tiny"]), device="cuda", precision="fp32")
    assert isinstance(engine._decode_sound, CudaGraphs)
    # When
    outputs = [*segments(engine), *segments(engine)]
    # Then
    for output in outputs:
        with torch.inference_mode():
            launched = decode_sound(engine.pipeline, engine.audio_rate, output.audio_latents.cuda())
        assert np.array_equal(output.sound, launched.values.cpu().numpy())
