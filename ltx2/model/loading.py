"""A checkpoint into memory: every component by itself, so that none is left half random; then the pipeline of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder, LTX2VocoderWithBWE
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from transformers import Gemma3ForConditionalGeneration, GemmaTokenizer

from ltx2.checkpoints.hub import fetch_lora, fetch_model
from ltx2.checkpoints.lora import Lora, resolve_lora
from ltx2.checkpoints.progress_bars import no_progress_bars
from ltx2.checkpoints.resolve import HubModel, check_folder
from ltx2.checkpoints.variant import CONFIGURED, Variant, variant_of
from ltx2.checkpoints.weight_files import check_loaded, read_json
from ltx2.errors import CheckpointError, EngineMemoryError
from ltx2.model.lora_fusion import fuse
from ltx2.model.pipeline import LongtakePipeline

# The half of Gemma that looks at pictures: prompts are text, and some published checkpoints leave it out.
_UNUSED = ("vision_tower.", "multi_modal_projector.")


def load_pipeline(source: Path | HubModel, dtype: torch.dtype) -> LongtakePipeline:
    """The pipeline on the CPU, in `dtype` but for the vocoder, which stays float32: bfloat16 is audible
    there.

    Raises CheckpointError when files are missing, cannot be read or do not fit their configs, EngineMemoryError when
    they do not fit into memory.
    """
    folder = fetch_model(source) if isinstance(source, HubModel) else source
    variant = check_folder(folder)
    try:
        with no_progress_bars():
            parts = {name: _load(kind, folder / name, dtype) for name, kind in _classes(variant).items()}
            tokenizer = GemmaTokenizer.from_pretrained(folder / "tokenizer")
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(read_json(folder / "scheduler/scheduler_config.json"))
        return LongtakePipeline(scheduler=scheduler, tokenizer=tokenizer, **parts)
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EngineMemoryError(f"{folder} does not fit into memory: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as exc:
        raise CheckpointError(f"cannot load {folder}: {exc}") from exc


def _classes(variant: Variant) -> dict[str, Any]:
    return {
        "transformer": LTX2VideoTransformer3DModel,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "connectors": LTX2TextConnectors,
        "vocoder": LTX2VocoderWithBWE if variant.version == "2.3" else LTX2Vocoder,
        "text_encoder": Gemma3ForConditionalGeneration,
    }


def _load(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One component, every tensor of it from its files."""
    name = folder.name
    options: dict[str, Any] = {"dtype": torch.float32 if name == "vocoder" else dtype}
    if name != "text_encoder":
        options["low_cpu_mem_usage"] = is_accelerate_available()
    # use_safetensors: else weights that are pickles are taken where there are no others
    model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    if name == "text_encoder":
        needed = [key for key in info["missing_keys"] if not any(part in key for part in _UNUSED)]
        info = {"missing_keys": needed, "mismatched_keys": info["mismatched_keys"]}
    check_loaded(folder, info)
    return model


def find_loras(loras: Sequence[Lora]) -> list[tuple[Lora, Path]]:
    """`loras` with their files, fetched where they are on the hub; raises CheckpointError for one that is not there."""
    found = [(lora, resolve_lora(lora.path)) for lora in loras]
    return [(lora, place if isinstance(place, Path) else fetch_lora(place)) for lora, place in found]


def fuse_loras(pipeline: LongtakePipeline, loras: Sequence[tuple[Lora, Path]], device: torch.device) -> None:
    """Add `loras` to the weights of `pipeline`, one after the other; the transformer is on `device` afterwards.

    It goes there alone first: the sums are slow on a CPU, and large factors do not fit beside the text encoder.
    Raises CheckpointError and EngineMemoryError as `fuse` does.
    """
    if loras:
        pipeline.transformer.to(device)
    for lora, file in loras:
        fuse(pipeline, lora, file)


def variant_of_pipeline(pipeline: LongtakePipeline) -> Variant:
    """What a loaded pipeline is, with or without its text encoder; raises CheckpointError as `variant_of` does."""
    configs: dict[str, dict[str, Any]] = {}
    for name in CONFIGURED:
        if (component := getattr(pipeline, name)) is not None:
            config = component.config.to_dict() if name == "text_encoder" else component.config
            configs[name] = {**config, "_class_name": type(component).__name__}
    return variant_of(configs)
