"""Makes a loaded pipeline ready to render: accelerates it, checks its weights, and places them on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltx2.acceleration.compile import accelerated_name, backend_of, compile_blocks, compile_decoder, speed_up
from ltx2.acceleration.fp8_attention import Attention, attention_of
from ltx2.acceleration.int8 import quantize_linears
from ltx2.acceleration.shared_transformer import share
from ltx2.checkpoints.resolve import default_cache
from ltx2.checkpoints.variant import Variant
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.text.text_encoder import TextEncoder, TextEncoderMode, text_encoder_mode, weights_of
from ltx2.model.weights.loading import check_finite, variant_of_pipeline
from ltx2.model.weights.lora_fusion import LoraFusion
from ltx2.model.weights.placement import place
from ltx2.parallel.agreement import check_alike
from ltx2.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where and how an engine computes. precision: bf16, fp8 or fp32; the others: as the arguments of `Engine.load`."""

    device: torch.device
    precision: str
    offload: str = "none"
    text_encoder: str = "auto"
    compiler: str = "auto"
    attention: str = "auto"

    @property
    def backend(self) -> str | None:
        """The backend that compiles blocks; None: they are not compiled. Raises as `backend_of`."""
        return backend_of(self.compiler, self.device, self.offload)

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs are captured: of compiled blocks between ranks, and of the decoding of sound."""
        return self.device.type == "cuda" and self.backend == "inductor" and self.offload == "none"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an engine has to know of a pipeline that is ready. encode_ahead, made_with: see `Engine`."""

    variant: Variant
    text_encoder: TextEncoder
    encode_ahead: bool
    made_with: dict[str, str]


def prepare(
    pipeline: LongtakePipeline, settings: EngineSettings, *, name: str, fusion: LoraFusion | None, ranks: Ranks | None
) -> Prepared:
    """Accelerate `pipeline`, check that its weights are finite, and place it as `settings` say.

    name: of the model, for errors. fusion, ranks: see `Engine`.

    Raises:
        CheckpointError, DeviceError, ValueError: as `Engine.load`.
    """
    variant = variant_of_pipeline(pipeline)
    attention = _accelerate(pipeline, settings, fusion, shared=ranks is not None)
    if ranks is not None:
        share(pipeline, ranks, variant.stg_blocks, graphs=settings.graphs)
    mode = text_encoder_mode(
        settings.text_encoder, settings.device, offload=settings.offload, weights=weights_of(pipeline)
    )
    made_with = _made_with(settings, mode, attention, ranks)
    encoder = _place(pipeline, settings, mode, name)
    _compile(pipeline, settings, shared=ranks is not None)
    # blocks that are not compiled select attention kernels with process-wide switches
    apart = settings.offload == "none" or mode in (TextEncoderMode.CPU, TextEncoderMode.OFFLOAD)
    ahead = apart and (settings.backend is not None or settings.device.type == "cpu")
    return Prepared(variant, encoder, ahead, made_with)


def _accelerate(
    pipeline: LongtakePipeline, settings: EngineSettings, fusion: LoraFusion | None, *, shared: bool
) -> Attention:
    """Replace the transformer's blocks by fast ones, and return how these attend."""
    transformer, device, float8 = pipeline.transformer, settings.device, settings.precision == "fp8"
    backend = settings.backend
    attention = attention_of(settings.attention, device, settings.precision, transformer.config.attention_head_dim)
    if device.type == "cuda" or backend or float8 or shared:
        speed_up(transformer, float8=float8, device=device, float8_attention=attention == Attention.FP8)
        if fusion is not None:
            fusion.renamed = accelerated_name
    return attention


def _made_with(
    settings: EngineSettings, mode: TextEncoderMode, attention: Attention, ranks: Ranks | None
) -> dict[str, str]:
    """The settings that a segment's bytes may depend on, with what `auto` means here; the same on all ranks."""
    made_with = {
        "precision": settings.precision,
        "offload": settings.offload,
        "text_encoder": str(mode),
        "attention": str(attention),
    }
    if ranks is not None:
        check_alike(ranks, made_with, settings.device)
        made_with["gpus"] = str(ranks.count)
    return made_with


def _place(pipeline: LongtakePipeline, settings: EngineSettings, mode: TextEncoderMode, name: str) -> TextEncoder:
    """Check that all weights are finite, each where it stays, and place them."""
    if mode == TextEncoderMode.EIGHT_BIT:
        quantize_linears(pipeline.text_encoder.language_model.layers, settings.device)
    parts = set(pipeline.components)
    in_main_memory = parts
    if settings.offload == "none":
        in_main_memory = {"text_encoder", "connectors"} if mode != TextEncoderMode.GPU else set()
    check_finite(pipeline, name, in_main_memory)
    encoder = TextEncoder.placed(pipeline, settings.device, mode)
    place(pipeline, settings.device, settings.offload)
    check_finite(pipeline, name, parts - in_main_memory)
    return encoder


def _compile(pipeline: LongtakePipeline, settings: EngineSettings, *, shared: bool) -> None:
    if (backend := settings.backend) is None:
        return
    kernels = default_cache().parent / "kernels"
    compile_blocks(pipeline.transformer, backend, kernels, shared=shared)
    if settings.offload == "none":  # otherwise it decodes in tiles
        compile_decoder(pipeline.vae, backend, kernels)
