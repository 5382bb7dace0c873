"""Writes a small checkpoint as people have LTX-2: one file, split files, fp8 files, GGUF. The inverse of loading.

The rules are written once more here, so that a mistake in longtake's is not repeated.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

FIRST = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_connector": "video_embeddings_connector",
    "audio_connector": "audio_embeddings_connector",
}
PROJECTIONS = {
    "text_proj_in": "aggregate_embed",
    "video_text_proj_in": "video_aggregate_embed",
    "audio_text_proj_in": "audio_aggregate_embed",
}
PREFIX = "model.diffusion_model."


def authors_name(component: str, name: str) -> str:
    """The name in a file of the authors for the tensor `name` of diffusers' `component`."""
    first, _, rest = name.partition(".")
    if component == "connectors" and first in PROJECTIONS:
        return f"text_embedding_projection.{PROJECTIONS[first]}.{rest}"
    if component in ("transformer", "connectors"):
        rest = rest.replace("norm_q", "q_norm").replace("norm_k", "k_norm")
        rest = re.sub(r"(video|audio)_a2v_cross_attn_scale_shift_table", r"scale_shift_table_a2v_ca_\1", rest)
        if component == "connectors":
            rest = rest.replace("transformer_blocks", "transformer_1d_blocks")
        return PREFIX + ".".join(part for part in (FIRST.get(first, first), rest) if part)
    if name in ("latents_mean", "latents_std"):
        of = "mean-of-means" if name == "latents_mean" else "std-of-means"
        return f"{component}.per_channel_statistics.{of}"
    if component == "vae":
        name = re.sub(
            r"^(encoder\.down_blocks|decoder\.up_blocks)\.(\d)\.(downsamplers\.0|upsamplers\.0|resnets)", _block, name
        )
        name = re.sub(r"^encoder\.mid_block", "encoder.down_blocks.8", name)
        name = re.sub(r"^decoder\.mid_block", "decoder.up_blocks.0", name)
        name = name.replace("resnets", "res_blocks")
    if component == "vocoder":
        for ours, theirs in {"upsamplers": "ups", "resnets": "resblocks", "act_out": "act_post"}.items():
            name = re.sub(rf"(^|\.){ours}\.", rf"\1{theirs}.", name)
        name = re.sub(r"conv_(in|out)\.", lambda match: {"in": "conv_pre.", "out": "conv_post."}[match[1]], name)
        name = name.replace("downsample.", "downsample.lowpass.")
    return f"{component}.{name}"


def lora_name(component: str, name: str, style: str) -> str:
    """The name of a layer of diffusers' `component` in a LoRA's file.

    style: what precedes it, `component.` being that of its component; after `authors:`, it has the authors' name.
    """
    kind, _, prefix = style.rpartition(":")
    if kind == "authors":
        name = authors_name(component, f"{name}.weight").removeprefix(PREFIX).removesuffix(".weight")
    elif prefix == "component.":
        prefix = f"{component}."
    return prefix + (name.replace(".", "_") if prefix.endswith("_") else name)


def _block(match: re.Match[str]) -> str:
    path, number, what = match[1], int(match[2]), match[3]
    between = what.endswith("samplers.0")
    number = 2 * number + (between if path.startswith("encoder") else (1 if between else 2))
    return f"{path}.{number}" + ("" if between else f".{what}")


def component_tensors(folder: Path, *components: str) -> Tensors:
    """The tensors of `components` in the layout of diffusers, with the names of the authors."""
    found: Tensors = {}
    for component in components:
        for file in sorted((folder / component).glob("*.safetensors")):
            found |= {authors_name(component, name): tensor for name, tensor in load_file(file).items()}
    for name in ("vae.per_channel_statistics.mean-of-means",):
        if name in found:  # the authors' files have statistics that nobody needs
            found["vae.per_channel_statistics.mean-of-stds"] = found[name].clone()
    return found


def header_config(folder: Path) -> dict[str, str]:
    """The metadata of the authors' files, as far as the sizes of a small checkpoint do not follow from its tensors."""
    transformer, connectors, vocoder = (
        json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "connectors", "vocoder")
    )
    settings: dict[str, Any] = {
        "num_attention_heads": transformer["num_attention_heads"],
        "audio_num_attention_heads": transformer["audio_num_attention_heads"],
        "connector_num_attention_heads": connectors["video_connector_num_attention_heads"],
        "caption_channels": connectors["caption_channels"],
        "cross_attention_adaln": transformer["cross_attn_mod"],
        "rope_type": "split",
        "frequencies_precision": "float64",
    }
    if not transformer["ff_bias"]:
        settings |= {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    config = {"transformer": settings, "vocoder": {} if "bwe_hidden_channels" not in vocoder else {"bwe": {}}}
    return {"config": json.dumps(config)}


def single_file(
    folder: Path,
    target: Path,
    change: Callable[[Tensors], Mapping[str, Tensor]] = dict,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write all but the text encoder to one file, as 2.0 and 2.3 are published. change: of the tensors before."""
    tensors = component_tensors(folder, "transformer", "connectors", "vae", "audio_vae", "vocoder")
    save_file(dict(change(tensors)), target, header_config(folder) | dict(metadata or {}))
    return target


def split_files(folder: Path, target: Path) -> Path:
    """Write the files that 2.5 is published as into folders of ComfyUI, and return the one with the transformer."""
    metadata = header_config(folder) | {"model_version": "2.5.0"}
    for name in ("diffusion_models", "vae", "text_encoders"):
        (target / name).mkdir(parents=True)
    connectors = component_tensors(folder, "connectors")
    inside = {name: tensor for name, tensor in connectors.items() if name.startswith(PREFIX)}
    main = target / "diffusion_models" / "ltx-2.5-22b-distilled-transformer.safetensors"
    save_file(component_tensors(folder, "transformer") | inside, main, metadata)
    vae = {name.removeprefix("vae."): tensor for name, tensor in component_tensors(folder, "vae").items()}
    save_file(vae, target / "vae" / "video-vae-conv.safetensors", {"model_version": "2.5.0"})
    save_file(component_tensors(folder, "audio_vae", "vocoder"), target / "vae" / "audio-vae.safetensors", metadata)
    encoder_file(
        folder,
        target / "text_encoders" / "gemma4-with-proj.safetensors",
        {name: tensor for name, tensor in connectors.items() if not name.startswith(PREFIX)},
    )
    return main


def encoder_file(folder: Path, target: Path, more: Mapping[str, Tensor]) -> Path:
    """Write the text encoder with its config and tokenizer, and `more` tensors, to one file."""
    encoder = {
        re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name).replace(
            "model.vision_embedder.", "vision_model."
        ): tensor
        for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items()
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        key = "tokenizer_json" if name == "tokenizer.json" else f"hf_asset__{name}"
        encoder[key] = torch.frombuffer(bytearray((folder / "tokenizer" / name).read_bytes()), dtype=torch.uint8)
    config = (folder / "text_encoder" / "config.json").read_text()
    save_file(encoder | dict(more), target, {"gemma_config": config})
    return target


def with_weights(folder: Path, target: Path, weights: Tensors) -> Path:
    """Copy a checkpoint with other `weights` of its transformer, by the names of the authors."""
    shutil.copytree(folder, target)
    file = target / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    found = {name: weights.get(authors_name("transformer", name), tensor) for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file)
    return target


def is_quantized(name: str, tensor: Tensor) -> bool:
    """Whether files in fp8 or GGUF have this tensor, with the name of the authors, quantized."""
    linears = r"(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)\.weight"
    return re.search(rf"transformer_blocks\.\d+\..*{linears}$", name) is not None and tensor.ndim == 2


def fp8_tensors(
    tensors: Tensors, form: str, chosen: Callable[[str, Tensor], bool] = is_quantized
) -> tuple[Tensors, Tensors, dict[str, str]]:
    """The `chosen` ones of `tensors` in fp8 as `form` says, the numbers that they then are, and metadata.

    form: `plain`, `e5m2` (plain, too), `authors`, `comfy-old`, `comfy-new`, `comfy-header`.
    """
    found, numbers = dict(tensors), {}
    layers = {}
    for name, tensor in tensors.items():
        if not chosen(name, tensor):
            continue
        layer = name.removesuffix(".weight")
        scale = torch.ones(()) if form in ("plain", "e5m2") else tensor.abs().max() / 448
        found[name] = (tensor / scale).to(torch.float8_e5m2 if form == "e5m2" else torch.float8_e4m3fn)
        numbers[name] = found[name].float() * scale
        if form == "comfy-old":
            found |= {f"{layer}.scale_weight": scale.reshape(1), f"{layer}.scale_input": torch.ones(1)}
        elif form not in ("plain", "e5m2"):
            found |= {f"{layer}.weight_scale": scale, f"{layer}.input_scale": torch.ones(())}
        layers[layer] = {"format": "float8_e4m3fn"}
        if form == "comfy-new":
            text = json.dumps(layers[layer]).encode()
            found[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    if form == "comfy-old":
        found["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})} if form == "comfy-header" else {}
    return found, numbers, metadata


def fp8_file(model: Path, target: Path, form: str) -> Tensors:
    """Write all but the text encoder to one file in fp8, and return the numbers of its weights; see `fp8_tensors`."""
    tensors, numbers, metadata = fp8_tensors(
        component_tensors(model, "transformer", "connectors", "vae", "audio_vae", "vocoder"), form
    )
    save_file(tensors, target, header_config(model) | metadata)
    return numbers


def gguf_file(folder: Path, target: Path, kind: str) -> Tensors:
    """Write transformer and connectors as a GGUF file, and return the numbers of the quantized weights.

    kind: of the weights whose rows its blocks fit; others are in Q8_0. Blocks of Q4_K and others, which the package
    cannot make, are random bytes with small factors.
    """
    numbers: Tensors = {}
    writer = gguf.GGUFWriter(target, "ltxv")
    for key, value in header_config(folder).items():
        writer.add_string(key, value)
    random = numpy.random.default_rng(0)
    for name, tensor in component_tensors(folder, "transformer", "connectors").items():
        if name.startswith("text_embedding_projection"):
            continue
        bare = name.removeprefix(PREFIX)
        if not is_quantized(name, tensor):
            writer.add_tensor(bare, tensor.numpy())
            continue
        raw, quant = blocks_of(tensor, kind, random)
        writer.add_tensor(bare, raw, raw_dtype=quant)
        numbers[name] = torch.from_numpy(gguf.quants.dequantize(raw, quant).copy())
    write_gguf(writer)
    return numbers


def write_gguf(writer: gguf.GGUFWriter) -> None:
    """Write what was added to `writer`."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def header_only(file: Path, architecture: str, *tensors: str, **values: Any) -> Path:
    """A GGUF file with few tensors, and these `values`, whose names may have dots instead of underscores."""
    writer = gguf.GGUFWriter(file, architecture)
    for name, value in values.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    for name in tensors or ("token_embd.weight",):
        writer.add_tensor(name, numpy.zeros((2, 4), numpy.float32))
    write_gguf(writer)
    return file


def blocks_of(tensor: Tensor, kind: str, random: numpy.random.Generator) -> tuple[Any, gguf.GGMLQuantizationType]:
    """`tensor` in the blocks of `kind`, or of Q8_0 if they do not fit its rows; see `gguf_file`."""
    quant = gguf.GGMLQuantizationType[kind]
    count, size = gguf.GGML_QUANT_SIZES[quant]
    if tensor.shape[1] % count:
        quant = gguf.GGMLQuantizationType.Q8_0
        count, size = gguf.GGML_QUANT_SIZES[quant]
    if not quant.name.endswith("_K"):
        return gguf.quants.quantize(tensor.numpy(), quant), quant
    blocks = random.integers(0, 256, (tensor.numel() // count, size), dtype=numpy.uint8)
    factors = numpy.full((len(blocks), 1), 2e-4, numpy.float16).view(numpy.uint8)
    begin = size - 2 if quant.name == "Q6_K" else 0
    blocks[:, begin : begin + 2] = factors
    if quant.name != "Q6_K":
        blocks[:, 2:4] = factors
    return blocks.reshape(tensor.shape[0], -1), quant


def parts_around(folder: Path, target: Path) -> None:
    """Write what a file with transformer and connectors lacks, but the text encoder, to files in `target`."""
    tensors = component_tensors(folder, "vae", "audio_vae", "vocoder", "connectors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)},
        target / "rest.safetensors",
        header_config(folder),
    )
