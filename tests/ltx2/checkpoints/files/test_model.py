"""Which files a model consists of: parts next to it, in the folders of ComfyUI, and in the named text encoder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ltx2.checkpoints.files.model import describe
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.resolve import FileModel, HubModel, resolve_model
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.checkpoint_files import edit, shard, sparse
from tests.ltx2.checkpoints.files.test_recognition import GEMMA_3, LTX_VIDEO, UPSAMPLER
from tests.ltx2.exported_files import encoder_file, header_config, header_only, split_files


@pytest.fixture
def split(models: dict[str, Path], tmp_path: Path) -> Path:
    """The file with the transformer of a 2.5 in the folders of ComfyUI."""
    return split_files(models["tiny-2.5"], tmp_path / "comfy")


def resolved(named: Path, encoder: Path | str | None = None) -> object:
    return resolve_model(str(named), named.parent, None if encoder is None else str(encoder))


def test_parts_are_found_next_to_the_file_and_in_folders_of_comfyui(split: Path, tmp_path: Path) -> None:
    # Given files of other models and kinds next to those
    comfy = split.parents[1]
    sparse(comfy / "vae" / "sdxl.safetensors", {"decoder.conv_in.weight": ("F32", (8,))})
    diffusion = {"decoder.t_embedder.x": ("F32", (8,)), "per_channel_statistics.mean-of-means": ("F32", (8,))}
    sparse(comfy / "vae" / "video-vae.safetensors", diffusion, model_version="2.5.0")
    sparse(comfy / "text_encoders" / "gemma_3.safetensors", GEMMA_3)
    sparse(comfy / "text_encoders" / "qwen_3.safetensors", dict(list(GEMMA_3.items())[:2]))
    save_file(load_file(comfy / "vae" / "video-vae-conv.safetensors"), comfy / "vae" / "ltx-2.3-vae.safetensors")
    sparse(comfy / "diffusion_models" / "ltx-video.safetensors", LTX_VIDEO | {"vae.decoder.x": ("BF16", (8,))})
    sparse(comfy / "diffusion_models" / "lora.safetensors", {"a.lora_A.weight": ("BF16", (8, 64))})
    (comfy / "latent_upscale_models").mkdir()
    sparse(
        comfy / "latent_upscale_models" / "x2.safetensors", UPSAMPLER | {"upsampler.0.weight": ("BF16", (8, 8, 3, 3))}
    )
    header_only(comfy / "text_encoders" / "mmproj-F16.gguf", "clip", "v.blk.0.attn_q.weight")
    (comfy / "text_encoders" / "tokenizer.json").write_text("{}")
    (comfy / "vae" / "broken.safetensors").write_bytes(b"x")
    # When the file or the root is named
    for named in (split, comfy):
        found = describe(named, None)
        # Then
        assert (str(found.variant), found.variant.layers) == ("LTX-2.5, distilled", 2)
        assert {name: one.files[0].parent.name for name, one in found.components.items()} == {
            "transformer": "diffusion_models",
            "connectors": "diffusion_models",
            "vae": "vae",
            "audio_vae": "vae",
            "vocoder": "vae",
        }
        assert found.text_encoder is not None
        assert found.text_encoder.source.name == "gemma4-with-proj.safetensors"
    # and in folders that are links, also in two to the same and one that leads back
    (comfy / "vae").rename(tmp_path / "elsewhere")
    (comfy / "vae").mkdir()
    (comfy / "vae" / "ltx").symlink_to(tmp_path / "elsewhere")
    (comfy / "vae" / "loop").symlink_to(comfy / "vae")
    (comfy / "vae" / "again").symlink_to(tmp_path / "elsewhere")
    assert describe(split, None).components["vae"].files[0].name == "video-vae-conv.safetensors"
    # and all files in one folder are found, too, with suffixes in capitals
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (*comfy.rglob("gemma4*"), *(tmp_path / "elsewhere").rglob("*o-vae*"), split):
        shutil.copy(file, flat / file.name.upper())
    assert resolved(flat) == FileModel(flat)


def test_what_is_missing_is_named_with_where_to_get_it(split: Path, single: Path, models: dict[str, Path]) -> None:
    # Given
    shutil.rmtree(split.parents[1] / "vae")
    # When
    with pytest.raises(UnsupportedModelError) as error:
        resolved(split)
    # Then
    message = str(error.value)
    assert message.startswith(f"{split} is a part of a model of LTX-2.5: transformer, connectors")
    assert "missing: vae: get vae/ltx-2.5-video-vae-conv-bf16.safetensors from Lightricks/LTX-2.5" in message
    assert "text_encoder" not in message
    # and `model check` lists the same
    report = check_model(str(split), split)
    assert (report.version, report.distilled, report.usable) == ("2.5", True, False)
    assert report.problem == message
    assert [one.partition(":")[0] for one in report.missing] == ["vae", "audio_vae", "vocoder"]
    assert [part.name for part in report.parts] == ["transformer", "connectors", "text projections", "text_encoder"]
    # and a text encoder must be named where there is none
    with pytest.raises(UnsupportedModelError, match=r"missing: text_encoder: name a folder, a file or a hub id in"):
        resolved(single)
    assert not check_model(str(single), single).usable
    assert check_model(str(single), single, str(models["tiny"])).usable
    for name in ("a.safetensors", "gemma-Q4_K_M.gguf"):
        found = FileModel(single, HubModel("owner/name", "v1", file=name))
        assert resolved(single, f"owner/name@v1:{name}") == found
    shutil.copytree(models["tiny"] / "text_encoder", single.parent / "text_encoder")
    shutil.copytree(models["tiny"] / "tokenizer", single.parent / "tokenizer")
    assert resolved(single) == FileModel(single)


def test_a_choice_is_left_to_the_user(split: Path, models: dict[str, Path]) -> None:
    # Given two transformers, and two VAEs
    other = split.with_name("dev.safetensors")
    shutil.copy(split, other)
    vae = split.parents[1] / "vae" / "video-vae-conv.safetensors"
    # When / Then
    with pytest.raises(UnsupportedModelError, match=r"has 2 models: name one of them, .*dev\.safetensors"):
        resolved(split.parent)
    assert not describe(other, None).variant.distilled
    shutil.copy(vae, vae.with_name("second.safetensors"))
    with pytest.raises(UnsupportedModelError, match=r"vae: 2 files have it, .*second\.safetensors.*: keep one"):
        resolved(other)
    # but connectors of distilled weights and of others go with the transformer whose name says the same
    vae.unlink()
    for main, name in ((split, "connector_distill"), (other, "connector_dev")):
        tensors = load_file(main)
        inside = {key: tensors.pop(key) for key in list(tensors) if "embeddings_connector" in key}
        save_file(tensors, main, header_config(models["tiny-2.5"]) | {"model_version": "2.5.0"})
        save_file(inside, split.parents[1] / "text_encoders" / f"{name}.safetensors")
    for main, name in ((split, "connector_distill"), (other, "connector_dev")):
        assert describe(main, None).components["connectors"].files[0].stem == name
    # and a file that cannot be read is named where a part is missing
    (vae.parent / "second.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match=r"in a file that cannot be read: .*second\.safetensors is"):
        resolved(other)


def test_parts_of_two_versions_are_an_error(split: Path, models: dict[str, Path], single: Path) -> None:
    for encoder, named in ((models["tiny"], split), (models["tiny-2.5"], single)):
        with pytest.raises(CheckpointError, match=r"components of LTX-2\.5 .* are mixed"):
            resolved(named, encoder)
    tensors = load_file(single)
    save_file(tensors, single, header_config(models["tiny"]) | {"model_version": "2.5.0"})
    with pytest.raises(CheckpointError, match=r"its header says LTX-2\.5, and its tensors are those of LTX-2\.3"):
        resolved(single, models["tiny"])
    transformer = {name: tensor for name, tensor in tensors.items() if name.startswith("model.diffusion_model.")}
    save_file(transformer, single, {"model_version": "3.0.0"})
    assert check_model(str(single), single).missing == ("support of LTX-3.0: longtake supports 2.0, 2.3, 2.5",)
    save_file(tensors, single, {"model_version": "3.0.0"})
    with pytest.raises(UnsupportedModelError, match=r"is LTX-3\.0; longtake supports 2\.0, 2\.3, 2\.5"):
        resolved(single, models["tiny"])


def test_a_part_of_another_version_is_named(split: Path, single: Path, models: dict[str, Path]) -> None:
    # Given the transformer of a 2.3 with the VAE of a 2.5
    tensors = load_file(single)
    parts = {name: tensor for name, tensor in tensors.items() if not name.startswith("vae.")}
    save_file(parts, single, header_config(models["tiny"]))
    vae = shutil.copy(split.parents[1] / "vae" / "video-vae-conv.safetensors", single.parent)
    # When / Then
    with pytest.raises(UnsupportedModelError) as error:
        resolved(single, models["tiny"])
    assert f"missing: vae: {vae} has that of LTX-2.5; get a file that has it" in str(error.value)


def test_shards_and_pickled_files_are_refused_by_name(single: Path, models: dict[str, Path], tmp_path: Path) -> None:
    # Given shards of one file, as converters leave them, and weights in other formats
    index = shard(single)
    part = single.with_name(f"{single.stem}-00001-of-00002.safetensors")
    # When / Then
    for named in (part, single.parent):
        with pytest.raises(UnsupportedModelError, match=r"-00001-of-00002\.safetensors is one of 2 shards of one file"):
            resolved(named, models["tiny"])
        index.unlink(missing_ok=True)
    for suffix in (".ckpt", ".pt", ".pth", ".bin"):
        pickled = tmp_path / "old" / f"ltx{suffix}"
        pickled.parent.mkdir(exist_ok=True)
        pickled.write_bytes(b"x")
        for named in (pickled, pickled.parent):
            with pytest.raises(UnsupportedModelError, match="weights in it are pickled"):
                resolved(named)
        with pytest.raises(CheckpointError, match="weights in it are pickled"):
            check_model(str(pickled), tmp_path)
        pickled.unlink()


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("transformer", {"norm_eps": "1e-6"}, r"norm_eps in the config of its header is '1e-6'; it must be a positive"),
        ("transformer", {"rope_type": ["split"]}, r"rope_type .* is \['split'\]; it must be split or interleaved"),
        ("transformer", {"positional_embedding_max_pos": [-20]}, r"max_pos .* is \[-20\]; it must be positive numbers"),
        ("transformer", {"audio_positional_embedding_max_pos": 20}, "max_pos .* is 20; it must be positive numbers"),
        ("vae", {"causal_decoder": False}, None),
        ("vae", {"causal_decoder": "no"}, "causal_decoder .* is 'no'; it must be True or False"),
        ("vocoder", {"vocoder": [1]}, "shapes or config of another model$"),
        ("transformer", {"norm_eps": None}, None),
    ],
)
def test_settings_of_a_header_that_cannot_be_are_named(
    single: Path, models: dict[str, Path], part: str, settings: dict[str, object], message: str | None
) -> None:
    # Given
    config = json.loads(header_config(models["tiny"])["config"])
    config[part] = config.get(part, {}) | settings
    save_file(load_file(single), single, {"config": json.dumps(config)})
    # When
    problem = check_model(str(single), single, str(models["tiny"])).problem
    # Then
    assert re.search(message, problem or "") if message else problem is None


def test_a_file_of_a_component_is_refused_with_its_folder(models: dict[str, Path]) -> None:
    for name in ("transformer", "vae"):
        file = models["tiny"] / name / "diffusion_pytorch_model.safetensors"
        with pytest.raises(UnsupportedModelError, match=f"is one file of the model in {models['tiny']}: name that"):
            resolved(file)


def test_what_is_no_text_encoder_is_refused(single: Path, models: dict[str, Path], tmp_path: Path) -> None:
    def refusal(encoder: Path | str) -> str:
        with pytest.raises(CheckpointError) as error:
            resolved(single, encoder)
        return str(error.value)

    # Given
    whole = encoder_file(models["tiny"], tmp_path / "gemma.safetensors", {})
    tensors = load_file(whole)
    bare = tmp_path / "bare.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(("tokenizer", "hf_"))}, bare)
    folder = shutil.copytree(models["tiny"] / "text_encoder", tmp_path / "encoder")
    # When / Then
    assert resolved(single, whole) == FileModel(single, whole)
    assert (
        "has no tokenizer of Gemma in it: put tokenizer.json and tokenizer_config.json of this Gemma next to it"
        in refusal(bare)
    )
    assert "is a model in one file" in refusal(single)
    assert "no such text encoder: ./gemma.gguf" in refusal("./gemma.gguf")
    assert "has no config.json of gemma3 or gemma4_unified" in refusal(tmp_path)
    assert "has no tokenizer.json" in refusal(folder)
    part = shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    assert f"is one of 2 shards of one file: name the folder, {folder}, as `text_encoder`" in refusal(Path(part))
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantized: encoder/ with bitsandbytes" in refusal(folder)
    assert "no such text encoder: ./none" in refusal("./none")
    # and models in the layout of diffusers have their own
    for model in (str(models["tiny"]), "shapes", "tiny", "owner/name"):
        with pytest.raises(UnsupportedModelError, match="has its text encoder: remove text_encoder"):
            resolve_model(model, tmp_path, str(whole))
    with pytest.raises(UnsupportedModelError, match="has its text encoder: remove text_encoder"):
        check_model("shapes", tmp_path, str(whole))
    with pytest.raises(CheckpointError, match="is one component, gemma3"):
        resolve_model(str(models["tiny"] / "text_encoder"), tmp_path, str(whole))


@pytest.mark.parametrize("model", ["a/b:../c.safetensors", "a/b:c.bin", "a/b:", "/a/b:c.safetensors", "a/b@v:c d.gguf"])
def test_invalid_files_on_the_hub_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such model folder: .* or a hub id owner/name\[@revision\]\[:file\]"):
        resolve_model(model, tmp_path)
    assert resolve_model("a/b@v:c/d.safetensors", tmp_path) == FileModel(HubModel("a/b", "v", file="c/d.safetensors"))
