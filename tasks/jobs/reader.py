"""Reads job records: what people, programs and workers ask about a job. Changes nothing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import redis
from redis.client import Pipeline

from blobstore.stored_format import MAJOR_OF_JOBS, is_newer_major
from ltx2.timeline import PlannedSegment, SegmentTiming
from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.jobs.committed import Committed, Takes
from tasks.jobs.connection import server_time
from tasks.jobs.keys import (
    ACTIVE,
    ENDED,
    JOBS,
    PULSE,
    RESERVED,
    SUBMITTING,
    WAITING,
    check_job_id,
    job_ids_in,
    job_keys,
    submission_owner,
)
from tasks.jobs.queues import Priority, list_key
from tasks.jobs.reading.beginnings import (
    BEGINNING_FIELDS,
    Beginning,
    queue_beginning,
    read_beginning,
    read_beginnings,
)
from tasks.jobs.reading.parts import read_clips, read_parts
from tasks.jobs.reading.queue_states import QueueStates, read_queue_states
from tasks.jobs.reading.specs import read_head, read_segment
from tasks.jobs.reading.status import damaged, is_kept, no_such_job, queue_status, read_status
from tasks.jobs.reading.waits import Wait, read_waits
from tasks.jobs.reading.workload import Workload, read_workload
from tasks.jobs.records import DAMAGE, ClipRecord, Handoff, JobStatus, PieceRecord
from tasks.jobs.results import JobContents, Unpinned
from tasks.jobs.timing import FilmSource, committed_timings, film_source, timing_in_plan
from tasks.jobs.units import START_INDEX, VIDEO_AFTER_INDEX, JobState, UnitKind
from tasks.jobs.workers import WorkerList, WorkerRegistry
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec

log = logging.getLogger(__name__)
JOBS_PER_PAGE = 100


class JobReader:
    """The job records of one deployment, for reading."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def active(self) -> list[str]:
        """The ids of unfinished jobs, oldest first."""
        return job_ids_in(cast(list[bytes], self._redis.zrange(ACTIVE, 0, -1)))

    def ids_starting_with(self, text: str) -> list[str]:
        """The ids of jobs that begin with `text`, oldest first."""
        return [job_id for job_id in self._ids(JOBS) if job_id.startswith(text)]

    def statuses(
        self, states: Collection[JobState] = (), *, newest_first: bool = False, after: str | None = None
    ) -> Iterator[JobStatus]:
        """The jobs in these states, oldest first; default: every job. Only a page of records is in memory at a time.

        after: only those that follow this job in that order, in whatever state it is; none if there is no such job.
        """
        unfinished = bool(states) and not any(state.is_final for state in states)
        job_ids = self._ids(ACTIVE if unfinished else JOBS, newest_first, after)
        for job_id, replies in zip(job_ids, self._each(job_ids, queue_status), strict=True):
            try:
                status = read_status(job_id, *replies)
            except JobNotFoundError:
                continue  # deleted since the list was read
            except (RecordError, VersionError) as error:
                log.warning("skipped in the list: %s", error)
                continue
            if not states or status.state in states:
                yield status

    def _ids(self, key: str, newest_first: bool = False, after: str | None = None) -> list[str]:
        jobs = self._with_times(key, newest_first=newest_first)
        if after is not None:
            place = (self._redis.zscore(JOBS, after), after)
            jobs = [job for job in jobs if place[0] is not None and job != place and (job < place) == newest_first]
        return [job_id for _, job_id in jobs]

    def _with_times(self, key: str, *, newest_first: bool = False) -> list[tuple[float, str]]:
        """The entries of a sorted set of jobs: ms, and the id."""
        found = cast("list[tuple[bytes, float]]", self._redis.zrange(key, 0, -1, desc=newest_first, withscores=True))
        return [(score, job_id) for member, score in found for job_id in job_ids_in([member])]

    def now(self) -> float:
        """Seconds since the epoch by Redis' clock, as all times in records are."""
        return server_time(self._redis)

    def pulsed_at(self) -> float:
        """The time of the newest pulse: of Redis' clock, as far as the ends of jobs were moved with it; else `now`."""
        last = cast("bytes | None", self._redis.hget(PULSE, "last"))
        return self.now() if last is None else int(last) / 1000

    def ended_for(self, seconds: float, now: float | None = None) -> list[str]:
        """The ids of jobs that ended at least so long ago, or before `now`, except those that are kept longer."""
        now_ms = 1000 * (self.now() if now is None else now)
        found = self._redis.zrangebyscore(ENDED, "-inf", now_ms - seconds * 1000)
        ended = job_ids_in(cast("list[bytes]", found))

        def queue(pipe: Pipeline, job_id: str) -> None:
            pipe.hget(job_keys(job_id, "record")[0], "kept_until")

        kept = zip(ended, self._each(ended, queue), strict=True)
        return [job_id for job_id, (until,) in kept if not is_kept(until, now_ms)]

    def unsettled(self, settled: set[tuple[float, str]]) -> dict[str, int | None]:
        """What is reserved for each ended job for which that is its whole estimate still, in bytes; None: nothing.

        settled: jobs that are not asked about, by the time of their end; those that are found settled are added.
        """
        ended = self._with_times(ENDED)
        settled.intersection_update(ended)

        def queue(pipe: Pipeline, job_id: str) -> None:
            pipe.hexists(job_keys(job_id, "record")[0], "settled")
            pipe.hget(RESERVED, job_id)

        asked = [job for job in ended if job not in settled]
        pairs = list(zip(asked, self._each([job_id for _, job_id in asked], queue), strict=True))
        settled.update(job for job, (is_settled, _) in pairs if is_settled)
        return {job[1]: None if held is None else int(held) for job, (is_settled, held) in pairs if not is_settled}

    def submitting(self) -> list[str]:
        """The ids of jobs whose blobs are not pinned yet: their clients are at it, or have died."""
        return sorted(job_ids_in(cast("set[bytes]", self._redis.smembers(SUBMITTING))))

    def unpinned(self, job_id: str) -> Unpinned | None:
        """What a job that is being submitted still has to pin; None: nothing, or there is no such job.

        Raises:
            RecordError: the record is damaged. VersionError: a newer major version wrote it.
        """
        names = ("format", "unpinned", "request")
        found = self._redis.hmget(job_keys(job_id, "record")[0], *names)
        version, blobs, request = cast("list[bytes | None]", found)
        try:
            if is_newer_major(None if version is None else version.decode(), readable=MAJOR_OF_JOBS):
                raise VersionError(f"job {job_id}")
            if blobs is None:
                return None
            return Unpinned(
                [str(blob_id) for blob_id in json.loads(blobs)], submission_owner((request or b"").decode())
            )
        except DAMAGE as error:
            raise damaged(job_id, error) from None

    def ended_states(self) -> Counter[JobState]:
        """How many jobs have ended in each state and still have a record."""
        found: Counter[JobState] = Counter()

        def queue(pipe: Pipeline, job_id: str) -> None:
            pipe.hget(job_keys(job_id, "record")[0], "state")

        for (state,) in self._each(self._ids(ENDED), queue):
            with suppress(ValueError, AttributeError):  # damaged, or deleted meanwhile
                found[JobState(state.decode())] += 1
        return found

    def queue_lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of these queues."""
        return {
            queue: sum(int(self._redis.llen(list_key(queue, priority))) for priority in Priority) for queue in queues
        }

    def budget_bytes(self) -> int:
        """The workers' budget for blobs in bytes, 0 for no limit or while no worker has recorded one."""
        return int(cast("bytes | None", self._redis.hget(PULSE, "budget")) or 0)

    def waits_for_room(self) -> bool:
        """Whether any job waits to be admitted."""
        return bool(self._redis.exists(WAITING))

    def reserved_bytes(self) -> int:
        """Bytes of the blob store that are reserved for all jobs together."""
        return sum(map(int, cast("list[bytes]", self._redis.hvals(RESERVED))))

    def exists(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return bool(self._redis.exists(*job_keys(job_id, "record")))

    def missing(self, job_ids: Iterable[str]) -> set[str]:
        """Those of `job_ids` without a record."""

        def queue(pipe: Pipeline, job_id: str) -> None:
            pipe.exists(*job_keys(job_id, "record"))

        ids = list(job_ids)
        return {job_id for job_id, (exists,) in zip(ids, self._each(ids, queue), strict=True) if not exists}

    def status(self, job_id: str) -> JobStatus:
        """One job as people see it.

        Raises:
            JobNotFoundError: no such job. VersionError: a newer major version wrote it. RecordError: it is damaged.
        """
        with self._redis.pipeline() as pipe:
            queue_status(pipe, check_job_id(job_id))
            return read_status(job_id, *pipe.execute())

    def head(self, job_id: str) -> JobHead:
        """What all segments of the job share.

        Raises:
            JobNotFoundError: no such job.
        """
        data = cast("bytes | None", self._redis.hget(job_keys(job_id, "spec")[0], "job"))
        if data is None:
            raise no_such_job(job_id)
        return read_head(data)

    def beginning(self, job_id: str) -> Beginning:
        """What all segments of the job share, and its first one. Raises what `read_beginning` raises."""
        return read_beginning(job_id, self._redis.hmget(job_keys(job_id, "spec")[0], *BEGINNING_FIELDS))

    def beginnings(self, job_ids: Sequence[str]) -> dict[str, Beginning]:
        """The same of several jobs, without those that are gone or damaged."""
        return read_beginnings(zip(job_ids, self._each(job_ids, queue_beginning), strict=True))

    def handoff(self, job_id: str, index: int) -> Handoff | None:
        """The committed handoff of segment `index`, or None.

        index: also START_INDEX, the state the job started from, or VIDEO_AFTER_INDEX, the video that it leads into.
        """
        data = cast("bytes | None", self._redis.hget(job_keys(job_id, "handoffs")[0], str(index)))
        return None if data is None else Handoff.unpack(data)

    def handoffs(self, job_id: str) -> list[Handoff]:
        """Every committed handoff in order, without what the job was given."""
        return [handoff for handoff in self._all_handoffs(job_id) if handoff.index >= 0]

    def timings(self, job_id: str) -> list[SegmentTiming]:
        """Where every committed segment sits in the film, in order; see `places`."""
        return list(self.places(job_id).values())

    def places(self, job_id: str) -> dict[int, SegmentTiming]:
        """Where every committed segment sits in the film, by its index; some before it may be missing.

        Raises:
            JobNotFoundError: no such job. RecordError: its spec lacks a committed segment.
        """
        return committed_timings(job_id, self.planned(job_id), self._all_handoffs(job_id))

    def film_source(self, job_id: str, timings: Sequence[SegmentTiming]) -> FilmSource | None:
        """The video that the film shows as a whole, if any. timings: of all segments, as the film shows them.

        Raises:
            RecordError: the record is damaged.
        """
        first = self.handoff(job_id, 0)
        given = [self.handoff(job_id, index) for index in (START_INDEX, VIDEO_AFTER_INDEX)]
        if not timings or first is None:
            return None
        return film_source(job_id, [one for one in given if one is not None], timings, first)

    def planned_timing(self, job_id: str, index: int) -> SegmentTiming:
        """Where segment `index`, a cut, will be in the film, though the segment before it is not rendered yet.

        Raises:
            JobNotFoundError: no such job. RecordError: its spec lacks a segment.
        """
        names = [str(at) for at in range(index + 2)]  # what the segment hands on depends on the next one
        found = self._redis.hmget(job_keys(job_id, "spec")[0], ["job", *names])
        head, *stored = cast("list[bytes | None]", found)
        if head is None:
            raise no_such_job(job_id)
        shared = read_head(head).shared
        planned = {at: shared.planned(read_segment(data)) for at, data in enumerate(stored) if data is not None}
        return timing_in_plan(planned, index, self.handoff(job_id, START_INDEX))

    def planned(self, job_id: str) -> dict[int, PlannedSegment]:
        """What the spec of a job says about the place of each segment, by index.

        Raises:
            JobNotFoundError: no such job.
        """
        shared = self.head(job_id).shared
        return {index: shared.planned(segment) for index, segment in self._segments(job_id).items()}

    def _all_handoffs(self, job_id: str) -> list[Handoff]:
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(job_keys(job_id, "handoffs")[0]))
        return [handoff for _, handoff in sorted(read_parts(raw, Handoff).items())]

    def clips(self, job_id: str) -> dict[int, ClipRecord]:
        """Every committed clip by segment index."""
        return read_clips(cast("dict[bytes, bytes]", self._redis.hgetall(job_keys(job_id, "clips")[0])))

    def piece(self, job_id: str, name: str) -> PieceRecord | None:
        """A piece for live players, if it was made."""
        data = cast("bytes | None", self._redis.hget(job_keys(job_id, "pieces")[0], name))
        return None if data is None else PieceRecord.unpack(data)

    def takes(self, job_id: str) -> Takes:
        """The takes of every segment, and which ones the film shows.

        Raises:
            RecordError: the record is damaged.
        """
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(job_keys(job_id, "takes")[0]))
        try:
            return Takes.read(raw)
        except ValueError as error:
            raise damaged(job_id, error) from None

    def contents(self, job_id: str) -> JobContents:
        """The job's spec and all that is committed, read at one moment.

        Raises:
            JobNotFoundError, VersionError, RecordError: as `status`.
        """
        with self._redis.pipeline() as pipe:
            queue_status(pipe, check_job_id(job_id))
            for key in job_keys(job_id, "spec", "handoffs", "clips", "takes"):
                pipe.hgetall(key)
            *status_of, spec, handoffs, clips, takes = pipe.execute()
        status = read_status(job_id, *status_of)
        try:
            segments = tuple(read_segment(spec[str(index).encode()]) for index in range(status.segments))
            found = read_parts(handoffs, Handoff)
            made = tuple(found[index] for index in range(status.committed))
            ahead = tuple(found[index] for index in sorted(found) if index >= status.committed)
            start, video_after = found.get(START_INDEX), found.get(VIDEO_AFTER_INDEX)
            committed = Committed(start, made, read_clips(clips), Takes.read(takes), ahead, video_after)
            return JobContents(job_id, read_head(spec[b"job"]), segments, committed, status.take_progress)
        except DAMAGE as error:
            raise damaged(job_id, error) from None

    def begun(self, job_id: str) -> int:
        """One more than the index of the last segment that is claimed, or committed ahead; 0 if there is none."""
        record, units = job_keys(job_id, "record", "units")
        stored = cast("dict[bytes, bytes]", self._redis.hgetall(units))
        ahead = cast("bytes | None", self._redis.hget(record, "ahead"))
        try:
            found = [json.loads(data) for name, data in stored.items() if name.startswith(UnitKind.SEGMENT.encode())]
            runs = json.loads(ahead or b"[]")
            claimed = [int(unit["index"]) + 1 for unit in found if unit.get("token")]
            return max([0, *claimed, *(int(cursor) for first, cursor in runs if cursor > first)])
        except DAMAGE as error:
            raise damaged(job_id, error) from None

    def prompts(self, job_id: str) -> dict[int, str]:
        """Every segment's prompt by index."""
        return {index: segment.prompt for index, segment in self._segments(job_id).items()}

    def _segments(self, job_id: str) -> dict[int, SegmentSpec]:
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(job_keys(job_id, "spec")[0]))
        return {int(name): read_segment(data) for name, data in raw.items() if name != b"job"}

    def workers(self) -> WorkerList:
        """The workers of the deployment, as their heartbeats describe them."""
        return WorkerRegistry(self._redis).read()

    def waits(self, statuses: Sequence[JobStatus]) -> dict[str, Wait]:
        """What these jobs wait for, by job id; without those that do not wait for a worker."""
        return read_waits(self._redis, statuses, self.workers())

    def workload(self) -> Workload:
        """How much work of the queue of segments is given out."""
        return read_workload(self._redis, self.active())

    def queue_states(self) -> QueueStates:
        """How many messages wait in each queue, and which were claimed, by priority."""
        return read_queue_states(self._redis)

    def _each(self, job_ids: Sequence[str], queue: Callable[[Pipeline, str], None]) -> Iterator[tuple[Any, ...]]:
        """The replies to what `queue` asks about each job, in one round trip a page. An error reply is among them."""
        for first in range(0, len(job_ids), JOBS_PER_PAGE):
            with self._redis.pipeline(transaction=False) as pipe:
                counts = []
                for job_id in job_ids[first : first + JOBS_PER_PAGE]:
                    before = len(pipe)
                    queue(pipe, job_id)
                    counts.append(len(pipe) - before)
                replies = iter(pipe.execute(raise_on_error=False))
            yield from [tuple(islice(replies, count)) for count in counts]
