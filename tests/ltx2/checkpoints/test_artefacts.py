"""The table of artefacts in docs/models.md: every row is made here, checked, loaded and rendered.

To add a row, add an `Artefact`; the failing test shows the table as it should be.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.reports.folders import ModelReport
from ltx2.checkpoints.resolve import default_cache
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tests.conftest import ROOT
from tests.ltx2.checkpoint_files import edit, shard, sparse
from tests.ltx2.checkpoints.files.test_recognition import (
    BARE,
    CONNECTORS,
    DIFFUSION,
    FP8,
    MODEL,
    NEWER,
    REST,
    TRANSFORMER,
    VAE,
)
from tests.ltx2.exported_encoders import comfy_encoder, gguf_encoder
from tests.ltx2.exported_files import component_tensors, fp8_file, gguf_file, parts_around, single_file, split_files

REQUEST = SegmentRequest("a boat", 3, 96, 64, first_timing(SegmentShape(17, exact(24))))
TINY, HEADER = "tiny model, random weights", "header of real shapes"
Models = dict[str, Path]
Build = Callable[[Models, Path], Path]


@dataclass(frozen=True)
class Artefact:
    """A row. build: makes one. recognized: what `longtake model check` calls it. works: it loads and renders.

    encoder: the model whose text encoder it is given.
    """

    name: str
    build: Build
    recognized: str
    works: bool
    how: str = TINY
    encoder: str | None = None

    @property
    def row(self) -> str:
        """The row in docs/models.md."""
        answer = "yes" if self.works else "refused"
        return f"| {self.name} | {self.recognized} | {answer} | {'yes' if self.works else '-'} | {self.how} |"


def folder_of(model: str, change: Callable[[Path], object] = lambda _: None) -> Build:
    """A folder in the layout of diffusers, changed."""

    def build(models: Models, folder: Path) -> Path:
        copied = shutil.copytree(models[model], folder / "model")
        change(copied)
        return copied

    return build


def file_of(tensors: dict[str, tuple[str, tuple[int, ...]]], **metadata: str) -> Build:
    """A file that has a header and no content."""
    return lambda _, folder: sparse(folder / "a.safetensors", tensors, **metadata)


def lora_of(tensors: dict[str, torch.Tensor], **metadata: str) -> Build:
    """A LoRA for the tiny model."""

    def build(_: Models, folder: Path) -> Path:
        save_file(tensors, folder / "a.safetensors", metadata=metadata or None)
        return folder / "a.safetensors"

    return build


def one_file(model: str) -> Build:
    return lambda models, folder: single_file(models[model], folder / "a-distilled.safetensors")


def split(models: Models, folder: Path) -> Path:
    return split_files(models["tiny-2.5"], folder / "comfy")


def in_fp8(form: str) -> Build:
    def build(models: Models, folder: Path) -> Path:
        fp8_file(models["tiny"], folder / "a-distilled.safetensors", form)
        return folder / "a-distilled.safetensors"

    return build


def in_gguf(kind: str) -> Build:
    def build(models: Models, folder: Path) -> Path:
        gguf_file(models["tiny"], folder / "a-distilled.gguf", kind)
        parts_around(models["tiny"], folder)
        return folder / "a-distilled.gguf"

    return build


def encoder_in_gguf(model: str) -> Build:
    """A model in files whose text encoder, next to it, is a GGUF file."""

    def build(models: Models, folder: Path) -> Path:
        copied = shutil.copytree(models[model], folder / "copied")
        gguf_encoder(copied, folder / "gemma-ltx-Q8_0.gguf", "Q8_0")
        if model != "tiny-2.5":
            return single_file(copied, folder / "a-distilled.safetensors")
        for file in list(split_files(copied, folder / "comfy").parents[1].rglob("*.safetensors")):
            file.rename(folder / file.name)
        (folder / "gemma4-with-proj.safetensors").unlink()
        projections = component_tensors(copied, "connectors")
        save_file(
            {name: tensor for name, tensor in projections.items() if name.startswith("text_embedding_projection")},
            folder / "projections.safetensors",
            {"model_version": "2.5.0"},
        )
        return folder / "ltx-2.5-22b-distilled-transformer.safetensors"

    return build


def encoder_of_comfy(form: str) -> Build:
    """A model in files whose text encoder, next to it, is a file of ComfyUI."""

    def build(models: Models, folder: Path) -> Path:
        copied = shutil.copytree(models["tiny"], folder / "copied")
        comfy_encoder(copied, folder / "gemma_3_12B_it.safetensors", form)
        return single_file(copied, folder / "a-distilled.safetensors")

    return build


def not_distilled(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", use_dynamic_shifting=True, shift_terminal=0.1)


def in_shards(folder: Path) -> None:
    shard(folder / "transformer/diffusion_pytorch_model.safetensors")


def as_variant(folder: Path) -> None:
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))


def with_diffusion_decoder(folder: Path) -> None:
    edit(folder / "vae/config.json", _class_name="LTX2VideoDiffusionDecoderModel")


def quantized(folder: Path) -> None:
    edit(folder / "transformer/config.json", quantization_config={"load_in_8bit": True})


def fp8_with(tensor: str, dtype: str) -> Build:
    return file_of(FP8 | {f"{MODEL}proj.{tensor}": (dtype, (1,))})


def pair(layer: str, down: str, up: str) -> dict[str, torch.Tensor]:
    return {f"{layer}.{down}.weight": torch.ones(1, 16), f"{layer}.{up}.weight": torch.ones(64, 1)}


FOLDER = "pipeline of diffusers"
DIFFUSERS = pair("transformer.proj_in", "lora_A", "lora_B")
AUTHORS = pair("diffusion_model.patchify_proj", "lora_A", "lora_B")
KOHYA = pair("lora_unet_proj_in", "lora_down", "lora_up")
WHOLE = TRANSFORMER | CONNECTORS | REST
DECODER = {"config": DIFFUSION, "model_version": "2.5.0"}
TWO, THREE, FOUR, FIVE = (f"model in {count} files or folders" for count in (2, 3, 4, 5))
ONE, PART, QUANTIZED = "model in one file", "part of a model", "quantized for ComfyUI"

# fmt: off
ARTEFACTS = (
    Artefact("LTX-2, diffusers' layout", folder_of("tiny-2.0"), f"{FOLDER}, LTX-2.0, distilled", True),
    Artefact("LTX-2.3, diffusers' layout", folder_of("tiny"), f"{FOLDER}, LTX-2.3, distilled", True),
    Artefact("LTX-2.5, diffusers' layout", folder_of("tiny-2.5"), f"{FOLDER}, LTX-2.5, distilled", True),
    Artefact("one that is not distilled", folder_of("tiny", not_distilled), f"{FOLDER}, LTX-2.3, not distilled", True),
    Artefact("weights in shards", folder_of("tiny", in_shards), f"{FOLDER}, LTX-2.3, distilled", True),
    Artefact("weights as a variant, fp16", folder_of("tiny", as_variant), f"{FOLDER}, LTX-2.3, distilled", False),
    Artefact("a diffusion decoder as `vae`", folder_of("tiny-2.5", with_diffusion_decoder), FOLDER, False),
    Artefact("weights of bitsandbytes", folder_of("tiny", quantized), FOLDER, False),
    Artefact("LoRA, names of diffusers", lora_of(DIFFUSERS), "LoRA", True),
    Artefact("LoRA, names of the authors", lora_of(AUTHORS), "LoRA", True),
    Artefact("LoRA, names of kohya", lora_of(KOHYA), "LoRA", True),
    Artefact("DoRA", lora_of(DIFFUSERS | {"transformer.proj_in.dora_scale": torch.ones(64, 1)}), "DoRA", False),
    Artefact("LoKr", lora_of({"transformer.proj_in.lokr_w1": torch.ones(2, 2)}), "adapter that is not a LoRA", False),
    Artefact("IC-LoRA", lora_of(DIFFUSERS, reference_downscale_factor="2"), "IC-LoRA", False),
    Artefact("one file, LTX-2", one_file("tiny-2.0"), f"{TWO}, LTX-2.0, distilled, F32", True, encoder="tiny-2.0"),
    Artefact("one file, LTX-2.3", one_file("tiny"), f"{TWO}, LTX-2.3, distilled, F32", True, encoder="tiny"),
    Artefact("one without a text encoder", file_of(WHOLE | NEWER), f"{ONE}, LTX-2.3, BF16", False, HEADER),
    Artefact("split files, LTX-2.5", split, f"{FOUR}, LTX-2.5, distilled, F32", True),
    Artefact("one without the other parts", file_of(BARE, model_version="2.5.0"),
             f"{ONE}, LTX-2.5, BF16", False, HEADER),
    Artefact("split files, VAE", file_of(VAE), f"{PART}, BF16", False, HEADER),
    Artefact("split files, diffusion decoder", file_of(VAE, **DECODER), f"{PART}, LTX-2.5, BF16", False, HEADER),
    Artefact("fp8 without scales", in_fp8("plain"),
             f"{TWO}, LTX-2.3, distilled, F32 and F8_E4M3", True, encoder="tiny"),
    Artefact("fp8, scaled", in_fp8("authors"), f"{TWO}, LTX-2.3, distilled, fp8, scaled", True, encoder="tiny"),
    Artefact("fp8 of ComfyUI, old", in_fp8("comfy-old"),
             f"{TWO}, LTX-2.3, distilled, fp8, scaled for ComfyUI", True, encoder="tiny"),
    Artefact("fp8 of ComfyUI, new", in_fp8("comfy-new"),
             f"{TWO}, LTX-2.3, distilled, {QUANTIZED}", True, encoder="tiny"),
    Artefact("int8 of ComfyUI", fp8_with("comfy_quant", "U8"), f"{ONE}, LTX-2.0, {QUANTIZED}", False, HEADER),
    Artefact("NVFP4", fp8_with("weight_scale_2", "F32"), f"{ONE}, LTX-2.0, NVFP4", False, HEADER),
    Artefact("one file of bitsandbytes", fp8_with("weight.quant_state.bitsandbytes__nf4", "U8"),
             f"{ONE}, LTX-2.0, bitsandbytes", False, HEADER),
    Artefact("GGUF, Q8_0", in_gguf("Q8_0"), f"{THREE}, LTX-2.3, distilled, F32 and Q8_0", True, encoder="tiny"),
    Artefact("GGUF, Q6_K", in_gguf("Q6_K"),
             f"{THREE}, LTX-2.3, distilled, F32 and Q8_0 and Q6_K", True, encoder="tiny"),
    Artefact("GGUF, Q4_K", in_gguf("Q4_K"),
             f"{THREE}, LTX-2.3, distilled, F32 and Q8_0 and Q4_K", True, encoder="tiny"),
    Artefact("text encoder of ComfyUI, Gemma 3", encoder_of_comfy(""), f"{TWO}, LTX-2.3, distilled, F32", True),
    Artefact("the same in fp8", encoder_of_comfy("comfy-new"), f"{TWO}, LTX-2.3, distilled, F32", True),
    Artefact("text encoder in GGUF, Gemma 3", encoder_in_gguf("tiny"), f"{TWO}, LTX-2.3, distilled, F32", True),
    Artefact("text encoder in GGUF, Gemma 4", encoder_in_gguf("tiny-2.5"), f"{FIVE}, LTX-2.5, distilled, F32", True),
)
# fmt: on


def recognized(report: ModelReport) -> str:
    """What a report says, without details that differ from file to file."""
    said = [report.kind.partition(",")[0]]
    said += [f"LTX-{report.version}"] if report.version else []
    said += [] if report.distilled is None else ["distilled" if report.distilled else "not distilled"]
    said += [report.parts[0].precision] if said[0].startswith(("model in", PART)) else []
    return ", ".join(said)


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.name)
def test_an_artefact_is_recognized_and_renders_or_is_refused(
    models: Models, tmp_path: Path, artefact: Artefact
) -> None:
    # Given
    path = artefact.build(models, tmp_path)
    # When
    encoder = str(models[artefact.encoder]) if artefact.encoder else None
    found = check_model(str(path), default_cache(), encoder)
    # Then
    assert recognized(found) == artefact.recognized
    assert found.usable is artefact.works
    is_lora = "LoRA" in artefact.recognized or "DoRA" in artefact.recognized
    model, loras = (models["tiny"], [Lora(str(path))]) if is_lora else (path, [])
    if artefact.works:
        assert Engine.load(str(model), loras=loras, encoder=encoder, device="cpu").run(REQUEST).frames.shape == (
            17,
            64,
            96,
            3,
        )
    else:
        with pytest.raises(CheckpointError):
            Engine.load(str(model), loras=loras, device="cpu")


def test_the_table_in_the_documentation_has_these_rows() -> None:
    rows = re.findall(r"^\| artefact .*\n\|[-|]+\|\n((?:\|.*\n)+)", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    assert rows, "docs/models.md has no table that begins with `| artefact `"
    assert rows[0].splitlines() == [artefact.row for artefact in ARTEFACTS]
