"""The blocks of a transformer as CUDA graphs.

A block has eighty kernels. Two GPUs that share a call of 768x512 compute it in 198 ms; launching it takes up to 255 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from ltx2.acceleration.cuda_graphs import Capture, CudaGraphs
from ltx2.acceleration.fast_block import CallTokens

Streams: TypeAlias = tuple[Tensor, Tensor]
"""Picture and sound."""

Compute: TypeAlias = Callable[[], Streams]
"""Reads the same memory each time."""


class BlockGraphs:
    """Calls all `blocks`, which are compiled and stay on a GPU: see `CudaGraphs`. Results are valid until the next."""

    def __init__(
        self, blocks: Sequence[Any], tokens: CallTokens, capture: Callable[[Compute], Compute] | None = None
    ) -> None:
        self._blocks = list(blocks)
        self._tokens = tokens
        weights = (weight for block in blocks for weight in block.parameters())
        self._graphs = CudaGraphs(self._compute, weights, capture or Capture())

    def __call__(self, **arguments: Any) -> Streams:
        """Call the blocks with these arguments. `hidden_states` and `audio_hidden_states` are those of the first one.

        The others get the streams that the block before them returned.
        """
        tokens = self._tokens
        return self._graphs(arguments, tokens.video, tokens.audio, key=repr(tokens.exchange))

    def _compute(self, arguments: dict[str, Any], video_levels: Tensor, audio_levels: Tensor) -> Streams:
        self._tokens.video, self._tokens.audio = video_levels, audio_levels
        video, audio = arguments.pop("hidden_states"), arguments.pop("audio_hidden_states")
        for block in self._blocks:
            video, audio = block(hidden_states=video, audio_hidden_states=audio, **arguments)
        return video, audio
