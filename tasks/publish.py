"""Sending the messages of a job: reserve a ticket, publish, mark. Whoever dies in between is put right by recovery."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from tasks.broker import CLIP_TASK, CLIPS, FILM_TASK, FILMS, SEGMENT_TASK, SEGMENTS
from tasks.errors import ServerError
from tasks.jobs import JobStore
from tasks.records import FILM_UNIT, FROM_OUTSIDE, SEGMENT_UNIT, clip_unit


class Publisher:
    """Publishes the work of one deployment's jobs."""

    def __init__(self, app: Celery, jobs: JobStore) -> None:
        self._app = app
        self._jobs = jobs

    def segment(self, job_id: str, index: int, state: dict[str, Any] | None = None) -> bool:
        """Publish segment `index`, with the state it continues (default: the one in the record)."""
        ticket = self._jobs.announce(job_id, SEGMENT_UNIT, index, SEGMENTS)
        if not ticket:
            return False
        if state is None:
            handoff = self._jobs.handoff(job_id, index - 1)
            state = handoff.state if handoff else None
        self._send(SEGMENT_TASK, SEGMENTS, job_id, index, ticket, [job_id, index, ticket, state])
        self._jobs.chained(job_id, index)
        return True

    def clip(self, job_id: str, index: int) -> bool:
        """Publish the rebuilding of the clip of segment `index` from its stored latents."""
        ticket = self._jobs.announce(job_id, clip_unit(index), index, CLIPS)
        if ticket:
            self._send(CLIP_TASK, CLIPS, job_id, index, ticket, [job_id, index, ticket])
        return bool(ticket)

    def film(self, job_id: str) -> bool:
        """Publish the joining of all clips."""
        ticket = self._jobs.announce(job_id, FILM_UNIT, FROM_OUTSIDE, FILMS)
        if ticket:
            self._send(FILM_TASK, FILMS, job_id, FROM_OUTSIDE, ticket, [job_id, ticket])
        return bool(ticket)

    def unit(self, job_id: str, unit: str, index: int) -> bool:
        """Publish the unit of this name anew."""
        if unit == SEGMENT_UNIT:
            return self.segment(job_id, index)
        return self.film(job_id) if unit == FILM_UNIT else self.clip(job_id, index)

    def _send(self, task: str, queue: str, job_id: str, index: int, ticket: int, args: list[Any]) -> None:
        status = self._jobs.status(job_id)
        what = (
            "film"
            if index == FROM_OUTSIDE
            else f"{'clip' if queue == CLIPS else 'segment'} {index + 1}/{status.segments}"
        )
        try:
            self._app.send_task(
                task,
                args=args,
                queue=queue,
                task_id=f"{job_id}-{what.split('/')[0].replace(' ', '-')}-{ticket}",
                argsrepr=f"{status.title} · {what}",
                kwargsrepr="",
            )
        except OperationalError as error:
            raise ServerError(f"the broker does not take messages: {error}") from None
