"""Training steps as CUDA graphs, because a small model computes faster than its kernels are launched."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Normal steps before one is captured, in which memory is allocated and kernels are chosen."""

Step = Callable[[Any], dict[str, Tensor]]
_Captured = tuple[torch.cuda.CUDAGraph, Any, dict[str, Tensor]]


class Graphs:
    """Runs `step` as a CUDA graph, one per kind and shape of batch. A batch is a dataclass of tensors on a GPU."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Run a step on `batch` and return its losses."""
        tensors = _tensors(batch)
        others = (getattr(batch, field.name) for field in fields(batch) if field.name not in tensors)
        key = (*others, *(tensor.shape for tensor in tensors.values()))
        if key not in self._captured:
            self._captured[key] = self._capture(batch)
        graph, inputs, losses = self._captured[key]
        for name, tensor in tensors.items():
            getattr(inputs, name).copy_(tensor, non_blocking=True)
        graph.replay()
        return {name: loss.clone() for name, loss in losses.items()}

    def _capture(self, batch: Any) -> _Captured:
        inputs = replace(batch, **{name: tensor.clone() for name, tensor in _tensors(batch).items()})
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP):
                self._step(inputs)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._step(inputs)
        return graph, inputs, losses


def _tensors(batch: Any) -> dict[str, Tensor]:
    values = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    return {name: value for name, value in values if isinstance(value, Tensor)}
