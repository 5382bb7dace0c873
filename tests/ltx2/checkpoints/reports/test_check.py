"""What `longtake model check` says about folders and files; test_hub.py has repositories."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx2.checkpoints.files.recognition import recognize
from ltx2.checkpoints.loras.lora import resolve_lora
from ltx2.checkpoints.reports.cards import CARDS
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.reports.folders import ModelReport
from ltx2.checkpoints.resolve import WEIGHTS, resolve_model
from ltx2.errors import CheckpointError, UnsupportedModelError
from tasks.cli import main
from tests.conftest import ROOT
from tests.ltx2.checkpoint_files import edit, shard, sparse


def check(path: Path) -> ModelReport:
    return check_model(str(path), path)


def test_the_default_model_renders_in_one_stage(tmp_path: Path) -> None:
    [missing] = check_model("shapes", tmp_path).missing
    assert missing == (
        "latent_upsampler (only `stages: 2` needs it): it renders in one stage; for "
        "two, use `tiny` or a published model"
    )


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_a_complete_pipeline_can_be_used(models: dict[str, Path], full_models: dict[str, Path], version: str) -> None:
    name = "tiny" if version == "2.3" else "tiny-2.0"
    for folder, distilled in ((models[name], True), (full_models[name], False)):
        found = check(folder)
        assert (found.version, found.distilled, found.usable, found.problem) == (version, distilled, True, None)
        assert [part.name for part in found.parts] == [*WEIGHTS, "latent_upsampler"]
        files = list(folder.rglob("*.safetensors"))
        assert sum(part.size for part in found.parts) == sum(file.stat().st_size for file in files)
        assert {part.precision for part in found.parts} == {"F32"}
        assert found.missing == found.cards == ()


def test_a_full_size_model_fits_on_cards(folder: Path) -> None:
    # Given the config of a full-size model, whose weights are in shards
    edit(folder / "transformer/config.json", num_layers=48)
    before = check(folder).parts
    shard(folder / "transformer/diffusion_pytorch_model.safetensors")
    shutil.rmtree(folder / "latent_upsampler")
    # When
    found = check(folder)
    # Then
    assert found.cards == CARDS
    assert "  a GPU of 24 GB: LONGTAKE_PRECISION=fp8 LONGTAKE_OFFLOAD=sequential (" in "\n".join(found.lines())
    assert "  measured with a text encoder of 23.53 GB; this one needs less" in found.lines()
    assert abs(found.parts[2].size - before[2].size) < 10_000  # headers only
    [missing] = found.missing
    assert missing.startswith("latent_upsampler (only `stages: 2` needs it)")
    assert "needs it): use one stage, or name the one of a published LTX-2" in missing
    assert found.usable


def test_what_is_missing_is_listed_and_refused_with_the_same_text(folder: Path) -> None:
    # Given
    for name in ("vae", "transformer"):
        (folder / name / "diffusion_pytorch_model.safetensors").unlink()
    # When
    found = check(folder)
    # Then
    assert [one.partition(":")[0] for one in found.missing] == ["transformer", "vae"]
    assert (found.usable, found.cards) == (False, ())
    with pytest.raises(CheckpointError) as error:
        resolve_model(str(folder), folder)
    assert str(error.value) == found.problem


def test_a_quantized_pipeline_says_so(folder: Path) -> None:
    edit(folder / "transformer/config.json", quantization_config={"quant_method": "bitsandbytes"})
    found = check(folder)
    assert (found.usable, found.version) == (False, None)
    assert "is quantized: transformer/ with bitsandbytes" in str(found.problem)


def test_a_folder_of_other_files_lists_them(tmp_path: Path) -> None:
    # Given
    sparse(tmp_path / "a.safetensors", {"a.lora_A.weight": ("BF16", (8, 64))})
    sparse(tmp_path / "b.safetensors", {"vae.encoder.x": ("BF16", (8,)), "audio_vae.y": ("BF16", (8,))})
    # When
    found = check(tmp_path)
    # Then
    assert [part.name for part in found.parts] == ["LoRA", "vae, audio_vae"]
    assert "has no model_index.json" in str(found.problem)
    assert re.search(r"a\.safetensors is a LoRA .*, the first of 2 files: a model must be", str(found.problem))
    # and a model in a folder of this folder is named, as in the cache of the hub
    inner = tmp_path / "cache" / "snapshots" / "0a1b"
    inner.mkdir(parents=True)
    sparse(inner / "a.safetensors", {"a.lora_A.weight": ("BF16", (8, 64))})
    assert check(tmp_path / "cache").problem == f"{tmp_path}/cache has its files in {inner}: name that folder"
    (inner / "model_index.json").write_text("{}")
    assert (
        check(tmp_path / "cache").problem == f"{tmp_path}/cache has its model_index.json in {inner}: name that folder"
    )
    # and one component is told from a model
    (tmp_path / "config.json").write_text('{"_class_name": "LTX2TextConnectors"}')
    assert "is one component, LTX2TextConnectors, not a whole model" in str(check(tmp_path).problem)


def test_a_lora_can_be_used_if_it_is_one(tmp_path: Path) -> None:
    pair = {"proj_in.lora_A.weight": ("BF16", (8, 64)), "proj_in.lora_B.weight": ("BF16", (64, 8))}
    found = check(sparse(tmp_path / "a.safetensors", pair))
    assert (found.usable, found.kind) == (True, "LoRA, rank 8")
    assert found.lines()[-1] == "  can be used under `loras:`, with the model that it was made for"
    # and so can a folder in which it is alone, as a job names it
    assert check(tmp_path).usable
    found = check(sparse(tmp_path / "b.safetensors", pair | {"x.lora_A.weight": ("BF16", (8, 64))}))
    assert not found.usable
    assert "only one factor of a pair for x" in str(found.problem)
    # and what a job refuses is refused with the same text
    dora = {"x.dora_scale": ("BF16", (8,))}
    for name, more, metadata in (
        ("c", dora, {}),
        ("c", {}, {"reference_downscale_factor": "2"}),
        ("ltx-2-19b-IC-LoRA-pose", {}, {}),
    ):
        file = sparse(tmp_path / f"{name}.SAFETENSORS", pair | more, **metadata)
        with pytest.raises(UnsupportedModelError) as error:
            resolve_lora(str(file))
        assert check(file).problem == str(error.value)
    assert check(sparse(tmp_path / "magic-lora.safetensors", pair)).usable


def test_the_cards_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/models.md").read_text()
    [rows] = re.findall(r"^\| GPU memory .*\n\|[-:|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows.splitlines() == [
        f"| {card.memory_gb} GB | {f'`{card.settings}`' if card.settings else 'none'} | {card.text_encoder} "
        f"| {card.size} | {card.peak_gib:g} | {card.main_gib:g} |"
        for card in CARDS
    ]


def test_an_upsampler_can_be_used_if_it_doubles_width_and_height(folder: Path, tmp_path: Path) -> None:
    # Given one in the layout of diffusers, and the same weights as a single file
    upsampler = folder / "latent_upsampler"
    file = shutil.copy(upsampler / "diffusion_pytorch_model.safetensors", tmp_path / "x2.safetensors")
    # Then
    for place in (upsampler, Path(file)):
        found = check(place)
        assert (found.usable, found.problem, len(found.parts)) == (True, None, 1)
        assert found.kind.startswith("latent upsampler")
        assert found.lines()[-1] == "  can be used as the `upsampler:` of a spec with `stages: 2`"
    assert "name it as the `upsampler:` of a spec" in recognize(Path(file)).advice
    # and others say what they do
    edit(upsampler / "config.json", rational_spatial_scale=1.5)
    assert check(upsampler).problem == (
        "upsamples 16 channels, 1.5 times in space and 1 times in time; it must be 2 times and 1 time"
    )
    conv = ("BF16", (8, 8, 3, 3, 3))
    found = check(sparse(tmp_path / "a.safetensors", {"initial_conv.weight": conv, "final_conv.weight": conv}))
    assert (found.usable, found.problem) == (False, "is not a latent upsampler of LTX-2")
    (upsampler / "diffusion_pytorch_model.safetensors").unlink()
    assert "is incomplete" in str(check(upsampler).problem)


def test_what_is_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"a\.bin is neither a \.safetensors nor a \.gguf file"):
        check(tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="no such model folder"):
        check(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no such file: "):
        check(tmp_path / "none.safetensors")


def test_the_command_prints_text_or_json_and_its_status(folder: Path) -> None:
    # When
    usable = CliRunner().invoke(main, ["model", "check", str(folder), "--json"])
    edit(folder / "transformer/config.json", quantization_config={"quant_method": "sdnq"})
    unusable = CliRunner().invoke(main, ["model", "check", str(folder)])
    # Then
    found = json.loads(usable.stdout)
    assert (usable.exit_code, found["version"], found["distilled"], found["usable"]) == (0, "2.3", True, True)
    more = {"what", "kind", "problem", "parts", "cards", "missing"}
    assert found.keys() == {"version", "distilled", "usable"} | more
    assert found["parts"][0].keys() == {"name", "source", "size", "precision"}
    assert unusable.exit_code == 1
    # and what cannot be read is answered, too
    damaged = CliRunner().invoke(main, ["model", "check", str(folder / "model_index.json"), "--json"])
    assert (damaged.exit_code, json.loads(damaged.stdout)["usable"]) == (1, False)
    assert "is neither a .safetensors nor a .gguf file" in json.loads(damaged.stdout)["problem"]
    assert unusable.stdout.splitlines()[-1].startswith("  cannot be used: ")


def test_checking_files_does_not_load_torch(folder: Path, tmp_path: Path) -> None:
    file = sparse(tmp_path / "a.safetensors", {"vae.encoder.x": ("BF16", (8,))})
    for what, status in ((folder, 0), (file, 1)):
        code = f"""
import sys
from tasks.cli import main
try:
    main(["model", "check", {str(what)!r}])
except SystemExit as ended:
    print(ended.code, *sorted({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
"""
        ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines()[-1] == str(status), ran.stdout + ran.stderr
