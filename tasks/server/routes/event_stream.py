"""Server-sent events: of one job, or of all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Send

from tasks.errors import JobNotFoundError
from tasks.jobs.events import BEGINNING, EVENT_ID
from tasks.server.context import Context, ServerContext
from tasks.server.http.answers import invalid
from tasks.server.http.proxies import UNBUFFERED
from tasks.server.routes.jobs_api import JobId

router = APIRouter(tags=["events"])
MOST_AT_ONCE = 100
"""Events in one chunk: a client that reads nothing holds no more than one in memory."""
_FIELDS = {name: {"type": "string"} for name in ("id", "event", "data")}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": {"type": "object", "properties": _FIELDS}}}}
}
HEADERS = {"Cache-Control": "no-cache", **UNBUFFERED}


class EventStream(StreamingResponse):
    """Server-sent events in chunks that are ready to be sent: FastAPI's own class encodes each for each client."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send all chunks. A stream that fails is a whole answer, too: its client asks again, whatever it is."""
        try:
            await super().stream_response(send)
        except Exception:
            await send({"type": "http.response.body", "body": b""})
            raise


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


@router.get("/events", response_class=EventStream, responses=CONTENT, summary="Events of all jobs")
async def all_events(context: Context, last_event_id: LastEventId) -> EventStream:
    """New events of all jobs, until the client ends it. With `Last-Event-ID`, those after it come first."""
    return EventStream(_chunks(context, None, last_event_id or context.hub.newest_id), headers=HEADERS)


@router.get("/jobs/{job_id}/events", response_class=EventStream, responses=CONTENT, summary="Events of a job")
async def job_events(job_id: ExistingJob, context: Context, last_event_id: LastEventId) -> EventStream:
    """All events of a job that are kept, then new ones, until the job ends or the client does."""

    def is_over() -> bool:
        try:
            return context.status(job_id).finished
        except JobNotFoundError:
            return True

    return EventStream(_chunks(context, job_id, last_event_id or BEGINNING, is_over), headers=HEADERS)


async def _chunks(
    context: ServerContext, job_id: str | None, after: str, is_over: Callable[[], bool] = lambda: False
) -> AsyncGenerator[bytes]:
    async with aclosing(context.hub.messages(job_id, after, is_over)) as found:
        async for messages in found:
            if not messages:
                yield KEEPALIVE_COMMENT
            for first in range(0, len(messages), MOST_AT_ONCE):
                some = messages[first : first + MOST_AT_ONCE]
                yield b"".join(message.of_all if job_id is None else message.of_job for message in some)
