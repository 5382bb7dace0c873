"""The errors of `ltx2`, one tree.

LTX2Error
├── ContinuationError      a state that cannot be encoded or decoded; names the field (also a ValueError)
├── TimelineError          frame counts, rates or overlaps that cannot be (also a ValueError)
├── UnsupportedStateError  a valid state that this engine cannot render (also a ValueError)
├── RequestError           a request that asks of a model what it cannot do (also a ValueError)
├── CheckpointError        a model that is missing, incomplete or unsupported
├── EngineMemoryError      out of (GPU) memory; the caller may retry
├── SegmentCancelledError  the caller asked to stop between two denoising steps
└── MediaError             a clip or film that cannot be encoded, read or joined
"""

from __future__ import annotations


class LTX2Error(Exception):
    """Whatever goes wrong in `ltx2`."""


class ContinuationError(LTX2Error, ValueError):
    """A continuation state that cannot be encoded or decoded; the message names the field."""


class TimelineError(LTX2Error, ValueError):
    """A frame count, frame rate or overlap that LTX-2 cannot render."""


class UnsupportedStateError(LTX2Error, ValueError):
    """A valid state that this engine cannot render; the message names the field and its value."""


class RequestError(LTX2Error, ValueError):
    """A request that asks of a model what it cannot do; the message names what was asked, and what would be right."""


class CheckpointError(LTX2Error):
    """A model that is missing, incomplete or of an unsupported kind."""


class EngineMemoryError(LTX2Error):
    """The device ran out of memory; another attempt may succeed."""


class SegmentCancelledError(LTX2Error):
    """The caller asked to stop between two denoising steps."""


class MediaError(LTX2Error):
    """A clip or film that cannot be encoded, read or joined."""
