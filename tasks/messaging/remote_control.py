"""Celery's remote control: the methods that workers obey, and the types of their arguments.

A worker runs a method with whatever arguments a message gives, and some end it. So only what `celery inspect`,
`celery control` and Flower use passes, with arguments of the right types. Methods that write files, import modules or
hold elections are not among them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.errors import MessageError
from tasks.field_errors import shown
from tasks.jobs.queues import STICKY_PREFIX
from tasks.messaging.message_models import ClosedModel, MessageModel, valid

MAX_CHILDREN = 16
MAX_TASK_IDS = 1000
REVOKED_LIMIT = 50_000  # as many as Celery remembers
ENDING_SIGNALS = ("TERM", "KILL", "INT", "QUIT", "HUP", "ABRT", "USR1", "USR2")
CLOCK_LIMIT = 2**63


def _ends_a_process(name: str) -> str:
    if name.removeprefix("SIG") not in ENDING_SIGNALS:
        raise ValueError(f"must be a signal that ends a process, such as SIGTERM, not {shown(name)}")
    return name


Name = Annotated[str, Field(pattern=r"^[^\x00-\x20\x7f-\x9f]{1,300}$")]
TaskName = Literal["longtake.segment", "longtake.clip", "longtake.film"]
QueueName = Literal["segments", "clips", "films"]
StickyName = Annotated[str, Field(pattern=rf"^{STICKY_PREFIX}[^\x00-\x20\x7f-\x9f]{{1,300}}$")]
TaskIds = Name | Annotated[list[Name], Field(max_length=MAX_TASK_IDS)]
SignalName = Annotated[str, AfterValidator(_ends_a_process)]
Seconds = Annotated[float, Field(ge=0, le=366 * 86400)]
Rate = Annotated[str, Field(pattern=r"^([0-9]{1,9}(\.[0-9]{1,9})?(/[smh])?)?$")] | Annotated[float, Field(ge=0, le=1e9)]
Children = Annotated[int, Field(ge=1, le=MAX_CHILDREN)]
Moment = Annotated[float, Field(ge=0, le=253_402_300_799)]  # seconds, until the year 9999


class _NoArguments(ClosedModel):
    pass


class _Conf(ClosedModel):
    with_defaults: bool = False


class _Active(ClosedModel):
    safe: bool | None = None


class _Registered(ClosedModel):
    taskinfoitems: list[Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,39}$")]] | None = Field(None, max_length=20)
    builtins: bool = False


class _QueryTask(ClosedModel):
    ids: TaskIds


class _MemDump(ClosedModel):
    samples: int = Field(10, ge=1, le=1000)


class _Hello(ClosedModel):
    from_node: Name
    revoked: (
        Annotated[list[Name], Field(max_length=REVOKED_LIMIT)]
        # Celery 5.6 adds when each was revoked
        | Annotated[
            dict[Name, Annotated[list[Name | Moment], Field(min_length=2, max_length=2)]],
            Field(max_length=REVOKED_LIMIT),
        ]
        | None
    ) = None


class _Revoke(ClosedModel):
    task_id: TaskIds
    terminate: bool = False
    signal: SignalName | None = None


class _Terminate(ClosedModel):
    task_id: TaskIds
    signal: SignalName


class _RateLimit(ClosedModel):
    task_name: TaskName
    rate_limit: Rate | None


class _TimeLimit(ClosedModel):
    task_name: TaskName
    soft: Seconds | None = None
    hard: Seconds | None = None


class _Resize(ClosedModel):
    n: Children = 1


class _Autoscale(ClosedModel):
    max: Annotated[int, Field(ge=0, le=MAX_CHILDREN)] | None = None
    min: Annotated[int, Field(ge=0, le=MAX_CHILDREN)] | None = None


class _PoolRestart(ClosedModel):
    """What Flower sends; it may name no module to import."""

    modules: Annotated[list[str], Field(max_length=0)] | None = None
    reload: Literal[False] = False
    reloader: None = None


class _AddConsumer(ClosedModel):
    """The worker knows these queues, so the other arguments, which Celery's client sends, change nothing."""

    queue: QueueName
    exchange: Name | None = None
    exchange_type: Literal["direct"] | None = None
    routing_key: Name | None = None


class _CancelConsumer(ClosedModel):
    queue: QueueName | StickyName


METHODS: dict[str, type[ClosedModel]] = {
    # read
    "active": _Active,
    "active_queues": _NoArguments,
    "clock": _NoArguments,
    "conf": _Conf,
    "hello": _Hello,
    "memdump": _MemDump,
    "memsample": _NoArguments,
    "ping": _NoArguments,
    "query_task": _QueryTask,
    "registered": _Registered,
    "report": _NoArguments,
    "reserved": _NoArguments,
    "revoked": _NoArguments,
    "scheduled": _NoArguments,
    "stats": _NoArguments,
    # change
    "add_consumer": _AddConsumer,
    "autoscale": _Autoscale,
    "cancel_consumer": _CancelConsumer,
    "disable_events": _NoArguments,
    "enable_events": _NoArguments,
    "heartbeat": _NoArguments,
    "pool_grow": _Resize,
    "pool_restart": _PoolRestart,
    "pool_shrink": _Resize,
    "rate_limit": _RateLimit,
    "revoke": _Revoke,
    "shutdown": _NoArguments,
    "terminate": _Terminate,
    "time_limit": _TimeLimit,
}


class _ReplyTo(ClosedModel):
    """Where the worker sends its reply: with another exchange it could be made to write into a task queue."""

    exchange: Literal["reply.celery.pidbox"]
    routing_key: str = Field(pattern=r"^[0-9a-f-]{1,100}$")


class _Command(ClosedModel):
    method: str
    arguments: dict[str, Any]
    destination: list[Name] | None = None
    pattern: None = None
    matcher: None = None
    ticket: Name | None = None
    reply_to: _ReplyTo | None = None


class _Headers(MessageModel):
    """Headers of commands and replies. A compressed body could be of any size."""

    clock: int = Field(0, ge=0, lt=CLOCK_LIMIT)
    expires: float | None = Field(None, allow_inf_nan=False)
    ticket: Name | None = None
    compression: None = None


class _Reply(MessageModel):
    headers: _Headers
    body: dict[Name, Any]


def check_command(headers: dict[str, Any], body: object) -> None:
    """Refuse a command that is not allowed, or has arguments that its method does not take.

    Raises:
        MessageError: names the field and what is wrong with it.
    """
    valid(_Headers, headers, "headers")
    command = valid(_Command, body, "body")
    arguments = METHODS.get(command.method)
    if arguments is None:
        raise MessageError(f"body.method: {shown(command.method)} is not a method that longtake workers run")
    valid(arguments, command.arguments, command.method, levels=1)


def check_reply(headers: dict[str, Any], body: object) -> None:
    """Refuse a reply that its receiver cannot read: a mapping from the names of workers to anything.

    Raises:
        MessageError: names the field and what is wrong with it.
    """
    valid(_Reply, {"headers": headers, "body": body})
