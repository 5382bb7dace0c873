"""Traces of jobs for OpenTelemetry, if the environment asks for them and the extra `otel` is installed.

A job is a trace, and each unit of its work a span. The ids of the trace and of its root span follow from the job's id,
so that any process can add spans, also when the reconciler has published a message again. Messages carry `traceparent`
with the span that sent them: the span of the work that they bring links to it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import redis

from ltx2.extras import install_line
from tasks.errors import LongtakeError
from tasks.jobs.connection import OUTAGES
from tasks.jobs.reader import JobReader
from tasks.messaging.root_process import RootProcess

if TYPE_CHECKING:
    from tasks.messaging.spans import Spans

log = logging.getLogger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER, OFF = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
MISSING = f"no traces: %s is missing; {install_line('otel')}"


class Tracing:
    """The spans of this process; every method does nothing before `start`, or if no traces are wanted."""

    def __init__(self) -> None:
        self._spans: Spans | None = None
        self._roots: RootProcess | None = None

    def start(self) -> None:
        """Begin to export spans, if the environment names an exporter."""
        self._roots = None
        if not is_wanted(os.environ):
            return
        if problem := not_possible(os.environ):
            log.warning("no traces: %s", problem)
            return
        try:
            from tasks.messaging.spans import Spans
        except ModuleNotFoundError as error:
            log.warning(MISSING, error.name)
            return
        self._spans = Spans()

    def start_in_parent(self) -> None:
        """Have the roots of jobs that end in this process, which forks others, be exported by `export_roots`."""
        if is_wanted(os.environ) and not not_possible(os.environ):  # its children log what is missing
            self._roots = RootProcess()

    def stop(self) -> None:
        """Export what is left, for a few seconds at most, and end."""
        if self._spans is not None:
            self._spans.close()
            self._spans = None

    def span(
        self, job_id: str, name: str, carried: Mapping[str, Any] | None = None, **values: str | int
    ) -> AbstractContextManager[None]:
        """A span of a job's trace around a block.

        carried: the headers of the message that brought this work. values: become its attributes `longtake.NAME`. An
        error in the block is an error of the span; `Ignore` of Celery only says why nothing was done.
        """
        if self._spans is None:
            return nullcontext()
        return self._spans.span(job_id, name, carried or {}, values)

    def headers(self, job_id: str) -> dict[str, str]:
        """The headers of a message about this job."""
        return {} if self._spans is None else self._spans.headers(job_id)

    def of_caller(self, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """A block that answers a request with these headers: jobs that it submits link to the caller's span."""
        return nullcontext() if self._spans is None else self._spans.of_caller(headers)

    def job_submitted(self, job_id: str, began_ns: int) -> None:
        """Export the span of a submission that began then, in nanoseconds since the epoch, and ends now."""
        if self._spans is not None:
            self._spans.submitted(job_id, began_ns)

    def job_ended(self, job_id: str, jobs: JobReader) -> None:
        """Export the root span of a job, if it has ended. An outage, or a damaged record, costs the root span alone."""
        if self._roots is not None:
            self._roots.add(job_id)
        if self._spans is None:
            return
        with suppress(*OUTAGES, redis.RedisError, LongtakeError):
            status = jobs.status(job_id)
            if status.finished:
                self._spans.job(status)

    def export_roots(self) -> None:
        """Start to export the roots of the jobs that have ended in this process; see `start_in_parent`."""
        if self._roots is not None:
            self._roots.start()


tracing = Tracing()
"""That of this process. A worker's child and the server start it."""


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether traces are to be exported."""
    if environ.get(OFF, "").strip().lower() == "true" or environ.get(EXPORTER) == "none":
        return False
    return any(environ.get(name) for name in (EXPORTER, *ENDPOINTS))


def not_possible(environ: Mapping[str, str]) -> str | None:
    """Why traces that are wanted cannot be exported; None if they can."""
    if (exporter := environ.get(EXPORTER) or "otlp") != "otlp":
        return f"{EXPORTER} is {exporter!r:.40}; it must be otlp or none"
    for name in PROTOCOLS:
        if (protocol := environ.get(name) or HTTP) != HTTP:
            return f"{name} is {protocol!r:.40}; it must be {HTTP}"
    return None
