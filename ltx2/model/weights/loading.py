"""Loading a checkpoint, component by component, to check that all weights come from its files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
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
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import GemmaTokenizer

from ltx2.checkpoints.components import ModelFiles
from ltx2.checkpoints.formats.weight_files import check_loaded, check_weights, read_json
from ltx2.checkpoints.full_weights import folder_of, scheduler_for
from ltx2.checkpoints.hub.fetching import fetch_lora, fetch_model
from ltx2.checkpoints.hub.files import fetch_files
from ltx2.checkpoints.loras.lora import Lora, resolve_lora
from ltx2.checkpoints.progress_bars import no_progress_bars
from ltx2.checkpoints.resolve import WEIGHTS, FileModel, HubModel, check_folder
from ltx2.checkpoints.variant import CONFIGURED, Variant, variant_of
from ltx2.errors import CheckpointError, EngineMemoryError
from ltx2.model.finite import check_finite_weights
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.weights.encoder_loading import load_encoder, load_tokenizer
from ltx2.model.weights.file_loading import KeepQuantized, load_component
from ltx2.model.weights.gemma import Gemma3, Gemma4


def load_pipeline(
    source: Path | HubModel | FileModel, dtype: torch.dtype, keep: KeepQuantized | None = None, *, full: bool = False
) -> LongtakePipeline:
    """Load the pipeline on the CPU in `dtype`, except the vocoder: it stays float32, because bfloat16 is audible.

    keep: for the quantized linear layers of a model in files. full: with the weights that are not distilled, see
    `ltx2.checkpoints.full_weights`.

    Raises:
        CheckpointError: files are missing, cannot be read or do not match their configs.
        EngineMemoryError: the weights do not fit into memory.
    """
    if isinstance(source, FileModel):
        files = fetch_files(source)
        with load_errors(files.named):
            return _load_files(files, dtype, keep)
    folder = fetch_model(source) if isinstance(source, HubModel) else source
    variant = check_folder(folder, full=full)
    with load_errors(folder):
        parts = {
            name: _load(kind, folder / folder_of(name, full=full), dtype) for name, kind in _classes(variant).items()
        }
        tokenizer = GemmaTokenizer.from_pretrained(folder / "tokenizer")
        published = read_json(folder / "scheduler/scheduler_config.json")
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler_for(published, full=full))
        return LongtakePipeline(scheduler=scheduler, tokenizer=tokenizer, **parts)


def _load_files(files: ModelFiles, dtype: torch.dtype, keep: KeepQuantized | None) -> LongtakePipeline:
    classes, encoder = _classes(files.variant), files.text_encoder
    assert encoder is not None
    parts = {
        name: load_component(
            classes[name],
            component,
            torch.float32 if name == "vocoder" else dtype,
            keep if name == "transformer" else None,
        )
        for name, component in files.components.items()
    }
    kind = classes["text_encoder"]
    if encoder.source.is_dir():
        parts["text_encoder"] = _load(kind, encoder.source, dtype, "text_encoder")
    else:
        parts["text_encoder"] = load_encoder(kind, encoder, dtype, keep)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(files.scheduler))
    return LongtakePipeline(scheduler=scheduler, tokenizer=load_tokenizer(encoder), **parts)


@contextmanager
def load_errors(source: Path) -> Iterator[None]:
    """Turn errors of this block, which loads `source`, into CheckpointError and EngineMemoryError."""
    try:
        with no_progress_bars():
            yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EngineMemoryError(f"{source} does not fit into memory: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as exc:
        raise CheckpointError(f"cannot load {source}: {exc}") from exc
    except (SafetensorError, StrictDataclassError) as exc:  # derived from Exception alone
        raise CheckpointError(f"cannot load {source}: {exc}") from exc


def _classes(variant: Variant) -> dict[str, Any]:
    return {
        "transformer": LTX2VideoTransformer3DModel,
        "vae": AutoencoderKLLTX2Video,
        "audio_vae": AutoencoderKLLTX2Audio,
        "connectors": LTX2TextConnectors,
        "vocoder": LTX2Vocoder if variant.version == "2.0" else LTX2VocoderWithBWE,
        "text_encoder": Gemma4 if variant.version == "2.5" else Gemma3,
    }


def _load(kind: Any, folder: Path, dtype: torch.dtype, name: str | None = None) -> Any:
    """Load one component, with every tensor from its files. name: of the component, by default that of its folder."""
    name = name or folder.name
    options: dict[str, Any] = {"dtype": torch.float32 if name == "vocoder" else dtype}
    if name == "text_encoder":
        options |= kind.options(folder)
    else:
        options["low_cpu_mem_usage"] = is_accelerate_available()
    # use_safetensors: otherwise pickled weights are loaded where there are no others
    model, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    if name == "text_encoder":
        info = {key: info[key] for key in ("missing_keys", "mismatched_keys")}
    check_loaded(folder, info)
    return model


def load_part(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load an optional part of a model, of the class `kind` of diffusers, from its own folder."""
    check_weights(folder, WEIGHTS["vae"])  # all models of diffusers have the same file names
    return _load(kind, folder, dtype, name="part")


def check_finite(pipeline: LongtakePipeline, name: str, parts: Collection[str]) -> None:
    """Check the weights of these parts of a loaded pipeline. name: of the model, for the error.

    Raises:
        UnsupportedModelError: a weight is not finite; names it.
    """
    for part, component in pipeline.components.items():
        if isinstance(component, nn.Module) and part in parts:
            check_finite_weights(component, f"{part} of {name}")


def find_loras(loras: Sequence[Lora]) -> list[tuple[Lora, Path]]:
    """Find the files of `loras`, and fetch those on the hub.

    Raises:
        CheckpointError: a LoRA does not exist or cannot be fetched.
    """
    found = [(lora, resolve_lora(lora.path)) for lora in loras]
    return [(lora, place if isinstance(place, Path) else fetch_lora(place)) for lora, place in found]


def variant_of_pipeline(pipeline: LongtakePipeline) -> Variant:
    """The variant of a loaded pipeline, with or without text encoder. Raises the errors of `variant_of`."""
    configs: dict[str, dict[str, Any]] = {}
    for name in CONFIGURED:
        if (component := getattr(pipeline, name)) is not None:
            config = component.config.to_dict() if name == "text_encoder" else component.config
            configs[name] = {**config, "_class_name": type(component).__name__}
    return variant_of(configs)
