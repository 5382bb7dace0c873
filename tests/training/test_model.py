"""The small model has the published layout, and is small enough for a repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ltx2.checkpoints.resolve import check_folder
from ltx2.engine import Engine
from training.films import render
from training.model import TOKENS, build
from training.world import draw


def test_the_small_model_is_a_distilled_2_3_below_24_megabytes(untrained: Path) -> None:
    # When
    files = [path for path in untrained.rglob("*") if path.is_file()]
    # Then
    assert str(check_folder(untrained)) == "LTX-2.3, distilled"
    assert sum(path.stat().st_size for path in files) < 24_000_000
    assert max(path.stat().st_size for path in files) < 15 * 2**20


def test_every_prompt_fits_and_has_one_token_per_word() -> None:
    tokenizer = build().tokenizer
    for seed in range(200):
        prompt = draw(np.random.default_rng(seed))[0].prompt
        tokens = tokenizer.tokenize(prompt)
        assert len(tokens) < TOKENS
        assert len(tokens) == len(prompt.replace(",", " ,").split())


def test_the_same_seed_builds_the_same_weights() -> None:
    one, other = build(3), build(3)
    for name in ("vae", "transformer", "vocoder"):
        first, second = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_films_of_the_small_model_have_frames_and_sound(engine: Engine) -> None:
    # When
    film = render(engine, ["a red circle moves left over a blue background, low hum"] * 2, seed=1)
    # Then
    assert [piece.shape for piece in film.pieces] == [(25, 128, 192, 3), (16, 128, 192, 3)]
    assert film.sound.shape == (2, round(41 / 24 * 48_000))
    assert [seam.frame for seam in film.continuity().seams] == [25]
