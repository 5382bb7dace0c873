"""Server-sent events: of one job, or of all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tasks.errors import JobNotFoundError
from tasks.jobs.events import BEGINNING, EVENT_ID
from tasks.server.context import Context, ServerContext
from tasks.server.http.answers import invalid, without_paths
from tasks.server.routes.jobs_api import JobId

router = APIRouter(tags=["events"])


def _last_event_id(
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event seen; those after it follow.")
    ] = None,
) -> str | None:
    """Checked here, while a refusal can still be answered."""
    if last_event_id and not EVENT_ID.fullmatch(last_event_id):
        raise invalid("Last-Event-ID: not the id of an event", param="Last-Event-ID")
    return last_event_id or None


def _existing_job(job_id: JobId, context: Context) -> str:
    """Looked up here, while a refusal can still be answered."""
    return context.status(job_id).job_id


ExistingJob = Annotated[str, Depends(_existing_job)]
LastEventId = Annotated[str | None, Depends(_last_event_id)]


@router.get("/events", response_class=EventSourceResponse, summary="Events of all jobs")
async def all_events(context: Context, last_event_id: LastEventId) -> AsyncIterator[ServerSentEvent]:
    """New events of all jobs, until the client ends it. With `Last-Event-ID`, those after it come first."""
    async for event in _sent(context, None, last_event_id or context.hub.newest_id):
        yield event


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, summary="Events of a job")
async def job_events(
    job_id: ExistingJob, context: Context, last_event_id: LastEventId
) -> AsyncIterator[ServerSentEvent]:
    """All events of a job that are kept, then new ones, until the job ends or the client does."""

    def is_over() -> bool:
        try:
            return context.status(job_id).finished
        except JobNotFoundError:
            return True

    async for event in _sent(context, job_id, last_event_id or BEGINNING, is_over):
        yield event


async def _sent(
    context: ServerContext, job_id: str | None, after: str, is_over: Callable[[], bool] = lambda: False
) -> AsyncIterator[ServerSentEvent]:
    async for event in context.hub.events(job_id, after, is_over):
        data = {"job": event.job_id, "at": event.at, **event.data}
        if isinstance(data.get("reason"), str):
            data["reason"] = without_paths(data["reason"])
        yield ServerSentEvent(id=event.id if job_id is None else event.id_in_job, event=event.kind, data=data)
