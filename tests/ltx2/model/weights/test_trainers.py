"""LoRAs as trainers write them: names, suffixes, alpha and dtypes. Each changes the weights that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx2.checkpoints.loras.lora import Lora
from ltx2.model.weights.loading import load_pipeline
from ltx2.model.weights.lora_fusion import LoraFusion
from tests.ltx2.exported_files import lora_name

RANK = 4
KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")


@dataclass(frozen=True)
class Trainer:
    """What a trainer writes. style: of the names, as of `lora_name`. alpha: its shape; None if there is none."""

    name: str
    style: str
    factors: tuple[str, str]
    alpha: tuple[int, ...] | None
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.bfloat16, torch.bfloat16)


TRAINERS = (
    Trainer("the authors' own", "authors:diffusion_model.", PEFT, None),
    Trainer("ai-toolkit", "authors:diffusion_model.", PEFT, None, (torch.float16, torch.float16)),
    Trainer("ai-toolkit, with alpha", "authors:diffusion_model.", KOHYA, (), (torch.float16, torch.float32)),
    Trainer("musubi-tuner", "authors:lora_unet_", KOHYA, ()),
    Trainer("musubi-tuner, of a wrapped model", "authors:lora_unet_model_", KOHYA, (1,)),
    Trainer("musubi-tuner, for ComfyUI", "authors:diffusion_model.", PEFT, (1,), (torch.float32, torch.bfloat16)),
    Trainer("OneTrainer", "transformer.", KOHYA, (), (torch.float32, torch.float16)),
    Trainer("OneTrainer, before 2025", "lora_transformer_", KOHYA, (1,)),
    Trainer("OneTrainer, dotted", "lora_transformer.", KOHYA, (1, 1), (torch.bfloat16, torch.float16)),
    Trainer("diffusers' scripts", "component.", PEFT, None, (torch.float32, torch.float32)),
)


@pytest.fixture(scope="module")
def pipelines(models: dict[str, Path]) -> dict[str, Any]:
    return {name: load_pipeline(models[name], torch.float32) for name in ("tiny", "tiny-2.5")}


@pytest.mark.parametrize("model", ["tiny", "tiny-2.5"])
def test_a_lora_of_every_trainer_changes_every_layer(pipelines: dict[str, Any], tmp_path: Path, model: str) -> None:
    # Given
    transformer = pipelines[model].transformer
    layers = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    before = {name: transformer.get_submodule(name).weight.clone() for name in layers}
    fusion = LoraFusion(pipelines[model], torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    for number, trainer in enumerate(TRAINERS):
        tensors: dict[str, Tensor] = {}
        changes: dict[str, Tensor] = {}
        for name in layers:
            rows, columns = before[name].shape
            shapes = ((RANK, columns), (rows, RANK))
            down, up = (
                torch.randn(shape, generator=random).to(dtype)
                for shape, dtype in zip(shapes, trainer.dtypes, strict=True)
            )
            written = lora_name("transformer", name, trainer.style)
            tensors |= {f"{written}.{trainer.factors[0]}.weight": down, f"{written}.{trainer.factors[1]}.weight": up}
            if trainer.alpha is not None:
                tensors[f"{written}.alpha"] = torch.full(trainer.alpha, 2.0, dtype=trainer.dtypes[0])
            changes[name] = up.float() @ down.float() * (1 if trainer.alpha is None else 2 / RANK)
        file = tmp_path / f"{number}.safetensors"
        save_file(tensors, file)
        # When
        fusion.fuse([(Lora(str(file)), file)])
        # Then
        for name in layers:
            found = transformer.get_submodule(name).weight
            torch.testing.assert_close(found, before[name] + changes[name], msg=f"{trainer.name}: {name}")
    fusion.fuse([])
    assert all(torch.equal(transformer.get_submodule(name).weight, before[name]) for name in layers)
