"""Random clips of the world, made ahead of time by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Clip = TypeVar("Clip")


class Clips(IterableDataset[Any]):
    """An endless stream of results of `make`, with a different random generator in each process."""

    def __init__(self, make: Callable[[np.random.Generator], Any], seed: int) -> None:
        self._make, self._seed = make, seed

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        while True:
            yield self._make(rng)


def batches(make: Callable[[np.random.Generator], Any], seed: int, *, size: int, processes: int) -> Iterator[Any]:
    """Batches of `size` clips, collated by torch and made by `processes` child processes."""
    return iter(DataLoader(Clips(make, seed), batch_size=size, num_workers=processes))


def stream(make: Callable[[np.random.Generator], Clip], seed: int, *, processes: int) -> Iterator[Clip]:
    """An endless stream of results of `make`, from `processes` child processes."""
    return iter(DataLoader(Clips(make, seed), batch_size=None, num_workers=processes))


def as_pictures(frames: torch.Tensor) -> torch.Tensor:
    """Frames uint8 `[B, T, H, W, 3]` as input of a VAE: `[B, 3, T, H, W]`, -1..1."""
    return frames.movedim(-1, 1).float() / 127.5 - 1
