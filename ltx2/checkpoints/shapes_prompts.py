"""What the shipped model `shapes` understands, to warn of other prompts. It renders them, but nothing that they say."""

from __future__ import annotations

import re
from pathlib import Path

from ltx2.checkpoints.resolve import SHIPPED

_COLOUR = "(red|green|blue|yellow|purple|cyan|white|black)"
_WAY = "((up|down) and (left|right)|left|right|up|down)"
_SHAPE = rf"an? {_COLOUR} (circle|square|triangle) moves ((slowly|quickly) )?{_WAY}"
_PROMPT = re.compile(rf"{_SHAPE}( and {_SHAPE})? over an? {_COLOUR} background, (low hum|high hum|silence)")
_TOKENIZER = Path("tokenizer", "tokenizer.json")

HELP = (
    "the small model `shapes` does not understand this prompt, and shows anything; it understands prompts such as "
    '"a red circle moves slowly up and left over a blue background, low hum": one or two shapes (circle, square, '
    "triangle), in red, green, blue, yellow, purple, cyan, white or black, that move left, right, up or down, with a "
    "low hum, a high hum or silence. `model` in the spec, or LONGTAKE_MODEL, names another model"
)


def is_understood(prompt: str) -> bool:
    """Whether `shapes` was trained on prompts like this one."""
    return _PROMPT.fullmatch(" ".join(prompt.split())) is not None


def is_small_model(folder: Path) -> bool:
    """Whether the model in `folder` is `shapes`, or a copy: it has its tokenizer."""
    try:
        return (folder / _TOKENIZER).read_bytes() == (SHIPPED / _TOKENIZER).read_bytes()
    except OSError:
        return False
