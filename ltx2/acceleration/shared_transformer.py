"""A transformer whose calls several ranks compute together: guidance in parallel, and each call's tokens shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import LTX2VideoTransformer3DModel
from torch import Tensor

from ltx2.acceleration.block_graphs import BlockGraphs
from ltx2.acceleration.fast_block import CallTokens, heads_of
from ltx2.parallel.exchange import Shared
from ltx2.parallel.mesh import check_ranks
from ltx2.parallel.ranks import Ranks
from ltx2.parallel.shares import Shares


class SharedTransformer(LTX2VideoTransformer3DModel):  # type: ignore[misc]  # diffusers is untyped
    """The class that `share` sets on a loaded transformer; never constructed.

    Calls name all arguments and ask for no dictionary, as diffusers' pipelines do. All ranks get the whole result.
    """

    shares: Shares
    graphs: BlockGraphs | None = None
    """The blocks, if they are called as CUDA graphs. Those of a perturbed call are not."""

    def __call__(self, **arguments: Any) -> tuple[Tensor, Tensor]:
        """Outside of all hooks, because ranks compute calls with other arguments than the pipeline has given."""
        return self.shares.call(super().__call__, arguments)

    def forward(self, **arguments: Any) -> tuple[Tensor, Tensor]:
        """Inside of all hooks, because they see whole pictures. Everything of the picture's tokens is shared."""
        tokens: CallTokens = self.transformer_blocks[0].tokens
        tokens.exchange = exchange = self.shares.exchange(arguments["hidden_states"].shape[1])
        if not isinstance(exchange, Shared):
            return self._computed(arguments)
        for name, dim in _DIMENSION_OF_TOKENS.items():
            if arguments.get(name) is not None:
                arguments[name] = exchange.own(arguments[name], dim)
        video, audio = self._computed(arguments)
        return exchange.all(video), audio

    def _computed(self, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if self.graphs is None or arguments.get("spatio_temporal_guidance_blocks"):
            return super().forward(**arguments)  # type: ignore[no-any-return]
        self.__dict__["transformer_blocks"] = [self.graphs]  # found before the modules
        try:
            return super().forward(**arguments)  # type: ignore[no-any-return]
        finally:
            del self.__dict__["transformer_blocks"]


_DIMENSION_OF_TOKENS = {"hidden_states": 1, "timestep": 1, "video_coords": 2, "video_keyframes_mask": 1}


def share(pipeline: Any, ranks: Ranks, stg_blocks: Sequence[int], *, graphs: bool = False) -> None:
    """Share the calls of a pipeline's transformer, which `speed_up` has accelerated, among `ranks`.

    stg_blocks: that spatio-temporal guidance perturbs. graphs: call the blocks as CUDA graphs: see `BlockGraphs`.

    Raises:
        DeviceError: the model's heads do not divide by the number of ranks.
    """
    transformer = pipeline.transformer
    check_ranks(ranks.count, heads_of(transformer))
    transformer.__class__ = SharedTransformer
    transformer.shares = Shares(ranks, pipeline, stg_blocks)
    if graphs:
        blocks = transformer.transformer_blocks
        transformer.graphs = BlockGraphs(blocks, blocks[0].tokens)
