"""Figures of a deployment for Prometheus: jobs, queues, workers. Those of a worker's work are the worker's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.jobs.events import EventKind, LostAttempt
from tasks.jobs.queues import QUEUES
from tasks.jobs.units import JobState
from tasks.jobs.workers import ChildState, WorkerList
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
        jobs, hub = self._context.deployment.jobs, self._context.hub
        unfinished = list(jobs.statuses(UNFINISHED))
        count = Counter(status.state for status in unfinished) + jobs.ended_states()
        states = ((state, count[state]) for state in JobState)
        yield _labelled(GaugeMetricFamily, "longtake_jobs", "Jobs with a record, by state.", "state", states)
        lengths = jobs.queue_lengths(QUEUES).items()
        yield _labelled(
            GaugeMetricFamily, "longtake_queue_messages", "Messages that wait for any worker.", "queue", lengths
        )
        queued = [status.created_at for status in unfinished if status.state == JobState.QUEUED]
        oldest = max(0.0, jobs.now() - min(queued)) if queued else 0.0
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
        found = _processes(jobs.workers()).items()
        yield _labelled(GaugeMetricFamily, "longtake_workers", "Processes of workers, by what they do.", "state", found)
        text = "Events of jobs since this server was started, such as done, failed and retried."
        events = ((kind, hub.counts[kind]) for kind in EventKind)
        yield _labelled(CounterMetricFamily, "longtake_events", text, "kind", events)
        text = "Attempts that came to nothing since this server was started, by what became of them."
        lost = ((why, hub.lost_attempts[why]) for why in LostAttempt)
        yield _labelled(CounterMetricFamily, "longtake_lost_attempts", text, "why", lost)


def _processes(known: WorkerList) -> dict[str, int]:
    states = Counter(child.state for worker in known.workers if not worker.fault for child in worker.children)
    return {**{state: states[state] for state in ChildState}, "silent": len(known.silent)}


def _labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Iterable[tuple[str, float]],
) -> Metric:
    """A metric with a value for each of these values of its label."""
    family = kind(name, text, labels=[label])
    for value, figure in values:
        family.add_metric([value], figure)
    return family
