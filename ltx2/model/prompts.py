"""Prompts: encoded once each, kept by their text, and ahead of need where there is room.

Of a prompt, what the connectors make of it is kept: 12 MB at full size, where the text encoder's hidden states are 385
MB.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LTX2ConditionPipeline
from torch import Tensor, nn

log = logging.getLogger(__name__)

KEPT = 16
"""How many prompts an encoder keeps; 200 MB at full size."""

LONGEST = 1024
"""Tokens of a prompt that LTX-2 reads; fewer where a checkpoint's tokenizer says so."""

_NO_MASKS = {"encoder_attention_mask": None, "audio_encoder_attention_mask": None}


def new_stream(device: torch.device, *, priority: int = 0) -> torch.cuda.Stream | None:
    """A stream of a CUDA device, None on the CPU. priority: 0, the default stream's, is the lowest; -1 goes first."""
    return torch.cuda.Stream(device, priority=priority) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """What the transformer attends to of one prompt, on the pipeline's device.

    video, audio: `[1, L, D]`, each in the width of its stream. mask: int64 `[1, L]`, 1 where there is something to
    attend to; None where that is everywhere, since the connectors fill padding with learned registers.
    """

    video: Tensor
    audio: Tensor
    mask: Tensor | None


class PromptEncoder:
    """Encodes prompts with one loaded pipeline, and keeps the `KEPT` used last. For one thread at a time.

    ahead: whether `prepare` encodes; not where weights move between devices, which two threads must not do at once.
    """

    def __init__(self, pipeline: PromptedPipeline, *, ahead: bool = True) -> None:
        self._pipeline = pipeline
        self._connectors = pipeline.connectors  # a call that skips them has another in their place meanwhile
        self._ahead = ahead
        self._kept: OrderedDict[str, EncodedPrompt] = OrderedDict()
        self._beside: tuple[str, Future[EncodedPrompt]] | None = None
        self._stream = new_stream(pipeline.device) if ahead else None
        self._thread = ThreadPoolExecutor(1, "prompts")

    def encode(self, text: str) -> EncodedPrompt:
        """The encoded `text`, for use on the current stream."""
        if text not in self._kept:
            self.finish()
        if text not in self._kept:
            self._keep(text, self._encode(text))
        self._kept.move_to_end(text)
        encoded = self._kept[text]
        if encoded.video.is_cuda:
            for tensor in (encoded.video, encoded.audio, encoded.mask):
                if tensor is not None:  # so that its memory is not given away under this stream
                    tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return encoded

    def prepare(self, text: str) -> None:
        """Encode `text` ahead: on CUDA beside what the current stream does, until `finish`; on the CPU at once.

        An error is logged and comes to no more: `encode` tries again. Nothing may be compiled before `finish`: while
        torch traces, it changes how modules are called in every thread.
        """
        if not self._ahead or self._beside or text in self._kept:
            return
        if self._stream is None:
            self._keep_if_it_can(text, lambda: self._encode(text))
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # for the weights
            self._beside = text, self._thread.submit(self._encode_on, self._stream, text)

    def finish(self) -> None:
        """Wait for what `prepare` began."""
        if self._beside:
            (text, encoded), self._beside = self._beside, None
            self._keep_if_it_can(text, encoded.result)

    def _keep_if_it_can(self, text: str, encode: Callable[[], EncodedPrompt]) -> None:
        try:
            self._keep(text, encode())
        except Exception as error:
            log.warning("a prompt was not encoded ahead, and will be when it is needed: %s", error)

    def _keep(self, text: str, encoded: EncodedPrompt) -> None:
        self._kept[text] = encoded
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _encode_on(self, stream: torch.cuda.Stream, text: str) -> EncodedPrompt:
        with torch.cuda.stream(stream):
            encoded = self._encode(text)
        stream.synchronize()  # so that it is there for every stream, and its errors are raised here
        return encoded

    def _encode(self, text: str) -> EncodedPrompt:
        pipeline = self._pipeline
        with torch.inference_mode():  # each thread has its own mode
            length = min(LONGEST, pipeline.tokenizer.model_max_length)
            hidden, valid = pipeline._get_gemma_prompt_embeds(text, max_sequence_length=length)
            video, audio, mask = self._connectors(hidden, valid, padding_side=pipeline.tokenizer_padding_side)
            return EncodedPrompt(video, audio, None if bool(mask.all()) else mask)


class PromptedPipeline(LTX2ConditionPipeline):  # type: ignore[misc]  # diffusers is untyped
    """`LTX2ConditionPipeline` whose calls let `prompts` encode their texts; without it, it is the stock pipeline.

    A call with `prompts` takes one prompt, and one negative prompt, as text. Masks that hide nothing are left out,
    which opens the way to quicker attention kernels.
    """

    _prompts: PromptEncoder | None = None
    _masked = True

    def __call__(self, *args: Any, prompts: PromptEncoder | None = None, **kwargs: Any) -> Any:
        """Stock arguments and results."""
        if prompts is None:
            return super().__call__(*args, **kwargs)
        connectors = self.connectors
        hook = self.transformer.register_forward_pre_hook(self._leave_out_masks, with_kwargs=True)
        self._prompts = prompts
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._prompts = None
            self._put_connectors(connectors)
            hook.remove()

    def encode_prompt(
        self,
        prompt: Any,
        negative_prompt: Any = None,
        do_classifier_free_guidance: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """As stock; or embeddings that are connected already, which the stock call then takes for hidden states."""
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
        """Let the stock call's only call of the connectors give `connected`."""
        connectors = self.connectors

        def give(*_: Any, **__: Any) -> tuple[Tensor, ...]:
            self._put_connectors(connectors)  # not later: the call ends by hooking offloading onto all components
            return connected

        self._put_connectors(give)

    def _put_connectors(self, connectors: Any) -> None:
        object.__setattr__(self, "connectors", connectors)  # diffusers' own writes its class into the config

    def _leave_out_masks(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs if self._masked else kwargs | _NO_MASKS
