"""The comparison of job records with their model; see `job_pair`."""

from __future__ import annotations

import json
from typing import Any

from tasks.jobs.keys import job_keys
from tasks.jobs.records import ClipRecord, Handoff, JobStatus
from tests.tasks.jobs import take_model
from tests.tasks.jobs.job_model import Job
from tests.tasks.jobs.pair_state import FILM, PairState
from tests.tasks.jobs.take_model import FILM_UNIT, SEGMENT_UNIT
from tests.tasks.jobs.unit_model import clip_unit

OF_SEGMENTS = (SEGMENT_UNIT, "repair:")
"""How units begin that render a segment for the film, not for a take."""


class PairComparison(PairState):
    """The part of `JobPair` that compares."""

    def compare(self) -> None:
        jobs = self.model.jobs
        in_order = [job_id for _, job_id in sorted((job.created, job_id) for job_id, job in jobs.items())]
        statuses = list(self.jobs.statuses())
        assert [status.job_id for status in statuses] == in_order
        assert self.jobs.active() == [job_id for job_id in in_order if jobs[job_id].unfinished]
        assert self.jobs.reserved_bytes() == sum(self.model.reserved.values()) <= self.model.budget
        for status in statuses:
            self._compare_job(status, jobs[status.job_id])

    def _compare_job(self, status: JobStatus, job: Job) -> None:
        record, pieces, units, handoffs, clips = self._stored(status.job_id)
        self._compare_room(job, record, pieces, self.model.reserved.get(status.job_id, 0))
        assert all(job.lengths.get(index, 0) is not None for index in handoffs), "rendered before it had a length"
        assert (status.state, status.committed, status.clips) == (job.shown, job.cursor, len(job.clips))
        assert (status.segments, status.needs_bytes, status.open) == (job.segments, job.needs, job.open)
        assert (status.epoch, status.admitted, status.film) == (job.epoch, job.admitted, FILM if job.film else None)
        assert (status.grown, status.kept) == (job.grown, job.kept)
        assert (status.reason, status.failed_segment, status.attempts) == job.ending
        assert (status.started_at is not None) == job.started
        progress = [one for one in (status.progress, *status.others) if one is not None]
        assert {job.key(one.index): one.step for one in progress} == job.progress
        held = [unit.index for name, unit in job.units.items() if unit.holder and name.startswith(OF_SEGMENTS)]
        assert status.claimed == tuple(sorted(held))
        assert status.rendered == len(job.handoffs)
        assert {index: Handoff.unpack(data).worker for index, data in handoffs.items()} == job.handoffs
        assert set(range(status.committed)) <= set(handoffs)
        orphans = {index for index in handoffs if index and index - 1 not in handoffs} - job.cuts
        assert not orphans, "a handoff has no predecessor"
        records = {index: ClipRecord.unpack(data) for index, data in clips.items()}
        assert {index: clip.blob_id for index, clip in records.items()} == job.clips
        for index, clip in records.items():
            found = (clip.take, clip.next_take, clip.dissolves_from)
            assert found == take_model.clip_shows(job, index), "a clip shows what was not chosen"
        self._compare_takes(status, job)
        assert max(job.commits.values(), default=0) <= status.epoch + 1, "something was committed twice within an epoch"
        if status.finished:
            assert not units, "an ended job has units"
        else:
            self._check_liveness(job, units)

    def _compare_room(self, job: Job, record: dict[bytes, bytes], pieces: set[str], reserved: int) -> None:
        """Compare what is reserved and stored of pieces for live players. reserved: for the job."""
        room = {name[6:].decode(): int(size) for name, size in record.items() if name.startswith(b"piece:")}
        assert (room, pieces) == (job.room, job.pieces)
        assert sum(room.values()) <= reserved, "reserved for nobody"
        assert job.needs <= max(job.asked, self.model.budget), "a job will never be admitted that could have been"

    def _compare_takes(self, status: JobStatus, job: Job) -> None:
        takes = self.jobs.takes(status.job_id)
        assert takes.shown == job.shows
        made = {key: take.made for key, take in takes.takes.items() if take.number}
        assert {key: (m.worker, m.pinned_to) if m else ("", -1) for key, m in made.items()} == {
            key: (take.made, take.pinned_to) for key, take in job.takes.items()
        }
        clips = {key: take.clip for key, take in takes.takes.items() if take.clip}
        assert {key: (clip.blob_id, clip.dissolves_from) for key, clip in clips.items()} == job.own_clips
        assert all(clip.take == number for (_, number), clip in clips.items())
        for key, take in job.takes.items():
            assert bool(takes.takes[key].failed) == take.failed
            assert take.made or take.failed or take_model.take_unit(*key) in job.units, "a take was forgotten"
        assert status.takes_due == sum(take_model.is_next_of_take(job, name) for name in job.units)
        assert {(one.index, one.take): one.step for one in status.take_progress} == take_model.progress_of(job)

    def _check_liveness(self, job: Job, units: dict[str, dict[str, Any]]) -> None:
        """Check that every missing result has a unit, and that some unit can run."""
        for index in job.handoffs:
            assert index in job.clips or clip_unit(index) in units, f"no unit makes the clip of segment {index}"
        can_run = any(unit["token"] or unit["after"] not in units for unit in units.values())
        due = (job.startable() and not job.has_segment_unit) or (job.film_due and FILM_UNIT not in units)
        waits = job.awaits_approval or job.waits_for_segments
        assert can_run or due or waits, f"no unit can run: {units}"

    def _stored(
        self, job_id: str
    ) -> tuple[dict[bytes, bytes], set[str], dict[str, dict[str, Any]], dict[int, bytes], dict[int, bytes]]:
        """The record, the names of pieces, units, handoffs and clips of a job, read in one round trip."""
        pipeline = self.redis.pipeline()
        for key in job_keys(job_id, "record", "pieces", "units", "handoffs", "clips"):
            pipeline.hgetall(key)
        record, pieces, units, *parts = pipeline.execute()
        parsed = {name.decode(): json.loads(unit) for name, unit in units.items()}
        handoffs, clips = ({int(index): data for index, data in records.items()} for records in parts)
        return record, {name.decode() for name in pieces}, parsed, handoffs, clips
