"""Streaming between two places of main memory; tests/ltx2/test_engine_gpu.py has it on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ltx2.engine import Engine
from ltx2.model.text.streaming import HostEmbedding, StreamedWeights
from tests.ltx2.model.text.test_prompts import failing

CPU = torch.device("cpu")
IDS = torch.tensor([[0, 0, 2, 270, 280, 300]])


class Model(nn.Module):
    """Layers in lists, a large and a small layer outside of any, called in another order than they are registered."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3)])
        self.large, self.small = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.small(self.large(x))
        for block in self.blocks:
            x = block(x)
        return x


def places(model: nn.Module) -> dict[str, int]:
    return {name: one.data_ptr() for name, one in model.named_parameters()}


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("ltx2.model.text.streaming.LARGE", 64)
    torch.manual_seed(0)
    model = Model()
    StreamedWeights(model, CPU)
    return model


def test_a_layer_has_other_memory_while_it_runs_and_its_own_after(streamed: Any) -> None:
    # Given
    at_rest, during = places(streamed), {}
    for name, layer in streamed.named_modules():
        layer.register_forward_hook(lambda layer, *_, name=name: during.update({name: places(layer)}), prepend=True)
    with torch.inference_mode():
        expected = streamed(torch.ones(1, 4))
        for _ in range(2):
            # When / Then the result is the same each time
            assert torch.equal(streamed(torch.ones(1, 4)), expected)
    # Then elements of lists and the large layer were streamed as a whole, the small one stayed
    moved = {
        name for name, seen in during.items() if name and all(at_rest[f"{name}.{one}"] != seen[one] for one in seen)
    }
    assert moved == {"large", *(f"blocks.{i}{part}" for i in range(3) for part in ("", ".0", ".1"))}
    assert places(streamed) == at_rest


def test_weights_can_be_changed_between_calls_and_after_a_failure(streamed: Any) -> None:
    # Given a call that failed within a layer
    at_rest = places(streamed)
    with failing(streamed.blocks[1][1], RuntimeError("stopped")), pytest.raises(RuntimeError, match="stopped"):
        streamed(torch.ones(1, 4))
    # Then all weights are in their place
    assert places(streamed) == at_rest
    streamed(torch.ones(1, 4))
    # And a change of any of them is seen by the next call, which begins with the layer after the last one
    with torch.no_grad():
        for parameter in streamed.parameters():
            parameter.copy_(torch.randn_like(parameter))
        plain = Model()
        plain.load_state_dict(streamed.state_dict())
        assert torch.equal(streamed(torch.ones(1, 4)), plain(torch.ones(1, 4)))


def test_a_streamed_text_encoder_gives_the_same_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    monkeypatch.setattr("ltx2.model.text.streaming.LARGE", 64)
    gemma, embedding = engine.pipeline.text_encoder, engine.pipeline.text_encoder.language_model.embed_tokens
    with torch.no_grad():
        expected = gemma(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states
        # When
        gemma.language_model.embed_tokens = HostEmbedding(embedding, CPU)
        hooks = [(layer, dict(layer._forward_pre_hooks), dict(layer._forward_hooks)) for layer in gemma.modules()]
        try:
            StreamedWeights(gemma, CPU)
            found = gemma(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states
        finally:  # other tests use it
            gemma.language_model.embed_tokens = embedding
            for layer, before, after in hooks:
                layer._forward_pre_hooks.clear()
                layer._forward_pre_hooks.update(before)
                layer._forward_hooks.clear()
                layer._forward_hooks.update(after)
                layer._forward_hooks_always_called.clear()
    # Then
    assert all(torch.equal(one, right) for one, right in zip(found, expected, strict=True))
