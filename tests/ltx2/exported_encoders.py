"""Writes a small Gemma in one file: as llama.cpp has it, a GGUF file, and as ComfyUI has it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import GemmaTokenizer
from transformers.utils import sentencepiece_model_pb2_new

from tests.ltx2.checkpoint_files import edit
from tests.ltx2.exported_files import Tensors, blocks_of, fp8_tensors, write_gguf

Family = Literal["gemma3", "gemma4"]


def gguf_encoder(folder: Path, target: Path, kind: str, *, name: str = "Gemma LTX", merges: bool | None = None) -> Path:
    """Write the text encoder of a checkpoint as the GGUF file `target`, with 2-D weights in `kind`.

    Its weights are then replaced in the checkpoint by what the blocks stand for, and its config by what a GGUF file can
    say. merges: whether the file lists them, by default if it is a Gemma 4.
    """
    place = folder / "text_encoder"
    config = json.loads((place / "config.json").read_text())
    family: Family = "gemma4" if config["model_type"] == "gemma4_unified" else "gemma3"
    text = config["text_config"]
    if family == "gemma3":
        text["query_pre_attn_scalar"] = text["head_dim"]
        edit(place / "config.json", text_config=text)
    writer = gguf.GGUFWriter(target, family)
    writer.add_name(name)
    _add_config(writer, family, text)
    _add_vocabulary(writer, folder / "tokenizer", family, family == "gemma4" if merges is None else merges)
    _add_tensors(writer, family, text["num_hidden_layers"], place / "model.safetensors", kind)
    write_gguf(writer)
    return target


def _add_config(writer: gguf.GGUFWriter, family: Family, text: dict[str, Any]) -> None:
    number = {key: value for key, value in text.items() if isinstance(value, int)}
    writer.add_context_length(number["max_position_embeddings"])
    writer.add_embedding_length(number["hidden_size"])
    writer.add_block_count(number["num_hidden_layers"])
    writer.add_feed_forward_length(number["intermediate_size"])
    writer.add_head_count(number["num_attention_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(number["sliding_window"])
    writer.add_rope_freq_base(1e6)
    if family == "gemma3":
        writer.add_key_length(number["head_dim"])
        writer.add_value_length(number["head_dim"])
        writer.add_head_count_kv(number["num_key_value_heads"])
        return
    sliding = [kind == "sliding_attention" for kind in text["layer_types"]]
    every = text["num_key_value_heads"]
    first, *_ = text["per_layer_config"].values()
    writer.add_rope_freq_base_swa(1e4)
    writer.add_key_length(first["head_dim"])
    writer.add_key_length_swa(number["head_dim"])
    writer.add_sliding_window_pattern(sliding)
    writer.add_head_count_kv([every if one else first.get("num_key_value_heads", every) for one in sliding])
    writer.add_shared_kv_layers(0)
    half = first["head_dim"] // 2
    factors = [1.0] * (half // 4) + [1e30] * (half - half // 4)
    writer.add_tensor("rope_freqs.weight", numpy.array(factors, numpy.float32))


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, family: Family, merges: bool) -> None:
    tokenizer = GemmaTokenizer.from_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    kinds = {"<unk>": gguf.TokenType.UNKNOWN} | dict.fromkeys(
        ("<pad>", "<eos>", "<bos>", "<mask>"), gguf.TokenType.CONTROL
    )
    types = [
        gguf.TokenType.BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", piece) else kinds.get(piece, gguf.TokenType.NORMAL)
        for piece in pieces
    ]
    writer.add_tokenizer_model("gemma4" if family == "gemma4" else "llama")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    if merges:
        writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)


def vocabulary_file(
    target: Path, pieces: list[str], types: list[int], merges: list[str] | None = None, *, bos: int | None = None
) -> Path:
    """Write a GGUF file with this vocabulary, and nothing else. bos: the number of the piece that begins a text."""
    writer = gguf.GGUFWriter(target, "gemma3")
    if bos is not None:
        writer.add_bos_token_id(bos)
    if pieces:
        writer.add_token_list(pieces)
    if types:
        writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    write_gguf(writer)
    return target


def _add_tensors(writer: gguf.GGUFWriter, family: Family, layers: int, file: Path, kind: str) -> None:
    architecture = {"gemma3": gguf.MODEL_ARCH.GEMMA3, "gemma4": gguf.MODEL_ARCH.GEMMA4}[family]
    names = gguf.get_tensor_name_map(architecture, layers)
    random = numpy.random.default_rng(0)
    numbers: Tensors = {}
    for name, tensor in load_file(file).items():
        bare = re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name)
        if not bare.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
            numbers[name] = tensor
            continue
        written = names.get_name(bare.removesuffix(".weight"))
        assert written is not None, bare
        if tensor.ndim == 2:
            raw, quant = (
                (tensor.numpy(), gguf.GGMLQuantizationType.F32) if kind == "F32" else blocks_of(tensor, kind, random)
            )
            writer.add_tensor(f"{written}.weight", raw, raw_dtype=quant)
            numbers[name] = torch.from_numpy(gguf.quants.dequantize(raw, quant).reshape(tensor.shape).copy())
        else:
            numbers[name] = tensor + 0.125 * torch.from_numpy(random.integers(-4, 4, tensor.shape)).float()
            shift = 1 if family == "gemma3" else 0
            writer.add_tensor(f"{written}.weight", (numbers[name] + shift).numpy())
    save_file(numbers, file)


def sentencepiece_model(folder: Path) -> sentencepiece_model_pb2_new.ModelProto:
    """The tokenizer in `folder` as a sentencepiece model."""
    model = json.loads(GemmaTokenizer.from_pretrained(folder).backend_tokenizer.to_str())["model"]
    types = {"<unk>": 2, "<pad>": 3, "<eos>": 3, "<bos>": 3, "<mask>": 4}
    found = sentencepiece_model_pb2_new.ModelProto()
    found.trainer_spec.model_type = 2
    found.normalizer_spec.add_dummy_prefix = found.normalizer_spec.remove_extra_whitespaces = False
    for number, piece in enumerate(sorted(model["vocab"], key=model["vocab"].get)):
        kind = 6 if re.fullmatch(r"<0x[0-9A-F]{2}>", piece) else types.get(piece, 1)
        found.pieces.add(piece=piece, score=-number if kind == 1 else 0.0, type=kind)
    return found


def comfy_encoder(folder: Path, target: Path, form: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write the text encoder of a checkpoint with Gemma 3 as ComfyUI has it: names, sentencepiece model, no config.

    Its weights are then replaced in the checkpoint by the same numbers, and what shapes do not show by what is
    published. form: of fp8 as of `fp8_tensors`, or "". dtype: of other weights.
    """
    place = folder / "text_encoder"
    text = json.loads((place / "config.json").read_text())["text_config"]
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    text |= {"query_pre_attn_scalar": text["head_dim"], "rope_parameters": ropes}
    text |= {"max_position_embeddings": 131_072, "sliding_window": 1024}
    edit(place / "config.json", text_config=text)
    numbers = {name: tensor.to(dtype) for name, tensor in load_file(place / "model.safetensors").items()}
    names = {name: _comfy_name(name) for name in numbers}
    tensors = {names[name]: tensor for name, tensor in numbers.items()}
    metadata: dict[str, str] = {}
    if form:
        tensors, products, metadata = fp8_tensors(tensors, form, _is_layer)
        numbers = {name: products.get(names[name], tensor) for name, tensor in numbers.items()}
    save_file(numbers, place / "model.safetensors")
    model = bytearray(sentencepiece_model(folder / "tokenizer").SerializeToString())
    save_file(tensors | {"spiece_model": torch.frombuffer(model, dtype=torch.uint8)}, target, metadata)
    return target


def _comfy_name(name: str) -> str:
    name = re.sub(r"^(model\.)?(vision_tower\.(vision_model\.)?)", "vision_model.", name)
    name = re.sub(r"^model\.multi_modal_projector\.", "multi_modal_projector.", name)
    return re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name)


def _is_layer(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith("model.layers.") and tensor.ndim == 2
