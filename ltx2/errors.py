"""The tree of errors of `ltx2`.

LTX2Error
├── ContinuationError      a state that cannot be encoded or decoded; names the field (also a ValueError)
├── TimelineError          invalid frame counts, rates or overlaps (also a ValueError)
├── UnsupportedStateError  a valid state that this engine cannot render (also a ValueError)
├── RequestError           a request that the model cannot fulfil (also a ValueError)
├── CheckpointError        a model that is missing, incomplete or unsupported
│   ├── HubUnreachableError    a model or LoRA that cannot be fetched now; the caller may retry
│   └── UnsupportedModelError  a model or LoRA whose files are of a kind that cannot be used
├── DeviceError            a device, number of GPUs, precision or attention that cannot be used (also a ValueError)
├── NotFiniteError         a model that gives NaN or infinite values
├── EngineMemoryError      out of (GPU) memory; the caller may retry
├── RankError              a process that renders together with others died, hangs or lost them
├── SegmentCancelledError  the caller stopped the segment between two denoising steps
└── MediaError             a clip or film that cannot be encoded, read or joined
"""

from __future__ import annotations


class LTX2Error(Exception):
    """Base class of all errors of `ltx2`."""


class ContinuationError(LTX2Error, ValueError):
    """A continuation state that cannot be encoded or decoded; the message names the field."""


class TimelineError(LTX2Error, ValueError):
    """A frame count, frame rate or overlap that LTX-2 cannot render."""


class UnsupportedStateError(LTX2Error, ValueError):
    """A valid state that this engine cannot render; the message names the field and its value."""


class RequestError(LTX2Error, ValueError):
    """A request that the model cannot fulfil; the message names the parameter and the valid values."""


class CheckpointError(LTX2Error):
    """A model that is missing, incomplete or of an unsupported kind."""


class UnsupportedModelError(CheckpointError):
    """A model or LoRA whose files are of a kind that cannot be used; another attempt cannot succeed."""


class HubUnreachableError(CheckpointError):
    """A model or LoRA that cannot be fetched because the hub, or the network, is out; another attempt may succeed."""


class DeviceError(LTX2Error, ValueError):
    """A device, a number of GPUs, a precision or attention that cannot be used. setting: its name, such as "gpus"."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting} is {message}")
        self.setting = setting


class NotFiniteError(LTX2Error):
    """A model that gives NaN or infinite values; another attempt gives the same. The message says which values."""


class EngineMemoryError(LTX2Error):
    """The device ran out of memory; another attempt may succeed."""


class RankError(LTX2Error):
    """A process that renders together with others died, hangs or lost them; a new group of processes may succeed."""


class SegmentCancelledError(LTX2Error):
    """The caller stopped the segment between two denoising steps."""


class MediaError(LTX2Error):
    """A clip or film that cannot be encoded, read or joined."""
