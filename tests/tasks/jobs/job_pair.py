"""Every call is made on job records and on their model, with equal results."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import pytest

from tasks.errors import JobNotFoundError, JobStateError, RoomError
from tasks.jobs.committed import TakeRequest
from tasks.jobs.keys import PREFIX, job_keys
from tasks.jobs.queues import Priority, list_key, queue_of
from tasks.jobs.records import PieceRecord
from tasks.jobs.results import (
    AdmissionOutcome,
    CreateOutcome,
)
from tasks.jobs.store import VANISHED_PER_ATTEMPT
from tasks.jobs.units import WorkUnit
from tasks.spec.loader import check_spec
from tasks.spec.segments import SegmentSpec
from tests.tasks.jobs import take_model
from tests.tasks.jobs.pair_comparison import PairComparison
from tests.tasks.jobs.take_model import SEGMENT_UNIT
from tests.tasks.jobs.unit_model import Ending, Message
from tests.tasks.jobs.worker_pair import WorkerPair

PIECE = PieceRecord("sha256:p", "sha256:h")


def _segments(
    count: int, fades: Collection[int], cuts: Collection[int], autos: Collection[int] = ()
) -> list[dict[str, str]]:
    transitions = dict.fromkeys(fades, "fade") | dict.fromkeys(cuts, "cut")
    segments = [{"prompt": str(i), "transition": transitions.get(i, "continue")} for i in range(count)]
    return [one | ({"frames": "auto"} if i in autos else {}) for i, one in enumerate(segments)]


class JobPair(WorkerPair, PairComparison):
    """Every call of users, publishers and workers; `compare` compares all records with the model."""

    # Jobs

    def create(
        self,
        job_id: str,
        segments: int,
        needs: int,
        *,
        is_open: bool = False,
        approve: bool = False,
        fades: bool = False,
        priority: Priority = Priority.NORMAL,
        cuts: Collection[int] = (),
        autos: Collection[int] = (),
    ) -> None:
        """fades: segment 1 is a new scene, and dissolves from segment 0. autos: workers decide their lengths."""
        taken = job_id in self.model.jobs
        cuts, autos = ({index for index in chosen if index < segments} for chosen in (cuts, autos))
        faded = frozenset({1} if fades and segments > 1 and 1 not in cuts else ())
        spec = check_spec({"segments": _segments(segments, faded, cuts, autos), "open": is_open, "approve": approve})
        created = self.jobs.create(job_id, spec, model="tiny", needs_bytes=needs, priority=priority)
        assert created.outcome == (CreateOutcome.TAKEN if taken else CreateOutcome.CREATED)
        if not taken:
            status = self.jobs.status(job_id)
            assert status.priority == priority
            own = {"is_open": is_open, "approve": approve, "priority": priority, "cuts": cuts, "fades": faded}
            own |= {"autos": autos}
            self.model.create(job_id, segments, needs, status.created_at, **own)
            self.fences[job_id] = 0

    def fork(self, job_id: str, source_id: str, share: int, segments: int) -> None:
        """Share at most `share` segments of another job."""
        if source_id not in self.model.jobs:
            with pytest.raises(JobNotFoundError):
                self.jobs.contents(source_id)
            return
        taken, count = job_id in self.model.jobs, min(share, segments, self.model.jobs[source_id].cursor)
        committed = self.jobs.contents(source_id).committed.first(count)
        source = self.model.jobs[source_id]
        spec = check_spec({"segments": _segments(segments, source.fades, source.cuts)})
        created = self.jobs.create(job_id, spec, model="tiny", needs_bytes=1, committed=committed)
        assert created.outcome == (CreateOutcome.TAKEN if taken else CreateOutcome.CREATED)
        if not taken:
            self.model.fork(job_id, source_id, count, segments, self.jobs.status(job_id).created_at)
            self.fences[job_id] = 0

    def admit(self) -> bool:
        """Do one step of admission; False when no job can be admitted now."""
        found = self.jobs.admit(self.model.budget)
        assert found == self.model.admit()
        if found.outcome == AdmissionOutcome.NEVER:
            self.stop(found.job_id, "failed", "larger than the budget")
        return found.outcome != AdmissionOutcome.WAIT

    def stop(self, job_id: str, state: str, reason: str) -> None:
        previous = self.model.job(job_id).stop(state, reason)
        assert self._previous_state(lambda token: self.jobs.stop(job_id, state, reason, request=token)) == previous

    def pause(self, job_id: str) -> None:
        previous = self.model.job(job_id).pause()
        assert self._previous_state(lambda token: self.jobs.pause(job_id, request=token)) == previous

    def resume(self, job_id: str) -> None:
        previous = self.model.job(job_id).resume()
        assert self._previous_state(lambda token: self.jobs.resume(job_id, request=token)) == previous

    def revive(self, job_id: str, state: str) -> None:
        previous = self.model.revive(job_id, state)
        assert self._previous_state(lambda token: self.jobs.revive(job_id, state, request=token)) == previous

    def _previous_state(self, change: Callable[[str], str]) -> str:
        """The state before `change`, "" for an unknown job. The same request again gets the same answer."""
        self.requests += 1
        try:
            previous = change(str(self.requests))
            assert change(str(self.requests)) == previous
            return previous
        except JobNotFoundError:
            return ""

    def retake(self, job_id: str, segments: range, count: int, needs: int) -> None:
        several = {"first": segments[0], "last": segments[-1]} if len(segments) > 1 else {}
        takes = [TakeRequest(**several)] * count * len(segments)
        options = {"needs_bytes": needs, "budget_bytes": self.model.budget}
        expected = self.model.retake(job_id, segments, count, needs)
        first = self._asked(expected, lambda token: self.jobs.retake(job_id, segments, takes, request=token, **options))
        for number in range(first or 0, first + count if first else 0):
            for index in segments:
                self._add_view(True, job_id, take_model.take_unit(index, number), index)

    def choose(self, job_id: str, index: int, number: int, needs: int) -> None:
        options = {"needs_bytes": needs, "budget_bytes": self.model.budget}
        expected = self.model.choose(job_id, index, number, needs)
        self._asked(expected, lambda token: self.jobs.choose(job_id, index, number, request=token, **options))

    def _asked(self, expected: int | str, ask: Callable[[str], Any]) -> int | None:
        """The reply to a request about takes, which is the same when it is repeated; None if it is refused."""
        self.requests += 1
        token = str(self.requests)
        if isinstance(expected, str):
            with pytest.raises(RoomError if expected == "full" else JobStateError):
                ask(token)
            return None
        found = ask(token)
        assert (found[0] if isinstance(found, list) else found) == expected
        assert ask(token) == found
        return expected

    def append(self, job_id: str, count: int, needs: int, *, is_cut: bool = False, is_auto: bool = False) -> None:
        """Append segments; the same request again adds nothing.

        is_cut: the first one is a cut. is_auto: a worker decides its length.
        """
        is_cut = is_cut and self.model.job(job_id).segments > 0
        self.requests += 1
        prompts = [f"{self.requests}.{number}" for number in range(count)]
        expected, first = self.model.append(job_id, prompts, needs, is_cut=is_cut, is_auto=is_auto)
        transitions = ["cut" if is_cut else "continue", "continue"]
        segments = [
            SegmentSpec(prompt=prompt, transition=how, auto_frames=(is_auto and number == 0) or None)
            for number, (prompt, how) in enumerate(zip(prompts, transitions, strict=False))
        ]
        for _ in range(2):
            try:
                found = self.jobs.append(
                    job_id, segments, needs_bytes=needs, budget_bytes=self.model.budget, request=str(self.requests)
                )
                assert (found.outcome, found.first if expected == "appended" else first) == (expected, first)
            except JobNotFoundError:
                assert expected == "missing"

    def replace_prompt(self, job_id: str, index: int) -> None:
        self.requests += 1
        prompt = f"another {self.requests}"
        if job_id not in self.model.jobs:
            return
        expected = self.model.job(job_id).replace_prompt(index, prompt)
        for _ in range(2):
            replaced = self.jobs.replace_segments(job_id, {index: {"prompt": prompt}})
            assert (replaced.outcome, replaced.at) == expected

    def close_end(self, job_id: str) -> None:
        self.requests += 1
        job, token = self.model.job(job_id), str(self.requests)
        if not job.state or (job.open and not job.segments):
            with pytest.raises((JobNotFoundError, JobStateError)):
                self.jobs.close_end(job_id, request=token)
            return
        expected = job.close()
        assert [self.jobs.close_end(job_id, request=token) for _ in range(2)] == [expected, expected]

    def leave_open(self, job_id: str) -> None:
        """Have the job wait for segments for as long as it may."""
        job = self.model.job(job_id)
        if job.open:
            job.left_open = True
            self.redis.hset(job_keys(job_id, "record")[0], "waited_ms", 10**12)

    def approve(self, job_id: str, index: int | None) -> None:
        expected = self.model.job(job_id).approve(index)
        for _ in range(2):
            if expected == "approved":
                self.jobs.approve(job_id, index)
            else:
                with pytest.raises((JobNotFoundError, JobStateError)):
                    self.jobs.approve(job_id, index)

    def settle(self, job_id: str, used: int, *, late: bool = False) -> None:
        """Settle a job. late: the bytes were counted before its reservation changed."""
        seen = self.model.reserved.get(job_id)
        seen = (seen or 0) + 1 if late else seen
        self.jobs.settle(job_id, used, reserved=seen)
        self.model.settle(job_id, used, seen)

    # The server

    def reserve_piece(self, job_id: str, name: str, size: int) -> None:
        """Reserve room for a piece for live players, and again, because the reply was lost."""
        expected = self.model.reserve_piece(job_id, name, size)
        found = [self.jobs.reserve_piece(job_id, name, size, budget_bytes=self.model.budget) for _ in range(2)]
        assert found == [expected, expected]

    def release_piece(self, job_id: str, name: str) -> None:
        """Give back the room of a piece that was not stored, and again."""
        self.model.release_piece(job_id, name)
        for _ in range(2):
            self.jobs.release_piece(job_id, name)

    def note_piece(self, job_id: str, name: str) -> None:
        """Record a piece that was stored, and again."""
        expected = self.model.note_piece(job_id, name)
        assert [self.jobs.note_piece(job_id, name, PIECE) for _ in range(2)] == [expected, expected]

    def keep(self, job_id: str, kept: bool) -> None:
        """Keep a job beyond its retention, or no longer. Its record has the version of takes from then on."""
        change = partial(self.jobs.keep, seconds=None) if kept else self.jobs.unkeep
        job = self.model.jobs.get(job_id)
        if job is None:
            with pytest.raises(JobNotFoundError):
                change(job_id)
            return
        change(job_id)
        job.kept, job.has_takes = kept, job.has_takes or kept

    def delete(self, job_id: str) -> None:
        kept = job_id in self.model.jobs and self.model.jobs[job_id].kept
        if not self.model.delete(job_id):
            with pytest.raises(JobStateError):
                self.jobs.delete(job_id)
            return
        if kept:
            with pytest.raises(JobStateError):
                self.jobs.delete(job_id, unless_kept=True)
        self.jobs.delete(job_id)
        assert not list(self.redis.scan_iter(f"{PREFIX}job:{job_id}:*"))
        for name in ("jobs", "active", "ended", "waiting"):
            assert self.redis.zscore(f"{PREFIX}{name}", job_id) is None

    # Publishers

    def survey(self, job_id: str) -> list[Message]:
        """The units that are due, as a publisher sees them."""
        expected, endings = self.model.job(job_id).survey(VANISHED_PER_ATTEMPT * self.attempts)
        found = self.jobs.survey(job_id)
        assert sorted((n.unit.name, n.unit.index, n.why, n.stamp, n.ticket) for n in found) == expected
        if endings:  # several units may be at their last attempt
            status = self.jobs.status(job_id)
            ending = Ending(status.reason, status.failed_segment, status.attempts)
            assert ending in endings
            self.model.job(job_id).ending = ending
        seen = [Message(job_id, need.unit.name, need.unit.index, need.ticket) for need in found]
        self.views += seen
        return seen

    def publish(
        self, view: Message, *, sent: bool = True, marked: bool = True, sticky: bool = False, busy: bool = False
    ) -> Message | None:
        """Announce and send the message of a view; returns it if it was sent.

        sent, marked: False when the publisher dies before it sends the message, or before it marks it as sent. sticky:
        its worker has a sticky queue. busy: another message waits in the shared queue.
        """
        job_id, unit, index, seen = view
        queue, job = queue_of(WorkUnit.parse(unit, index)), self.model.job(job_id)
        shared = list_key(queue, job.priority)
        if busy:
            self.redis.lpush(shared, "another message")
        announced = self.jobs.announce(job_id, WorkUnit.parse(unit, index), seen=seen, sticky=sticky)
        self.redis.delete(shared)
        ticket = job.announce(unit, index, seen, self.model.queue(queue, job.priority), sticky=sticky and not busy)
        assert (announced.ticket if announced else 0) == ticket
        if not announced or not sent:
            return None
        assert (announced.sticky, announced.segments) == (sticky and not busy, job.segments)
        assert announced.priority == job.priority
        message = Message(job_id, unit, index, ticket)
        self.messages.append(message)
        self._add_view(True, *message)
        if marked:
            self.mark(message)
        return message

    def mark(self, message: Message) -> None:
        if message.unit == SEGMENT_UNIT:
            self.jobs.chained(message.job_id, message.index)
            self.model.job(message.job_id).mark_chained(message.index)
