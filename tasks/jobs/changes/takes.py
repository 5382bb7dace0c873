"""Takes in job records: asked for and chosen."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.errors import JobStateError, RoomError
from tasks.jobs.changes.writer import JobWriter, new_token
from tasks.jobs.committed import TakeRequest
from tasks.jobs.keys import ACTIVE, ENDED, RESERVED, job_keys
from tasks.jobs.reading.status import no_such_job
from tasks.jobs.units import JobState, rendered_text


class TakeStore(JobWriter):
    """Asks for and chooses takes of the segments of one deployment's jobs.

    A request that is sent again with the same token, because its reply was lost, gets the same answer.
    """

    def retake(
        self,
        job_id: str,
        segments: range,
        takes: Sequence[TakeRequest],
        *,
        needs_bytes: int = 0,
        budget_bytes: int | None = None,
        request: str = "",
    ) -> list[int]:
        """Ask for takes of committed neighbours; returns their numbers. A job that has ended runs until they are there.

        takes: what is asked for of each of these segments, for each take. needs_bytes: of the blob store, for all of
        them. request: default: a new one.

        Raises:
            JobNotFoundError: no such job. JobStateError: a segment is not rendered, or the job ended before all were.
            RoomError: there is no room for them in the budget.
        """
        keys = [*job_keys(job_id, "record", "units", "clips", "takes"), ACTIVE, ENDED, RESERVED]
        args = (job_id, request or new_token(), segments[0], segments[-1], budget_bytes or 0, needs_bytes)
        outcome, first = self._run("retake", keys, *args, *(take.pack() for take in takes))
        self._check(job_id, segments[-1], outcome.decode(), first, needs_bytes, budget_bytes)
        return list(range(int(first), int(first) + len(takes) // len(segments)))

    def choose(
        self,
        job_id: str,
        segment: int,
        take: int,
        *,
        needs_bytes: int = 0,
        budget_bytes: int | None = None,
        request: str = "",
    ) -> int:
        """Have the film show a take of a segment; returns the one that it showed. Clips and film are made again.

        A take of several segments is shown whole.

        needs_bytes: of the blob store, for the clips and the film. request: see `retake`.

        Raises:
            JobNotFoundError, RoomError: see `retake`. JobStateError: also if there is no such take, if it is not
            rendered, or if the next segment continues another take and this one does not lead into it.
        """
        keys = [*job_keys(job_id, "record", "units", "handoffs", "clips", "takes"), ACTIVE, ENDED, RESERVED]
        args = (job_id, request or new_token(), segment, take, budget_bytes or 0, needs_bytes)
        outcome, value, *more = self._run("choose", keys, *args)
        where = f"of segment {segment} of job {job_id}"
        if outcome == b"no take":
            others = f"its takes are 0 to {value}" if value else "it has only take 0"
            raise JobStateError(f"there is no take {take} {where}; {others}")
        if outcome == b"not made":
            raise JobStateError(
                f"take {take} {where} is not rendered; `longtake takes {job_id}` shows what became of it"
            )
        if outcome == b"apart":
            last = more[0]
            raise JobStateError(
                f"segment {last + 1} of job {job_id} continues take {value} of segment {last}, and take {take} "
                f"does not lead into it; choose take {value}, or retake segment {last}: a new take does"
            )
        self._check(job_id, segment, outcome.decode(), value, needs_bytes, budget_bytes)
        return int(value)

    def _check(
        self, job_id: str, segment: int, outcome: str, value: object, needs_bytes: int, budget_bytes: int | None
    ) -> None:
        if outcome == "missing":
            raise no_such_job(job_id)
        if outcome == "other":
            raise JobStateError(
                f"other takes were asked for with this idempotency key, of job {job_id}; use another key for more"
            )
        if outcome == "not rendered":
            raise JobStateError(
                f"segment {segment} of job {job_id} is not rendered; {rendered_text(range(int(str(value))))}"
            )
        if outcome == "ended":
            state = value.decode() if isinstance(value, bytes) else value
            raise JobStateError(
                f"job {job_id} is {state} and not all of its segments are rendered, so no take can be "
                "rendered or chosen: " + ("retry it first, or fork it" if state == JobState.FAILED else "fork it")
            )
        if outcome == "full":
            reserved = int(value) if isinstance(value, bytes) else 0
            raise RoomError(
                f"this needs about {needs_bytes:,} bytes of blobs; {reserved:,} of the {budget_bytes or 0:,} bytes of "
                "LONGTAKE_BLOB_BUDGET_BYTES are reserved; forget a job that has ended, or raise the budget"
            )
