"""An upsampler that a request names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from safetensors.torch import load_file, save_file

from ltx2.checkpoints.hub_names import HubName
from ltx2.checkpoints.upsampler_files import names_in_repository, resolve_upsampler, upsampler_config
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError
from ltx2.sampling import Sampling
from tests.ltx2.checkpoint_files import edit, sparse
from tests.ltx2.model.denoising.test_denoiser import never, request_of
from tests.ltx2.outputs import same

TINY: dict[str, Any] = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with an upsampler that differs from the one of `tiny`."""
    torch.manual_seed(5)
    LTX2LatentUpsamplerModel(**TINY, use_rational_resampler=False).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def by(upsampler: Path | None) -> Any:
    return request_of(Sampling(stages=2, upsampler=None if upsampler is None else str(upsampler)))


def test_an_upsampler_is_a_folder_a_file_or_part_of_a_model(
    models: dict[str, Path], engines: dict[str, Engine], other: Path, tmp_path: Path
) -> None:
    # Given the upsampler of the model itself, and another one, in all places
    engine, weights = engines["tiny"], "diffusion_pytorch_model.safetensors"
    places = {"own": models["tiny"] / "latent_upsampler", "other": other}
    outputs = {"own": engine.run(by(None)), "other": engine.run(by(other))}
    assert not same(outputs["own"], outputs["other"])
    for name, folder in places.items():
        file = shutil.copy(folder / weights, tmp_path / f"{name}-spatial-upscaler-x2.safetensors")
        alone = tmp_path / f"{name}-alone"
        alone.mkdir()
        shutil.copy(file, alone)
        # Then all of them render the same, in any order
        for place in (file, alone, folder, models["tiny-2.0"] if name == "own" else folder):
            assert same(engine.run(by(Path(place))), outputs[name])
    assert same(engine.run(by(None)), outputs["own"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 32}, "upsamples 32 channels, 2 times in space and 1 times in time; it must be 16 channels"),
        ({"spatial_upsample": False, "temporal_upsample": True}, "16 channels, 1 times in space and 2 times in time"),
        ({"spatial_upsample": True, "temporal_upsample": True}, "16 channels, 2 times in space and 2 times in time"),
        ({"rational_spatial_scale": 1.5}, "16 channels, 1.5 times in space"),
    ],
)
def test_a_single_file_tells_its_config(
    engines: dict[str, Engine], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    # Given
    space = {"use_rational_resampler": "rational_spatial_scale" in settings or "in_channels" in settings}
    model = LTX2LatentUpsamplerModel(**(TINY | space | settings))
    model.save_pretrained(tmp_path / "folder")
    file = shutil.copy(tmp_path / "folder/diffusion_pytorch_model.safetensors", tmp_path / "upscaler.safetensors")
    # Then it is that of its folder
    written = json.loads((tmp_path / "folder/config.json").read_text())
    read = upsampler_config(Path(file))
    assert {key: written[key] for key in read} == read
    with pytest.raises(RequestError, match=re.escape(f"stages is 2, but {file} ") + f".*{message}"):
        engines["tiny"].run(by(Path(file)), on_step=never)


def test_the_published_upsamplers_are_told_apart_by_their_shapes(tmp_path: Path) -> None:
    first = {"initial_conv.weight": ("BF16", (1024, 128, 3, 3, 3)), "final_conv.weight": ("BF16", (128, 1024, 3, 3, 3))}
    first |= {f"res_blocks.{number}.conv1.weight": ("BF16", (1024, 1024, 3, 3, 3)) for number in range(4)}
    space = {"upsampler.0.weight": ("BF16", (4096, 1024, 3, 3))}
    time = {"upsampler.0.weight": ("BF16", (2048, 1024, 3, 3, 3))}
    half = {"upsampler.conv.weight": ("BF16", (9216, 1024, 3, 3))}
    found = [upsampler_config(sparse(tmp_path / "a.safetensors", first | more)) for more in (space, time, half)]
    directions = [(one["spatial_upsample"], one["temporal_upsample"]) for one in found]
    assert directions == [(True, False), (False, True), (True, False)]
    assert found[2]["rational_spatial_scale"] == 1.5
    assert {key: found[0][key] for key in TINY} == {"in_channels": 128, "mid_channels": 1024, "num_blocks_per_stage": 4}


@pytest.mark.parametrize(
    "named", ["", "absent", "/no/such.safetensors", "./a/b", "~/no", "a/b:../c.safetensors", "x\0"]
)
def test_a_name_that_is_not_an_upsampler_is_rejected(engines: dict[str, Engine], named: str) -> None:
    with pytest.raises(CheckpointError, match="no such upsampler: "):
        engines["tiny"].run(request_of(Sampling(stages=2, upsampler=named)), on_step=never)


def test_other_files_and_folders_are_rejected(other: Path, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformer has a LTX2VideoTransformer3DModel; an upsampler is a LTX2L"):
        resolve_upsampler(str(models["tiny"] / "transformer"))
    with pytest.raises(CheckpointError, match="is not a latent upsampler of LTX-2"):
        resolve_upsampler(str(models["tiny"] / "vae/diffusion_pytorch_model.safetensors"))
    with pytest.raises(CheckpointError, match=r"an upsampler must be a \.safetensors file"):
        resolve_upsampler(str(other / "config.json"))
    edit(other / "config.json", _class_name="AutoencoderKLLTX2Video")
    with pytest.raises(CheckpointError, match="other has a AutoencoderKLLTX2Video"):
        resolve_upsampler(str(other))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no \.safetensors file"):
        resolve_upsampler(str(tmp_path / "empty"))


def test_a_single_file_with_other_tensors_is_rejected(engines: dict[str, Engine], other: Path) -> None:
    file = other / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["more.weight"] = tensors.pop("initial_norm.weight")
    save_file(tensors, other.parent / "upscaler.safetensors")
    with pytest.raises(CheckpointError, match=r"upscaler\.safetensors: its files lack initial_norm\.weight"):
        engines["tiny"].run(by(other.parent / "upscaler.safetensors"), on_step=never)


def test_the_files_of_a_repository_are_one_component_or_one_file() -> None:
    config, weights = "config.json", "diffusion_pytorch_model.safetensors"
    inner = [f"latent_upsampler/{name}" for name in (config, weights)]
    assert names_in_repository("a/b", ["model_index.json", "vae/config.json", weights, *inner]) == inner
    assert names_in_repository("a/b", ["README.md", config, weights, "vae/config.json"]) == [config, weights]
    assert names_in_repository("a/b", ["README.md", "x2.safetensors"]) == ["x2.safetensors"]
    with pytest.raises(CheckpointError, match=r"a/b has 2 \.safetensors files, x1.safetensors and 1 more: name one"):
        names_in_repository("a/b", ["x2.safetensors", "x1.safetensors"])
    assert resolve_upsampler("owner/name@v1:x2.safetensors") == HubName("owner/name", "v1", "x2.safetensors")
