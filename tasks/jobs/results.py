"""What calls of the job store return: claims, commits, announcements, needs. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ltx2.timeline import SegmentTiming
from tasks.errors import RecordError
from tasks.jobs.committed import Committed, TakeRequest
from tasks.jobs.queues import Priority
from tasks.jobs.records import ClipRecord, Handoff, Progress
from tasks.jobs.timing import timing_after
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do one unit of work: its token, fence and lease, and what the record says about the unit.

    clock_skew_s: Redis' clock minus this one's. segment, before, following: the specs of the segment and of those
    before and after it; None for a film, or if there is none. previous: the handoff before the segment, of the take
    that it continues, `from_take`; before a new scene, of the one that the film shows. own: the segment's own handoff,
    once it is committed; for a clip that of the take that it shows, for a take its former one; `own_take` is that take.
    other: for a take the one whose end it leads into, for a clip that of the next segment with which its end is
    crossfaded; `other_take` is that take, -1 for none. request: what was asked for of a take. render_class: the one
    that the unit's bytes should have, '' for any. planned: the timing of a cut whose segment before is not rendered
    yet.
    """

    job_id: str
    unit: WorkUnit
    token: str
    fence: int
    epoch: int
    clock_skew_s: float
    head: JobHead
    segment: SegmentSpec | None = None
    before: SegmentSpec | None = None
    following: SegmentSpec | None = None
    previous: Handoff | None = None
    own: Handoff | None = None
    other: Handoff | None = None
    request: TakeRequest | None = None
    from_take: int = 0
    own_take: int = 0
    other_take: int = -1
    render_class: str = ""
    planned: SegmentTiming | None = None

    @property
    def index(self) -> int:
        """The segment that the unit is about, -1 for the film."""
        return self.unit.index

    @property
    def next_prompt(self) -> str | None:
        """The prompt of the segment after this one, if there is one."""
        return None if self.following is None else self.following.prompt

    @property
    def timing(self) -> SegmentTiming:
        """The timing of the segment. RecordError: the claim is not about one, or the job has no such segment."""
        if self.segment is None:
            raise RecordError(f"job {self.job_id} has no segment {self.index}")
        if self.planned is not None:
            return self.planned
        planned = self.head.planned
        return timing_after(
            planned(self.segment),
            self.previous,
            before=planned(self.before) if self.before else None,
            following=planned(self.following) if self.following else None,
        )

    @property
    def dissolves_from(self) -> int:
        """The take of the segment before that the segment's clip dissolves from; -1: from none."""
        return self.from_take if self.timing.dissolve else -1

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


@dataclass(frozen=True, slots=True)
class FailedHere:
    """A message whose unit failed on this worker lately, so that another one is preferred.

    ticket: of the message, which is used up. nodes: the workers on which the unit failed, or from which it vanished.
    """

    unit: WorkUnit
    ticket: int
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class OtherClass:
    """A message whose unit waits for a worker of its render class, which this one does not have.

    ticket: of the message, which is used up.
    """

    unit: WorkUnit
    ticket: int
    render_class: str


ClaimResult = Claim | Refused | NotChained | FailedHere | OtherClass


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
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class KeptRendering:
    """A rendering of a segment that was not chosen, and is kept as a take. clip: it gets the take's number."""

    request: TakeRequest
    made: Handoff
    clip: ClipRecord


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


class CreateOutcome(StrEnum):
    """What became of a request to create a job."""

    CREATED = "created"
    """The job is new, or this is the same request again."""
    SAME = "same"
    """The idempotency key belongs to a job that was submitted with the same spec."""
    OTHER = "other"
    """The idempotency key belongs to a job that was submitted with another spec."""
    TAKEN = "taken"
    """Another request created a job with this id."""
    FULL = "full"
    """The blob budget has no room now for what the job starts from."""


@dataclass(frozen=True, slots=True)
class Creation:
    """The reply to a request to create a job. job_id: the job that the outcome is about."""

    outcome: CreateOutcome
    job_id: str


@dataclass(frozen=True, slots=True)
class JobContents:
    """A job's spec, as its record has it, and all that is committed. head: its image is a blob id.

    take_progress: see `JobStatus`.
    """

    job_id: str
    head: JobHead
    segments: tuple[SegmentSpec, ...]
    committed: Committed
    take_progress: tuple[Progress, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpinned:
    """What a job that is being submitted still has to pin. owner: who pins these blobs until then."""

    blobs: list[str]
    owner: str


class AdmissionOutcome(StrEnum):
    """What became of the job that waited longest for room."""

    ADMITTED = "admitted"
    GONE = "gone"
    """It ended while it waited."""
    DAMAGED = "damaged"
    """Its record does not say what it needs; it waits no more."""
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
    POSSIBLE = "possible"
    """There was none, and it is not due before a worker is idle: other segments of the job are in work."""
    UNPUBLISHED = "unpublished"
    """It was announced, perhaps not sent."""
    WAITING = "waiting"
    """It was sent, and not claimed yet."""


@dataclass(frozen=True, slots=True)
class Need:
    """A unit of work that may have lost its message.

    stamp: the message's place in the history of its queue and priority. ticket: its number within the job, 0 for none.
    """

    unit: WorkUnit
    why: NeedReason
    stamp: int
    ticket: int
    priority: Priority = Priority.NORMAL
