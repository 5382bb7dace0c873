"""Acceleration of a loaded transformer: fast blocks, float8 weights, compilation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from ltx2.acceleration.fast_block import CallTokens, FastBlock
from ltx2.acceleration.fp8 import quantize

MOST_SHAPES = 128
"""Compiled shapes that a process keeps: two per size, stage and number of images, more if guidance adds calls."""

IN_ORDER = {
    "reorder_for_locality": False,
    "reorder_for_peak_memory": False,
    "allow_buffer_reuse": False,
    "inplace_buffers": False,
}
"""Options of inductor for blocks with exchanges. Operations keep their order, so that something is computed between the
start of an exchange and its end. The memory of what is sent is not reused, because it may be read until the end, nor is
that of what arrives, because the other ranks write to it."""

_TIME_EMBEDDINGS: dict[str, Literal["video", "audio"]] = {
    "time_embed": "video",
    "audio_time_embed": "audio",
    "av_cross_attn_video_scale_shift": "video",
    "av_cross_attn_audio_scale_shift": "audio",
}


def speed_up(transformer: Any, *, float8: bool, device: torch.device, float8_attention: bool = False) -> None:
    """Accelerate an `LTX2VideoTransformer3DModel` in place. Without float8, only rounding changes.

    In each call, the tokens of a stream may have two noise levels at most, in any order, as conditioning with strength
    1 gives them. float8: see `ltx2.acceleration.fp8`; weights are converted on `device`. float8_attention: see
    `ltx2.acceleration.fp8_attention`.
    """
    tokens = CallTokens(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
    for name, stream in _TIME_EMBEDDINGS.items():
        setattr(transformer, name, _LevelEmbedding(getattr(transformer, name), tokens, stream))
    for block in transformer.transformer_blocks:
        block.__class__ = FastBlock
        block.tokens = tokens
        block.float8_attention = float8_attention
        block.ff, block.audio_ff = _FeedForward(block.ff), _FeedForward(block.audio_ff)
        if float8:
            quantize(block, device)


def accelerated_name(layer: str) -> str:
    """The name that a linear layer of the transformer has after `speed_up`."""
    first, _, rest = layer.partition(".")
    if first in _TIME_EMBEDDINGS:
        return f"{first}.embedding.{rest}"
    return layer.replace("ff.net.0.proj", "ff.up").replace("ff.net.2", "ff.down")


def backend_of(compiler: str, device: torch.device, offload: str) -> str | None:
    """The torch.compile backend that `compiler` means, or None for no compilation.

    auto: inductor on a GPU. With `offload` sequential, nothing can be compiled.

    Raises:
        ValueError: a backend that torch does not know.
    """
    if compiler == "off" or offload == "sequential":
        return None
    if compiler == "auto":
        return "inductor" if device.type == "cuda" else None
    if compiler not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise ValueError(f"compiler is {compiler!r}; it must be auto, off or one of {', '.join(known)}")
    return compiler


def compile_blocks(transformer: Any, backend: str, kernels: Path, *, shared: bool = False) -> None:
    """Compile the blocks of a transformer, each shape on its first call. Kernels are cached in the folder `kernels`.

    backend: of torch.compile; `inductor` is the fast one. All blocks share their compiled code. shared: ranks compute
    them together.
    """
    _prepare_compiler(kernels)
    options = IN_ORDER if shared and backend == "inductor" else None
    for block in transformer.transformer_blocks:
        block.compile(backend=backend, options=options, fullgraph=True, dynamic=False)


def compile_decoder(vae: Any, backend: str, kernels: Path) -> None:
    """Compile the picture decoder as a whole; see `compile_blocks`. It must not decode in tiles: each tile is a shape.

    Compilation fuses its elementwise operations, and channels-last memory suits its convolutions.
    """
    _prepare_compiler(kernels)
    vae.decoder.to(memory_format=torch.channels_last_3d)
    vae.decoder.compile(backend=backend, fullgraph=True, dynamic=False)


def _prepare_compiler(kernels: Path) -> None:
    from torch._inductor import config as inductor  # takes a second, so only if something is compiled

    # Otherwise it measures how to split sums, and two machines can choose differently and produce different bytes.
    inductor.deterministic = True
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(kernels / "triton"))
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES


class _LevelEmbedding(nn.Module):
    """Embeds the two noise levels of a stream instead of one per token, and sets `CallTokens` for the blocks."""

    def __init__(self, embedding: nn.Module, tokens: CallTokens, stream: Literal["video", "audio"]) -> None:
        super().__init__()
        self.embedding = embedding
        self.tokens = tokens
        self.stream = stream

    def forward(
        self, timestep: Tensor, batch_size: int, hidden_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """timestep: `[B * T]`, or `[B]` if all tokens have the same level.

        Returns the modulation `[B * 2, n * D]` (the lower level, then the higher) and the embedding of each token
        `[B * T, D]`; `[B, n * D]` and `[B, D]` if all tokens have the same level.
        """
        per_token = timestep.view(batch_size, -1)
        if per_token.shape[1] == 1:
            shared: tuple[Tensor, Tensor] = self.embedding(timestep, batch_size=batch_size, hidden_dtype=hidden_dtype)
            return shared
        low, high = per_token.aminmax(dim=1, keepdim=True)
        is_high = (per_token == high)[..., None]
        setattr(self.tokens, self.stream, is_high)
        modulation, embedded = self.embedding(
            torch.cat([low, high], dim=1).flatten(), batch_size=batch_size, hidden_dtype=hidden_dtype
        )
        both = embedded.view(batch_size, 2, -1)
        return modulation, torch.where(is_high, both[:, 1:], both[:, :1]).flatten(0, 1)


class _FeedForward(nn.Module):
    """diffusers' feed-forward with the GELU in the epilogue of the first matrix product.

    The kernel with that epilogue adds a bias. Where the model has none, as in 2.5, it is given zeros.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.up, self.down = stock.net[0].proj, stock.net[2]
        if isinstance(self.up, nn.Linear) and self.up.bias is None:
            self.up.bias = nn.Parameter(self.up.weight.new_zeros(self.up.out_features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[B, T, D]`."""
        if isinstance(self.up, nn.Linear) and x.is_cuda:
            inner = linear_gelu(x.flatten(0, 1), self.up.weight, self.up.bias).view(*x.shape[:2], -1)
        else:
            inner = F.gelu(self.up(x), approximate="tanh")
        out: Tensor = self.down(inner)
        return out


@library.custom_op("longtake::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU (tanh) of `x @ weight.T + bias` in one GPU kernel. A custom op, because the compiler would split it."""
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
