"""What a job record holds, as values: work units, handoffs, clips, films, claims, status. No I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

import msgpack

from blobstore.stored_format import FORMAT, is_newer_major
from ltx2.timeline import SegmentShape, SegmentTiming, continued_timing, exact, first_timing
from tasks.errors import RecordError, VersionError
from tasks.spec.schema import JobHead, SegmentSpec

START_INDEX = -1
"""The segment index of what comes from outside the chain: the state a job continues, its start image, its film."""


class JobState(StrEnum):
    """The state of a job, as stored and shown."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class UnitKind(StrEnum):
    """The kinds of work units."""

    SEGMENT = "segment"
    REPAIR = "repair"
    CLIP = "clip"
    FILM = "film"


@dataclass(frozen=True, slots=True, order=True)
class WorkUnit:
    """A piece of a job's work that one worker does at a time.

    index: the segment it is about; -1 for the film.
    """

    kind: UnitKind
    index: int

    @classmethod
    def segment(cls, index: int) -> Self:
        """Rendering the segment at the cursor."""
        return cls(UnitKind.SEGMENT, index)

    @classmethod
    def repair(cls, index: int) -> Self:
        """Rendering a committed segment again, because its blobs were lost."""
        return cls(UnitKind.REPAIR, index)

    @classmethod
    def clip(cls, index: int) -> Self:
        """Making the clip of a segment."""
        return cls(UnitKind.CLIP, index)

    @classmethod
    def film(cls) -> Self:
        """Joining all clips."""
        return cls(UnitKind.FILM, START_INDEX)

    @classmethod
    def parse(cls, name: str, index: int) -> Self:
        """The unit with this name in a job's units hash."""
        return cls(UnitKind(name.partition(":")[0]), index)

    @property
    def name(self) -> str:
        """Its field in a job's units hash: `segment`, `repair:<i>`, `clip:<i>` or `film`."""
        return f"{self.kind}:{self.index}" if self.kind in (UnitKind.REPAIR, UnitKind.CLIP) else str(self.kind)

    def __str__(self) -> str:
        return str(self.kind) if self.kind == UnitKind.FILM else f"{self.kind} {self.index}"


def unpack_stored(data: bytes, what: str) -> dict[str, Any]:
    """The msgpack mapping in `data`, without its format version. what: names it in errors.

    Raises:
        VersionError: a newer major version wrote it. RecordError: it is damaged.
    """
    try:
        value = msgpack.unpackb(data)
        if not isinstance(value, dict):
            raise ValueError("not a mapping")
        newer = is_newer_major(value.pop("format", None))
    except Exception as error:  # msgpack raises whatever its input provokes
        raise RecordError(f"{what} is damaged: {type(error).__name__}") from None
    if newer:
        raise VersionError(what)
    return value


def pack_stored(value: dict[str, Any]) -> bytes:
    """`value` in msgpack, with the format version of this longtake."""
    return bytes(msgpack.packb({"format": FORMAT, **value}))


@dataclass(frozen=True, slots=True)
class _Record:
    def pack(self) -> bytes:
        """This record in msgpack."""
        return pack_stored(asdict(self))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The record in `data`; keys that this version does not know are ignored.

        Raises:
            VersionError: a newer major version wrote it. RecordError: it is damaged.
        """
        name = cls.__name__.removesuffix("Record").lower()
        value = cls._upgraded(unpack_stored(data, f"a {name} record"))
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: entry for key, entry in value.items() if key in known})
        except (TypeError, ValueError) as error:
            raise RecordError(f"a {name} record is damaged: {error}") from None

    @classmethod
    def _upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        """`value`, of this or an older version, with the keys of this version."""
        return value


@dataclass(frozen=True, slots=True)
class Handoff(_Record):
    """What a committed segment leaves for the next one. A job that continues a state from outside has one of index -1.

    state: the continuation state as the next message carries it, `kind` and `payload`. latents: the blob from which the
    clip can be made again. continued, first_frame: whether the segment continues the one before, and the film index of
    its first new frame; the rest of its timing follows from the state before it. engine_started, engine_ended: seconds
    since the epoch, by Redis' clock.
    """

    index: int
    state: dict[str, Any]
    latents: str | None = None
    continued: bool = False
    first_frame: int = 0
    seed: int = 0
    fence: int = 0
    epoch: int = 0
    worker: str = ""
    engine_started: float = 0.0
    engine_ended: float = 0.0

    @property
    def digest(self) -> str:
        """The hash of the state; the key of the state cache."""
        text = json.dumps(self.state, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def _upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        # 0.1 stored the whole timing, and what follows from the state: its digest and its blobs
        timing = value.get("timing") or {}
        return {"continued": timing.get("continued", False), "first_frame": timing.get("first_frame", 0), **value}


def timing_after(shape: SegmentShape, previous: Handoff | None, *, cut: bool = False) -> SegmentTiming:
    """The timing of the segment after `previous`: continued from its state, or new after a cut. None: the first one."""
    if previous is None:
        return first_timing(shape)
    payload = previous.state["payload"]
    index, first_frame = payload["segment_index"] + 1, 0
    if previous.index != START_INDEX:
        skipped = shape.overlap if previous.continued else 0
        first_frame = previous.first_frame + shape.frames - skipped
    if cut:
        return first_timing(shape, index=index, first_frame=first_frame)
    return continued_timing(
        shape,
        pinned=payload["audio_conditioning_num_frames"],
        offset=exact(payload["video_position_offset_sec"]),
        index=index,
        first_frame=first_frame,
    )


@dataclass(frozen=True, slots=True)
class ClipRecord(_Record):
    """A committed clip. size: bytes."""

    index: int
    blob_id: str
    frames: int
    size: int


@dataclass(frozen=True, slots=True)
class FilmRecord(_Record):
    """The finished film. size: bytes. fps: an exact fraction as text."""

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
    """The right to do one unit of work: its token, fence and lease, and what the record says about the unit.

    clock_skew_s: Redis' clock minus this one's. segment, next_prompt: None for a film, next_prompt also for the last
    segment. previous: the handoff before the segment. own: the segment's own handoff, once it is committed.
    """

    job_id: str
    unit: WorkUnit
    token: str
    fence: int
    epoch: int
    clock_skew_s: float
    head: JobHead
    segment: SegmentSpec | None = None
    next_prompt: str | None = None
    previous: Handoff | None = None
    own: Handoff | None = None

    @property
    def index(self) -> int:
        """The segment that the unit is about, -1 for the film."""
        return self.unit.index

    @property
    def is_repair(self) -> bool:
        """Whether a committed segment is rendered again, because its blobs were lost."""
        return self.unit.kind == UnitKind.REPAIR


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that gets no claim: its unit is held, done, replaced by a newer message, or its job does not run."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotChained:
    """A message about a committed segment whose worker died before it published the next one, `next_index`."""

    next_index: int


ClaimResult = Claim | Refused | NotChained


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message that may be sent about `unit`.

    sticky: it goes to the sticky queue of the publisher's worker. title, segments: the job's, shown in Flower.
    """

    unit: WorkUnit
    ticket: int
    sticky: bool
    title: str
    segments: int


@dataclass(frozen=True, slots=True)
class SegmentCommit:
    """A committed segment. clip: the claim on its clip. following: the message of the next segment, if one is due."""

    clip: Claim
    following: Announcement | None


@dataclass(frozen=True, slots=True)
class RepairCommit:
    """A committed repair. clip: the claim on the clip, if that is to be made again."""

    clip: Claim | None


@dataclass(frozen=True, slots=True)
class ClipCommit:
    """A committed clip. accepted: whether this call made it. film: the message of the film, after the last clip."""

    accepted: bool
    film: Announcement | None


class ReleaseOutcome(StrEnum):
    """What became of a released claim."""

    RETRY = "retry"
    """The work is due again."""
    FAILED = "failed"
    """The attempts were used up, and the job failed."""
    REFUSED = "refused"
    """The claim had been lost before."""


@dataclass(frozen=True, slots=True)
class Released:
    """A released claim; ticket: of the unit's newest message, for RETRY."""

    outcome: ReleaseOutcome
    ticket: int = 0


class AdmissionOutcome(StrEnum):
    """What became of the job that waited longest for room."""

    ADMITTED = "admitted"
    GONE = "gone"
    """It ended while it waited."""
    NEVER = "never"
    """It needs more than the whole budget."""
    WAIT = "wait"
    """No job waits, or none fits now."""


@dataclass(frozen=True, slots=True)
class Admission:
    """One step of admission; job_id and needs_bytes are empty for WAIT."""

    outcome: AdmissionOutcome
    job_id: str = ""
    needs_bytes: int = 0


class NeedReason(StrEnum):
    """Why a unit may have lost its message."""

    EXPIRED = "expired"
    """The message is known to be gone, or has waited in a sticky queue for too long."""
    UNANNOUNCED = "unannounced"
    """There was none."""
    UNPUBLISHED = "unpublished"
    """It was announced, perhaps not sent."""
    WAITING = "waiting"
    """It was sent, and not claimed yet."""


@dataclass(frozen=True, slots=True)
class Need:
    """A unit of work that may have lost its message.

    stamp: the message's place in its queue's history. ticket: its number within the job, 0 for none.
    """

    unit: WorkUnit
    why: NeedReason
    stamp: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the running segment: `step` of `steps`, `step_s` seconds each so far."""

    index: int
    step: int
    steps: int
    step_s: float


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as people see it. Times are seconds since the epoch, None before they occur."""

    job_id: str
    title: str
    state: JobState
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
        return self.state.is_final
