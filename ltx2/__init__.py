"""One LTX-2 segment: continuation state, timeline and model. Importing this package does not import torch."""

from __future__ import annotations

from ltx2.errors import LTX2Error
from ltx2.state.continuation import (
    DEFAULT_INLINE_THRESHOLD_BYTES,
    LTX2_CONTINUATION_KIND,
    LTX2_CONTINUATION_SCHEMA_VERSION,
    ContinuationState,
    LTX2ContinuationState,
)

__all__ = [
    "DEFAULT_INLINE_THRESHOLD_BYTES",
    "LTX2_CONTINUATION_KIND",
    "LTX2_CONTINUATION_SCHEMA_VERSION",
    "ContinuationState",
    "LTX2ContinuationState",
    "LTX2Error",
]
