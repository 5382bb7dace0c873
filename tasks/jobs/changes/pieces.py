"""Pieces for live players in job records: what is reserved for one, and where it is."""

from __future__ import annotations

from tasks.jobs.changes.writer import JobWriter
from tasks.jobs.keys import RESERVED, job_keys
from tasks.jobs.records import PieceRecord


class PieceStore(JobWriter):
    """Reserves room for the pieces of one deployment's films, and notes those that are stored."""

    def reserve_piece(self, job_id: str, name: str, size: int, *, budget_bytes: int | None) -> bool:
        """Reserve so many bytes for a piece for live players, if `budget_bytes` (None: no limit) has room for them.

        They are reserved until `note_piece` or `release_piece`, however often this is called.
        """
        keys = [*job_keys(job_id, "record"), RESERVED, *job_keys(job_id, "pieces")]
        return bool(self._run("reserve_piece", keys, job_id, name, size, budget_bytes or 0))

    def release_piece(self, job_id: str, name: str) -> None:
        """Give back what was reserved for a piece that was not stored."""
        self._run("release_piece", [*job_keys(job_id, "record"), RESERVED], job_id, name)

    def note_piece(self, job_id: str, name: str, piece: PieceRecord) -> bool:
        """Record a piece for live players; False: nothing is reserved for it any more, or there is no such job."""
        return bool(self._run("note_piece", job_keys(job_id, "record", "pieces"), name, piece.pack()))
