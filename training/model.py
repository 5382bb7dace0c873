"""The small LTX-2: classes and files as in the published 2.3, distilled, with ten million weights.

Properties that a client can observe are as in `ltx2.checkpoints.random`: 32x32x8 video compression, 25 audio latents
`[B, 8, T, 16]` per second, stereo at 48 kHz. Prompts have up to 64 tokens.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoResnetBlock3d
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2VocoderWithBWE
from transformers import GemmaTokenizer

from ltx2.checkpoints.random import make_readable, random_text_encoder, set_fourier_basis
from ltx2.checkpoints.random_tokenizer import train_tokenizer
from ltx2.model.codecs.spectrum import filterbank
from training import world

CHANNELS = 32  # of the video latents
TOKENS = 64
TEXT_DIM, TEXT_LAYERS = 64, 2
HEADS, HEAD_DIM, AUDIO_HEAD_DIM = 4, 48, 24
LAYERS = 5


@dataclass(frozen=True, slots=True)
class Model:
    """The components, each of the class that a published checkpoint has."""

    vae: Any
    audio_vae: Any
    vocoder: Any
    text_encoder: Any
    tokenizer: Any
    connectors: Any
    transformer: Any

    def save(self, folder: Path) -> None:
        """Write it in bfloat16 with the layout of a published checkpoint, in files below 15 MB."""
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None)
        parts = {name: getattr(self, name) for name in self.__slots__}
        pipeline = LTX2ConditionPipeline(scheduler=scheduler, **parts).to(torch.bfloat16)
        pipeline.save_pretrained(folder, max_shard_size="14MB")
        make_readable(folder)


def build(seed: int = 0) -> Model:
    """The untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        return Model(
            vae=_video_vae(),
            audio_vae=AutoencoderKLLTX2Audio(base_channels=1, ch_mult=(24, 32, 48), num_res_blocks=1),
            vocoder=_vocoder(),
            text_encoder=random_text_encoder(
                len(tokenizer), width=TEXT_DIM, layers=TEXT_LAYERS, longest=TOKENS, sliding_window=TOKENS
            ),
            tokenizer=tokenizer,
            connectors=_connectors(),
            transformer=_transformer(),
        )


def load(folder: Path) -> Model:
    """A model that was saved, in float32, to train it further."""
    pipeline = LTX2ConditionPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return Model(**{name: getattr(pipeline, name) for name in Model.__slots__})


def vocabulary() -> list[str]:
    """Prompts that together contain every word of the world."""
    paces = [f" {pace}" if pace else "" for pace in world.PACES]
    return [
        f"a {colour} {kind} moves{pace} {way} and a {colour} {kind} moves over a {colour} background, {sound}"
        for colour, kind, pace, way, sound in itertools.product(
            world.COLOURS, world.KINDS, paces, world.DIRECTIONS, world.SOUNDS
        )
    ]


def _tokenizer() -> GemmaTokenizer:
    words = {word for prompt in vocabulary() for word in prompt.replace(",", " ").split()}
    return train_tokenizer([",", *(f" {word}" for word in sorted(words))], size=640, longest=TOKENS)


def _connectors() -> LTX2TextConnectors:
    settings: dict[str, Any] = {}
    for stream, dim in (("video", HEAD_DIM), ("audio", AUDIO_HEAD_DIM)):
        settings |= {
            f"{stream}_connector_num_layers": 1,
            f"{stream}_connector_num_attention_heads": HEADS,
            f"{stream}_connector_attention_head_dim": dim,
            f"{stream}_connector_num_learnable_registers": TOKENS,
            f"{stream}_hidden_dim": HEADS * dim,
            f"{stream}_gated_attn": True,
        }
    return LTX2TextConnectors(
        caption_channels=TEXT_DIM,
        text_proj_in_factor=TEXT_LAYERS + 1,
        connector_rope_base_seq_len=TOKENS,
        rope_type="split",
        per_modality_projections=True,
        proj_bias=True,
        **settings,
    )


def _transformer() -> LTX2VideoTransformer3DModel:
    return LTX2VideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=HEADS * HEAD_DIM,
        audio_num_attention_heads=HEADS,
        audio_attention_head_dim=AUDIO_HEAD_DIM,
        audio_cross_attention_dim=HEADS * AUDIO_HEAD_DIM,
        num_layers=LAYERS,
        caption_channels=TEXT_DIM,
        base_height=256,  # so that neighbours in a small picture have different positions
        base_width=256,
        pos_embed_max_pos=4,  # seconds; segments are short
        audio_pos_embed_max_pos=4,
        rope_type="split",
        gated_attn=True,
        audio_gated_attn=True,
        cross_attn_mod=True,
        audio_cross_attn_mod=True,
        use_prompt_embeddings=False,
        perturbed_attn=True,
    )


def _video_vae() -> AutoencoderKLLTX2Video:
    vae = AutoencoderKLLTX2Video(
        latent_channels=CHANNELS,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=(1, 1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
        decoder_causal=False,
        decoder_block_out_channels=(32, 48, 48, 96),
        decoder_layers_per_block=(2, 2, 3, 2, 1),
        decoder_spatio_temporal_scaling=(True, True, True, True),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 2, 1, 2),
        decoder_spatial_padding_mode="zeros",
    )
    _initialize(vae)
    return vae


def _initialize(vae: Any) -> None:
    """Initialize near a linear map from latents to flat patches, which learns colours fast; random weights do not.

    The log-variance, the encoder's last channel, starts low: at 0, its noise would hide the signal.
    """
    for module in vae.modules():
        if isinstance(module, LTX2VideoResnetBlock3d):
            module.conv2.conv.weight.data *= 0.2
    for block in vae.decoder.up_blocks:
        _spread(block.upsamplers[0].conv.conv, math.prod(block.upsamplers[0].stride))
    _spread(vae.decoder.conv_out.conv, vae.decoder.patch_size**2)
    _spread(vae.decoder.conv_in.conv, 1)
    _spread(vae.encoder.conv_out.conv, 1)
    vae.encoder.conv_out.conv.weight.data[-1:] = 0
    vae.encoder.conv_out.conv.bias.data[-1:] = -6


def _spread(conv: Any, pixels: int) -> None:
    """Make a convolution output the same mixture of a position's channels for each of its `pixels`."""
    weight = conv.weight.data
    out, into = weight.shape[:2]
    weight.copy_(0.1 * torch.randn_like(weight) / math.sqrt(27 * into))
    weight[:, :, 1, 1, 1] += (torch.randn(out // pixels, into) / math.sqrt(into)).repeat_interleave(pixels, 0)
    conv.bias.data.zero_()


def _vocoder() -> LTX2VocoderWithBWE:
    """The world has no sound above 8 kHz, so the bandwidth extension starts at zero output and stays there."""
    window, mels = 128, 16
    vocoder = LTX2VocoderWithBWE(
        hidden_channels=192,
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
        bwe_in_channels=2 * mels,
        bwe_hidden_channels=64,
        bwe_resnet_kernel_sizes=[3],
        bwe_resnet_dilations=[[1]],
        filter_length=window,
        window_length=window,
        num_mel_channels=mels,
    )
    vocoder.bwe_generator.conv_out.weight.data.zero_()
    set_fourier_basis(vocoder, window)
    vocoder.mel_stft.mel_basis.copy_(filterbank(window, bins=mels))
    return vocoder
