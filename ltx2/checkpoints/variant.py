"""The version of LTX-2 in a checkpoint, detected from its configs, and what depends on it.

2.3 modulates the prompt's cross-attention, projects the text once per stream and has a vocoder with bandwidth
extension. 2.5 is a 2.3 whose picture has no biases in its feed-forward, an embedding that marks the first latent of a
video, and another text encoder, Gemma 4. The scheduler of a distilled checkpoint does not shift sigmas; that of any
other shifts them by the number of tokens. Names of folders and repositories are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ltx2.errors import CheckpointError, UnsupportedModelError
from ltx2.timeline import POSITIONS_S

Version = Literal["2.0", "2.3", "2.5"]
Config = Mapping[str, Any]

# The value that longtake requires, and the value that diffusers uses if the config has none.
_FIXED: dict[str, dict[str, tuple[Any, Any]]] = {
    "transformer": {
        "patch_size": (1, 1),
        "patch_size_t": (1, 1),
        "vae_scale_factors": ([8, 32, 32], [8, 32, 32]),
        "causal_offset": (1, 1),
        "audio_in_channels": (128, 128),
        "audio_out_channels": (128, 128),
        "audio_patch_size": (1, 1),
        "audio_patch_size_t": (1, 1),
        "audio_scale_factor": (4, 4),
        "audio_sampling_rate": (16_000, 16_000),
        "audio_hop_length": (160, 160),
        "use_prompt_adaln_single": (True, True),
    },
    "vae": {"spatial_compression_ratio": (32, None), "temporal_compression_ratio": (8, None)},
    "audio_vae": {
        "latent_channels": (8, 8),
        "mel_bins": (64, 64),
        "sample_rate": (16_000, 16_000),
        "mel_hop_length": (160, 160),
    },
    "vocoder": {"out_channels": (2, 2)},
    "scheduler": {
        "shift": (1.0, 1.0),
        "num_train_timesteps": (1000, 1000),
        "invert_sigmas": (False, False),
        "stochastic_sampling": (False, False),
        "use_beta_sigmas": (False, False),
        "use_exponential_sigmas": (False, False),
        "use_karras_sigmas": (False, False),
    },
}
_CLASSES = {
    "transformer": ("LTX2VideoTransformer3DModel",),
    "vae": ("AutoencoderKLLTX2Video",),
    "audio_vae": ("AutoencoderKLLTX2Audio",),
    "connectors": ("LTX2TextConnectors",),
    "vocoder": ("LTX2Vocoder", "LTX2VocoderWithBWE"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}
_TEXT_ENCODERS = ("gemma3", "gemma4_unified")
GEMMA_4 = "gemma4-12b-ltx-v1"
"""The `gemma_version` of the text encoder of LTX-2.5."""
_MARKER = "use_keyframes_abs_pos_embedding"
_DIFFUSION_DECODERS = ("LTX2VideoDiffusionDecoderModel",)

CONFIGURED = (*_CLASSES, "text_encoder")
"""The components whose configs `variant_of` reads; a loaded pipeline may lack the last one."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of LTX-2. distilled: 8 fixed sigmas, no guidance. layers: transformer blocks, 48 at full size.

    positions_s: seconds up to which it has positions, POSITIONS_S in every published model.
    """

    version: Version
    distilled: bool
    layers: int = 48
    positions_s: int = POSITIONS_S

    @property
    def audio_rate(self) -> int:
        """Sample rate of the vocoder: 24 kHz in 2.0, 48 kHz in 2.3 and 2.5."""
        return 24_000 if self.version == "2.0" else 48_000

    @property
    def image_crf(self) -> int:
        """The H.264 quality of the pictures that the model was trained to continue."""
        return 18 if self.version == "2.5" else 33

    @property
    def stg_blocks(self) -> tuple[int, ...]:
        """The blocks that spatio-temporal guidance perturbs, as the model's authors advise; at most the last block."""
        return (min(29 if self.version == "2.0" else 28, self.layers - 1),)

    @property
    def steps(self) -> int:
        """Denoising steps of the first stage, as the model's authors advise."""
        if self.distilled:
            return 8
        return 40 if self.version == "2.0" else 30

    @property
    def is_ancestral(self) -> bool:
        """Whether the first stage renews the noise in each step, as the model's authors render the distilled 2.5."""
        return self.distilled and self.version == "2.5"

    def __str__(self) -> str:
        return f"LTX-{self.version}{', distilled' if self.distilled else ''}"


def variant_of(configs: Mapping[str, Config]) -> Variant:
    """The variant that the `configs` of a checkpoint, by component (those in CONFIGURED), describe.

    Raises:
        CheckpointError: not LTX-2.0, 2.3 or 2.5, an unsupported value, or configs that contradict each other; the
            message names component and key.
    """
    for component, classes in _CLASSES.items():
        name = configs[component].get("_class_name")
        if name in _DIFFUSION_DECODERS:
            raise CheckpointError(
                f"{component}/ has a {name}, a diffusion decoder; longtake supports only {classes[0]}"
            )
        if name not in classes:
            raise CheckpointError(f"{component}/ has a {name}, not {' or '.join(classes)}: not an LTX-2 pipeline")
    for component, expected in _FIXED.items():
        for key, (value, default) in expected.items():
            _check(component, key, configs[component].get(key, default), value)
    channels = configs["vae"].get("latent_channels", 128)
    for key in ("in_channels", "out_channels"):
        _check("transformer", key, configs["transformer"].get(key, 128), channels)
    injected = configs["vae"].get("decoder_inject_noise", False)
    if any(injected) if isinstance(injected, list | tuple) else injected:
        raise CheckpointError(
            f"vae/: decoder_inject_noise is {injected!r:.100}; longtake supports only decoders that draw no noise of "
            "their own, because the same latents must decode to the same frames again"
        )
    layers = configs["transformer"].get("num_layers", 48)
    if type(layers) is not int or layers < 1:
        raise CheckpointError(f"transformer/: num_layers is {layers!r}; it must be at least 1")
    positions_s = configs["transformer"].get("pos_embed_max_pos", POSITIONS_S)
    is_whole = type(positions_s) is int or (type(positions_s) is float and positions_s.is_integer())
    if not is_whole or positions_s < 1:
        raise CheckpointError(f"transformer/: pos_embed_max_pos is {positions_s!r:.100}; it must be whole seconds")
    variant = Variant(_version(configs), _distilled(configs["scheduler"]), layers, int(positions_s))
    rate = configs["vocoder"].get("output_sampling_rate", variant.audio_rate)
    _check("vocoder", "output_sampling_rate", rate, variant.audio_rate)
    return variant


def check_text_width(encoder: Path, config: Config, needed: int | None) -> None:
    """Refuse a text encoder of another size than the connectors were made for.

    Connectors read all hidden states of a token: those of each layer, and the embedding. encoder: where it is, for the
    error. config: of it. needed: the numbers for each token that the connectors read; None if unknown.

    Raises:
        UnsupportedModelError: it is another size of Gemma.
    """
    text = config.get("text_config")
    width, layers = (text.get(key) if isinstance(text, dict) else None for key in ("hidden_size", "num_hidden_layers"))
    if not isinstance(width, int) or not isinstance(layers, int) or needed in (None, width * (layers + 1)):
        return
    raise UnsupportedModelError(
        f"text_encoder: {encoder} has {layers} layers of width {width}, so {width * (layers + 1):,} numbers "
        f"for each token; this model reads {needed:,}: that is another size of Gemma"
    )


def text_width(connectors: Config) -> int | None:
    """The numbers for each token that connectors of this config read; None if it does not say.

    The defaults are those of diffusers' `LTX2TextConnectors`, for Gemma 3 12B: its width, and its layers with the
    embeddings.
    """
    width, factor = connectors.get("caption_channels", 3840), connectors.get("text_proj_in_factor", 49)
    return width * factor if isinstance(width, int) and isinstance(factor, int) else None


def _version(configs: Mapping[str, Config]) -> Version:
    """The version of transformer, connectors, vocoder and text encoder, which must be the same."""
    transformer = configs["transformer"]
    is_2_3_or_later = _agreed(
        {
            "transformer/: cross_attn_mod": bool(transformer.get("cross_attn_mod", False)),
            "transformer/: audio_cross_attn_mod": bool(transformer.get("audio_cross_attn_mod", False)),
            "connectors/: per_modality_projections": bool(configs["connectors"].get("per_modality_projections", False)),
            "vocoder/: LTX2VocoderWithBWE": configs["vocoder"]["_class_name"] == "LTX2VocoderWithBWE",
        },
        "LTX-2.3",
        "LTX-2.0",
    )
    signs = {
        "transformer/: ff_bias false": not transformer.get("ff_bias", True),
        f"transformer/: {_MARKER}": bool(transformer.get(_MARKER, False)),
    }
    if "text_encoder" in configs:
        encoder = configs["text_encoder"].get("model_type")
        if encoder not in _TEXT_ENCODERS:
            raise CheckpointError(f"text_encoder/: model_type is {encoder!r}; it must be {' or '.join(_TEXT_ENCODERS)}")
        signs["text_encoder/: gemma4_unified"] = encoder == "gemma4_unified"
        if signs["text_encoder/: gemma4_unified"]:
            _check_gemma(configs["text_encoder"].get("gemma_version"))
    older: Version = "2.3" if is_2_3_or_later else "2.0"
    if not _agreed(signs, "LTX-2.5", f"LTX-{older}"):
        return older
    if older == "2.0":
        raise CheckpointError(f"components of LTX-2.5 ({', '.join(signs)}) and of LTX-2.0 are mixed")
    return "2.5"


def _agreed(signs: Mapping[str, bool], newer: str, older: str) -> bool:
    """Whether all signs are those of the newer version, or none is. Raises CheckpointError if they disagree."""
    if len(set(signs.values())) > 1:
        yes, no = ([name for name, sign in signs.items() if sign is kind] for kind in (True, False))
        raise CheckpointError(
            f"components of {newer} ({', '.join(yes)}) and of {older} (no {', no '.join(no)}) are mixed"
        )
    return all(signs.values())


def _check_gemma(gemma_version: Any) -> None:
    """Refuse a Gemma 4 other than the one that the model's authors trained further for LTX-2.5."""
    if gemma_version != GEMMA_4:
        found = "a stock Gemma 4" if gemma_version is None else f"Gemma 4 {str(gemma_version)!r:.100}"
        raise CheckpointError(
            f"text_encoder/: gemma_version is {gemma_version!r:.100}, {found}; LTX-2.5 was trained with {GEMMA_4}, "
            "which is in the text_encoder folder of Lightricks/LTX-2.5-Diffusers"
        )


def _distilled(scheduler: Config) -> bool:
    """Whether the schedule is fixed. Both keys must agree, because diffusers shifts sigmas if either is set."""
    dynamic, terminal = scheduler.get("use_dynamic_shifting", False), scheduler.get("shift_terminal")
    if bool(dynamic) != bool(terminal):
        raise CheckpointError(
            f"scheduler/: use_dynamic_shifting is {dynamic} and shift_terminal is {terminal}; a distilled checkpoint "
            "has false and null, any other has true and 0.1"
        )
    return not dynamic


def _check(component: str, key: str, value: Any, expected: Any) -> None:
    value = list(value) if isinstance(value, tuple) else value  # a loaded config has tuples where its file has lists
    if value != expected:
        raise CheckpointError(f"{component}/: {key} is {value!r}; longtake supports only {expected!r}")
