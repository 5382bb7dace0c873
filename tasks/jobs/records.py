"""What a job record holds, as values: handoffs, clips, films and the status people see. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Self

import msgpack

from ltx2.timeline import SegmentShape, SegmentTiming

FINISHED = ("done", "failed", "cancelled")
FILM_UNIT = "film"
SEGMENT_UNIT = "segment"
FROM_OUTSIDE = -1


def repair_unit(index: int) -> str:
    """The name of the unit of work that renders the committed segment `index` again."""
    return f"repair:{index}"


def clip_unit(index: int) -> str:
    """The name of the unit of work that makes the clip of segment `index`."""
    return f"clip:{index}"


@dataclass(frozen=True, slots=True)
class _Record:
    def pack(self) -> bytes:
        """This record in msgpack."""
        return bytes(msgpack.packb(asdict(self)))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The record in `data`."""
        return cls(**msgpack.unpackb(data))


@dataclass(frozen=True, slots=True)
class Handoff(_Record):
    """What a committed segment leaves for the next one.

    `state` is the continuation state with its arrays as blob ids, `digest` the hash of the state as the next message
    carries it, `latents` the blob from which the clip can be rebuilt. Times are seconds since the epoch, by Redis'
    clock. A job that continues a state from elsewhere has one of index -1, with the state alone.
    """

    index: int
    state: dict[str, Any]
    digest: str
    blobs: list[str]
    latents: str | None = None
    timing: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fence: int = 0
    epoch: int = 0
    worker: str = ""
    engine_started: float = 0.0
    engine_ended: float = 0.0


@dataclass(frozen=True, slots=True)
class ClipRecord(_Record):
    """A committed clip."""

    index: int
    blob_id: str
    frames: int
    size: int


@dataclass(frozen=True, slots=True)
class FilmRecord(_Record):
    """The finished film."""

    blob_id: str
    size: int
    sha256: str
    width: int
    height: int
    fps: str
    frames: int
    duration_s: float
    audio_sample_rate: int
    audio_samples: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do one unit of work: its token, fence and lease."""

    job_id: str
    unit: str
    index: int
    token: str
    fence: int
    epoch: int
    clock_skew_s: float
    previous: Handoff | None = None

    @property
    def is_repair(self) -> bool:
        """Whether a committed segment is rendered again, because its blobs were lost."""
        return self.unit == repair_unit(self.index)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message that may be sent: its ticket, and whether it goes to the queue of the publisher's worker alone.

    title and segments are the job's, for people.
    """

    ticket: int
    aside: bool
    title: str
    segments: int


@dataclass(frozen=True, slots=True)
class Need:
    """A unit of work that may have lost its message.

    why: `expired` (its message is known to be gone, or has waited for one worker alone long enough), `unannounced`
    (there was none), `unpublished` (announced, perhaps not sent) or `waiting` (sent and not claimed yet). stamp: the
    message's place in its queue's history. ticket: its number within the job, 0 for none.
    """

    unit: str
    index: int
    why: str
    stamp: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the running segment stands; `step` of `steps`, `step_s` seconds each so far."""

    index: int
    step: int
    steps: int
    step_s: float


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as people see it; times are seconds since the epoch, None while they have not come."""

    job_id: str
    title: str
    state: str
    segments: int
    committed: int
    clips: int
    epoch: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    reason: str | None
    failed_segment: int | None
    attempts: int | None
    progress: Progress | None
    film: FilmRecord | None
    needs_bytes: int = 0
    admitted: bool = True

    @property
    def finished(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state in FINISHED


def pack_timing(timing: SegmentTiming) -> dict[str, Any]:
    """`timing` without its shape, as msgpack can hold it."""
    return {
        "index": timing.index,
        "continued": timing.continued,
        "audio_latents": timing.audio_latents,
        "offset": str(timing.offset),
        "pinned": timing.pinned,
        "first_frame": timing.first_frame,
    }


def unpack_timing(shape: SegmentShape, data: dict[str, Any]) -> SegmentTiming:
    """The inverse of `pack_timing`."""
    return SegmentTiming(shape=shape, **{**data, "offset": Fraction(data["offset"])})
