"""No input of 1 MB costs more than 2 s or 500 MB, whatever it asks for."""

from __future__ import annotations

import pytest

from tests.fuzz.large_inputs import INPUTS, MOST_MB, MOST_SECONDS, WEBP_OF_33_MILLION_PIXELS, measure

BUSY = 3  # on a busy machine, processor time counts more than it should
OFTEN = (
    *("picture: 34 bytes of WebP", "picture: APNG of 5,000 frames", "picture: JPEG header of 65,500 x 65,500"),
    *("spec_yaml: aliases of aliases", "spec_json: 100,000 segments", "spec_json: an integer of 1 MB"),
    *("state: metadata of many deep lists", "state: six black frames of 8192 x 4096"),
    *("safetensors: 15,000 tensors", "gguf: lists in lists", "message: 60,000 types of kombu"),
    *("record: 1,000,000 levels", "manifest: 2**32 entries", "redis_url: 1 MB of @"),
)
NAMES = [f"{target}: {name}" for target, makers in INPUTS.items() for name in makers]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.faults) for name in NAMES]
)
def test_a_large_input_costs_little(name: str) -> None:
    # When
    target, _, short = name.partition(": ")
    cost = measure(name, INPUTS[target][short])
    # Then
    assert cost.outcome == "read or refused"
    assert cost.bytes < 2_000_000
    assert cost.seconds <= BUSY * MOST_SECONDS
    assert cost.megabytes <= MOST_MB


def test_the_inputs_are_what_they_say() -> None:
    assert set(OFTEN) <= set(NAMES)
    assert len(WEBP_OF_33_MILLION_PIXELS) == 34
