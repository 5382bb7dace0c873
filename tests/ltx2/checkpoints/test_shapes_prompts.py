"""Warnings about prompts: those that the small model does not understand, and those that are cut."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ltx2.checkpoints.resolve import SHIPPED
from ltx2.checkpoints.shapes_prompts import HELP, is_small_model, is_understood, size_help
from ltx2.engine import Engine
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, first_timing
from training.world import draw

FIRST = first_timing(SegmentShape(9, Fraction(24), 1))


def test_every_prompt_of_the_training_is_understood() -> None:
    rng = np.random.default_rng(0)
    assert all(is_understood(draw(rng)[0].prompt) for _ in range(500))


@pytest.mark.parametrize(
    "prompt",
    [
        "an astronaut riding a horse",
        "a lamp",
        "red",
        "a red circle",
        "a red circle moves left over a blue background",
        "a pink circle moves left over a blue background, low hum",
        "a red circle moves left over a blue background, low hum, in the rain",
        "a red circle moves left and a blue square moves up and a red square moves up over a cyan background, silence",
    ],
)
def test_other_prompts_are_not(prompt: str) -> None:
    assert not is_understood(prompt)


def test_sizes_and_lengths_of_the_training_are_known() -> None:
    assert size_help(192, 128, {25}) == ""
    assert "shows anything at 768x512 and 121 frames" in size_help(768, 512, {121})
    assert "shows anything at 192x128 and 33 frames" in size_help(192, 128, {25, 33})


def test_a_copy_of_the_small_model_is_known(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "tokenizer", tmp_path / "copy" / "tokenizer")
    assert is_small_model(tmp_path / "copy")
    assert not is_small_model(models["tiny"])
    assert not is_small_model(tmp_path)


def test_the_engine_warns_of_prompts_that_are_cut_or_not_understood() -> None:
    # Given
    engine = Engine.load("shapes", device="cpu")
    understood = "a red circle moves left over a blue background, low hum"

    def warnings(prompt: str) -> tuple[str, ...]:
        return engine.run(SegmentRequest(prompt, 0, 64, 64, FIRST)).warnings

    # When / Then
    assert warnings(understood) == ()
    assert warnings("an astronaut riding a horse") == (HELP,)
    # with <bos>, which counts as a token, as the model reads it
    cut = "the prompt has 65 tokens, and the model reads only the first 64; shorten it"
    assert warnings("a" + 63 * " red") == (cut, HELP)
    assert warnings("a" + 62 * " red") == (HELP,)


def test_an_engine_of_another_model_warns_of_cut_prompts_only(engines: dict[str, Engine]) -> None:
    output = engines["tiny"].run(SegmentRequest("boat " * 1500, 0, 64, 64, FIRST))
    (cut,) = output.warnings
    assert cut.endswith("tokens, and the model reads only the first 1,024; shorten it")
    assert engines["tiny"].run(SegmentRequest("a boat", 0, 64, 64, FIRST)).warnings == ()
