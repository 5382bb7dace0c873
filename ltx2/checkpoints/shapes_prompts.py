"""What the shipped model `shapes` understands, to warn of other prompts. It renders them, but nothing that they say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ltx2.checkpoints.resolve import SHIPPED

_COLOUR = "(red|green|blue|yellow|purple|cyan|white|black)"
_WAY = "((up|down) and (left|right)|left|right|up|down)"
_SHAPE = rf"an? {_COLOUR} (circle|square|triangle) moves ((slowly|quickly) )?{_WAY}"
_PROMPT = re.compile(rf"{_SHAPE}( and {_SHAPE})? over an? {_COLOUR} background, (low hum|high hum|silence)")
TRAINED_WIDTH, TRAINED_HEIGHT, TRAINED_FRAMES = 192, 128, 25
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


def size_help(width: int, height: int, lengths: Iterable[int]) -> str:
    """What to say of segments of this size and these lengths in frames; empty if `shapes` was trained on such."""
    others = [frames for frames in sorted(lengths) if frames != TRAINED_FRAMES]
    if (width, height) == (TRAINED_WIDTH, TRAINED_HEIGHT) and not others:
        return ""
    asked = f"{width}x{height} and {(others or [TRAINED_FRAMES])[0]} frames"
    return (
        f"the small model `shapes` was trained on segments of {TRAINED_WIDTH}x{TRAINED_HEIGHT} and {TRAINED_FRAMES} "
        f"frames, and shows anything at {asked}; set `width: {TRAINED_WIDTH}`, `height: {TRAINED_HEIGHT}` and "
        f"`frames: {TRAINED_FRAMES}`, or name another model in `model` or LONGTAKE_MODEL"
    )


def is_small_model(folder: Path) -> bool:
    """Whether the model in `folder` is `shapes`, or a copy: it has its tokenizer."""
    try:
        return (folder / _TOKENIZER).read_bytes() == (SHIPPED / _TOKENIZER).read_bytes()
    except OSError:
        return False
