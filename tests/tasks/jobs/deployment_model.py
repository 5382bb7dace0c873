"""A model of all jobs of a deployment: creation, admission, and the budget that they share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from tasks.jobs.queues import Priority
from tasks.jobs.results import Admission, AdmissionOutcome
from tests.tasks.jobs import take_model
from tests.tasks.jobs.job_model import Job
from tests.tasks.jobs.unit_model import Ending, Queue, Unit, clip_unit


@dataclass
class Deployment:
    """All jobs, and the budget of the blob store that they share, in bytes."""

    budget: int
    jobs: dict[str, Job] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    reserved: dict[str, int] = field(default_factory=dict)
    queues: dict[tuple[str, Priority], Queue] = field(default_factory=dict)

    def job(self, job_id: str) -> Job:
        """The job, or an empty one if the id is unknown."""
        return self.jobs.get(job_id) or Job()

    def queue(self, name: str, priority: Priority) -> Queue:
        return self.queues.setdefault((name, priority), Queue())

    def create(
        self,
        job_id: str,
        segments: int,
        needs: int,
        created: float,
        *,
        is_open: bool,
        approve: bool,
        priority: Priority,
        cuts: set[int],
        fades: frozenset[int] = frozenset(),
        autos: Collection[int] = (),
    ) -> None:
        prompts = {index: str(index) for index in range(segments)}
        approved = 0 if approve else None
        job = Job("queued", segments, needs, needs, created=created, priority=priority, open=is_open, approved=approved)
        job.prompts, job.fades, job.lengths = prompts, fades, dict.fromkeys(autos)
        job.cuts, job.parallel = set(cuts), bool(cuts) and not is_open and not approve
        job.has_takes = job.parallel or bool(fades) or bool(autos)  # its record has the version of takes
        self.jobs[job_id] = job
        self.waiting.add(job_id)

    def append(self, job_id: str, prompts: list[str], needs: int, *, is_cut: bool, is_auto: bool) -> tuple[str, int]:
        """The outcome, and the index of the first new segment."""
        job, reserved = self.job(job_id), self.reserved.get(job_id, 0)
        if not job.state:
            return "missing", 0
        if job.state != "done" and not job.unfinished:
            return "ended", 0
        total, wanted, is_admitted = sum(self.reserved.values()), job.needs + needs, job.admitted or job.state == "done"
        if is_admitted:
            fits = total - reserved + wanted <= self.budget
        else:
            others = self.waiting - {job_id}
            held = reserved + sum(self.reserved.get(other, 0) for other in others)
            lacking = [self.jobs[other].needs - self.reserved.get(other, 0) for other in others]
            fits = max(total, held + max([wanted - reserved, *lacking])) <= self.budget
        if not fits:
            return "full", 0
        job.needs = wanted
        if is_admitted:
            self.reserved[job_id] = wanted
        return "appended", job.append(prompts, is_cut=is_cut, is_auto=is_auto)

    def fork(self, job_id: str, source_id: str, count: int, segments: int, created: float) -> None:
        """Create a job that shares the first `count` segments of another one."""
        source = self.jobs[source_id]
        job = Job("queued", segments, 1, 1, created=created, chained=count - 1)
        job.cuts = {cut for cut in source.cuts if cut < segments}
        job.parallel = any(cut > count for cut in job.cuts)
        job.prompts = {index: str(index) for index in range(segments)}
        job.fades = frozenset(index for index in source.fades if index < segments)
        job.handoffs = {index: source.handoffs[index] for index in range(count)}
        crossfaded = {index for index in source.clips if take_model.clip_shows(source, index)[1] != -1}
        job.clips = {i: clip for i, clip in source.clips.items() if i < count - (count - 1 in crossfaded)}
        job.continues = {index: source.continues[index] for index in range(count)}
        made = {
            key: replace(take, failed=False, last=min(take.last, count - 1))
            for key, take in source.takes.items()
            if key[0] < count and take_model.is_whole(source, *key)
            if take.last < count or take_model.shown(source, key[0]) == key[1]
        }
        job.takes = made
        job.shows = {index: number for index, number in source.shows.items() if index < count}
        own_clips = source.own_clips.items()
        job.own_clips = {key: clip for key, clip in own_clips if key[0] < count and (key in made or not key[1])}
        job.has_takes = bool(job.takes or job.shows or job.own_clips or job.fades) or job.parallel
        job.units = {clip_unit(index): Unit(index) for index in range(count) if index not in job.clips}
        self.jobs[job_id] = job
        self.waiting.add(job_id)

    def admit(self) -> Admission:
        """Admit the first waiting job that fits; no new job passes another, except one of high priority."""
        blocked = False
        waiting = [job_id for job_id in self.jobs if job_id in self.waiting]
        for job_id in sorted(waiting, key=lambda one: self.jobs[one].priority != Priority.HIGH):
            job, holds = self.jobs[job_id], job_id in self.reserved
            if not job.unfinished:
                self.waiting.discard(job_id)
                return Admission(AdmissionOutcome.GONE, job_id, 0)
            if job.state == "paused" or (blocked and not holds):
                continue
            if job.needs > self.budget:
                return Admission(AdmissionOutcome.NEVER, job_id, job.needs)
            if sum(self.reserved.values()) - self.reserved.get(job_id, 0) + job.needs <= self.budget:
                self.waiting.discard(job_id)
                self.reserved[job_id], job.admitted = job.needs, True
                return Admission(AdmissionOutcome.ADMITTED, job_id, job.needs)
            blocked = blocked or not holds
        return Admission(AdmissionOutcome.WAIT)

    def reserve_more(self, job_id: str, needs: int) -> bool:
        """Whether there is room for more bytes of a job."""
        job = self.jobs[job_id]
        if max(sum(self.reserved.values()), job.needs) + needs > self.budget:
            return False
        if job_id in self.reserved:
            self.reserved[job_id] += needs
        job.needs += needs
        return True

    def retake(self, job_id: str, segments: range, count: int, needs: int) -> int | str:
        """The number of the first take, or why there is none."""
        job = self.jobs[job_id]
        if not job.handoffs.keys() >= {*segments}:
            return "not rendered"
        if not take_model.can_have_takes(job):
            return "ended"
        if not self.reserve_more(job_id, needs):
            return "full"
        first = take_model.ask(job, segments, count)
        take_model.wake(job, Ending())
        return first

    def choose(self, job_id: str, index: int, number: int, needs: int) -> int | str:
        """The take that was shown, or why the choice was refused."""
        job = self.jobs[job_id]
        before = take_model.shown(job, index)
        refused = take_model.choice(job, index, number)
        if refused or number == before:
            return refused or before
        if not self.reserve_more(job_id, needs):
            return "full"
        take_model.choose(job, index, number)
        take_model.wake(job, Ending())
        return before

    def settle(self, job_id: str, used: int, seen: int | None) -> None:
        job = self.job(job_id)
        if job.ended and self.reserved.get(job_id) == seen:
            job.needs -= sum(job.room.values())
            job.room.clear()
            if job_id in self.reserved:
                self.reserved[job_id] = used

    def reserve_piece(self, job_id: str, name: str, size: int) -> bool:
        job = self.job(job_id)
        if not job.admitted:
            return False
        if name not in job.room and name not in job.pieces:
            if not self.reserve_more(job_id, size):
                return False
            job.room[name] = size
        return True

    def release_piece(self, job_id: str, name: str) -> None:
        job = self.job(job_id)
        size = job.room.pop(name, 0)
        job.needs -= size
        if size:
            self.reserved[job_id] -= size

    def note_piece(self, job_id: str, name: str) -> bool:
        job = self.job(job_id)
        if job.room.pop(name, None) is not None:
            job.pieces.add(name)
        return name in job.pieces

    def revive(self, job_id: str, state: str) -> str:
        previous = self.job(job_id).revive(state)
        if previous == state:
            self.waiting.add(job_id)
        return previous

    def delete(self, job_id: str) -> bool:
        if self.job(job_id).unfinished:
            return False
        self.jobs.pop(job_id, None)
        self.waiting.discard(job_id)
        self.reserved.pop(job_id, None)
        return True
