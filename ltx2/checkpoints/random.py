"""Small random checkpoints: LTX-2's published layout with a million random weights, built offline.

Properties that a client can observe are real: 32x32x8 video compression, 25 audio latents `[B, 8, T, 16]` per second,
stereo at 24 kHz (2.0) or 48 kHz (2.3, 2.5), prompts of up to 1024 tokens, a Gemma tokenizer.
"""

from __future__ import annotations

import fcntl
import math
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2VideoDiffusionDecoderModel,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import (
    LTX2DurationHead,
    LTX2LatentUpsamplerModel,
    LTX2TextConnectors,
    LTX2Vocoder,
    LTX2VocoderWithBWE,
)
from safetensors import SafetensorError
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
)

from ltx2.checkpoints.diffusion_decoder import DIFFUSION_FOLDER
from ltx2.checkpoints.duration_head import DURATION_FOLDER
from ltx2.checkpoints.full_weights import FOLDER as FULL_FOLDER
from ltx2.checkpoints.progress_bars import no_progress_bars
from ltx2.checkpoints.random_tokenizer import CORPUS, train_tokenizer
from ltx2.checkpoints.resolve import UPSAMPLER_FOLDER, small_folder
from ltx2.checkpoints.variant import Version
from ltx2.errors import CheckpointError

VERSIONS: dict[str, Version] = {"tiny": "2.3", "tiny-2.0": "2.0", "tiny-2.5": "2.5"}

VIDEO_CHANNELS = 16
TEXT_DIM = 32
TEXT_LAYERS: dict[Version, int] = {"2.0": 2, "2.3": 2, "2.5": 6}  # of Gemma 4, every sixth layer is global
TOKENS = 1024
VIDEO_HEADS, VIDEO_HEAD_DIM = 2, 32
_LOUDNESS = {"2.3": 0.06, "2.5": 0.03}  # audible, and nothing clips
AUDIO_HEADS, AUDIO_HEAD_DIM = 2, 16
_IO_ERROR = re.compile(r"^.*I/O error: (.*?)(?: \(os error \d+\))?$", re.DOTALL)  # of a file of weights


def ensure(cache: Path, name: str = "tiny") -> Path:
    """The folder of the small checkpoint `name` under `cache`, built if it does not exist; safe between processes.

    Raises:
        CheckpointError: `name` is not in VERSIONS, or the folder cannot be written.
    """
    if name not in VERSIONS:
        raise CheckpointError(f"unknown small checkpoint {name!r}; it must be one of {', '.join(VERSIONS)}")
    folder = small_folder(cache, name)
    try:
        if not folder.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with (cache / f".{folder.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.is_dir():
                    build(folder, version=VERSIONS[name])
    except (OSError, SafetensorError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else _IO_ERROR.sub(r"\1", str(exc))
        raise CheckpointError(
            f"cannot build the small checkpoint in {folder}: {reason or exc}; "
            "LONGTAKE_HOME must be a folder that can be written"
        ) from exc
    return folder


def build(folder: Path, *, version: Version = "2.3", seed: int = 0) -> Path:
    """Write a small random checkpoint to `folder`, which must not exist. It appears complete or not at all.

    The same version and seed give the same bytes. Only one process may build a folder at a time; `ensure` takes a lock.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with no_progress_bars():
            _components(version, seed).save_pretrained(partial)
            _upsampler(seed).save_pretrained(partial / UPSAMPLER_FOLDER)
            if version == "2.5":
                _diffusion_decoder(seed).save_pretrained(partial / DIFFUSION_FOLDER)
                _duration_head(seed).save_pretrained(partial / DURATION_FOLDER)
                _full_transformer(seed + 1).save_pretrained(partial / FULL_FOLDER)
        make_readable(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def make_readable(folder: Path) -> None:
    """Give all users read access to a saved checkpoint, whose weight files are written with mode 0600."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _components(version: Version, seed: int) -> LTX2ConditionPipeline:
    with _seeded(seed):
        tokenizer = train_tokenizer(CORPUS, size=512, longest=TOKENS)
        return LTX2ConditionPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None),
            vae=_video_vae(version),
            audio_vae=_audio_vae(),
            text_encoder=_text_encoder(version, len(tokenizer)),
            tokenizer=tokenizer,
            connectors=_connectors(version),
            transformer=_transformer(version),
            vocoder=_vocoder_2_0() if version == "2.0" else _vocoder_with_bwe(_LOUDNESS[version]),
        )


def _upsampler(seed: int) -> LTX2LatentUpsamplerModel:
    with _seeded(seed):
        return LTX2LatentUpsamplerModel(in_channels=VIDEO_CHANNELS, mid_channels=32, num_blocks_per_stage=1)


def _full_transformer(seed: int) -> LTX2VideoTransformer3DModel:
    with _seeded(seed):
        return _transformer("2.5")


def _duration_head(seed: int) -> LTX2DurationHead:
    """Its answers are 1 to 4 s."""
    with _seeded(seed):
        head = LTX2DurationHead(VIDEO_HEADS * VIDEO_HEAD_DIM, AUDIO_HEADS * AUDIO_HEAD_DIM, 16, 1, 4, 16)
        head.mlp_out.bias.data.fill_(math.log(1.5))
        return head


def _diffusion_decoder(seed: int) -> LTX2VideoDiffusionDecoderModel:
    """Its windows are small enough for pictures of 64x32 pixels and 9 frames."""
    with _seeded(seed):
        return LTX2VideoDiffusionDecoderModel(
            latent_channels=VIDEO_CHANNELS,
            decoder_head_dim=16,
            decoder_stage_channels=(64, 32, 16, 16, 16),
            decoder_stage_depths=(1, 1, 1, 1, 1),
            decoder_stage_kernels=((3, 1, 2), (3, 2, 3), (3, 2, 3), (3, 3, 3)),
            decoder_upsample_channel_reductions=(2, 2, 1, 1),
            decoder_stage5_kernel=(3, 3, 3),
            decoder_t_emb_dim=32,
        )


def _text_encoder(version: Version, vocabulary: int) -> Any:
    make = random_gemma_4 if version == "2.5" else random_text_encoder
    return make(vocabulary, width=TEXT_DIM, layers=TEXT_LAYERS[version], longest=TOKENS, sliding_window=512)


def random_text_encoder(
    vocabulary: int, *, width: int, layers: int, longest: int, sliding_window: int
) -> Gemma3ForConditionalGeneration:
    """A random Gemma with two heads, for prompts of up to `longest` tokens. Its vision tower is a stub."""
    text = _text_settings(vocabulary, width, layers, longest, sliding_window)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def random_gemma_4(
    vocabulary: int, *, width: int, layers: int, longest: int, sliding_window: int
) -> Gemma4UnifiedForConditionalGeneration:
    """A random Gemma 4 with two heads; in its global layers, keys are values. Its towers are stubs."""
    text = _text_settings(vocabulary, width, layers, longest, sliding_window)
    text |= {"global_head_dim": width, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
    vision = {
        "patch_size": 4,
        "pooling_kernel_size": 1,
        "mm_embed_dim": 16,
        "mm_posemb_size": 8,
        "output_proj_dims": width,
    }
    # the tokens that stand for media must be in the vocabulary
    media = {f"{kind}_token_id": 4 for kind in ("boi", "eoi", "image", "video", "boa", "audio")}
    config = Gemma4UnifiedConfig(
        text_config=text, vision_config=vision, audio_config={"audio_embed_dim": 16}, eoa_token_index=4, **media
    )
    config.gemma_version = "gemma4-12b-ltx-v1"
    return Gemma4UnifiedForConditionalGeneration(config)


def _text_settings(vocabulary: int, width: int, layers: int, longest: int, sliding_window: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": width // 2,
        "max_position_embeddings": longest,
        "sliding_window": sliding_window,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }


def _connectors(version: Version) -> LTX2TextConnectors:
    """2.0 projects the text once for both streams; others once per stream, to the width of the stream."""
    settings: dict[str, Any] = {
        "caption_channels": TEXT_DIM,
        "text_proj_in_factor": TEXT_LAYERS[version] + 1,
        "video_connector_num_layers": 1,
        "audio_connector_num_layers": 1,
        "rope_type": "split",
    }
    heads = {"video": (VIDEO_HEADS, VIDEO_HEAD_DIM), "audio": (AUDIO_HEADS, AUDIO_HEAD_DIM)}
    if version == "2.0":
        heads = dict.fromkeys(heads, (1, TEXT_DIM))
    else:
        settings |= {"per_modality_projections": True, "proj_bias": True}
        settings |= {f"{stream}_hidden_dim": count * dim for stream, (count, dim) in heads.items()}
        settings |= {"video_gated_attn": True, "audio_gated_attn": True}
    for stream, (count, dim) in heads.items():
        settings[f"{stream}_connector_num_attention_heads"] = count
        settings[f"{stream}_connector_attention_head_dim"] = dim
    return LTX2TextConnectors(**settings)


def _transformer(version: Version) -> LTX2VideoTransformer3DModel:
    settings: dict[str, Any] = {
        "in_channels": VIDEO_CHANNELS,
        "out_channels": VIDEO_CHANNELS,
        "num_attention_heads": VIDEO_HEADS,
        "attention_head_dim": VIDEO_HEAD_DIM,
        "cross_attention_dim": VIDEO_HEADS * VIDEO_HEAD_DIM,
        "audio_num_attention_heads": AUDIO_HEADS,
        "audio_attention_head_dim": AUDIO_HEAD_DIM,
        "audio_cross_attention_dim": AUDIO_HEADS * AUDIO_HEAD_DIM,
        "num_layers": 2,
        "caption_channels": TEXT_DIM,
        "rope_type": "split",
    }
    if version != "2.0":
        settings |= dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True)
        settings |= {"use_prompt_embeddings": False, "perturbed_attn": True}
    if version == "2.5":
        settings |= {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    transformer = LTX2VideoTransformer3DModel(**settings)
    if version == "2.5":  # constructed as zeros, with which no test would notice a marker that is missing
        transformer.keyframes_abs_pos_embedding.data.normal_(std=0.5)
    return transformer


def _video_vae(version: Version) -> AutoencoderKLLTX2Video:
    settings: dict[str, Any] = {
        "latent_channels": VIDEO_CHANNELS,
        "block_out_channels": (16, 16, 32, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
        "decoder_causal": False,
    }
    if version == "2.0":
        settings |= {"decoder_block_out_channels": (8, 16, 32), "decoder_layers_per_block": (1, 1, 1, 1)}
    else:
        settings |= {
            "decoder_block_out_channels": (8, 16, 16, 32),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
            "decoder_spatio_temporal_scaling": (True, True, True, True),
            "decoder_inject_noise": (False, False, False, False, False),
            "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            "upsample_residual": (False, False, False, False),
            "upsample_factor": (2, 2, 1, 2),
            "decoder_spatial_padding_mode": "zeros",
        }
    vae = AutoencoderKLLTX2Video(**settings)
    for block in vae.decoder.up_blocks:
        _repeat(block.upsamplers[0].conv.conv, block.upsamplers[0].stride)
    _repeat(vae.decoder.conv_out.conv, (vae.decoder.patch_size, vae.decoder.patch_size))
    vae.latents_mean.copy_(0.1 * torch.randn(VIDEO_CHANNELS))
    vae.latents_std.copy_(0.5 + torch.rand(VIDEO_CHANNELS))
    return vae


def _repeat(conv: nn.Conv3d, block: tuple[int, ...]) -> None:
    """Give all pixels of an upsampled block the same weights, which produces patches of colour instead of noise."""
    for parameter in conv.parameters():
        pixels = parameter.data.view(-1, math.prod(block), *parameter.shape[1:])
        pixels.copy_(pixels[:, :1].clone())


def _set_unit_gain(model: nn.Module, loudness: float) -> None:
    """Scale random convolutions to unit gain, so that the sound follows the latents and does not fade out."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)
    convolutions = [layer for layer in model.modules() if isinstance(layer, kinds)]
    for layer in convolutions:
        stride = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 2
        layer.weight.data *= math.sqrt(1.5 * stride)
        if layer.bias is not None:
            layer.bias.data.zero_()
    convolutions[-1].weight.data *= loudness


def _audio_vae() -> AutoencoderKLLTX2Audio:
    """The latent statistics have `base_channels` entries: 1 broadcasts, the real 128 would need 11 MB of weights."""
    vae = AutoencoderKLLTX2Audio(base_channels=1, ch_mult=(16, 16, 16), num_res_blocks=1)
    _set_unit_gain(vae.decoder, 1.0)
    vae.latents_mean.fill_(0.125)
    vae.latents_std.fill_(0.75)
    return vae


def _vocoder_2_0() -> LTX2Vocoder:
    vocoder = LTX2Vocoder(hidden_channels=64, resnet_kernel_sizes=[3], resnet_dilations=[[1]])
    _set_unit_gain(vocoder, 1.0)
    return vocoder


def _vocoder_with_bwe(loudness: float) -> LTX2VocoderWithBWE:
    mels, window = 16, 128
    vocoder = LTX2VocoderWithBWE(
        hidden_channels=128,
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
        bwe_in_channels=2 * mels,
        bwe_hidden_channels=64,
        bwe_resnet_kernel_sizes=[3],
        bwe_resnet_dilations=[[1]],
        filter_length=window,
        window_length=window,
        num_mel_channels=mels,
    )
    _set_unit_gain(vocoder.vocoder, loudness)
    _set_unit_gain(vocoder.bwe_generator, 0.01)
    set_fourier_basis(vocoder, window)
    bins = torch.arange(window // 2 + 1)
    centres = torch.linspace(0, window // 2, mels)[:, None]
    vocoder.mel_stft.mel_basis.copy_((1 - (bins - centres).abs() / 4).clamp(min=0))
    return vocoder


def set_fourier_basis(vocoder: LTX2VocoderWithBWE, window: int) -> None:
    """Fill the windowed Fourier basis of a vocoder, which diffusers expects in a checkpoint's buffers."""
    angle = 2 * torch.pi * torch.arange(window // 2 + 1)[:, None] * torch.arange(window) / window
    basis = torch.cat([angle.cos(), -angle.sin()]) * torch.hann_window(window)
    vocoder.mel_stft.stft_fn.forward_basis.copy_(basis[:, None])
    vocoder.mel_stft.stft_fn.inverse_basis.copy_(basis[:, None])


if __name__ == "__main__":
    try:
        ensure(Path(sys.argv[1]), sys.argv[2])
    except CheckpointError as error:
        sys.exit(str(error))
