"""What encodes prompts, Gemma and the connectors, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from ltx2.errors import NotFiniteError
from ltx2.model.finite import all_finite
from ltx2.model.text.streaming import HostEmbedding, StreamedWeights

LONGEST = 1024
"""Maximum tokens of a prompt; a checkpoint's tokenizer can set a lower limit."""

PADDING_SIDE = "left"
"""Where prompts are padded, as Gemma was trained."""

ROOM = 1.25
"""A device with this many times the memory of all weights keeps the text encoder, too."""


class TextEncoderMode(StrEnum):
    """Where Gemma's weights are, and those of the connectors. GPU and OFFLOAD give the same bytes."""

    GPU = "gpu"
    """On the GPU, like all others."""
    CPU = "cpu"
    """In main memory; prompts are encoded by the CPU."""
    OFFLOAD = "offload"
    """In main memory; a layer is on the GPU while it runs. The table of embeddings never is."""
    EIGHT_BIT = "8bit"
    """On the GPU, Gemma's layers in int8, its table of embeddings in main memory."""


TEXT_ENCODERS = ("auto", *TextEncoderMode)


def text_encoder_mode(name: str, device: torch.device, *, offload: str, weights: int) -> TextEncoderMode:
    """The mode that `name`, one of TEXT_ENCODERS, means on `device`.

    auto: gpu if the GPU's total memory is at least ROOM times `weights`, the bytes of the whole model, and nothing else
    is offloaded; offload otherwise. What other programs use does not matter. On a CPU everything is in main memory, so
    all names but 8bit mean cpu.

    Raises:
        ValueError: another name.
    """
    if name not in TEXT_ENCODERS:
        raise ValueError(f"text encoder is {name!r}; it must be one of {', '.join(TEXT_ENCODERS)}")
    if name == TextEncoderMode.EIGHT_BIT:
        return TextEncoderMode.EIGHT_BIT
    if device.type == "cpu":
        return TextEncoderMode.CPU
    if name != "auto":
        return TextEncoderMode(name)
    is_large = total_memory(device) >= ROOM * weights
    return TextEncoderMode.GPU if is_large and offload == "none" else TextEncoderMode.OFFLOAD


def total_memory(device: torch.device) -> int:
    """The memory of a GPU in bytes, whoever uses it."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def weights_of(pipeline: Any) -> int:
    """The bytes of all weights of a pipeline."""
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(tensor.nbytes for model in models for tensor in model.parameters())


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """An encoded prompt, as the transformer attends to it, on the pipeline's device.

    video, audio: `[1, L, D]`, each in the width of its stream. mask: int64 `[1, L]`, 1 for tokens to attend to; None if
    that is all of them, as the connectors replace padding with learned registers. tokens: how many the prompt has, of
    which the first `limit` were encoded.
    """

    video: Tensor
    audio: Tensor
    mask: Tensor | None
    tokens: int = 0
    limit: int = LONGEST

    @property
    def warning(self) -> str | None:
        """Says that the prompt was cut, with both counts."""
        if self.tokens <= self.limit:
            return None
        return f"the prompt has {self.tokens:,} tokens, and the model reads only the first {self.limit:,}; shorten it"


def with_one_bos(tokenizer: Any, text: str) -> str:
    """`text` such that its tokens begin with exactly one `<bos>`, as Gemma was trained, before they are cut to length.

    Not every tokenizer of Gemma 4 puts it there.
    """
    bos: str = tokenizer.bos_token
    text = text.strip()
    while text.startswith(bos):
        text = text.removeprefix(bos).lstrip()
    adds_it = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    return text if adds_it else bos + text


class TextEncoder:
    """Encodes prompts. device: on which it computes."""

    def __init__(
        self, gemma: Any, connectors: Any, tokenizer: Any, device: torch.device, mode: TextEncoderMode
    ) -> None:
        self.connectors = connectors
        self.device = device
        self.mode = mode
        self._gemma = gemma
        self._tokenizer = tokenizer

    @classmethod
    def placed(cls, pipeline: Any, device: torch.device, mode: TextEncoderMode) -> TextEncoder:
        """The text encoder of a pipeline, as `mode` says; for EIGHT_BIT its layers are int8 already.

        In the modes CPU and OFFLOAD it is taken out of the pipeline, which then places its other weights only.
        """
        gemma, connectors = pipeline.text_encoder, pipeline.connectors
        if device.type == "cpu":
            return cls(gemma, connectors, pipeline.tokenizer, device, mode)
        if mode in (TextEncoderMode.OFFLOAD, TextEncoderMode.EIGHT_BIT):
            language = gemma.language_model
            language.embed_tokens = HostEmbedding(language.embed_tokens, device)
        if mode in (TextEncoderMode.OFFLOAD, TextEncoderMode.CPU):
            pipeline.text_encoder = pipeline.connectors = None
        if mode == TextEncoderMode.OFFLOAD:
            copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for model in (gemma, connectors):
                StreamedWeights(model, device, copies)
        computes_on = torch.device("cpu") if mode == TextEncoderMode.CPU else device
        return cls(gemma, connectors, pipeline.tokenizer, computes_on, mode)

    @property
    def models(self) -> tuple[Any, ...]:
        """All that has weights."""
        held = (part for part in self._gemma.modules() if isinstance(part, HostEmbedding))
        return (self._gemma, self.connectors, *(part.embedding for part in held))

    def encode(self, text: str, device: torch.device) -> EncodedPrompt:
        """`text` encoded, on `device`."""
        with torch.inference_mode():  # each thread has its own mode
            tokens = len(self._tokenizer(with_one_bos(self._tokenizer, text), verbose=False).input_ids)
            hidden, valid = self._hidden_states(text)
            video, audio, mask = self.connectors(hidden, valid, padding_side=PADDING_SIDE)
            everywhere, finite = torch.stack([mask.all(), all_finite(video, audio)]).tolist()  # one wait for a GPU
            if not finite:
                raise NotFiniteError("the text embeddings are not finite (NaN or infinite)")
            needed = None if everywhere else mask.to(device)
            limit = min(LONGEST, self._tokenizer.model_max_length)
            return EncodedPrompt(video.to(device), audio.to(device), needed, tokens, limit)

    def _hidden_states(self, text: str) -> tuple[Tensor, Tensor]:
        """Gemma's hidden states `[1, L, D * (layers + 1)]`, padded on the left, and which tokens are valid `[1, L]`."""
        tokenizer = self._tokenizer
        tokenizer.padding_side = PADDING_SIDE
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokens = tokenizer(
            with_one_bos(tokenizer, text),
            padding="max_length",
            max_length=min(LONGEST, tokenizer.model_max_length),
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        states = self._gemma(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        return torch.stack(states, dim=-1).flatten(2), tokens.attention_mask
