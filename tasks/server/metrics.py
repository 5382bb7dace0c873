"""Figures of a deployment for Prometheus: jobs, queues, workers. Those of a worker's work are the worker's own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.jobs.events import EventKind, LostAttempt
from tasks.jobs.queues import QUEUES
from tasks.jobs.units import JobState
from tasks.jobs.workers import ChildState
from tasks.server.context import Context, ServerContext

router = APIRouter(tags=["server"])
UNFINISHED = tuple(state for state in JobState if not state.is_final)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(context: Context) -> Response:
    """Figures of the deployment, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Deployment(context))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Deployment(Collector):
    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def describe(self) -> Iterator[Metric]:
        """Nothing: the figures are read when they are asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        jobs = self._context.deployment.jobs
        unfinished = list(jobs.statuses(UNFINISHED))
        yield self._jobs(Counter(status.state for status in unfinished) + jobs.ended_states())
        yield self._queues(jobs.queue_lengths(QUEUES))
        queued = [status.created_at for status in unfinished if status.state == JobState.QUEUED]
        oldest = max(0.0, time.time() - min(queued)) if queued else 0.0
        yield GaugeMetricFamily("longtake_oldest_queued_seconds", "How long the oldest queued job has waited.", oldest)
        segments = sum(status.segments - status.rendered for status in unfinished)
        yield GaugeMetricFamily(
            "longtake_segments_to_render", "Segments of unfinished jobs that are missing.", segments
        )
        reserved = jobs.reserved_bytes()
        yield GaugeMetricFamily("longtake_blob_bytes_reserved", "Bytes of blobs that jobs have or may need.", reserved)
        yield GaugeMetricFamily(
            "longtake_blob_budget_bytes", "LONGTAKE_BLOB_BUDGET_BYTES; 0: none.", jobs.budget_bytes()
        )
        yield self._workers()
        yield self._events()
        yield self._attempts()

    @staticmethod
    def _jobs(count: Counter[JobState]) -> Metric:
        family = GaugeMetricFamily("longtake_jobs", "Jobs with a record, by state.", labels=["state"])
        for state in JobState:
            family.add_metric([state], count[state])
        return family

    @staticmethod
    def _queues(lengths: dict[str, int]) -> Metric:
        family = GaugeMetricFamily("longtake_queue_messages", "Messages that wait for any worker.", labels=["queue"])
        for queue, length in lengths.items():
            family.add_metric([queue], length)
        return family

    def _events(self) -> Metric:
        text = "Events of jobs since this server was started, such as done, failed and retried."
        family = CounterMetricFamily("longtake_events", text, labels=["kind"])
        for kind in EventKind:
            family.add_metric([kind], self._context.hub.counts[kind])
        return family

    def _attempts(self) -> Metric:
        text = "Attempts that came to nothing since this server was started, by what became of them."
        family = CounterMetricFamily("longtake_lost_attempts", text, labels=["why"])
        for why in LostAttempt:
            family.add_metric([why], self._context.hub.lost_attempts[why])
        return family

    def _workers(self) -> Metric:
        family = GaugeMetricFamily("longtake_workers", "Processes of workers, by what they do.", labels=["state"])
        found = self._context.deployment.jobs.workers()
        states = Counter(child.state for worker in found.workers if not worker.fault for child in worker.children)
        for state in ChildState:
            family.add_metric([state], states[state])
        family.add_metric(["silent"], len(found.silent))
        return family
