"""The blocks of a transformer as CUDA graphs, because Python launches their kernels more slowly than GPUs compute them.

A block has eighty kernels. Two GPUs that share a call of 768x512 compute it in 198 ms; launching it takes up to 255 ms.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ltx2.acceleration.fast_block import CallTokens

log = logging.getLogger(__name__)

KEPT = 8
"""Graphs that a process keeps, those used last: one per shape of a call. Each has the memory that a call needs."""

Streams: TypeAlias = tuple[Tensor, Tensor]
"""Picture and sound."""

Compute: TypeAlias = Callable[[], Streams]
"""Reads the same memory each time."""


def captured(compute: Compute) -> Compute:
    """`compute` as a CUDA graph, whose result is valid until the next call; `compute` itself if it cannot be one."""
    compute()  # compiles, and allocates what is allocated only once
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads use the GPU meanwhile
            result = compute()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the same on all ranks, and the bytes are the same
        log.warning("kernels are launched one by one, which is slower: blocks cannot be a CUDA graph: %s", error)
        return compute
    finally:
        torch.cuda.set_stream(stream)  # torch does not go back to it if a capture fails

    def replay() -> Streams:
        graph.replay()
        return result

    return replay


class BlockGraphs:
    """Calls all `blocks`, which are compiled and stay on a GPU; each shape is captured on its first call.

    Weights may change in place; if they move, blocks are captured again. The result is valid until the next call.
    """

    def __init__(
        self, blocks: Sequence[Any], tokens: CallTokens, capture: Callable[[Compute], Compute] = captured
    ) -> None:
        self._blocks = list(blocks)
        self._weights = [weight for block in blocks for weight in block.parameters()]
        self._tokens = tokens
        self._capture = capture
        self._graphs: OrderedDict[Hashable, tuple[list[Tensor], Compute]] = OrderedDict()

    def __call__(self, **arguments: Any) -> Streams:
        """Call the blocks with these arguments. `hidden_states` and `audio_hidden_states` are those of the first one.

        The others get the streams that the block before them returned.
        """
        values, structure = tree_flatten((arguments, self._tokens.video, self._tokens.audio))
        given = [value for value in values if isinstance(value, Tensor)]
        key = (
            str(structure),
            repr(self._tokens.exchange),
            *((value.shape, value.dtype) if isinstance(value, Tensor) else value for value in values),
            *(weight.data_ptr() for weight in self._weights),
        )
        if key not in self._graphs:
            with torch.inference_mode(mode=False):
                own = [value.clone() if isinstance(value, Tensor) else value for value in values]
            inputs = [value for value in own if isinstance(value, Tensor)]
            self._graphs[key] = inputs, self._capture(lambda: self._compute(*tree_unflatten(own, structure)))
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        inputs, compute = self._graphs[key]
        torch._foreach_copy_(inputs, given)
        return compute()

    def _compute(self, arguments: dict[str, Any], video_levels: Tensor, audio_levels: Tensor) -> Streams:
        self._tokens.video, self._tokens.audio = video_levels, audio_levels
        video, audio = arguments.pop("hidden_states"), arguments.pop("audio_hidden_states")
        for block in self._blocks:
            video, audio = block(hidden_states=video, audio_hidden_states=audio, **arguments)
        return video, audio
