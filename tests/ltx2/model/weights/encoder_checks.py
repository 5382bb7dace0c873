"""What text encoders in files must have in common with the same ones in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GemmaTokenizer

from ltx2.checkpoints.random_tokenizer import CORPUS

TEXTS = [*CORPUS, "", "  two  spaces\n\tand a tab ", "<bos><mask>", "a \u00e9 \u65e5 \u2581"]


def hidden(model: Any) -> Tensor:
    """The hidden states of all layers, `[layers + 1, 1, 10, width]`, of ten tokens."""
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack(states)


def check_tokens(tokenizer: Any, folder: Path) -> None:
    """A tokenizer gives the tokens of the one in `folder`."""
    expected = GemmaTokenizer.from_pretrained(folder)
    assert [tokenizer(text).input_ids for text in TEXTS] == [expected(text).input_ids for text in TEXTS]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (expected.pad_token_id, expected.bos_token_id)
