"""The GPUs that a full-size model fits on, with which settings. docs/models.md has the same rows; a test compares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A way to render a full-size model on a GPU. `benchmarks/segment.py --parts memory` measures it.

    memory_gb: of the GPU. settings: environment variables. text_encoder: what LONGTAKE_TEXT_ENCODER=auto means there.
    size: of 121 frames. peak_gib: what torch reserved when it could reserve no more than the card has. main_gib: of
    weights in main memory.
    """

    memory_gb: int
    settings: str
    text_encoder: str
    size: str
    peak_gib: float
    main_gib: float

    def setting(self, name: str, default: str) -> str:
        """The value of a variable in `settings`."""
        found = dict(pair.split("=") for pair in self.settings.split())
        return found.get(f"LONGTAKE_{name}", default)

    def __str__(self) -> str:
        return (
            f"a GPU of {self.memory_gb} GB: {self.settings or 'no settings'} "
            f"(peak {self.peak_gib:g} GiB at {self.size})"
        )


ENCODER_BYTES = 23_532_068_352
"""The weights of the text encoder that was measured, Gemma 3 12B in bfloat16. A smaller one needs less."""
FP8 = "LONGTAKE_PRECISION=fp8"
MODEL, SEQUENTIAL = f"{FP8} LONGTAKE_OFFLOAD=model", f"{FP8} LONGTAKE_OFFLOAD=sequential"

CARDS = (
    Card(96, "", "gpu", "1536x1024", 93.0, 0.0),
    Card(80, "", "offload", "1536x1024", 75.2, 27.8),
    Card(80, FP8, "gpu", "1536x1024", 77.6, 0.0),
    Card(48, FP8, "offload", "768x512", 43.5, 27.8),
    Card(48, FP8, "offload", "1536x1024", 43.4, 27.8),
    Card(32, MODEL, "offload", "768x512", 30.0, 51.2),
    Card(24, SEQUENTIAL, "offload", "768x512", 21.0, 49.7),
    Card(24, SEQUENTIAL, "offload", "1536x1024", 21.5, 49.7),
)
