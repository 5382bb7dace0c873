"""The mark of a video's first latent frame in LTX-2.5."""

from __future__ import annotations

import pytest
import torch

from ltx2.engine import Engine
from ltx2.model.denoising.first_latent import mark_first_latents
from ltx2.sampling import Sampling
from tests.ltx2.model.denoising.test_cross_attention import call, small_transformer
from tests.ltx2.model.denoising.test_denoiser import calls_of, request_of
from tests.ltx2.test_engine import SECOND


@pytest.mark.parametrize("kind", ["distilled", "guided"])
def test_every_call_marks_the_tokens_of_the_first_latent(
    engines: dict[str, Engine], full_engines: dict[str, Engine], kind: str
) -> None:
    # Given
    engine = (engines if kind == "distilled" else full_engines)["tiny-2.5"]
    sampling = Sampling(stages=2, steps=None if kind == "distilled" else 2)
    # When a segment of two stages is rendered, and continued
    with calls_of(engine) as calls:
        first = engine.run(request_of(sampling))
        engine.run(request_of(sampling, SECOND), first.state)
    # Then the 1x2 tokens of the first stage, and the 2x4 of the second, are marked for every prompt of every call
    assert {len(call["hidden_states"]) for call in calls} == ({1} if kind == "distilled" else {1, 2})
    for one in calls:
        count, tokens = {6: 2, 24: 8}[one["hidden_states"].shape[1]], one["hidden_states"].shape[1]
        expected = torch.tensor([1.0] * count + [0.0] * (tokens - count))[None, :, None]
        assert torch.equal(one["video_keyframes_mask"], expected.expand(len(one["hidden_states"]), -1, -1))


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0"])
def test_other_versions_are_called_without_a_mark(engines: dict[str, Engine], name: str) -> None:
    with calls_of(engines[name]) as calls:
        engines[name].run(request_of(Sampling()))
    assert not any("video_keyframes_mask" in call for call in calls)


@torch.no_grad()
def test_the_mark_is_the_first_latents_and_a_callers_own_is_kept() -> None:
    # Given
    transformer = small_transformer()
    first, last = torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([[[0.0], [0.0], [1.0]]])
    expected = [transformer(**call(), video_keyframes_mask=marks)[0] for marks in (first, last)]
    # When
    mark_first_latents(transformer)
    found = [transformer(**call())[0], transformer(**call(), video_keyframes_mask=last)[0]]
    # Then
    assert all(torch.equal(one, right) for one, right in zip(found, expected, strict=True))
    assert not torch.equal(*found)
