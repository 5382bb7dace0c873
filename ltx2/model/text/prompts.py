"""Encoding and caching of prompts, ahead of time where possible.

The cache has the output of the connectors: 12 MB per prompt at full size, instead of 385 MB of hidden states.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from diffusers import LTX2ConditionPipeline
from torch import Tensor, nn

from ltx2.model.text.text_encoder import EncodedPrompt, TextEncoder, TextEncoderMode

log = logging.getLogger(__name__)

KEPT = 16
"""How many prompts an encoder caches; 200 MB at full size."""

LONG_WAIT_S = 5.0
"""A segment that waits longer for its prompt says so in the log."""

_NO_MASKS = {"encoder_attention_mask": None, "audio_encoder_attention_mask": None}


def new_stream(device: torch.device, *, priority: int = 0) -> torch.cuda.Stream | None:
    """A new stream of a CUDA device, None on the CPU. priority: 0 as the default stream, -1 is higher."""
    return torch.cuda.Stream(device, priority=priority) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


class PromptEncoder:
    """Encodes prompts for one loaded pipeline and caches the `KEPT` used last. For one thread at a time.

    text_encoder: default: the pipeline's own. ahead: whether `prepare` encodes. False where two threads would move the
    same weights, or one would change the attention kernels of the other.
    """

    def __init__(
        self, pipeline: PromptedPipeline, text_encoder: TextEncoder | None = None, *, ahead: bool = True
    ) -> None:
        self._device: torch.device = pipeline._execution_device
        self.text_encoder = text_encoder or TextEncoder.placed(pipeline, self._device, TextEncoderMode.GPU)
        self._ahead = ahead
        self._in_background = self._device.type == "cuda"
        self._cache: OrderedDict[tuple[Hashable, str], EncodedPrompt] = OrderedDict()
        self._weights: Hashable = None
        self._pending: tuple[str, Future[EncodedPrompt]] | None = None
        self._stream = new_stream(self.text_encoder.device) if ahead else None
        self._thread = ThreadPoolExecutor(1, "prompts")

    def use_weights(self, weights: Hashable) -> None:
        """Tell apart prompts that are encoded with different weights, such as by the LoRAs of the connectors."""
        self.finish()
        self._weights = weights

    def encode(self, text: str) -> EncodedPrompt:
        """The encoded `text`, for use on the current stream."""
        key = (self._weights, text)
        if key not in self._cache:
            began = time.monotonic()
            self.finish()
            if key not in self._cache:
                self._store(text, self._encode(text))
            if (waited := time.monotonic() - began) > LONG_WAIT_S:
                log.warning("a segment waited %.0f s for its prompt; text encoder: %s", waited, self.text_encoder.mode)
        self._cache.move_to_end(key)
        encoded = self._cache[key]
        if encoded.video.is_cuda:
            for tensor in (encoded.video, encoded.audio, encoded.mask):
                if tensor is not None:  # its memory must not be reused while this stream reads it
                    tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return encoded

    def prepare(self, text: str) -> None:
        """Encode `text` ahead of time: for a GPU in a background thread, until `finish`; on the CPU at once.

        An error is only logged; `encode` tries again. Nothing may be compiled before `finish`: while torch traces, it
        changes how modules are called in all threads.
        """
        if not self._ahead or self._pending or (self._weights, text) in self._cache:
            return
        if not self._in_background:
            self._try_store(text, lambda: self._encode(text))
            return
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # for the weights
        self._pending = text, self._thread.submit(self._encode_on, self._stream, text)

    def end_segment(self) -> None:
        """Wait as `finish` does, unless the CPU encodes: the segment does not wait for it, only the next one may."""
        if self.text_encoder.mode != TextEncoderMode.CPU:
            self.finish()

    def finish(self) -> None:
        """Wait for the prompt that `prepare` started to encode."""
        if self._pending:
            (text, encoded), self._pending = self._pending, None
            self._try_store(text, encoded.result)

    def _try_store(self, text: str, encode: Callable[[], EncodedPrompt]) -> None:
        try:
            self._store(text, encode())
        except torch.OutOfMemoryError:
            log.warning("there was no memory to encode a prompt ahead; it is encoded when its segment begins")
        except Exception as error:
            log.warning("a prompt could not be encoded ahead, it is encoded when needed: %s", error)

    def _store(self, text: str, encoded: EncodedPrompt) -> None:
        self._cache[(self._weights, text)] = encoded
        if len(self._cache) > KEPT:
            self._cache.popitem(last=False)

    def _encode_on(self, stream: torch.cuda.Stream | None, text: str) -> EncodedPrompt:
        with torch.cuda.stream(stream):
            encoded = self._encode(text)
        if stream is not None:
            stream.synchronize()  # the result is ready for all streams, and errors are raised here
        return encoded

    def _encode(self, text: str) -> EncodedPrompt:
        return self.text_encoder.encode(text, self._device)


class PromptedPipeline(LTX2ConditionPipeline):  # type: ignore[misc]  # diffusers is untyped
    """`LTX2ConditionPipeline` whose calls take a `PromptEncoder`; without one, it is the stock pipeline.

    A call with `prompts` takes one prompt and one negative prompt, as text. Masks that hide nothing are dropped, which
    allows faster attention kernels.
    """

    _prompts: PromptEncoder | None = None
    _masked = True

    def __call__(self, *args: Any, prompts: PromptEncoder | None = None, **kwargs: Any) -> Any:
        """Stock arguments and results."""
        if prompts is None:
            return super().__call__(*args, **kwargs)
        connectors = self.connectors
        hook = self.transformer.register_forward_pre_hook(self._drop_masks, with_kwargs=True)
        self._prompts = prompts
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._prompts = None
            self._set_connectors(connectors)
            hook.remove()

    def encode_prompt(
        self,
        prompt: Any,
        negative_prompt: Any = None,
        do_classifier_free_guidance: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """Stock results; or with `prompts` the connectors' output, which the stock call treats as hidden states."""
        if self._prompts is None:
            stock: tuple[Tensor | None, ...] = super().encode_prompt(
                prompt, negative_prompt, do_classifier_free_guidance, **kwargs
            )
            return stock
        texts = [negative_prompt or "", prompt] if do_classifier_free_guidance else [prompt]
        encoded = [self._prompts.encode(text) for text in texts]
        self._masked = any(one.mask is not None for one in encoded)
        everywhere = torch.ones_like(encoded[0].video[..., 0], dtype=torch.int64)
        masks = [everywhere if one.mask is None else one.mask for one in encoded]
        self._skip_connectors(
            torch.cat([one.video for one in encoded]), torch.cat([one.audio for one in encoded]), torch.cat(masks)
        )
        if do_classifier_free_guidance:
            return encoded[1].video, masks[1], encoded[0].video, masks[0]
        return encoded[0].video, masks[0], None, None

    def _skip_connectors(self, *connected: Tensor) -> None:
        """Make the stock call's only call of the connectors return `connected`."""
        connectors = self.connectors

        def replacement(*_: Any, **__: Any) -> tuple[Tensor, ...]:
            self._set_connectors(connectors)  # not later: at its end, the call installs offload hooks on all components
            return connected

        self._set_connectors(replacement)

    def _set_connectors(self, connectors: Any) -> None:
        object.__setattr__(self, "connectors", connectors)  # diffusers' `__setattr__` also changes the config

    def _drop_masks(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs if self._masked else kwargs | _NO_MASKS
