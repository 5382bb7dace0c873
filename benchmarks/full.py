"""LTX-2.3 or 2.5 at full size with random weights, to measure speed and memory without downloads.

The text encoder is Gemma 3 12B with one layer used 48 times, so that the model fits on an 80 GB GPU. It computes the
same products in the same time with 23 GB less memory. That of 2.5 is Gemma 4 12B with six layers used eight times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from torch import Tensor
from transformers import Gemma3Config, Gemma4UnifiedConfig, GemmaTokenizer

from benchmarks.natural import natural_film
from benchmarks.sound_clock import SoundClock
from ltx2.checkpoints.resolve import default_cache, resolve_model
from ltx2.engine import Engine
from ltx2.model.codecs.host_copies import Checked
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.weights.gemma import Gemma3, Gemma4
from ltx2.model.weights.placement import device_of, precision_of
from ltx2.parallel.ranks import Ranks
from ltx2.preparation import EngineSettings
from ltx2.request import Decoding, SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState

TRANSFORMER: dict[str, Any] = {
    "rope_type": "split",
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
    **dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True),
}
TRANSFORMER_2_5 = TRANSFORMER | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
VAE: dict[str, Any] = {
    "block_out_channels": (256, 512, 1024, 1024),
    "layers_per_block": (4, 6, 4, 2, 2),
    "decoder_block_out_channels": (256, 512, 512, 1024),
    "decoder_layers_per_block": (4, 6, 4, 2, 2),
    "decoder_spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 5,
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False,) * 4,
    "upsample_factor": (2, 2, 1, 2),
    "decoder_spatial_padding_mode": "zeros",
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
CONNECTORS: dict[str, Any] = {
    "rope_type": "split",
    "per_modality_projections": True,
    "proj_bias": True,
    "video_gated_attn": True,
    "audio_gated_attn": True,
    "video_connector_num_attention_heads": 32,
    "video_connector_num_layers": 8,
    "audio_connector_num_attention_heads": 32,
    "audio_connector_attention_head_dim": 64,
    "audio_connector_num_layers": 8,
}
GEMMA: dict[str, Any] = {
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 1024,
}
GEMMA_4 = GEMMA | {"global_head_dim": 512, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
GEMMA_LAYERS, GEMMA_WORDS = 48, 262_144
VISION: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}


class FullSizeEngine(Engine):
    """The engine for `LONGTAKE_ENGINE=benchmarks.full:FullSizeEngine`. A model named 2.5 is one; all others are 2.3."""

    _clock: SoundClock | None = None

    @classmethod
    def load(
        cls,
        model: str = "",
        *,
        device: str = "auto",
        precision: str = "auto",
        offload: str = "none",
        text_encoder: str = "auto",
        compiler: str = "auto",
        attention: str = "auto",
        ranks: Ranks | None = None,
        **_: Any,
    ) -> FullSizeEngine:
        """Build the engine on the device; about 5 seconds without offload."""
        target = device_of(device)
        pipeline = full_pipeline(target, version="2.5" if model == "2.5" else "2.3")
        settings = EngineSettings(target, precision_of(precision, target), offload, text_encoder, compiler, attention)
        return cls.ready(pipeline, settings, ranks=ranks)

    def run(self, request: SegmentRequest, state: LTX2ContinuationState | None = None, **more: Any) -> SegmentOutput:
        """Render one segment, and note when its sound begins and ends."""
        if self._clock is None:
            self._clock = SoundClock(self._copies, self._stream)
        self._clock.start()
        return super().run(request, state, **more)

    @property
    def sound(self) -> tuple[float, float]:
        """When that of the last segment began and ended on the GPU, in seconds since the epoch."""
        if self._clock is None:
            raise AttributeError("no segment was rendered")
        return self._clock.times()


class FilmedEngine(FullSizeEngine):
    """`FullSizeEngine` that replaces decoded frames by natural ones.

    Frames from random weights are noise, on which codecs take several times as long as on natural frames.
    """

    _film = torch.empty(0)

    def _pictures(self, latents: Tensor, decoding: Decoding) -> Checked:
        decoded = super()._pictures(latents, decoding)
        count, height, width, _ = decoded.values.shape
        if self._film.shape != decoded.values.shape:
            self._film = torch.tensor(natural_film(width, height, count), device=decoded.values.device)
        self._film[-1, 0, 0] = decoded.values[-1, 0, 0]  # so that no two segments are equal
        return replace(decoded, values=self._film)


def full_pipeline(
    device: torch.device, layers: int = 48, version: str = "2.3", *, whole_text_encoder: bool = False
) -> LongtakePipeline:
    """The pipeline in bfloat16, with the vocoder in float32; 48 GB on the device with 48 transformer layers.

    whole_text_encoder: one with as many layers and words as the real one, for 23 GB more.
    """
    tokenizer = GemmaTokenizer.from_pretrained(str(resolve_model("tiny", default_cache())), subfolder="tokenizer")
    settings = TRANSFORMER_2_5 if version == "2.5" else TRANSFORMER
    with _building(device, torch.bfloat16):
        parts = {
            "transformer": LTX2VideoTransformer3DModel(num_layers=layers, **settings),
            "vae": AutoencoderKLLTX2Video(**VAE),
            "audio_vae": AutoencoderKLLTX2Audio(),
            "connectors": LTX2TextConnectors(**CONNECTORS),
            "text_encoder": (_gemma_4 if version == "2.5" else _gemma)(len(tokenizer), whole_text_encoder),
        }
    with _building(device, torch.float32):
        parts["vocoder"] = LTX2VocoderWithBWE()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None)
    pipeline = LongtakePipeline(tokenizer=tokenizer, scheduler=scheduler, **parts)
    for part in parts.values():
        part.eval()
    return pipeline


def _gemma(vocabulary: int, whole: bool) -> Any:
    config = Gemma3Config(text_config=GEMMA | _size(vocabulary, whole, 1), vision_config=VISION)
    gemma = Gemma3(config)
    _repeat_layers(gemma.language_model)
    return gemma


def _gemma_4(vocabulary: int, whole: bool) -> Any:
    """Its sixth layer is a global one, which is as many as the pattern has."""
    text = GEMMA_4 | _size(vocabulary, whole, 6)
    media = {f"{kind}_token_id": 4 for kind in ("boi", "eoi", "image", "video", "boa", "audio")}
    config = Gemma4UnifiedConfig(text_config=text, eoa_token_index=4, **media)
    config.vision_config = config.audio_config = None
    config.gemma_version = "gemma4-12b-ltx-v1"
    gemma = Gemma4(config)
    _repeat_layers(gemma.language_model)
    return gemma


def _size(vocabulary: int, whole: bool, layers: int) -> dict[str, Any]:
    words, layers = (GEMMA_WORDS, GEMMA_LAYERS) if whole else (vocabulary, layers)
    return {"vocab_size": words, "num_hidden_layers": layers, "max_position_embeddings": 1024}


def _repeat_layers(language: Any) -> None:
    times = GEMMA_LAYERS // len(language.layers)
    language.layers = torch.nn.ModuleList([*language.layers] * times)
    language.config.num_hidden_layers = GEMMA_LAYERS
    language.config.layer_types = language.config.layer_types * times
    language.config.use_cache = False  # all layers would share one cache


@contextmanager
def _building(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with torch.device(device), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)
