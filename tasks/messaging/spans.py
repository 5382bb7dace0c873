"""Spans of jobs, made and exported with OpenTelemetry. Only `tracing` imports this module."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version

from celery.exceptions import Ignore
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tasks.jobs.records import JobStatus
from tasks.jobs.units import JobState

HEADER = "traceparent"
CLOSE_S = 3.0
_W3C = TraceContextTextMapPropagator()
_root: ContextVar[tuple[int, int] | None] = ContextVar("root", default=None)


class Spans:
    """The spans of one process, exported in the background as the variables OTEL_* say."""

    def __init__(self) -> None:
        own = Resource({"service.name": "longtake", "service.version": version("longtake")})
        resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        resource = resource.merge(Resource({"service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}))
        self._provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("longtake", version("longtake"))

    def close(self) -> None:
        """Export what is left, for so long at most: the exporter itself waits longer for a collector that is out."""
        ending = threading.Thread(target=self._provider.shutdown, name="end of traces", daemon=True)
        ending.start()
        ending.join(CLOSE_S)

    @contextmanager
    def span(
        self, job_id: str, name: str, carried: Mapping[str, object], values: Mapping[str, str | int]
    ) -> Iterator[None]:
        """See `Tracing.span`."""
        sender = _sent_by(carried)
        root = self._root_of(job_id, sender)
        links = [Link(sender)] if sender.is_valid and sender.span_id != root.span_id else []
        attributes = {"longtake.job": job_id, **{f"longtake.{key}": value for key, value in values.items()}}
        with self._tracer.start_as_current_span(
            name,
            _below(root),
            attributes=attributes,
            links=links,
            record_exception=False,  # its traceback has paths of this host
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Ignore as skipped:
                span.set_attribute("longtake.skipped", str(skipped))
                raise
            except Exception as error:
                span.set_status(StatusCode.ERROR, str(error))
                raise

    def headers(self, job_id: str) -> dict[str, str]:
        """See `Tracing.headers`."""
        root = self._root_of(job_id)
        current = trace.get_current_span().get_span_context()
        carried: dict[str, str] = {}
        _W3C.inject(carried, None if current.trace_id == root.trace_id else _below(root))
        return {HEADER: carried[HEADER]}

    @contextmanager
    def of_caller(self, headers: Mapping[str, str]) -> Iterator[None]:
        """See `Tracing.of_caller`."""
        token = context.attach(_W3C.extract(headers, Context()))
        try:
            yield
        finally:
            context.detach(token)

    def submitted(self, job_id: str, began_ns: int) -> None:
        """See `Tracing.job_submitted`. It links to the span of the caller, if there is one."""
        caller = trace.get_current_span().get_span_context()
        links = [Link(caller)] if caller.is_valid else []
        root, attributes = self._root_of(job_id), {"longtake.job": job_id}
        self._tracer.start_span("submit", _below(root), attributes=attributes, links=links, start_time=began_ns).end()

    def job(self, status: JobStatus) -> None:
        """Export the root span of a job that has ended."""
        token = _root.set(_ids(status.job_id))
        attributes = {"longtake.job": status.job_id, "longtake.state": str(status.state)}
        try:
            span = self._tracer.start_span("job", Context(), attributes=attributes, start_time=_ns(status.created_at))
        finally:
            _root.reset(token)
        if status.state == JobState.FAILED:
            span.set_status(StatusCode.ERROR, status.reason)
        span.end(_ns(status.finished_at or time.time()))

    def _root_of(self, job_id: str, sender: SpanContext = trace.INVALID_SPAN_CONTEXT) -> SpanContext:
        """The root span of a job: sampled as a message of its trace says, else as the sampler of this process."""
        trace_id, span_id = _ids(job_id)
        if sender.trace_id == trace_id:
            flags = sender.trace_flags
        else:
            decision = self._provider.sampler.should_sample(None, trace_id, "job").decision
            flags = TraceFlags(TraceFlags.SAMPLED if decision == Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT)
        return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


class _Ids(RandomIdGenerator):
    """Random ids, except for the root span of a job."""

    def generate_trace_id(self) -> int:
        root = _root.get()
        return super().generate_trace_id() if root is None else root[0]

    def generate_span_id(self) -> int:
        root = _root.get()
        return super().generate_span_id() if root is None else root[1]


def _ids(job_id: str) -> tuple[int, int]:
    """The ids of a job's trace, 128 bits, and of its root span, 64 bits."""
    digest = hashlib.sha256(f"longtake job {job_id}".encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _below(span: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def _sent_by(carried: Mapping[str, object]) -> SpanContext:
    """The span that sent a message; an invalid one if it names none."""
    value = carried.get(HEADER)
    found = _W3C.extract({HEADER: value}, Context()) if isinstance(value, str) else Context()
    return trace.get_current_span(found).get_span_context()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
