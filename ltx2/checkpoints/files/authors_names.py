"""The names of tensors in the files of LTX-2's authors, and the components and names of diffusers that they mean.

The rules are those of diffusers' own conversion, for 2.0, 2.3 and 2.5 alike. A name that has the form of diffusers
already is kept.
"""

from __future__ import annotations

import re

from ltx2.checkpoints.loras.names import AUTHORS_FIRST

TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
ENCODER_PREFIXES = ("model.layers.", "model.embed_tokens.", "model.norm.")
"""How the names of a text encoder in one file begin; in a folder, `language_model.` follows `model.`."""
ASSETS = ("tokenizer_json", "hf_asset__", "spiece_model")
"""How the names of files begin that are stored as tensors, in the file of a text encoder."""

_CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.", "text_embedding_projection.")
_CONNECTORS_OF_DIFFUSERS = (
    *("video_connector.", "audio_connector."),
    *("text_proj_in.", "video_text_proj_in.", "audio_text_proj_in."),
)
_TOWERS = ("vision_model.", "vision_tower.", "multi_modal_projector.", "audio_projector.")
_TOWERS_IN_MODEL = ("model.vision_embedder.", "model.embed_vision.", "model.embed_audio.", "model.vision_tower.")
_VAE = ("encoder.", "decoder.", "per_channel_statistics.", "latents_mean", "latents_std")
_DIFFUSERS_FIRST = {written: name for name, written in AUTHORS_FIRST.items()}
_MID_BLOCK = 8
"""The number that the authors give to the last block of the picture's encoder; the decoder's is 0."""

_IN_BLOCKS = {
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "transformer_1d_blocks": "transformer_blocks",
}
_IN_VAE = {
    "res_blocks": "resnets",
    "last_time_embedder": "time_embedder",
    "last_scale_shift_table": "scale_shift_table",
}
_IN_VOCODER = {
    "ups": "upsamplers",
    "resblocks": "resnets",
    "conv_pre": "conv_in",
    "conv_post": "conv_out",
    "act_post": "act_out",
}
_STATISTICS = {"mean-of-means": "latents_mean", "std-of-means": "latents_std"}


def place_of(written: str) -> tuple[str, str] | None:
    """The component of the tensor `written` and its name there; None if longtake does not need it.

    A text encoder has the names of transformers. A name that is not known is taken for one of the transformer.
    """
    name = bare_name(written)
    if name.startswith((*_CONNECTORS, *_CONNECTORS_OF_DIFFUSERS)):
        return "connectors", _in_segments(_first(name), _IN_BLOCKS)
    if name != written:
        return "transformer", _in_segments(_first(name), _IN_BLOCKS)
    if name.startswith(("duration_head.", *_TOWERS, *_TOWERS_IN_MODEL)):
        return None
    if name.startswith("vae."):
        return _in_vae(name.removeprefix("vae."))
    if name.startswith("audio_vae."):
        return _statistics("audio_vae", name.removeprefix("audio_vae."))
    if name.startswith("vocoder."):
        inner = _in_segments(name.removeprefix("vocoder."), _IN_VOCODER)
        return "vocoder", inner.replace("downsample.lowpass.", "downsample.")
    if name.startswith(_VAE):
        return _in_vae(name)
    if name.startswith(ENCODER_PREFIXES):
        return "text_encoder", f"model.language_model.{name.removeprefix('model.')}"
    if name.startswith(("model.language_model.", "language_model.", "lm_head.")):
        return "text_encoder", name
    if name.startswith(ASSETS):
        return None
    return "transformer", _in_segments(_first(name), _IN_BLOCKS)


def bare_name(written: str) -> str:
    """The name without the prefix that the parts of a transformer have in a file of a whole model."""
    for prefix in TRANSFORMER_PREFIXES:
        if written.startswith(prefix):
            return written.removeprefix(prefix)
    return written


def _first(name: str) -> str:
    """`name` with the first segments, such as `adaln_single`, of diffusers."""
    for written, of_diffusers in _DIFFUSERS_FIRST.items():
        if name.startswith(f"{written}."):
            return of_diffusers + name.removeprefix(written)
    return name


def _in_segments(name: str, renamed: dict[str, str]) -> str:
    return ".".join(renamed.get(segment, segment) for segment in name.split("."))


def _in_vae(name: str) -> tuple[str, str] | None:
    if re.search(r"\.(resnets|downsamplers|upsamplers|mid_block)\.", name):
        return "vae", name
    name = re.sub(r"^encoder\.down_blocks\.(\d+)", _down_block, name)
    name = re.sub(r"^decoder\.up_blocks\.(\d+)", _up_block, name)
    return _statistics("vae", _in_segments(name, _IN_VAE))


def _down_block(match: re.Match[str]) -> str:
    number = int(match[1])
    if number == _MID_BLOCK:
        return "encoder.mid_block"
    return f"encoder.down_blocks.{number // 2}" + (".downsamplers.0" if number % 2 else "")


def _up_block(match: re.Match[str]) -> str:
    number = int(match[1])
    if number == 0:
        return "decoder.mid_block"
    return f"decoder.up_blocks.{(number - 1) // 2}" + (".upsamplers.0" if number % 2 else "")


def _statistics(component: str, name: str) -> tuple[str, str] | None:
    """The two statistics that normalise latents; the others, which are not needed, are None."""
    first, _, rest = name.partition(".")
    if first != "per_channel_statistics":
        return component, name
    return (component, _STATISTICS[rest]) if rest in _STATISTICS else None
