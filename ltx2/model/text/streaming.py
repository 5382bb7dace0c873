"""Weights that stay in main memory, and are on the device only while their layer runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LARGE = 16 * 2**20
"""Bytes from which a layer that is not in a list of layers is worth streaming."""


class StreamedWeights:
    """Streams the layers of a model: the weights of one are copied to the device while the one before runs.

    Results are the same as with all weights on the device. A layer is an element of a list of layers, or any other
    large layer; all else is moved to the device. After a call, successful or not, parameters are in main memory, so
    they may be changed there between two calls. For one thread at a time.
    """

    def __init__(self, model: nn.Module, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        """stream: for copies to a CUDA device; models that run one after the other share it, and so its memory."""
        self._device = device
        self._stream = stream
        self._layers = _layers(model)
        self._host = [[(one, self._pinned(one.data)) for one in _tensors(layer)] for layer in self._layers]
        self._next: tuple[int, list[Tensor]] | None = None
        streamed = {id(tensor) for layer in self._host for tensor, _ in layer}
        for tensor in _tensors(model):
            if id(tensor) not in streamed:
                tensor.data = tensor.data.to(device)
        model.register_forward_hook(self._forget, always_call=True)
        for number, layer in enumerate(self._layers):
            self._restore(number)
            layer.register_forward_pre_hook(self._before(number))
            layer.register_forward_hook(self._after(number), always_call=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        on_host = torch.empty_like(tensor, device="cpu", pin_memory=self._stream is not None)
        return on_host.copy_(tensor)

    def _restore(self, number: int) -> None:
        for tensor, host in self._host[number]:
            tensor.data = host

    def _copied(self, number: int) -> list[Tensor]:
        """Start to copy a layer's weights to the device."""
        with torch.cuda.stream(self._stream):
            return [host.to(self._device, non_blocking=True, copy=True) for _, host in self._host[number]]

    def _before(self, number: int) -> Any:
        def hook(*_: Any) -> None:
            ahead, self._next = self._next, None
            copies = ahead[1] if ahead and ahead[0] == number else self._copied(number)
            if self._stream is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_stream(self._stream)
                for one in copies:
                    one.record_stream(current)  # its memory must not be reused while the layer runs
            for (tensor, _host), on_device in zip(self._host[number], copies, strict=True):
                tensor.data = on_device
            if number + 1 < len(self._layers):
                self._next = number + 1, self._copied(number + 1)

        return hook

    def _forget(self, *_: Any) -> None:
        self._next = None  # weights may change until the next call

    def _after(self, number: int) -> Any:
        def hook(*_: Any) -> None:
            self._restore(number)

        return hook


class HostEmbedding(nn.Module):
    """An embedding whose table stays in main memory: only the rows of a prompt are copied, not its 2 GB."""

    def __init__(self, embedding: nn.Embedding, device: torch.device) -> None:
        super().__init__()
        self._held = (embedding.cpu(),)  # in a tuple, so that it is no part of the model, which is moved
        self._device = device

    @property
    def embedding(self) -> nn.Embedding:
        """The table."""
        return self._held[0]

    def forward(self, ids: Tensor) -> Tensor:
        """ids: `[B, L]`; the result `[B, L, D]` is on the device."""
        rows: Tensor = self.embedding(ids.cpu())
        return rows.to(self._device)


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers to stream, in the order in which the model has them."""
    if isinstance(model, nn.ModuleList):
        return list(model)
    children = list(model.children())
    if not children:
        size = sum(one.nbytes for one in _tensors(model))
        return [model] if size >= LARGE else []
    return [layer for child in children for layer in _layers(child)]
