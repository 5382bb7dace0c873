"""Captures of CUDA graphs, imitated on a CPU."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch

from ltx2.acceleration.cuda_graphs import Capture


class Cuda:
    """Notes streams and the memory of each capture; a capture raises `error`, as torch leaving its stream set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams, self.memory = ["stream of the segment"], list[object]()
        cuda, numbers = self, count()

        class Graph:
            def __init__(self) -> None:
                self._pool = next(numbers)

            def pool(self) -> int:
                return self._pool

            def replay(self) -> None:
                pass

        class Capturing:
            def __init__(self, graph: Graph, pool: object, **_: Any) -> None:
                cuda.memory.append(graph.pool() if pool is None else pool)

            def __enter__(self) -> None:
                cuda.streams.append("stream of the capture")

            def __exit__(self, *_: object) -> None:
                if cuda.error is not None:
                    raise cuda.error

        self.error: Exception | None = None
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capturing)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.streams[-1])
        monkeypatch.setattr(torch.cuda, "set_stream", self.streams.append)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def compute() -> int:
    return 7


def test_what_cannot_be_captured_is_launched_on_the_stream_of_before(cuda: Cuda) -> None:
    cuda.error = RuntimeError("operation failed due to a previous error during capture")
    assert Capture()(compute) is compute
    assert cuda.streams[-1] == "stream of the segment"


def test_without_memory_for_a_graph_only_optional_ones_are_launched(cuda: Cuda) -> None:
    cuda.error = torch.OutOfMemoryError("none is left")
    assert Capture(optional=True)(compute) is compute
    with pytest.raises(torch.OutOfMemoryError, match="none is left"):
        Capture()(compute)
    assert cuda.streams[-1] == "stream of the segment"


def test_optional_graphs_share_the_memory_of_the_first_that_could_be_captured(cuda: Cuda) -> None:
    # Given
    capture, other = Capture(optional=True), Capture()
    cuda.error = RuntimeError("a synchronization")
    capture(compute)
    cuda.error = None
    # When
    assert [one(compute)() for one in (capture, capture, capture, other, other)] == [7] * 5
    # Then
    _, first, second, third, *apart = cuda.memory
    assert first == second == third
    assert len({first, *apart}) == 3
