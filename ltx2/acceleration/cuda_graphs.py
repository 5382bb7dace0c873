"""Computations as CUDA graphs, because Python launches small kernels more slowly than GPUs compute them.

Launching also needs the GIL and a core, which other threads and other processes of a host use. A graph takes neither.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

log = logging.getLogger(__name__)

KEPT = 8
"""Graphs of one computation that a process keeps, those used last: one per shape. Each has the memory that it needs,
unless they share it."""

Result = TypeVar("Result")


class Capture:
    """Makes CUDA graphs of computations that read the same memory each time. A result is valid until the next call.

    optional: also without memory for a graph, a computation is launched, and all graphs share their memory. Then only
    one of them may run at a time, and a result is valid until the next call of any. Ranks that compute together need
    the same on all: the compiler rounds in another way for graphs.
    """

    def __init__(self, *, optional: bool = False) -> None:
        self._optional = optional
        self._first: torch.cuda.CUDAGraph | None = None  # as long as it lives, there is the memory that is shared

    def __call__(self, compute: Callable[[], Result]) -> Callable[[], Result]:
        """`compute` as a CUDA graph; `compute` itself if it cannot be one."""
        compute()  # compiles, and allocates what is allocated only once
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        memory = None if self._first is None else self._first.pool()
        try:
            # other threads use the GPU meanwhile
            with torch.cuda.graph(graph, memory, capture_error_mode="thread_local"):
                result = compute()
        except RuntimeError as error:  # the same on all ranks, and the bytes are the same
            if isinstance(error, torch.OutOfMemoryError) and not self._optional:
                raise
            log.warning("kernels are launched one by one, which is slower: they cannot be a CUDA graph: %s", error)
            return compute
        finally:
            torch.cuda.set_stream(stream)  # torch does not go back to it if a capture fails
        if self._optional and self._first is None:
            self._first = graph

        def replay() -> Result:
            graph.replay()
            return result

        return replay


class CudaGraphs(Generic[Result]):
    """Calls `compute` as CUDA graphs: each shape of its arguments is captured on its first call.

    weights: what `compute` reads besides its arguments, on a GPU. They may change in place; if they move, it is
    captured again. The result is valid until the next call.
    """

    def __init__(
        self,
        compute: Callable[..., Result],
        weights: Iterable[Tensor],
        capture: Callable[[Callable[[], Result]], Callable[[], Result]],
    ) -> None:
        self._compute = compute
        self._weights = list(weights)
        self._capture = capture
        self._graphs: OrderedDict[Hashable, tuple[list[Tensor], Callable[[], Result]]] = OrderedDict()

    def __call__(self, *arguments: Any, key: Hashable = None) -> Result:
        """`compute(*arguments)`. arguments: trees of tensors and other values. key: what the kernels depend on, too."""
        values, structure = tree_flatten(arguments)
        given = [value for value in values if isinstance(value, Tensor)]
        shape = (
            str(structure),
            key,
            *((value.shape, value.dtype) if isinstance(value, Tensor) else value for value in values),
            *(weight.data_ptr() for weight in self._weights),
        )
        if shape not in self._graphs:
            with torch.inference_mode(mode=False):
                own = [value.clone() if isinstance(value, Tensor) else value for value in values]
            inputs = [value for value in own if isinstance(value, Tensor)]
            self._graphs[shape] = inputs, self._capture(lambda: self._compute(*tree_unflatten(own, structure)))
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        inputs, compute = self._graphs[shape]
        torch._foreach_copy_(inputs, given)
        return compute()
