"""Sending the messages of a job: reserve a ticket, publish, mark. Whoever dies in between is put right by recovery."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from tasks.errors import ServerError
from tasks.failpoints import reach
from tasks.jobs.connection import when_there_is_memory
from tasks.jobs.queues import CLIPS, FILMS, SEGMENTS
from tasks.jobs.records import FILM_UNIT, FROM_OUTSIDE, SEGMENT_UNIT, Announcement, clip_unit, repair_unit
from tasks.jobs.store import JobStore
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK


class Publisher:
    """Publishes the work of one deployment's jobs.

    `seen` is the ticket of the message that a new one replaces, 0 for none: when several processes find that the same
    message is due, one of them publishes it.
    """

    def __init__(self, app: Celery, jobs: JobStore) -> None:
        self._app = app
        self._jobs = jobs

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()

    def segment(
        self, job_id: str, index: int, state: dict[str, Any] | None = None, *, seen: int = 0, own: Queue | None = None
    ) -> bool:
        """Publish segment `index`, with the state it continues (default: the one in the record).

        own: the queue of the worker that holds the state; the message goes there while nobody else waits for a worker.
        """
        published = self._segment(job_id, SEGMENT_UNIT, index, state, seen, own)
        if published:
            self._jobs.chained(job_id, index)
            reach("message chained", job_id, index)
        return published

    def repair(self, job_id: str, index: int, *, seen: int = 0) -> bool:
        """Publish the rendering of a committed segment whose blobs were lost."""
        return self._segment(job_id, repair_unit(index), index, None, seen)

    def clip(self, job_id: str, index: int, *, seen: int = 0) -> bool:
        """Publish the rebuilding of the clip of segment `index` from its stored latents."""
        said = self._announce(job_id, clip_unit(index), index, CLIPS, seen)
        if said:
            self._send(CLIP_TASK, CLIPS, job_id, index, said, [job_id, index, said.ticket])
        return bool(said)

    def film(self, job_id: str, *, seen: int = 0) -> bool:
        """Publish the joining of all clips."""
        said = self._announce(job_id, FILM_UNIT, FROM_OUTSIDE, FILMS, seen)
        if said:
            self._send(FILM_TASK, FILMS, job_id, FROM_OUTSIDE, said, [job_id, said.ticket])
        return bool(said)

    def unit(self, job_id: str, unit: str, index: int, *, seen: int = 0) -> bool:
        """Publish the unit of this name."""
        if unit == SEGMENT_UNIT:
            return self.segment(job_id, index, seen=seen)
        if unit == FILM_UNIT:
            return self.film(job_id, seen=seen)
        publish = self.repair if unit == repair_unit(index) else self.clip
        return publish(job_id, index, seen=seen)

    def due(self, job_id: str) -> None:
        """Publish at once what is known to have no message, such as work that waited for a repair."""
        for need in self._jobs.survey(job_id):
            if need.why == "expired":
                self.unit(job_id, need.unit, need.index, seen=need.ticket)

    def _segment(
        self, job_id: str, unit: str, index: int, state: dict[str, Any] | None, seen: int, own: Queue | None = None
    ) -> bool:
        said = self._announce(job_id, unit, index, SEGMENTS, seen, aside=own is not None)
        if not said:
            return False
        if state is None:
            handoff = self._jobs.handoff(job_id, index - 1)
            state = handoff.state if handoff else None
        queue = own if own and said.aside else SEGMENTS
        self._send(SEGMENT_TASK, queue, job_id, index, said, [job_id, index, said.ticket, state])
        return True

    def _announce(
        self, job_id: str, unit: str, index: int, queue: str, seen: int, *, aside: bool = False
    ) -> Announcement | None:
        said = self._jobs.announce(job_id, unit, index, queue, seen=seen, aside=aside)
        if said:
            reach("message announced", job_id, index)
        return said

    def _send(
        self, task: str, queue: str | Queue, job_id: str, index: int, said: Announcement, args: list[Any]
    ) -> None:
        kind = "clip" if queue == CLIPS else "segment"
        what = "film" if index == FROM_OUTSIDE else f"{kind} {index + 1}/{said.segments}"

        def send() -> None:
            self._app.send_task(
                task,
                args=args,
                queue=queue,  # type: ignore[arg-type]  # the stubs know names only
                task_id=f"{job_id}-{what.split('/')[0].replace(' ', '-')}-{said.ticket}",
                argsrepr=f"{said.title} · {what}",
                kwargsrepr="",
            )

        try:
            when_there_is_memory(send, patient=self._jobs.patient)
        except OperationalError as error:
            raise ServerError(f"the broker does not take messages: {error}") from None
        reach("message sent", job_id, index)
