"""The configs of components that are in files: from the shapes of their tensors, and from the header where it has them.

What neither says is that of the published models: the values are those of diffusers' own conversion, 0.42.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ltx2.checkpoints.variant import Version
from ltx2.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
Settings = Mapping[str, Any]

_HEADS, _CONNECTOR_HEADS = 32, 30  # where no gate tells their number, which is in 2.0
_DILATIONS = [1, 3, 5]

_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKLLTX2Video",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 4,
    "patch_size_t": 1,
    "encoder_causal": True,
    "decoder_causal": False,
    "encoder_spatial_padding_mode": "zeros",
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "spatio_temporal_scaling": [True] * 4,
}
_VAE_DECODER: dict[int, dict[str, Any]] = {
    3: {
        "decoder_spatial_padding_mode": "reflect",
        "upsample_type": ["spatiotemporal"] * 3,
        "upsample_residual": [True] * 3,
        "upsample_factor": [2, 2, 2],
    },
    4: {
        "decoder_spatial_padding_mode": "zeros",
        "upsample_type": ["spatiotemporal", "spatiotemporal", "temporal", "spatial"],
        "upsample_residual": [False] * 4,
        "upsample_factor": [2, 2, 1, 2],
    },
}
"""By the number of blocks: 3 in 2.0, 4 in 2.3 and 2.5."""
_FLAG = (True, False)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "rope_type": ("split", "interleaved"),
    "spatial_padding_mode": ("zeros", "reflect", "replicate", "circular"),
    "use_prompt_adaln_single": _FLAG,
    "causal_decoder": _FLAG,
}
"""The values of settings that are no numbers."""
_SNAKE = {"act_fn": "snakebeta", "antialias": True, "final_act_fn": None, "final_bias": False}
_UPSAMPLE_FACTORS = {
    (16, 15, 8, 4, 4): [6, 5, 2, 2, 2],
    (11, 4, 4, 4, 4, 4): [5, 2, 2, 2, 2, 2],
    (12, 11, 4, 4, 4): [6, 5, 2, 2, 2],
}
"""By the sizes of the kernels."""


def transformer_config(shapes: Shapes, settings: Settings) -> dict[str, Any]:
    """The config of a transformer with tensors of these `shapes`. settings: `transformer` of the header's config."""
    config: dict[str, Any] = {"_class_name": "LTX2VideoTransformer3DModel", "rope_type": "split"}
    config["num_layers"] = _count(shapes, r"transformer_blocks\.(\d+)\.")
    config["cross_attn_mod"] = config["audio_cross_attn_mod"] = "prompt_adaln.linear.weight" in shapes
    config["perturbed_attn"] = config["cross_attn_mod"]
    config["use_prompt_embeddings"] = "caption_projection.linear_1.weight" in shapes
    if config["use_prompt_embeddings"]:
        config["caption_channels"] = shapes["caption_projection.linear_1.weight"][1]
    config["use_keyframes_abs_pos_embedding"] = "keyframes_abs_pos_embedding" in shapes
    for stream in ("", "audio_"):
        block = "transformer_blocks.0."
        width, config[f"{stream}in_channels"] = _shape(shapes, f"{stream}proj_in.weight")
        config[f"{stream}out_channels"] = _shape(shapes, f"{stream}proj_out.weight")[0]
        gate = shapes.get(f"{block}{stream}attn1.to_gate_logits.weight")
        config[f"{stream}gated_attn"] = gate is not None
        heads = gate[0] if gate else int(settings.get(f"{stream}num_attention_heads", _HEADS))
        config |= {f"{stream}num_attention_heads": heads, f"{stream}attention_head_dim": width // heads}
        config[f"{stream}cross_attention_dim"] = _shape(shapes, f"{block}{stream}attn2.to_k.weight")[1]
        config[f"{stream}ff_bias"] = f"{block}{stream}ff.net.2.bias" in shapes
    config |= _given(
        settings,
        norm_eps="norm_eps",
        positional_embedding_theta="rope_theta",
        timestep_scale_multiplier="timestep_scale_multiplier",
        av_ca_timestep_scale_multiplier="cross_attn_timestep_scale_multiplier",
        use_prompt_adaln_single="use_prompt_adaln_single",
    )
    return config | _rope(settings) | _positions(settings)


def connectors_config(shapes: Shapes, settings: Settings, text_width: int | None) -> dict[str, Any]:
    """The config of connectors; see `transformer_config`. text_width: of the text encoder, None if it is not known."""
    per_stream = "video_text_proj_in.weight" in shapes
    config: dict[str, Any] = {"_class_name": "LTX2TextConnectors", "rope_type": "split"}
    config["per_modality_projections"] = per_stream
    projection = _shape(shapes, "video_text_proj_in.weight" if per_stream else "text_proj_in.weight")
    width = projection[0] if not per_stream else text_width or int(settings.get("caption_channels", 3840))
    config |= {"caption_channels": width, "text_proj_in_factor": projection[1] // width}
    config["proj_bias"] = ("video_text_proj_in.bias" if per_stream else "text_proj_in.bias") in shapes
    for stream, prefix in (("video", "connector"), ("audio", "audio_connector")):
        first = f"{stream}_connector.transformer_blocks.0.attn1."
        inner = _shape(shapes, f"{first}to_q.weight")[0]
        gate = shapes.get(f"{first}to_gate_logits.weight")
        default = settings.get("connector_num_attention_heads", _CONNECTOR_HEADS)
        heads = gate[0] if gate else int(settings.get(f"{prefix}_num_attention_heads", default))
        registers = shapes.get(f"{stream}_connector.learnable_registers")
        config |= {
            f"{stream}_connector_num_layers": _count(shapes, rf"{stream}_connector\.transformer_blocks\.(\d+)\."),
            f"{stream}_connector_num_attention_heads": heads,
            f"{stream}_connector_attention_head_dim": inner // heads,
            f"{stream}_connector_num_learnable_registers": registers[0] if registers else None,
            f"{stream}_gated_attn": gate is not None,
        }
        if per_stream:
            config[f"{stream}_hidden_dim"] = _shape(shapes, f"{stream}_text_proj_in.weight")[0]
    if positions := _numbers(settings, "connector_positional_embedding_max_pos"):
        config["connector_rope_base_seq_len"] = positions[0]
    return config | _rope(settings)


def vae_config(shapes: Shapes, settings: Settings) -> dict[str, Any]:
    """The config of a convolutional video VAE; see `transformer_config`. settings: `vae` of the header's config."""
    downs, ups = (_count(shapes, rf"{path}\.(\d+)\.") for path in (r"encoder\.down_blocks", r"decoder\.up_blocks"))
    if downs != 4 or ups not in _VAE_DECODER:
        raise CheckpointError(f"a video VAE with {downs} and {ups} blocks; longtake supports those of LTX-2")
    encoder = [f"encoder.down_blocks.{number}" for number in range(downs)] + ["encoder.mid_block"]
    decoder = [f"decoder.up_blocks.{number}" for number in reversed(range(ups))] + ["decoder.mid_block"]
    fixed = _VAE_DECODER[ups]
    config = _VAE | fixed
    config["latent_channels"] = _shape(shapes, "latents_mean")[0]
    config["block_out_channels"] = [_resnet_width(shapes, block) for block in encoder[1:]]
    config["decoder_block_out_channels"] = [
        _resnet_width(shapes, block) * factor for block, factor in zip(decoder, fixed["upsample_factor"], strict=False)
    ]
    for key, blocks in (("layers_per_block", encoder), ("decoder_layers_per_block", decoder)):
        config[key] = [_count(shapes, rf"{re.escape(block)}\.resnets\.(\d+)\.") for block in blocks]
    config["decoder_spatio_temporal_scaling"] = [True] * ups
    config["decoder_inject_noise"] = [False] * (ups + 1)
    config["timestep_conditioning"] = any(name.startswith("decoder.time_embedder.") for name in shapes)
    return config | _given(
        settings, spatial_padding_mode="decoder_spatial_padding_mode", causal_decoder="decoder_causal"
    )


def audio_vae_config(shapes: Shapes, settings: Settings) -> dict[str, Any]:
    """The config of an audio VAE; see `transformer_config`. settings: `audio_vae` of the header's config."""
    base = _shape(shapes, "encoder.conv_in.conv.weight")[0]
    levels = _count(shapes, r"encoder\.down\.(\d+)\.block\.")
    widths = [_shape(shapes, f"encoder.down.{level}.block.0.conv2.conv.weight")[0] for level in range(levels)]
    parameters = settings.get("model", {}).get("params", {})
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKLLTX2Audio",
        "base_channels": base,
        "ch_mult": [width // base for width in widths],
        "num_res_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _shape(shapes, "decoder.conv_in.conv.weight")[1],
        "output_channels": _shape(shapes, "decoder.conv_out.conv.weight")[0],
        "in_channels": _shape(shapes, "encoder.conv_in.conv.weight")[1],
        "mid_block_add_attention": any(".attn_1." in name for name in shapes),
    }
    return config | _given(parameters, sampling_rate="sample_rate")


def vocoder_config(shapes: Shapes, settings: Settings) -> dict[str, Any]:
    """The config of a vocoder, flat as in 2.0 or nested; see `transformer_config`. settings: `vocoder` there."""
    if not any(name.startswith("bwe_generator.") for name in shapes):
        return {"_class_name": "LTX2Vocoder", **_generator(shapes, "", settings)}
    stage, bwe = settings.get("vocoder", {}), settings.get("bwe", {})
    mels, bins = _shape(shapes, "mel_stft.mel_basis")
    config = {"_class_name": "LTX2VocoderWithBWE", **_SNAKE, **_generator(shapes, "vocoder.", stage)}
    inner = _SNAKE | _generator(shapes, "bwe_generator.", bwe)
    config |= {f"bwe_{key}": value for key, value in inner.items()}
    window = 2 * (bins - 1)
    config |= {"num_mel_channels": mels, "filter_length": window, "window_length": window}
    return config | _given(
        bwe,
        hop_length="hop_length",
        input_sampling_rate="input_sampling_rate",
        output_sampling_rate="output_sampling_rate",
    )


def scheduler_config(distilled: bool) -> dict[str, Any]:
    """The config of the scheduler: files have none that tells distilled weights from others."""
    config: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    config |= {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}
    return config | {"use_dynamic_shifting": not distilled, "shift_terminal": None if distilled else 0.1}


def version_of_names(names: Iterable[str]) -> Version:
    """The version of a transformer with tensors of these names, of the authors or of diffusers."""
    names = list(names)
    if any(name.endswith("keyframes_abs_pos_embedding") for name in names):
        return "2.5"
    return "2.3" if any("prompt_adaln" in name for name in names) else "2.0"


def _generator(shapes: Shapes, prefix: str, settings: Settings) -> dict[str, Any]:
    """Sizes of the generator whose tensors begin with `prefix`."""
    ups = _count(shapes, rf"{re.escape(prefix)}upsamplers\.(\d+)\.")
    resnets = _count(shapes, rf"{re.escape(prefix)}resnets\.(\d+)\.") // max(ups, 1)
    hidden, channels, _ = _shape(shapes, f"{prefix}conv_in.weight")
    kernels = [_shape(shapes, f"{prefix}upsamplers.{number}.weight")[2] for number in range(ups)]
    layers = [_count(shapes, rf"{re.escape(prefix)}resnets\.{number}\.convs1\.(\d+)\.") for number in range(resnets)]
    factors = settings.get("upsample_rates") or _UPSAMPLE_FACTORS.get(tuple(kernels))
    if factors is None:
        raise CheckpointError(f"a vocoder with kernels of {kernels}; longtake supports those of LTX-2")
    return {
        "in_channels": channels,
        "hidden_channels": hidden,
        "out_channels": _shape(shapes, f"{prefix}conv_out.weight")[0],
        "upsample_kernel_sizes": kernels,
        "upsample_factors": list(factors),
        "resnet_kernel_sizes": [
            _shape(shapes, f"{prefix}resnets.{number}.convs1.0.weight")[2] for number in range(resnets)
        ],
        "resnet_dilations": settings.get("resblock_dilation_sizes") or [_DILATIONS[:count] for count in layers],
    }


def _rope(settings: Settings) -> dict[str, Any]:
    rope = _given(settings, rope_type="rope_type")
    if "frequencies_precision" in settings:
        rope["rope_double_precision"] = settings["frequencies_precision"] == "float64"
    return rope


def _positions(settings: Settings) -> dict[str, Any]:
    """The largest positions that rotary embeddings are scaled to: seconds, height and width."""
    names = ("pos_embed_max_pos", "base_height", "base_width")
    found = dict(zip(names, _numbers(settings, "positional_embedding_max_pos"), strict=False))
    if audio := _numbers(settings, "audio_positional_embedding_max_pos"):
        found["audio_pos_embed_max_pos"] = audio[0]
    return found


def _numbers(settings: Settings, key: str) -> list[Any]:
    """A list of positive numbers, empty if there is none; CheckpointError if it is something else."""
    value = settings.get(key) or []
    if not isinstance(value, list) or not all(map(_is_positive, value)):
        raise CheckpointError(f"{key} in the config of its header is {value!r:.100}; it must be positive numbers")
    return value


def _given(settings: Settings, **names: str) -> dict[str, Any]:
    """The `settings` that are there, by the names of diffusers; CheckpointError if one is of another type."""
    return {name: _checked(key, settings[key]) for key, name in names.items() if settings.get(key) is not None}


def _checked(key: str, value: Any) -> Any:
    choices = _CHOICES.get(key)
    right = _is_positive(value) if choices is None else isinstance(value, str | bool) and value in choices
    if not right:
        expected = "a positive number" if choices is None else " or ".join(map(str, choices))
        raise CheckpointError(f"{key} in the config of its header is {value!r:.100}; it must be {expected}")
    return value


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _count(shapes: Shapes, numbered: str) -> int:
    """How many different numbers the pattern `numbered` finds at the start of names."""
    pattern = re.compile(numbered)
    return len({match[1] for name in shapes if (match := pattern.match(name))})


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"the tensor {name} is missing")
    return shapes[name]


def _resnet_width(shapes: Shapes, block: str) -> int:
    return _shape(shapes, f"{block}.resnets.0.conv1.conv.weight")[0]
