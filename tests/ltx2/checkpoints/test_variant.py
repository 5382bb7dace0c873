"""Reading a checkpoint's version from its configs, and rejecting unsupported ones."""

from __future__ import annotations

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES

from ltx2.checkpoints import random as tiny
from ltx2.checkpoints.variant import CONFIGURED, Variant, variant_of
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, first_timing
from tests.ltx2.checkpoint_files import edit

Configs = dict[str, dict[str, Any]]

FULL_SCHEDULE = {"use_dynamic_shifting": True, "shift_terminal": 0.1, "base_shift": 0.95, "max_shift": 2.05}
# The published configs, reduced to the keys that matter here; all others are defaults.
PUBLISHED: dict[str, Configs] = {
    "2.0": {
        "transformer": {"_class_name": "LTX2VideoTransformer3DModel", "in_channels": 128, "num_layers": 48},
        "vae": {
            "_class_name": "AutoencoderKLLTX2Video",
            "latent_channels": 128,
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        },
        "audio_vae": {"_class_name": "AutoencoderKLLTX2Audio"},
        "connectors": {"_class_name": "LTX2TextConnectors", "caption_channels": 3840},
        "vocoder": {"_class_name": "LTX2Vocoder", "output_sampling_rate": 24_000},
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, **FULL_SCHEDULE},
        "text_encoder": {"model_type": "gemma3"},
    },
}
PUBLISHED["2.3"] = PUBLISHED["2.0"] | {
    "transformer": PUBLISHED["2.0"]["transformer"] | {"cross_attn_mod": True, "audio_cross_attn_mod": True},
    "connectors": PUBLISHED["2.0"]["connectors"] | {"per_modality_projections": True},
    "vocoder": {"_class_name": "LTX2VocoderWithBWE", "output_sampling_rate": 48_000},
}
PUBLISHED["2.5"] = PUBLISHED["2.3"] | {
    "transformer": PUBLISHED["2.3"]["transformer"] | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True},
    "text_encoder": {"model_type": "gemma4_unified", "gemma_version": "gemma4-12b-ltx-v1"},
}
FIXED_SCHEDULE = {"use_dynamic_shifting": False, "shift_terminal": None}


def changed(version: str, component: str, **keys: Any) -> Configs:
    """The published configs of `version`, with `keys` changed in one component."""
    configs = PUBLISHED[version]
    return configs | {component: configs[component] | keys}


@pytest.mark.parametrize(
    ("version", "rate", "blocks", "steps"),
    [("2.0", 24_000, (29,), 40), ("2.3", 48_000, (28,), 30), ("2.5", 48_000, (28,), 30)],
)
def test_the_published_versions_are_recognised(version: str, rate: int, blocks: tuple[int, ...], steps: int) -> None:
    full = variant_of(PUBLISHED[version])
    assert full == Variant(version, distilled=False, layers=48)  # type: ignore[arg-type]
    assert (full.audio_rate, full.stg_blocks, full.steps) == (rate, blocks, steps)
    distilled = variant_of(changed(version, "scheduler", **FIXED_SCHEDULE))
    assert distilled == Variant(version, distilled=True, layers=48)  # type: ignore[arg-type]
    assert distilled.steps == len(DISTILLED_SIGMA_VALUES)
    assert full.image_crf == (18 if version == "2.5" else 33)
    assert (full.is_ancestral, distilled.is_ancestral) == (False, version == "2.5")
    assert [str(full), str(distilled)] == [f"LTX-{version}", f"LTX-{version}, distilled"]


def test_stg_perturbs_the_last_block_of_a_small_model() -> None:
    assert variant_of(changed("2.3", "transformer", num_layers=2)).stg_blocks == (1,)


def test_a_loaded_model_has_the_variant_of_its_files(models: dict[str, Path], engines: dict[str, Engine]) -> None:
    for name, folder in models.items():
        files = {part: next((folder / part).glob("*config.json")) for part in CONFIGURED if part != "text_encoder"}
        files["text_encoder"] = folder / "text_encoder/config.json"
        read = variant_of({part: json.loads(path.read_text()) for part, path in files.items()})
        assert engines[name].variant == read == Variant(tiny.VERSIONS[name], True, layers=2)


@pytest.mark.parametrize(
    ("component", "keys", "message"),
    [
        ("transformer", {"_class_name": "LTXVideoTransformer3DModel"}, "transformer/ has a LTXVideoTransformer3DMod"),
        ("transformer", {"_class_name": ["x"]}, "not an LTX-2 pipeline"),
        ("vae", {"_class_name": "AutoencoderKLLTXVideo"}, "vae/ has a AutoencoderKLLTXVideo, not AutoencoderKLLTX2V"),
        ("vocoder", {"_class_name": "BigVGAN"}, "not LTX2Vocoder or LTX2VocoderWithBWE"),
        ("scheduler", {"_class_name": "UniPCMultistepScheduler"}, "scheduler/ has a UniPC"),
        ("vae", {"_class_name": "LTX2VideoDiffusionDecoderModel"}, "vae/ has a .*, a diffusion decoder; longtake supp"),
        ("transformer", {"use_prompt_adaln_single": False}, "transformer/: use_prompt_adaln_single is False"),
        (
            "text_encoder",
            {"model_type": "gemma4"},
            "text_encoder/: model_type is 'gemma4'; it must be gemma3 or gemma4_u",
        ),
        ("text_encoder", {"model_type": None}, "text_encoder/: model_type is None"),
        (
            "vae",
            {"decoder_inject_noise": [False, True, False]},
            r"vae/: decoder_inject_noise is \[False, True, False\]",
        ),
        (
            "vae",
            {"decoder_inject_noise": True},
            "decoder_inject_noise is True; longtake supports only decoders that draw",
        ),
        ("vae", {"spatial_compression_ratio": 16}, "vae/: spatial_compression_ratio is 16.*only 32"),
        ("vae", {"spatial_compression_ratio": None}, "vae/: spatial_compression_ratio is None.*only 32"),
        ("vae", {"temporal_compression_ratio": 4}, "vae/: temporal_compression_ratio is 4.*only 8"),
        ("vae", {"latent_channels": 64}, "transformer/: in_channels is 128.*only 64"),
        ("transformer", {"out_channels": None}, "transformer/: out_channels is None.*only 128"),
        ("transformer", {"patch_size": 2}, "transformer/: patch_size is 2.*only 1"),
        ("transformer", {"patch_size_t": 2}, "transformer/: patch_size_t is 2"),
        ("transformer", {"num_layers": 0}, "num_layers is 0; it must be at least 1"),
        ("transformer", {"num_layers": True}, "num_layers is True; it must be at least 1"),
        *(
            ("transformer", {"pos_embed_max_pos": value}, "pos_embed_max_pos is .*; it must be whole seconds")
            for value in ("20", -1, 0.5, math.inf, True)
        ),
        ("audio_vae", {"latent_channels": 16}, "audio_vae/: latent_channels is 16.*only 8"),
        ("audio_vae", {"mel_hop_length": 256}, "audio_vae/: mel_hop_length is 256.*only 160"),
        ("vocoder", {"output_sampling_rate": 44_100}, "vocoder/: output_sampling_rate is 44100.*only 24000"),
        ("vocoder", {"out_channels": 1}, "vocoder/: out_channels is 1.*only 2"),
        ("vocoder", {"_class_name": "LTX2VocoderWithBWE"}, r"of LTX-2.3 \(vocoder/: LTX2VocoderW"),
        ("transformer", {"cross_attn_mod": True}, r"2.3 \(transformer/: cross_attn_mod\) and of LTX-2.0 \(no tr"),
        ("scheduler", {"use_dynamic_shifting": False}, "use_dynamic_shifting is False and shift_terminal is 0.1; a d"),
        ("scheduler", {"shift_terminal": None}, "use_dynamic_shifting is True and shift_terminal is None"),
        ("scheduler", {"shift": 3.0}, "scheduler/: shift is 3.0.*only 1.0"),
        ("scheduler", {"use_karras_sigmas": True}, "scheduler/: use_karras_sigmas is True"),
    ],
)
def test_an_unsupported_config_is_rejected(component: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        variant_of(changed("2.0", component, **keys))


@pytest.mark.parametrize(
    ("component", "keys", "message"),
    [
        (
            "transformer",
            {"ff_bias": True},
            r"2.5 \(.*: use_keyframes_abs.*, text_enc.* of LTX-2.3 \(no .*: ff_bias false\)",
        ),
        (
            "transformer",
            {"use_keyframes_abs_pos_embedding": False},
            r"LTX-2.3 \(no transformer/: use_keyframes_abs_pos",
        ),
        ("text_encoder", {"model_type": "gemma3"}, r"LTX-2.5 \(transformer/: ff.*\(no text_encoder/: gemma4_unified\)"),
        (
            "text_encoder",
            {"gemma_version": None},
            r"^text_encoder/: gemma_version is None, a stock Gemma 4; LTX-2.5 was ",
        ),
        (
            "text_encoder",
            {"gemma_version": "gemma4-12b-ltx-v2"},
            "gemma_version is 'gemma4-12b-ltx-v2', Gemma 4 'gemma4",
        ),
    ],
)
def test_the_signs_of_2_5_must_agree(component: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        variant_of(changed("2.5", component, **keys))
    # a loaded pipeline whose text encoder was left out has the other two
    assert (
        variant_of({name: part for name, part in PUBLISHED["2.5"].items() if name != "text_encoder"}).version == "2.5"
    )


def test_a_2_5_with_the_other_components_of_2_0_is_rejected() -> None:
    mixed = PUBLISHED["2.5"] | {
        "transformer": PUBLISHED["2.5"]["transformer"] | {"cross_attn_mod": False, "audio_cross_attn_mod": False},
        "connectors": PUBLISHED["2.0"]["connectors"],
        "vocoder": PUBLISHED["2.0"]["vocoder"],
    }
    with pytest.raises(
        CheckpointError, match=r"components of LTX-2.5 \(transformer/: ff_bias.* and of LTX-2.0 are mixed"
    ):
        variant_of(mixed)


@pytest.mark.parametrize(("name", "steps"), [("tiny", 30), ("tiny-2.0", 40), ("tiny-2.5", 30)])
def test_without_distillation_the_scheduler_sets_the_noise_levels(
    models: dict[str, Path], tmp_path: Path, name: str, steps: int
) -> None:
    # Given a small checkpoint with the scheduler of a model that is not distilled
    folder = shutil.copytree(models[name], tmp_path / "full")
    edit(folder / "scheduler/scheduler_config.json", **FULL_SCHEDULE, base_image_seq_len=1024)
    engine, seen = Engine.load(str(folder), device="cpu"), []
    engine.pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(float(kwargs["sigma"][0]) / 1000), with_kwargs=True
    )
    # When a segment is rendered
    engine.run(SegmentRequest("a boat", 3, 64, 64, first_timing(SegmentShape(9, Fraction(24), 1))))
    # Then the noise falls from 1 to the scheduler's last level, in as many steps as the model's authors advise
    first_stage = sorted(set(seen), reverse=True)
    assert len(first_stage) == steps
    assert (first_stage[0], first_stage[-1]) == pytest.approx((1.0, 0.1))
