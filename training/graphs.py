"""A step of training as CUDA graphs: a small model computes in less time than its kernels take to be launched."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Steps in the ordinary way before one is captured, in which state is allocated and kernels are chosen."""

Step = Callable[[Any], dict[str, Tensor]]
_Captured = tuple[torch.cuda.CUDAGraph, Any, dict[str, Tensor]]


class Graphs:
    """Does what `step` does with a batch, a dataclass of tensors on a GPU; each kind and shape of batch has a graph."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._captured: dict[Hashable, _Captured] = {}

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """The losses of this batch, after learning from it."""
        tensors = _tensors(batch)
        others = (getattr(batch, field.name) for field in fields(batch) if field.name not in tensors)
        key = (*others, *(tensor.shape for tensor in tensors.values()))
        if key not in self._captured:
            self._captured[key] = self._capture(batch)
        graph, place, losses = self._captured[key]
        for name, tensor in tensors.items():
            getattr(place, name).copy_(tensor, non_blocking=True)
        graph.replay()
        return {name: loss.clone() for name, loss in losses.items()}

    def _capture(self, batch: Any) -> _Captured:
        place = replace(batch, **{name: tensor.clone() for name, tensor in _tensors(batch).items()})
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._step(place)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._step(place)
        return graph, place, losses


def _tensors(batch: Any) -> dict[str, Tensor]:
    values = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    return {name: value for name, value in values if isinstance(value, Tensor)}
