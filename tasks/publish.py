"""Sending the messages of a job: reserve a ticket, publish, mark. Whoever dies in between is put right by recovery."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from tasks.broker import CLIP_TASK, CLIPS, FILM_TASK, FILMS, SEGMENT_TASK, SEGMENTS
from tasks.connection import when_there_is_memory
from tasks.errors import ServerError
from tasks.jobs import JobStore
from tasks.points import reach
from tasks.records import FILM_UNIT, FROM_OUTSIDE, SEGMENT_UNIT, clip_unit, repair_unit


def queue_of(unit: str) -> str:
    """The queue in which messages about the unit of this name wait."""
    if unit == FILM_UNIT:
        return FILMS
    return CLIPS if unit.startswith(clip_unit(0)[:-1]) else SEGMENTS


class Publisher:
    """Publishes the work of one deployment's jobs.

    `seen` is the ticket of the message that a new one replaces, 0 for none: when several processes find that the same
    message is due, one of them publishes it.
    """

    def __init__(self, app: Celery, jobs: JobStore) -> None:
        self._app = app
        self._jobs = jobs

    def segment(self, job_id: str, index: int, state: dict[str, Any] | None = None, *, seen: int = 0) -> bool:
        """Publish segment `index`, with the state it continues (default: the one in the record)."""
        published = self._segment(job_id, SEGMENT_UNIT, index, state, seen)
        if published:
            self._jobs.chained(job_id, index)
            reach("message chained", job_id, index)
        return published

    def repair(self, job_id: str, index: int, *, seen: int = 0) -> bool:
        """Publish the rendering of a committed segment whose blobs were lost."""
        return self._segment(job_id, repair_unit(index), index, None, seen)

    def clip(self, job_id: str, index: int, *, seen: int = 0) -> bool:
        """Publish the rebuilding of the clip of segment `index` from its stored latents."""
        ticket = self._announce(job_id, clip_unit(index), index, CLIPS, seen)
        if ticket:
            self._send(CLIP_TASK, CLIPS, job_id, index, ticket, [job_id, index, ticket])
        return bool(ticket)

    def film(self, job_id: str, *, seen: int = 0) -> bool:
        """Publish the joining of all clips."""
        ticket = self._announce(job_id, FILM_UNIT, FROM_OUTSIDE, FILMS, seen)
        if ticket:
            self._send(FILM_TASK, FILMS, job_id, FROM_OUTSIDE, ticket, [job_id, ticket])
        return bool(ticket)

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

    def _segment(self, job_id: str, unit: str, index: int, state: dict[str, Any] | None, seen: int) -> bool:
        ticket = self._announce(job_id, unit, index, SEGMENTS, seen)
        if not ticket:
            return False
        if state is None:
            handoff = self._jobs.handoff(job_id, index - 1)
            state = handoff.state if handoff else None
        self._send(SEGMENT_TASK, SEGMENTS, job_id, index, ticket, [job_id, index, ticket, state])
        return True

    def _announce(self, job_id: str, unit: str, index: int, queue: str, seen: int) -> int:
        ticket = self._jobs.announce(job_id, unit, index, queue, seen=seen)
        if ticket:
            reach("message announced", job_id, index)
        return ticket

    def _send(self, task: str, queue: str, job_id: str, index: int, ticket: int, args: list[Any]) -> None:
        status = self._jobs.status(job_id)
        what = (
            "film"
            if index == FROM_OUTSIDE
            else f"{'clip' if queue == CLIPS else 'segment'} {index + 1}/{status.segments}"
        )

        def send() -> None:
            self._app.send_task(
                task,
                args=args,
                queue=queue,
                task_id=f"{job_id}-{what.split('/')[0].replace(' ', '-')}-{ticket}",
                argsrepr=f"{status.title} · {what}",
                kwargsrepr="",
            )

        try:
            when_there_is_memory(send, patient=self._jobs.patient)
        except OperationalError as error:
            raise ServerError(f"the broker does not take messages: {error}") from None
        reach("message sent", job_id, index)
