"""What a job record holds, as values: handoffs, clips, films, progress, status. No I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Any, Self, get_type_hints

import msgpack
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from blobstore.stored_format import FORMAT, FORMAT_OF_JOBS, MAJOR_OF_JOBS, is_newer_major
from ltx2.request import Decoding
from ltx2.sampling import Decoder
from tasks.errors import RecordError, VersionError
from tasks.jobs.queues import Priority
from tasks.jobs.units import JobState
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec

DAMAGE = (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""Errors that damaged JSON and numbers provoke in the code that reads them."""


def unpack_stored(data: bytes, what: str) -> dict[str, Any]:
    """The msgpack mapping in `data`, without its format version. what: names it in errors.

    Raises:
        VersionError: a newer major version wrote it. RecordError: it is damaged.
    """
    try:
        value = msgpack.unpackb(data)
        if not isinstance(value, dict):
            raise ValueError("not a mapping")
        newer = is_newer_major(value.pop("format", None), readable=MAJOR_OF_JOBS)
    except Exception as error:  # msgpack raises whatever its input provokes
        raise RecordError(f"{what} is damaged: {type(error).__name__}") from None
    if newer:
        raise VersionError(what)
    return value


def pack_stored(value: dict[str, Any], version: str = FORMAT) -> bytes:
    """`value` in msgpack, with a format version: that of this longtake."""
    return bytes(msgpack.packb({"format": version, **value}))


def pack_segment(segment: SegmentSpec) -> bytes:
    """The spec of a segment. With values of its own it has the version that workers of an earlier longtake refuse."""
    return pack_stored(segment.model_dump(), FORMAT_OF_JOBS if segment.has_own_values else FORMAT)


def pack_head(head: JobHead) -> bytes:
    """What all segments of a job share. With what earlier versions would ignore, it has the version they refuse."""
    is_new = head.extend or head.audio or head.renderings != (1, 1)
    return pack_stored(head.model_dump(), FORMAT_OF_JOBS if is_new else FORMAT)


@cache
def _checked_fields(kind: type[Any]) -> type[BaseModel]:
    """A model with the fields of a dataclass, each of which must have exactly its type."""
    hints = get_type_hints(kind)
    wanted: dict[str, Any] = {
        known.name: (hints[known.name], ... if known.default is known.default_factory is MISSING else None)
        for known in fields(kind)
    }
    return create_model(kind.__name__, __config__=ConfigDict(strict=True, extra="ignore"), **wanted)


@dataclass(frozen=True, slots=True)
class Record:
    """What a job record holds in msgpack."""

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
        stored = unpack_stored(data, f"a {name} record")
        try:
            checked = _checked_fields(cls).model_validate(  # type: ignore[arg-type]  # typeshed has no Self here
                cls._upgraded(stored)
            )
            return cls(**{name: getattr(checked, name) for name in checked.model_fields_set})
        except ValidationError as error:
            field = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            raise RecordError(f"a {name} record is damaged: {field}") from None
        except ValueError as error:
            raise RecordError(f"a {name} record is damaged: {error}") from None

    @classmethod
    def _upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        """`value`, of this or an older version, with the keys of this version. ValueError: it is damaged."""
        return value


@dataclass(frozen=True, slots=True)
class Handoff(Record):
    """What a committed segment leaves for the next one. A job that continues a state from outside has one of index -1.

    A start's first_frame is the film index of the job's first new frame: the frames of an extended video before it
    are shown, too. source_clips: of a start, the clips of that video with which the film begins, before the frames that
    the first segment repeats. source_frames: how many frames each of them has but the last.

    A job whose last segment leads into a video has one of index -2. state: the video's first frames, which that segment
    has in common with it. first_frame: how many frames the film shows of the video, these included. source_clips,
    source_frames: as those of a start, of the part after these.

    state: the continuation state as the next message carries it, `kind` and `payload`. latents: the blob from which the
    clip can be made again. continued, first_frame: whether the segment continues the one before, and the film index of
    its first new frame; the rest of its timing follows from the state before it. decoder, noise_seed: what decoded all
    frames of the segment, those of the state too, and the seed of the noise that it was given; None: it was given none.
    engine_started, engine_ended: seconds since the epoch, by Redis' clock. made_with: the engine's settings that its
    bytes may depend on, such as precision and text encoder. render_class: of the worker, see `render_class` in
    `tasks.worker.engines`; '' from earlier versions. warnings: about the segment, one sentence each.
    from_take: the take of the segment before that it continues. pinned_to: of a take, the take of the same segment
    whose end it leads into, because the next segment continues that one; -1: none does. join: of a segment that was
    rendered several times, the largest part of a bound that its join to the one before reaches: at most 1 if within.
    dissolve: how many frames of its clip dissolve from the segment before.
    """

    index: int
    state: dict[str, Any]
    latents: str | None = None
    continued: bool = False
    first_frame: int = 0
    seed: int = 0
    decoder: str = Decoder.CONVOLUTIONAL.value
    noise_seed: int | None = None
    fence: int = 0
    epoch: int = 0
    worker: str = ""
    engine_started: float = 0.0
    engine_ended: float = 0.0
    made_with: dict[str, str] = field(default_factory=dict)
    render_class: str = ""
    warnings: list[str] = field(default_factory=list)
    from_take: int = 0
    pinned_to: int = -1
    source_clips: list[str] = field(default_factory=list)
    source_frames: int = 0
    join: float | None = None
    dissolve: int = 0

    @property
    def decoding(self) -> Decoding:
        """How the segment's latents became frames. RecordError: by a decoder that this version does not know."""
        try:
            return Decoding(Decoder(self.decoder), self.noise_seed)
        except ValueError:
            raise RecordError(f"segment {self.index} was decoded by {self.decoder!r:.60}, which is unknown") from None

    @property
    def digest(self) -> str:
        """The hash of the state; the key of the state cache."""
        text = json.dumps(self.state, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def _upgraded(cls, value: dict[str, Any]) -> dict[str, Any]:
        # 0.1 stored the whole timing, and what follows from the state: its digest and its blobs
        timing = value.get("timing") or {}
        if not isinstance(timing, dict):
            raise ValueError("timing is not a mapping")
        return {"continued": timing.get("continued", False), "first_frame": timing.get("first_frame", 0), **value}


@dataclass(frozen=True, slots=True)
class Submission:
    """What identifies a request to create a job.

    request: a random token; the same request again has the same one. blobs: what the job starts from; it is admitted
    once they are pinned. key, digest: the user's idempotency key and the hash of what was submitted; '' without a key.
    """

    request: str
    blobs: list[str] = field(default_factory=list)
    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ClipRecord(Record):
    """A committed clip. size: bytes.

    take: the take of its segment that it shows. next_take: that of the next segment, with whose first frames its end is
    crossfaded; -1: with none. dissolves_from: that of the segment before, from which it dissolves; -1: from none.
    """

    index: int
    blob_id: str
    frames: int
    size: int
    take: int = 0
    next_take: int = -1
    dissolves_from: int = -1


@dataclass(frozen=True, slots=True)
class PieceRecord(Record):
    """A piece of a film for live players. header: the blob to be played before all pieces."""

    blob_id: str
    header: str


@dataclass(frozen=True, slots=True)
class FilmRecord(Record):
    """The finished film. size: bytes. fps: an exact fraction as text. segments: how many; 0: all of the job's."""

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
    segments: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Progress:
    """Progress of the running segment, or of one of a take: `step` of `steps`, `step_s` seconds each so far."""

    index: int
    step: int
    steps: int
    step_s: float
    take: int = 0

    @classmethod
    def unpack(cls, data: bytes | str) -> Self:
        """The progress in a JSON list of `index`, `step`, `steps` and `step_s`. An error of DAMAGE: it is damaged."""
        index, step, steps, step_s = json.loads(data)
        return cls(int(index), int(step), int(steps), float(step_s))


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt at a unit of work.

    worker: the process that made it. at: seconds since the epoch, by Redis' clock.
    """

    worker: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class ForkOrigin:
    """What a fork began with: the segments of `job_id` up to and including segment `after`."""

    job_id: str
    after: int

    def __str__(self) -> str:
        return f"fork of {self.job_id} after segment {self.after}"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as people see it. Times are seconds since the epoch, None before they occur.

    committed: the segments from the first to before the first one that is missing. ahead: how many are committed
    behind that one, in other parts. progress, others: of the first segment in work, and of those in other parts.
    claimed: the segments that workers have in work, also before their first step.
    failures: the newest failed attempts at what failed the job, oldest first. film: while a job is not done, the one
    that it had before segments were appended or takes chosen. open: it waits for more segments at its end. approved:
    of how many segments; None: it asks for no approval. grown: how often segments were appended to a film whose end
    was there. takes_due: how many takes are to be rendered; take_progress: of those that are being rendered. kept,
    kept_until: whether it is kept beyond its retention, and until when; None: as long as nobody says otherwise.
    fork_of: of a fork, where its first segments are from; that job may be gone.
    """

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
    failures: tuple[FailedAttempt, ...] = ()
    priority: Priority = Priority.NORMAL
    takes_due: int = 0
    take_progress: tuple[Progress, ...] = ()
    kept: bool = False
    kept_until: float | None = None
    open: bool = False
    approved: int | None = None
    grown: int = 0
    ahead: int = 0
    others: tuple[Progress, ...] = ()
    claimed: tuple[int, ...] = ()
    fork_of: ForkOrigin | None = None

    @property
    def rendered(self) -> int:
        """How many segments are committed."""
        return self.committed + self.ahead

    @property
    def in_work(self) -> tuple[Progress, ...]:
        """The progress of all segments in work, in the film's order; 0 of 0 steps before the first one."""
        known = {one.index: one for one in (self.progress, *self.others) if one is not None}
        return tuple(known.get(index, Progress(index, 0, 0, 0.0)) for index in sorted({*known, *self.claimed}))

    @property
    def steps_done(self) -> float:
        """The rendered share of the segments in work, in segments."""
        return sum(progress.step / max(1, progress.steps) for progress in self.in_work)

    @property
    def generation(self) -> int:
        """A number that rises whenever what live players were given is not a part of the film any more."""
        return self.epoch + self.grown

    @property
    def finished(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state.is_final
