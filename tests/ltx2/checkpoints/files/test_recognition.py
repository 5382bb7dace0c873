"""Telling what a file of weights is from its header. The files have real shapes, and no content."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from ltx2.checkpoints.files.precision import UNREADABLE
from ltx2.checkpoints.files.recognition import FileKind, header_of, recognize
from ltx2.checkpoints.resolve import resolve_model
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.checkpoint_files import sparse

Tensors = dict[str, tuple[str, tuple[int, ...]]]

MODEL = "model.diffusion_model."
TRANSFORMER: Tensors = {
    f"{MODEL}patchify_proj.weight": ("BF16", (4096, 128)),
    f"{MODEL}audio_patchify_proj.weight": ("BF16", (2048, 128)),
    f"{MODEL}transformer_blocks.0.ff.net.0.proj.weight": ("BF16", (16384, 4096)),
}
NEWER: Tensors = {f"{MODEL}prompt_adaln_single.linear.weight": ("BF16", (8192, 4096))}
CONNECTORS: Tensors = {f"{MODEL}video_embeddings_connector.learnable_registers": ("BF16", (128, 4096))}
REST: Tensors = {
    "text_embedding_projection.video_aggregate_embed.weight": ("BF16", (4096, 188160)),
    "vae.encoder.conv_in.conv.weight": ("BF16", (128, 48, 3, 3, 3)),
    "audio_vae.encoder.conv_in.conv.weight": ("BF16", (128, 2, 3, 3)),
    "vocoder.vocoder.conv_pre.weight": ("BF16", (1024, 128, 7)),
}
BARE: Tensors = {name.removeprefix(MODEL): tensor for name, tensor in TRANSFORMER.items()}
FP8: Tensors = {name: ("F8_E4M3", shape) for name, (_, shape) in TRANSFORMER.items()}
INT8: Tensors = {name: ("I8", shape) for name, (_, shape) in TRANSFORMER.items()}
VAE: Tensors = {
    "encoder.conv_in.conv.weight": ("BF16", (128, 48, 3, 3, 3)),
    "per_channel_statistics.mean-of-means": ("BF16", (128,)),
}
GEMMA_3: Tensors = {
    "model.layers.0.mlp.up_proj.weight": ("BF16", (15360, 3840)),
    "model.layers.0.self_attn.q_norm.weight": ("BF16", (256,)),
    "model.layers.0.pre_feedforward_layernorm.weight": ("BF16", (3840,)),
}
LTX_VIDEO: Tensors = {
    f"{MODEL}patchify_proj.weight": ("BF16", (2048, 128)),
    f"{MODEL}transformer_blocks.0.x": ("BF16", (8,)),
}
UPSAMPLER: Tensors = {
    "initial_conv.weight": ("BF16", (1024, 128, 3, 3, 3)),
    "final_conv.weight": ("BF16", (128, 1024, 3, 3, 3)),
}
DIFFUSION = json.dumps({"vae": {"_class_name": "CausalDiffusionVAE"}})


@pytest.mark.parametrize(
    ("tensors", "metadata", "kind", "version", "parts", "precision"),
    [
        (TRANSFORMER | CONNECTORS | REST, {}, "MODEL", "2.0", 6, "BF16"),
        (TRANSFORMER | NEWER | CONNECTORS | REST, {}, "MODEL", "2.3", 6, "BF16"),
        (TRANSFORMER | REST, {"config": '{"transformer": {"cross_attention_adaln": true}}'}, "MODEL", "2.3", 5, "BF16"),
        (TRANSFORMER | CONNECTORS, {"model_version": "2.5.0-rc1"}, "PARTS", "2.5", 2, "BF16"),
        (BARE | {"keyframes_abs_pos_embedding": ("BF16", (1, 4096))}, {}, "PARTS", "2.5", 1, "BF16"),
        (FP8 | NEWER, {}, "PARTS", "2.3", 1, "F8_E4M3 and BF16"),
        (FP8 | {f"{MODEL}proj.weight_scale": ("F32", ())}, {}, "PARTS", "2.0", 1, "fp8, scaled"),
        (FP8 | {"scaled_fp8": ("F8_E4M3", (2,))}, {}, "PARTS", "2.0", 1, "fp8, scaled for ComfyUI"),
        (FP8 | {f"{MODEL}proj.comfy_quant": ("U8", (9,))}, {}, "PARTS", "2.0", 1, "quantized for ComfyUI"),
        (INT8, {}, "PARTS", "2.0", 1, "int8"),
        (FP8 | {f"{MODEL}proj.weight_scale_2": ("F32", ())}, {}, "PARTS", "2.0", 1, "NVFP4"),
        (FP8 | {f"{MODEL}proj.weight_scale": ("U8", (4, 8))}, {}, "PARTS", "2.0", 1, "MXFP8"),
        (VAE, {}, "PARTS", None, 1, "BF16"),
        (VAE, {"config": DIFFUSION, "model_version": "2.5.0"}, "PARTS", "2.5", 1, "BF16"),
        (GEMMA_3, {}, "TEXT_ENCODER", None, 0, "BF16"),
        (dict(list(GEMMA_3.items())[:2]), {}, "OTHER_ENCODER", None, 0, "BF16"),
        (UPSAMPLER | {"upsampler.0.weight": ("BF16", (4096, 1024, 3, 3))}, {}, "UPSAMPLER", None, 0, "BF16"),
        ({"diffusion_model.a.lora_A.weight": ("BF16", (450, 64))}, {}, "LORA", None, 0, "BF16"),
        ({"lora_unet_a.lora_down.weight": ("F16", (8, 64))}, {}, "LORA", None, 0, "F16"),
        ({"a.lora_A.weight": ("BF16", (8, 64)), "a.dora_scale": ("BF16", (8,))}, {}, "DORA", None, 0, "BF16"),
        ({"a.lokr_w1": ("BF16", (8, 64))}, {}, "OTHER_ADAPTER", None, 0, "BF16"),
        ({f"net.{name}": tensor for name, tensor in BARE.items()}, {}, "OTHER_NAMES", None, 0, "BF16"),
        ({"a.lora_A.weight": ("BF16", (8, 64))}, {"reference_downscale_factor": "2"}, "IC_LORA", None, 0, "BF16"),
        (LTX_VIDEO, {}, "LTX_VIDEO", None, 0, "BF16"),
        (LTX_VIDEO | {"vae.encoder.conv_in.conv.weight": ("BF16", (8,))}, {}, "LTX_VIDEO", None, 0, "BF16"),
        ({"down_blocks.0.weight": ("F32", (8,))}, {"config": "[", "model_version": "x"}, "UNKNOWN", None, 0, "F32"),
        ({}, {}, "UNKNOWN", None, 0, "empty"),
    ],
)  # fmt: skip
def test_a_file_is_recognized_and_refused_as_a_model(
    tmp_path: Path,
    tensors: Tensors,
    metadata: dict[str, str],
    kind: str,
    version: str | None,
    parts: int,
    precision: str,
) -> None:
    # When
    file = sparse(tmp_path / "a.safetensors", tensors, **metadata)
    found = recognize(file)
    # Then
    assert (found.kind, found.version, len(found.parts)) == (FileKind[kind], version, parts)
    assert found.precision == precision
    # and the same text refuses it as a model, as a file and in a folder, where it is none or lacks parts
    with pytest.raises(UnsupportedModelError) as error:
        resolve_model(str(file), tmp_path)
    assert str(error.value).startswith(f"{found}; missing: " if found.is_model else f"{found}: {found.advice}")
    # and before any part that it lacks, weights that are not read are named
    unread = f"{found}; missing: transformer: {file} has weights in {precision}: longtake reads bf16, fp8 and GGUF"
    assert str(error.value).startswith(unread) is (precision in UNREADABLE)
    with pytest.raises(UnsupportedModelError) as error:
        resolve_model(str(tmp_path), tmp_path)
    assert str(found) in str(error.value)


def test_only_the_name_of_a_file_says_that_it_is_distilled(tmp_path: Path) -> None:
    names = ("ltx-2.5-22b-distilled.safetensors", "ltx-2.5-22b-dev.safetensors")
    distilled, dev = (recognize(sparse(tmp_path / name, TRANSFORMER)) for name in names)
    assert distilled.detail == "distilled by its name"
    assert dev.detail == "distilled or not: the file does not tell"


def gguf(*values: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join((*values, *tensors))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_a_gguf_file_is_recognized_by_its_architecture(tmp_path: Path) -> None:
    # Given values of several types before the architecture
    values = [
        text("general.quantization_version") + struct.pack("<II", 4, 2),
        text("a.list") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("y"),
        text("general.architecture") + struct.pack("<I", 8) + text("ltxv"),
    ]
    shapes = {"patchify_proj.weight": (256, 64), "audio_patchify_proj.weight": (256, 64)}
    shapes |= {"transformer_blocks.0.ff.net.2.weight": (256, 64), "keyframes_abs_pos_embedding": (256,)}
    tensors = tuple(
        text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 12, 0) for name, shape in shapes.items()
    )
    file = tmp_path / "a-distilled.gguf"
    file.write_bytes(gguf(*values, tensors=tensors) + bytes(32 + 64 * 144))
    # When / Then
    found = recognize(file)
    assert (found.kind, found.version, found.parts, found.precision) == (FileKind.GGUF, "2.5", ("transformer",), "Q4_K")
    assert found.detail == "distilled by its name, architecture ltxv, 4 tensors"
    assert header_of(file).tensors["patchify_proj.weight"].shape == (64, 256)
    with pytest.raises(UnsupportedModelError, match=r"is a GGUF file .* missing: connectors: get diffusion_models/ltx"):
        resolve_model(str(file), tmp_path)
    # and types that longtake does not read are named
    file.write_bytes(gguf(*values, tensors=(text("a") + struct.pack("<IQIQ", 1, 256, 16, 0),)))
    with pytest.raises(CheckpointError, match="stores a in GGUF type IQ2_XXS"):
        recognize(file)
    file.write_bytes(gguf(*values, tensors=(text("a") + struct.pack("<IQIQ", 1, 256, 99, 0),)))
    with pytest.raises(CheckpointError, match="stores a in GGUF type 99"):
        recognize(file)
    # and so is the format of a file with another suffix
    named = file.rename(tmp_path / "b.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"b\.safetensors is not a safetensors file, but a GGUF"):
        recognize(named)
    named.write_bytes(b"PK\x03\x04pickled")
    with pytest.raises(UnsupportedModelError, match="but an archive, as of pickled weights: loading them could run"):
        recognize(named)


SHAPE_OF_A, EMPTY_A = text("comfy.gguf.orig_shape.a"), text("a") + struct.pack("<IQIQ", 1, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [b"", b"GGML", gguf()[:9], gguf(b"x"), gguf(text("a") + b"\xff" * 8), gguf(b"\xff" * 8),
     gguf(text("a") + struct.pack("<IIQ", 9, 8, 2**40)),
     gguf(tensors=(text("a") + struct.pack("<IQIQ", 1, 256, 12, 0),)),
     gguf(text("general.alignment") + struct.pack("<Ii", 5, -32)),
     gguf(SHAPE_OF_A + struct.pack("<IIQf", 9, 6, 1, math.inf), tensors=(EMPTY_A,)) + bytes(32),
     gguf(SHAPE_OF_A + struct.pack("<IIQii", 9, 5, 2, -1, 0), tensors=(EMPTY_A,)) + bytes(32),
     gguf(SHAPE_OF_A + struct.pack("<IIQi", 9, 5, 1, 4), tensors=(EMPTY_A,)) + bytes(32)],
)  # fmt: skip
def test_a_damaged_gguf_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.gguf is (not|a damaged) |a.gguf is empty"):
        recognize(tmp_path / "a.gguf")
