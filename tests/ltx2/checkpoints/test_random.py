from __future__ import annotations

import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from diffusers import LTX2ConditionPipeline

from ltx2.checkpoints import random as tiny
from ltx2.checkpoints.resolve import small_folder
from ltx2.errors import CheckpointError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", tiny.VERSIONS.values())
def test_the_seed_alone_decides_the_bytes(tmp_path: Path, version: tiny.Version) -> None:
    # When a version is built twice with one seed, and once with another
    first, again, other = (
        contents(tiny.build(tmp_path / name, version=version, seed=seed))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )

    # Then only the other seed gives other bytes
    assert first == again
    assert first != other


def test_every_file_is_world_readable_and_the_total_is_small(models: dict[str, Path]) -> None:
    for folder in models.values():
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
        assert sum(path.stat().st_size for path in files) < 9 * 2**20


@pytest.mark.parametrize(("name", "rate"), [("tiny", 48_000), ("tiny-2.0", 24_000), ("tiny-2.5", 48_000)])
def test_the_stock_pipeline_loads_the_published_geometry(models: dict[str, Path], name: str, rate: int) -> None:
    # When diffusers loads it by its model index
    pipeline = LTX2ConditionPipeline.from_pretrained(models[name], low_cpu_mem_usage=False)

    # Then compression, latents, sound and prompt length are as published
    mel = pipeline.audio_mel_bins // pipeline.audio_vae_mel_compression_ratio
    assert (pipeline.vae_spatial_compression_ratio, pipeline.vae_temporal_compression_ratio) == (32, 8)
    assert (pipeline.audio_latent_channels, mel) == (8, 16)
    mel_rate = pipeline.audio_sampling_rate / pipeline.audio_hop_length
    assert mel_rate / pipeline.audio_vae_temporal_compression_ratio == 25
    assert pipeline.vocoder.config.output_sampling_rate == rate
    assert pipeline.vocoder.config.out_channels == 2
    assert pipeline.tokenizer_max_length == 1024


def test_any_prompt_has_known_tokens(models: dict[str, Path]) -> None:
    pipeline = LTX2ConditionPipeline.from_pretrained(models["tiny"], low_cpu_mem_usage=False)
    for prompt in ("", "a boat", "霧の港 🚢"):
        tokens = pipeline.tokenizer(prompt).input_ids
        assert tokens[0] == pipeline.tokenizer.bos_token_id
        assert pipeline.tokenizer.unk_token_id not in tokens


def test_concurrent_calls_build_the_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a cache that holds only the remains of a killed build
    build, built = tiny.build, []
    (tmp_path / f".{small_folder(tmp_path, 'tiny').name}.partial" / "vae").mkdir(parents=True)

    def counted(folder: Path, **settings: Any) -> Path:
        built.append(folder)
        return build(folder, **settings)

    monkeypatch.setattr(tiny, "build", counted)

    # When several threads request it at once
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: tiny.ensure(tmp_path), range(4)))

    # Then it is built once, and no partial build is left
    assert folders == set(built)
    assert len(built) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [small_folder(tmp_path, "tiny").name]


def test_a_failed_build_says_why_and_leaves_no_folder(tmp_path: Path) -> None:
    # Given a limit on files that stops the weights, as a full disk does
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    # When / Then
    try:
        with pytest.raises(CheckpointError, match=r"tiny-r\d+: File too large; LONGTAKE_HOME must be a folder"):
            tiny.ensure(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_unknown_name_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'huge'.*tiny, tiny-2\.0, tiny-2\.5"):
        tiny.ensure(tmp_path, "huge")
