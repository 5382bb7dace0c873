"""Reads the parts of a job's record that belong to its segments: handoffs and clips."""

from __future__ import annotations

from typing import TypeVar

from tasks.errors import RecordError
from tasks.jobs.records import ClipRecord, Handoff

P = TypeVar("P", Handoff, ClipRecord)


def read_clips(raw: dict[bytes, bytes]) -> dict[int, ClipRecord]:
    """The clips of a hash by segment, in order."""
    return dict(sorted(read_parts(raw, ClipRecord).items()))


def read_parts(raw: dict[bytes, bytes], kind: type[P]) -> dict[int, P]:
    """The parts of a hash by index. RecordError: one is about another segment than its name says."""
    found = {}
    for name, data in raw.items():
        part = kind.unpack(data)
        if str(part.index).encode() != name:
            raise RecordError(f"the part {name!r:.20} of a job's record is damaged: it is about segment {part.index}")
        found[part.index] = part
    return found
