"""Sends the messages of a job: announce, send, mark. The reconciler recovers from a crash at any point between."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from blobstore.stored_format import FORMAT, FORMAT_OF_JOBS
from tasks.errors import ServerError
from tasks.jobs.connection import when_there_is_memory
from tasks.jobs.failpoints import reach
from tasks.jobs.queues import HIGH_PRIORITY, Priority, queue_of
from tasks.jobs.results import Announcement, NeedReason
from tasks.jobs.store import JobStore
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, FORMAT_HEADER, SEGMENT_TASK, TAKE_TASK
from tasks.messaging.tracing import tracing


class Publisher:
    """Publishes the work of one deployment's jobs."""

    def __init__(self, app: Celery, jobs: JobStore) -> None:
        self._app = app
        self._jobs = jobs

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()

    def publish(self, job_id: str, unit: WorkUnit, *, seen: int = 0, sticky: Queue | None = None) -> bool:
        """Announce and send the message of `unit`, if it is due; returns whether it was.

        seen: the ticket of the message that this one replaces, 0 for none. When several processes find that the same
        message is due, one of them publishes it. sticky: see `send`.

        Raises:
            ServerError: the broker takes no messages; the reconciler sends it later.
        """
        announced = self._jobs.announce(job_id, unit, seen=seen, sticky=sticky is not None)
        if announced is None:
            return False
        state = None
        if unit.kind in (UnitKind.SEGMENT, UnitKind.REPAIR):
            handoff = self._jobs.handoff(job_id, unit.index - 1)
            state = handoff.state if handoff else None
        self.send(job_id, announced, state, sticky=sticky)
        return True

    def send(
        self,
        job_id: str,
        announced: Announcement,
        state: dict[str, Any] | None = None,
        *,
        sticky: Queue | None = None,
        wait: bool = True,
    ) -> None:
        """Send the message that was announced.

        state: for a segment, the one it continues. sticky: the queue of the worker that holds this state; the message
        goes there if the announcement says so. wait: False to return before the record says that it was sent.

        Raises:
            ServerError: the broker takes no messages; the reconciler sends it later.
        """
        unit, ticket = announced.unit, announced.ticket
        reach("message announced", job_id, unit.index)
        if unit.kind == UnitKind.FILM:
            self._send(FILM_TASK, queue_of(unit), job_id, announced, [job_id, ticket])
        elif unit.kind == UnitKind.CLIP:
            self._send(CLIP_TASK, queue_of(unit), job_id, announced, [job_id, unit.index, ticket])
        elif unit.kind == UnitKind.TAKE:
            self._send(TAKE_TASK, queue_of(unit), job_id, announced, [job_id, unit.index, unit.take, ticket])
        else:
            queue = sticky if sticky and announced.sticky else queue_of(unit)
            self._send(SEGMENT_TASK, queue, job_id, announced, [job_id, unit.index, ticket, state])
        reach("message sent", job_id, unit.index)
        if unit.kind == UnitKind.SEGMENT:
            self._jobs.chained(job_id, unit.index, wait=wait)
            reach("message chained", job_id, unit.index)

    def publish_due(self, job_id: str) -> None:
        """Publish at once what is known to have no message, such as work that waited for a repair."""
        for need in self._jobs.survey(job_id):
            if need.why in (NeedReason.EXPIRED, NeedReason.UNANNOUNCED):
                self.publish(job_id, need.unit, seen=need.ticket)

    def _send(self, task: str, queue: str | Queue, job_id: str, announced: Announcement, args: list[Any]) -> None:
        unit = announced.unit
        kind = unit.kind_asked_for
        is_film = kind == UnitKind.FILM
        headers = {FORMAT_HEADER: FORMAT_OF_JOBS if kind == UnitKind.TAKE else FORMAT}
        name = str(kind) if is_film else f"{kind}-{unit.index}"
        options: dict[str, Any] = {"priority": HIGH_PRIORITY} if announced.priority == Priority.HIGH else {}
        shown = str(kind) if is_film else f"{kind} {unit.index + 1} of {announced.segments}"
        if kind == UnitKind.TAKE:
            name, shown = f"{name}-{unit.take}", f"take {unit.take} of segment {unit.index + 1} of {announced.segments}"

        def send() -> None:
            self._app.send_task(
                task,
                args=args,
                queue=queue,  # type: ignore[arg-type]  # the stubs know names only
                task_id=f"{job_id}-{name}-{announced.ticket}",
                headers=headers | tracing.headers(job_id),
                argsrepr=f"{announced.title} · {shown}",
                kwargsrepr="",
                **options,
            )

        try:
            when_there_is_memory(send, patient=self._jobs.patient)
        except OperationalError as error:
            raise ServerError(f"the broker takes no messages: {error}") from None
