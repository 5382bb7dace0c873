"""The words of the job protocol as types: job states, and units of work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

ALL_APPROVED = 1_000_000_000
"""How many segments count as approved when all are, also those to come."""
START_INDEX = -1
"""The segment index of what comes from outside the chain: the state a job continues, its start image, its film."""
VIDEO_AFTER_INDEX = -2
"""The segment index of the video that a job's last segment leads into."""


class JobState(StrEnum):
    """The state of a job. A record stores OPEN and AWAITING_APPROVAL as what they are about, see `shown_state`."""

    QUEUED = "queued"
    RUNNING = "running"
    OPEN = "open"
    """All of its segments are rendered, and it waits for more."""
    AWAITING_APPROVAL = "awaiting approval"
    """It goes on once a user approves the last segment that it has rendered."""
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


def shown_state(stored: JobState, *, committed: int, segments: int, is_open: bool, approved: int | None) -> JobState:
    """The state of a job with these fields, as the functions of `prelude.lua` decide what is due.

    committed, segments: how many it has. approved: of how many; None: it asks for no approval.
    """
    if stored not in (JobState.QUEUED, JobState.RUNNING):
        return stored
    if approved is not None and approved < committed:
        return JobState.AWAITING_APPROVAL
    return JobState.OPEN if is_open and committed == segments else stored


class UnitKind(StrEnum):
    """The kinds of work units."""

    SEGMENT = "segment"
    REPAIR = "repair"
    TAKE = "take"
    CLIP = "clip"
    FILM = "film"


@dataclass(frozen=True, slots=True, order=True)
class WorkUnit:
    """A piece of a job's work that one worker does at a time.

    index: the segment it is about; -1 for the film. take: the number of a TAKE, from 1; 0 for other units. parallel: a
    SEGMENT of a job whose parts are rendered in parallel.
    """

    kind: UnitKind
    index: int
    take: int = 0
    parallel: bool = field(default=False, compare=False)

    @classmethod
    def segment(cls, index: int) -> Self:
        """Rendering a segment at a cursor."""
        return cls(UnitKind.SEGMENT, index)

    @classmethod
    def repair(cls, index: int) -> Self:
        """Rendering a committed segment again, because its blobs were lost."""
        return cls(UnitKind.REPAIR, index)

    @classmethod
    def of_take(cls, index: int, take: int) -> Self:
        """Rendering a take of a committed segment, perhaps again; take 0 is the original, which a repair renders."""
        return cls(UnitKind.TAKE, index, take) if take else cls.repair(index)

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
        kind, _, numbers = name.partition(":")
        take = int(numbers.partition(":")[2]) if kind == UnitKind.TAKE else 0
        return cls(UnitKind(kind), index, take, kind == UnitKind.SEGMENT and bool(numbers))

    @property
    def kind_asked_for(self) -> UnitKind:
        """The kind that its message names: a segment that is committed already is claimed as its repair."""
        return UnitKind.SEGMENT if self.kind == UnitKind.REPAIR else self.kind

    @property
    def name(self) -> str:
        """Its field in a job's units hash: `segment[:<i>]`, `repair:<i>`, `take:<i>:<n>`, `clip:<i>` or `film`."""
        if self.kind == UnitKind.TAKE:
            return f"{self.kind}:{self.index}:{self.take}"
        is_one_of_several = self.parallel or self.kind in (UnitKind.REPAIR, UnitKind.CLIP)
        return f"{self.kind}:{self.index}" if is_one_of_several else str(self.kind)

    def __str__(self) -> str:
        if self.kind == UnitKind.TAKE:
            return f"take {self.take} of segment {self.index}"
        return str(self.kind) if self.kind == UnitKind.FILM else f"{self.kind} {self.index}"


def segments_text(indices: Iterable[int]) -> str:
    """Segments in words, at least one, in order: `segment 3`, `segments 0 to 2`, `segments 0 to 2, 5 and 7`."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] + 1 == index:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    names = [f"{first}" if first == last else f"{first} to {last}" for first, last in runs]
    listed = " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part])
    return f"segment {listed}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"segments {listed}"


def rendered_text(indices: Sequence[int]) -> str:
    """Which segments of a job are rendered, within a message."""
    if not indices:
        return "none is rendered yet"
    return f"{segments_text(indices)} {'is' if len(indices) == 1 else 'are'} rendered"
