"""Fetching models and LoRAs from a hub, which is a local server here."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from ltx2.checkpoints.files.encoders import encoder_in_folder
from ltx2.checkpoints.formats.weight_files import read_header
from ltx2.checkpoints.hub.fetching import fetch_lora, fetch_model, full_name, in_cache
from ltx2.checkpoints.hub.files import fetch_encoder, fetch_files
from ltx2.checkpoints.hub_names import HubName
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.resolve import WEIGHTS, FileModel, HubModel, hub_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError, UnsupportedModelError
from ltx2.model.denoising.upsampler import LatentUpsampler
from ltx2.request import SegmentRequest
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, first_timing
from tests.ltx2.checkpoint_files import edit, shard, sparse
from tests.ltx2.checkpoints.hub.hub_server import COMMIT, Hub
from tests.ltx2.exported_files import single_file, split_files


def test_only_the_files_of_the_model_are_fetched(
    hub: Hub, models: dict[str, Path], engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a repository that also holds files that are not needed
    shutil.copytree(models["tiny"], hub.folder)
    half = "vae/diffusion_pytorch_model.fp16.safetensors"
    for name in ("ltx-2.3-22b-dev.safetensors", "text_encoder/diffusion_pytorch_model.safetensors", half):
        (hub.folder / name).write_bytes(b"stale")

    # When
    engine = Engine.load("owner/name@v1", device="cpu")

    # Then
    assert engine.variant == engines["tiny"].variant
    assert not [name for name in hub.requested if "dev" in name or "fp16" in name or "encoder/diffusion" in name]
    # And the model is found in the cache when offline
    online = check_model("owner/name@v1", hub.folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.server.shutdown()
    assert fetch_model(HubModel("owner/name", "v1")).name == COMMIT
    offline = check_model("owner/name@v1", hub.folder)
    assert (offline.usable, offline.parts[:6]) == (True, online.parts[:6])
    # but not what was never downloaded
    with pytest.raises(CheckpointError) as error:
        check_model("owner/other", hub.folder)
    assert str(error.value) == (
        f"cannot fetch owner/other: what is needed of it is not in the hub's cache, {tmp_path}/cache, and "
        "HF_HUB_OFFLINE is set: download it once without HF_HUB_OFFLINE"
    )


def test_only_the_shards_that_the_index_names_are_fetched(hub: Hub, models: dict[str, Path]) -> None:
    # Given a repository that has the same weights as shards, as other shards, and as a single file
    shutil.copytree(models["tiny-2.5"], hub.folder)
    single = hub.folder / "transformer/diffusion_pytorch_model.safetensors"
    weights = single.read_bytes()
    shard(single)
    for name in (single.name, *(f"diffusion_pytorch_model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))):
        single.with_name(name).write_bytes(weights)
    # When
    engine = Engine.load("owner/name", device="cpu")
    # Then
    assert engine.variant.version == "2.5"
    assert {name for name in hub.requested if name.startswith("transformer/") and name.endswith(".safetensors")} == {
        f"transformer/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)
    }


def test_of_two_transformers_one_is_fetched(hub: Hub, models: dict[str, Path], tmp_path: Path) -> None:
    # Given a repository with both, and the full one as shards and again as a single file
    shutil.copytree(models["tiny-2.5"], hub.folder)
    single = hub.folder / "transformer_full/diffusion_pytorch_model.safetensors"
    weights = single.read_bytes()
    shard(single)
    single.write_bytes(weights)
    # When
    assert full_name("owner/name", tmp_path) == "owner/name#full"
    found = check_model("owner/name#full", tmp_path)
    engine = Engine.load("owner/name#full", device="cpu")
    # Then
    assert (str(engine.variant), found.distilled, found.usable) == ("LTX-2.5", False, True)
    assert {name for name in hub.requested if name.startswith("transformer") and name.endswith(".safetensors")} == {
        f"transformer_full/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)
    }
    # and without the name, the other one
    hub.requested.clear()
    assert Engine.load("owner/name", device="cpu").variant.distilled
    assert not [name for name in hub.requested if name.startswith(("transformer_full", "diffusion_decoder"))]


def test_an_upsampler_is_fetched_when_it_is_needed(hub: Hub, models: dict[str, Path]) -> None:
    # Given a model from a hub, whose upsampler is not fetched at first
    shutil.copytree(models["tiny"], hub.folder)
    engine = Engine.load("owner/name", device="cpu")
    assert not [name for name in hub.requested if name.startswith("latent_upsampler/")]

    # When a segment needs it
    timing = first_timing(SegmentShape(9, Fraction(24), 1))
    engine.run(SegmentRequest("a boat", 3, 64, 64, timing, Sampling(stages=2)))

    # Then it is fetched
    assert [name for name in hub.requested if name.startswith("latent_upsampler/diffusion")]


def test_an_upsampler_of_its_own_is_fetched(hub: Hub, models: dict[str, Path], engines: dict[str, Engine]) -> None:
    # Given a repository with an upsampler and other things, and then with one as a single file
    shutil.copytree(models["tiny"] / "latent_upsampler", hub.folder)
    sparse(hub.folder / "more.safetensors", {"a": ("BF16", (1,))})
    upsampler = LatentUpsampler(engines["tiny"].pipeline, None)
    upsampler.load("owner/name")
    assert "more.safetensors" not in hub.requested
    (hub.folder / "diffusion_pytorch_model.safetensors").rename(hub.folder / "x2.safetensors")
    (hub.folder / "config.json").unlink()
    upsampler.load("owner/name@v1:x2.safetensors")
    # Then the check knows what is alone in a repository
    (hub.folder / "more.safetensors").rename(hub.folder / "more.txt")
    found = check_model("owner/name", hub.folder)
    assert (found.usable, found.kind, found.problem) == (True, "latent upsampler", None)
    named = check_model("owner/name:x2.safetensors", hub.folder)
    assert (named.usable, named.parts[0].source) == (True, "owner/name:x2.safetensors")
    (hub.folder / "more.txt").rename(hub.folder / "more.safetensors")
    # When it is not named, Then the error says so
    with pytest.raises(CheckpointError, match=r"owner/name has 2 \.safetensors files, .* and 1 more: name one of them"):
        upsampler.load("owner/name")


def test_a_repository_without_an_upsampler_is_an_error(hub: Hub, engines: dict[str, Engine]) -> None:
    hub.folder.mkdir()
    (hub.folder / "README.md").write_text("x")
    with pytest.raises(RequestError, match="has no latent_upsampler"):
        LatentUpsampler(engines["tiny"].pipeline, HubModel("owner/name")).load()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_keyframes_abs_pos_embedding": True}, r"components of LTX-2\.5 .* are mixed"),
        ({"quantization_config": {"quant_method": "sdnq"}}, "is quantized: transformer/ with SDNQ"),
    ],
)
def test_the_weights_of_an_unsupported_model_are_not_fetched(
    hub: Hub, models: dict[str, Path], keys: dict[str, object], message: str
) -> None:
    shutil.copytree(models["tiny"], hub.folder)
    edit(hub.folder / "transformer/config.json", **keys)
    with pytest.raises(CheckpointError, match=message):
        fetch_model(HubModel("owner/name"))
    assert hub.requested
    assert not [name for name in hub.requested if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vae/diffusion_pytorch_model.safetensors", ""),
        (
            "vae/diffusion_pytorch_model.fp16.safetensors",
            ", only a variant, vae/diffusion_pytorch_model.fp16.safetensors, which longtake does not read",
        ),
        ("vae/diffusion_pytorch_model-00002-of-00002.safetensors", ""),
    ],
)
def test_a_repository_without_weights_is_incomplete(hub: Hub, models: dict[str, Path], name: str, more: str) -> None:
    # Given a repository whose VAE has no weights, weights of another name, or a shard too few
    shutil.copytree(models["tiny"], hub.folder)
    weights = hub.folder / "vae/diffusion_pytorch_model.safetensors"
    lacking = "vae/diffusion_pytorch_model.safetensors"
    if "variant" in more:
        weights.rename(hub.folder / name)
    elif "-of-" in name:
        shard(weights)
        lacking = name
        (hub.folder / name).unlink()
    else:
        weights.unlink()
    # When
    found = check_model("owner/name", hub.folder)
    with pytest.raises(CheckpointError) as error:
        Engine.load("owner/name", device="cpu")
    # Then the check and a worker say the same, and no weights were fetched
    assert found.problem == str(error.value) == f"owner/name is incomplete: it has no {lacking}{more}"
    assert [one.partition(":")[0] for one in found.missing] == ["vae"]
    assert not list((hub.folder.parent / "cache").rglob("*.safetensors"))


def test_a_repository_is_checked_without_downloading_weights(hub: Hub, models: dict[str, Path]) -> None:
    # Given
    shutil.copytree(models["tiny"], hub.folder)
    shutil.rmtree(hub.folder / "latent_upsampler")
    # When
    found = check_model("owner/name@v1", hub.folder)
    # Then
    assert (found.version, found.distilled, found.usable) == ("2.3", True, True)
    assert [part.name for part in found.parts] == list(WEIGHTS)
    assert found.parts[2].size == (hub.folder / "transformer/diffusion_pytorch_model.safetensors").stat().st_size
    assert found.parts[2].precision == "F32"
    assert found.missing[0].startswith("latent_upsampler (only `stages: 2` needs it): owner/name@v1 has none")


def test_a_bare_repository_is_told_what_it_is(hub: Hub) -> None:
    # Given
    hub.folder.mkdir()
    sparse(hub.folder / "ltx-2.3-distilled.safetensors", {"a.lora_A.weight": ("BF16", (8, 64))})
    # When
    found = check_model("owner/name", hub.folder)
    # Then
    assert [(part.name, part.precision) for part in found.parts] == [("LoRA", "BF16")]
    assert "owner/name has ltx-2.3-distilled.safetensors, and no model_index.json" in str(found.problem)
    # and the same text refuses it at once when it is loaded
    with pytest.raises(UnsupportedModelError) as error:
        fetch_model(HubModel("owner/name"))
    assert str(error.value) == found.problem
    # and a LoRA that a job can name can be used, alone in its repository or by its name
    factors = {f"proj_in.lora_{side}.weight": ("BF16", shape) for side, shape in (("A", (8, 64)), ("B", (64, 8)))}
    sparse(hub.folder / "ltx-2.3-distilled.safetensors", factors)
    for what in ("owner/name", "owner/name:ltx-2.3-distilled.safetensors"):
        found = check_model(what, hub.folder)
        assert (found.usable, found.kind) == (True, "LoRA, rank 8")
        assert found.parts[0].source == "owner/name:ltx-2.3-distilled.safetensors"


def test_a_file_is_fetched_with_the_parts_that_it_lacks(
    hub: Hub, models: dict[str, Path], engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a repository with the files of a model, and others
    main = split_files(models["tiny-2.5"], hub.folder).relative_to(hub.folder)
    shutil.copy(hub.folder / main, hub.folder / "diffusion_models" / "dev.safetensors")
    sparse(hub.folder / "loras.safetensors", {"a.lora_A.weight": ("BF16", (8, 64))})
    int8 = {"model.layers.0.mlp.up_proj.weight": ("I8", (8, 8)), "model.layers.0.layer_scalar": ("BF16", (1,))}
    sparse(hub.folder / "text_encoders" / "int8.safetensors", int8)
    named = f"owner/name@v1:{main}"
    # When
    report = check_model(named, hub.folder)
    # Then its parts are known from their headers
    assert (report.version, report.distilled, report.usable, report.missing) == ("2.5", True, True, ())
    assert {part.name: part.source for part in report.parts}["vae"] == "owner/name@v1:vae/video-vae-conv.safetensors"
    # and what is downloaded renders as the folder does
    engine = Engine.load(named, device="cpu")
    request = SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, Fraction(24))))
    latents = [one.run(request).video_latents for one in (engine, engines["tiny-2.5"])]
    assert torch.equal(*latents)
    # and a file that is not there, or is no model, is refused
    with pytest.raises(UnsupportedModelError, match=r"owner/name has no file a\.safetensors"):
        Engine.load("owner/name:a.safetensors", device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"loras\.safetensors is a LoRA"):
        Engine.load("owner/name:loras.safetensors", device="cpu")
    # and so are weights that are not read, before anything is downloaded
    fp4 = {name: ("BF16", one.shape) for name, one in read_header(hub.folder / main).tensors.items()}
    sparse(hub.folder / "fp4.safetensors", fp4 | {"a.weight_scale_2": ("F32", (1,))}, model_version="2.5.0")
    hub.requested.clear()
    with pytest.raises(UnsupportedModelError, match=r"transformer: fp4\.safetensors has weights in NVFP4") as error:
        Engine.load("owner/name@v1:fp4.safetensors", device="cpu")
    assert check_model("owner/name@v1:fp4.safetensors", hub.folder).problem == str(error.value)
    sparse(hub.folder / "next.safetensors", fp4, model_version="3.0.0")
    with pytest.raises(UnsupportedModelError, match=r"support of LTX-3\.0: longtake supports 2\.0, 2\.3, 2\.5"):
        Engine.load("owner/name@v1:next.safetensors", device="cpu")
    assert not [*hub.folder.parent.rglob("cache/**/fp4.safetensors"), *hub.folder.parent.rglob("cache/**/next.safet*")]
    # and offline, the files that were downloaded are a model
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert check_model(named, hub.folder).usable
    assert Path(fetch_files(FileModel(hub_model(named))).named).name == main.name


def test_only_the_text_encoder_of_a_repository_is_fetched(hub: Hub, models: dict[str, Path], tmp_path: Path) -> None:
    # Given a model in a file here, and its text encoder on the hub, in the layout of diffusers
    shutil.copytree(models["tiny"], hub.folder)
    shard(hub.folder / "text_encoder/model.safetensors")
    file = single_file(models["tiny"], tmp_path / "ltx-distilled.safetensors")
    # When
    engine = Engine.load(str(file), device="cpu", encoder="owner/name@v1")
    # Then
    assert engine.variant.version == "2.3"
    fetched = {name.partition("/")[0] for name in hub.requested if name.endswith(".safetensors")}
    assert fetched == {"text_encoder"}


def test_a_whole_repository_may_be_a_text_encoder(hub: Hub, models: dict[str, Path]) -> None:
    # Given
    shutil.copytree(models["tiny"] / "text_encoder", hub.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["tiny"] / "tokenizer" / name, hub.folder)
    # When
    folder = fetch_encoder(HubModel("owner/name"))
    # Then
    assert encoder_in_folder(folder).source == folder
    assert fetch_encoder(HubModel("owner/name", file="model.safetensors")) == folder / "model.safetensors"
    # and one that is not read is refused before it is downloaded
    tensors = {f"model.layers.0.mlp.up_proj.{end}": ("F32", (4,)) for end in ("weight", "weight_scale_2")}
    sparse(hub.folder / "fp4.safetensors", tensors)
    with pytest.raises(
        UnsupportedModelError, match=r"owner/name:fp4\.safetensors has weights in NVFP4: longtake reads"
    ):
        fetch_encoder(HubModel("owner/name", file="fp4.safetensors"))
    assert not (folder / "fp4.safetensors").exists()


@pytest.mark.parametrize("model", [HubModel("owner/other"), HubModel("owner/name", "v2")])
def test_a_missing_repository_or_revision_is_an_error(hub: Hub, model: HubModel) -> None:
    with pytest.raises(CheckpointError, match=f"cannot fetch {model.repository}: "):
        fetch_model(model)


def test_a_lora_is_the_only_file_or_given_by_name(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.folder.mkdir()
    save_file({"a": torch.ones(1)}, hub.folder / "a.safetensors")
    (hub.folder / "README.md").write_text("x")
    assert fetch_lora(HubName("owner/name")).name == "a.safetensors"
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert fetch_lora(HubName("owner/name")).name == "a.safetensors"
        with pytest.raises(CheckpointError, match="owner/name: what is needed of it is not in the hub's cache"):
            fetch_lora(HubName("owner/name", None, "b.safetensors"))
    save_file({"b": torch.ones(1)}, hub.folder / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"owner/name has 2 \.safetensors files, a.* and 1 more: name one of"):
        fetch_lora(HubName("owner/name"))
    assert fetch_lora(HubName("owner/name", "v1", "b.safetensors")).name == "b.safetensors"
    with pytest.raises(CheckpointError, match="cannot fetch owner/name"):
        fetch_lora(HubName("owner/name", None, "c.safetensors"))


def test_what_is_fetched_must_lie_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    # Given a revision that is a path, past every other check
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.safetensors").touch()
    # When / Then
    with pytest.raises(CheckpointError):
        fetch_lora(HubName("owner/name", str(tmp_path / "elsewhere"), "x.safetensors"))
    with pytest.raises(CheckpointError, match="is not in the hub's cache"):
        in_cache(str(tmp_path / "elsewhere"))
