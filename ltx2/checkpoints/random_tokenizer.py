"""Small Gemma tokenizers, trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GemmaTokenizer

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
CORPUS = [
    "a fishing boat leaves the harbour at dawn while gulls follow the boat over the quiet sea",
    "fog rolls in, a bell rings, and the camera slowly turns towards the lighthouse on the hill",
    "wide shot of a street in the rain, people with umbrellas, warm light in the windows, soft music",
    "close up of hands playing a piano, the sound of rain outside, a cat sleeps beside the stove",
]


def train_tokenizer(texts: Iterable[str], *, size: int, longest: int) -> GemmaTokenizer:
    """Train a Gemma tokenizer of up to `size` tokens on `texts`, with byte fallback and prompts of up to `longest`."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = BpeTrainer(vocab_size=size, special_tokens=SPECIAL_TOKENS + byte_tokens, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    return GemmaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        add_bos_token=True,  # an empty prompt needs one token to attend to
        padding_side="left",
        model_max_length=longest,
    )
