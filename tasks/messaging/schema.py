"""The schema of messages. An invalid one is refused; the error names the field."""

from __future__ import annotations

import base64
from typing import Any, Literal, Self

from celery.app.task import Context
from kombu.utils.json import loads
from pydantic import ConfigDict, Field, model_validator

from blobstore.stored_format import MAJOR_OF_JOBS, is_newer_major
from tasks.errors import MessageError, VersionError
from tasks.field_errors import shown
from tasks.jobs.json_limits import NESTING_LIMIT, nesting
from tasks.jobs.keys import check_job_id
from tasks.jobs.queues import CLIPS, FILMS, QUEUES, SEGMENTS, STICKY_PREFIX
from tasks.messaging.message_models import ClosedModel, MessageModel, valid
from tasks.messaging.remote_control import CLOCK_LIMIT, Moment, Name, check_command, check_reply
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, FORMAT_HEADER, SEGMENT_TASK, TAKE_TASK
from tasks.spec.segments import MAX_SEGMENTS

# A state with picture, sound and metadata inline, 64 KiB each (LONGTAKE_INLINE_THRESHOLD_BYTES), in base64 twice
MESSAGE_LIMIT_BYTES = 1024 * 1024
TICKET_LIMIT = 2**53  # integers above are not exact in Lua
PARAMETERS = {
    (SEGMENTS, SEGMENT_TASK): ("job_id", "index", "ticket", "state"),
    (SEGMENTS, TAKE_TASK): ("job_id", "index", "take", "ticket"),
    (CLIPS, CLIP_TASK): ("job_id", "index", "ticket"),
    (FILMS, FILM_TASK): ("job_id", "ticket"),
}
COMMANDS, REPLIES, EVENTS = "celery.pidbox", "reply.celery.pidbox", "celeryev"


class _Destination(MessageModel):
    exchange: str
    routing_key: str


class _Properties(MessageModel):
    delivery_tag: str = Field(min_length=1, max_length=100)
    delivery_info: _Destination
    body_encoding: Literal["base64"]
    priority: int = Field(0, ge=0, le=9)


class _Envelope(MessageModel):
    """What kombu reads of every message."""

    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: dict[str, Any]
    properties: _Properties


class _TaskHeaders(MessageModel):
    """Headers that Celery acts on.

    longtake uses no callbacks, groups, retries or deadlines, so they are refused.
    """

    model_config = ConfigDict(extra="allow")

    task: str
    id: str = Field(pattern=r"^[0-9a-z-]{1,100}$")
    root_id: str | None = Field(None, max_length=200)
    parent_id: str | None = Field(None, max_length=200)
    argsrepr: str | None = Field(None, max_length=2000)
    kwargsrepr: str | None = Field(None, max_length=2000)
    origin: str | None = Field(None, max_length=500)
    retries: Literal[0] = 0
    replaced_task_nesting: Literal[0] = 0
    ignore_result: bool | None = None
    compression: None = None
    eta: None = None
    expires: None = None
    group: None = None
    group_index: None = None
    shadow: None = None
    timelimit: list[None] | None = Field(None, min_length=2, max_length=2)
    stamped_headers: None = None
    stamps: dict[str, None] | None = Field(None, max_length=0)

    @model_validator(mode="after")
    def _no_other_header_of_celery(self) -> Self:
        # Tracers may add headers, but Celery sets each header as an attribute of its request.
        for name in self.model_extra or {}:
            if hasattr(Context, name):
                raise ValueError(f"{shown(name)} is not allowed in a longtake message")
        return self


class _Callbacks(ClosedModel):
    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class _TaskBody(MessageModel):
    args: list[Any]
    kwargs: dict[str, Any] = Field(max_length=0)
    embed: _Callbacks


class _EventHeaders(MessageModel):
    hostname: Name
    compression: None = None


class _Event(MessageModel):
    type: str
    hostname: Name
    timestamp: Moment
    clock: int = Field(ge=0, lt=CLOCK_LIMIT)


class _WorkerEvent(_Event):
    """A heartbeat of Celery. Workers set each of its fields as an attribute, so there are no others."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["worker-online", "worker-heartbeat", "worker-offline"]
    utcoffset: float = Field(0, ge=-24, le=24)
    pid: int | None = None
    freq: float = Field(2.0, gt=0, le=3600)
    active: int | None = None
    processed: int | None = None
    loadavg: list[float] | None = Field(None, max_length=3)
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None


def check_entry(entry: bytes, queue: str) -> None:
    """Refuse an invalid entry of `queue`.

    Raises:
        MessageError: names the field and what is wrong with it. JobNotFoundError: no job can have its id.
        VersionError: a newer major version sent it.
    """
    envelope = valid(_Envelope, _decoded(entry, "entry"))
    body = _decoded(_bytes_of(envelope.body), "body")
    if queue in QUEUES or queue.startswith(STICKY_PREFIX):
        _check_task(envelope, body, queue)
    elif queue.endswith(REPLIES):
        check_reply(envelope.headers, body)
    elif queue.endswith(COMMANDS):
        check_command(envelope.headers, body)
    elif EVENTS in queue:
        if envelope.properties.delivery_info.routing_key.startswith("worker.elect"):
            raise MessageError("longtake workers hold no elections")
        valid(_EventHeaders, envelope.headers, "headers")
        for event in body if isinstance(body, list) and "/task." in queue else [body]:
            valid(_Event if "/task." in queue else _WorkerEvent, event, "body")
    else:
        raise MessageError(f"there is no queue {shown(queue)} here")


def _check_task(envelope: _Envelope, body: object, queue: str) -> None:
    _check_format(envelope.headers)
    headers = valid(_TaskHeaders, envelope.headers, "headers")
    parameters = PARAMETERS.get((SEGMENTS if queue.startswith(STICKY_PREFIX) else queue, headers.task))
    if parameters is None:
        raise MessageError(f"headers.task: there is no task {shown(headers.task)} on queue {queue}")
    if envelope.properties.delivery_info != _Destination(exchange="", routing_key=queue):
        raise MessageError(f"properties.delivery_info: must be that of queue {queue}")
    if not isinstance(body, list) or len(body) != 3:
        raise MessageError("body: must be a list of arguments, keyword arguments and callbacks")
    args = valid(_TaskBody, dict(zip(("args", "kwargs", "embed"), body, strict=True)), "body").args
    if len(args) != len(parameters):
        raise MessageError(f"arguments: {len(args)} given; must be {', '.join(parameters)}")
    _check_arguments(dict(zip(parameters, args, strict=True)))


def _check_format(headers: dict[str, Any]) -> None:
    try:
        newer = is_newer_major(headers.get(FORMAT_HEADER), readable=MAJOR_OF_JOBS)
    except ValueError as error:
        raise MessageError(f"headers.{FORMAT_HEADER}: {error}") from None
    if newer:
        raise VersionError("the message")


def _check_arguments(given: dict[str, Any]) -> None:
    if not isinstance(given["job_id"], str):
        raise MessageError(f"job_id: must be text, not {shown(given['job_id'])}")
    check_job_id(given["job_id"])
    _check_number("index", given.get("index", 0), 0, MAX_SEGMENTS)
    _check_number("take", given.get("take", 1), 1, TICKET_LIMIT)
    _check_number("ticket", given["ticket"], 1, TICKET_LIMIT)
    state = given.get("state")
    if state is not None and not isinstance(state, dict):
        raise MessageError(f"state: must be a mapping, not {shown(state)}")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value < high:  # a bool is an int, too
        raise MessageError(f"{name}: must be a whole number from {low} to {high - 1}, not {shown(value)}")


def _decoded(data: bytes, name: str) -> Any:
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise MessageError(f"{name}: {len(data)} bytes; the limit is {MESSAGE_LIMIT_BYTES}")
    try:
        value = loads(data.decode())
    except Exception as error:  # kombu converts mappings with "__type__"; this can fail in many ways
        raise MessageError(f"{name}: not JSON ({type(error).__name__})") from None
    if nesting(value) > NESTING_LIMIT:
        raise MessageError(f"{name}: nested deeper than {NESTING_LIMIT} levels")
    return value


def _bytes_of(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise MessageError(f"body: not base64: {shown(body)}") from None
