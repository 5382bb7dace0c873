"""Copies of a model's values to the host, in parallel to later work of a GPU, and only if they are valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx2.errors import NotFiniteError
from ltx2.model.text.prompts import new_stream

HostCopy = Callable[[], Tensor]
"""Waits for a copy to the host and returns it. NotFiniteError: it was made from values that are not finite."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Values on the device. made_from: what they were made from. finite: a bool, whether all of that is finite."""

    values: Tensor
    made_from: str
    finite: Tensor


class HostCopies:
    """Copies values from one device. stream: on which they are computed; None on the CPU."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._copies = new_stream(device)

    def start(self, checked: Checked) -> HostCopy:
        """Start to copy `checked.values`, without waiting for a GPU."""
        finite, values = self._start(checked.finite), self._start(checked.values)

        def wait() -> Tensor:
            if not finite():
                raise NotFiniteError(f"the {checked.made_from} are not finite (NaN or infinite)")
            return values()

        return wait

    def _start(self, tensor: Tensor) -> HostCopy:
        if self._stream is None or self._copies is None:
            on_cpu = tensor.cpu()
            return lambda: on_cpu
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)  # pinned memory is several times as fast
        self._copies.wait_stream(self._stream)
        with torch.cuda.stream(self._copies):
            host.copy_(tensor, non_blocking=True)
            done = self._copies.record_event()
        tensor.record_stream(self._copies)

        def wait() -> Tensor:
            done.synchronize()
            return host

        return wait
